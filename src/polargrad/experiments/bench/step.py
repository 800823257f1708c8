"""The benchmark of a step: our optimizers and their peers on the shapes of models, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch.nn import Parameter

from polargrad.experiments.bench.rounds import ratio, time_in_rounds
from polargrad.experiments.bench.run import RunSettings, finished, run_cases, summary
from polargrad.experiments.bench.step_candidates import (
    CANDIDATES,
    PACKAGES,
    REFERENCES,
    TORCH_MUON,
    Step,
    StepCandidate,
    chosen,
)
from polargrad.experiments.bench.step_figure import draw
from polargrad.experiments.bench.step_profile import StepProfile, profile_step
from polargrad.experiments.bench.step_results import COLUMNS, FIGURE, stage_columns
from polargrad.experiments.bench.step_shapes import (
    MODELS,
    SCOPES,
    ModelShapes,
    Part,
    one_a_shape,
    parts,
)
from polargrad.experiments.bench.tables import Row


@dataclass(frozen=True, kw_only=True)
class StepSettings(RunSettings):
    """What is stepped, and how carefully it is measured.

    Args:
        models: names of :data:`~polargrad.experiments.bench.step_shapes.MODELS`.
        scopes: "matrices", "vectors" (what AdamW steps) and "all" (both).
        layers: at most so many of equal blocks are stepped, and their time multiplied; None for
            all of them.
        candidates: keys of :data:`~polargrad.experiments.bench.step_candidates.CANDIDATES`; empty
            for all. What the others are divided by is measured in any case.

    For the other arguments see :class:`~polargrad.experiments.bench.run.RunSettings`.

    Raises:
        ValueError: for whatever of it can't be measured.
    """

    models: tuple[str, ...] = tuple(MODELS)
    scopes: tuple[str, ...] = SCOPES
    layers: int | None = None
    candidates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_some("models", "scopes")
        for name, allowed in (("models", MODELS), ("scopes", SCOPES), ("candidates", CANDIDATES)):
            unknown = [word for word in getattr(self, name) if word not in allowed]
            if unknown:
                raise ValueError(f"{name} must be among {', '.join(allowed)}, got {unknown[0]!r}")
        if self.layers is not None and self.layers < 1:
            raise ValueError(f"layers must be at least 1, got {self.layers}")

    @property
    def cases(self) -> list[StepCase]:
        """Every model with each scope that it has parameters for."""
        found = [StepCase(MODELS[name], scope) for name in self.models for scope in self.scopes]
        return [case for case in found if parts(case.model, case.scope)]


@dataclass(frozen=True)
class StepCase:
    """Parameters of a model that the candidates step in turn."""

    model: ModelShapes
    scope: str

    def __str__(self) -> str:
        return f"{self.model} {self.scope}"


FULL = StepSettings(repetitions=11, budget=120.0)
QUICK = StepSettings(
    models=("gpt2-small",),
    scopes=("matrices", "vectors"),
    layers=1,
    repetitions=5,
    budget=10.0,
)


def bench_step(
    out: Path,
    settings: StepSettings = FULL,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> list[Row]:
    """Measure all cases and write results.jsonl, results.csv, provenance.json and the figure.

    Args:
        out: a new or empty folder, or with ``overwrite`` one that holds a benchmark.
        settings: what is measured.
        overwrite: delete the run that ``out`` holds.
        say: is told which case begins; None for standard error.

    Returns:
        A row for each case and candidate, as results.jsonl has them.

    Raises:
        RunFolderError: if ``out`` is not free.
    """
    folder, rows, _ = run_cases(
        out,
        {"experiment": "bench step", **asdict(settings)},
        settings.cases,
        partial(measure, settings=settings),
        settings=settings,
        columns=COLUMNS,
        packages=PACKAGES,
        overwrite=overwrite,
        say=say,
    )
    draw(rows, folder / FIGURE)
    return rows


def measure(case: StepCase, settings: StepSettings) -> list[Row]:
    """Measure one case: profiles first, then all steps in turn, and who is left out."""
    pool = _Pool(settings)
    built: dict[StepCandidate, list[tuple[float, Step]]] = {}
    profiles: dict[StepCandidate, list[StepProfile]] = {}
    skipped: dict[StepCandidate, str] = {}
    for candidate in chosen(settings.candidates, case.scope):
        reason = candidate.missing()
        if reason is None:
            try:
                steps = [
                    (part.times, candidate.build(*pool.parameters(part)))
                    for part in _parts(candidate, case, settings)
                ]
                profiles[candidate] = [_profile(step, candidate, settings) for _, step in steps]
                built[candidate] = steps
            except Exception as error:
                # A package that others wrote may fail in any way, and must not cost the results
                # of the rest; torch and we ourselves must not fail at all.
                if candidate.module is None:
                    raise
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if reason is not None:
            skipped[candidate] = reason
    times = _times(built, settings)
    rows = [_row(case, candidate, times, profiles[candidate], settings) for candidate in built]
    return [
        *rows,
        *({**_head(case, candidate), "skipped": reason} for candidate, reason in skipped.items()),
    ]


class _Pool:
    """Parameters with gradients, made once for all candidates that step the same."""

    def __init__(self, settings: StepSettings) -> None:
        self.device = settings.device
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.made: dict[Part, tuple[list[Parameter], list[Parameter]]] = {}

    def parameters(self, part: Part) -> tuple[list[Parameter], list[Parameter]]:
        """The matrices and the vectors of a part."""
        if part not in self.made:
            self.made[part] = self._make(part.matrices), self._make(part.vectors)
        return self.made[part]

    def _make(self, shapes: Iterable[tuple[int, ...]]) -> list[Parameter]:
        made = []
        for shape in shapes:
            parameter = Parameter(torch.zeros(shape, device=self.device))
            parameter.grad = torch.randn(shape, generator=self.generator).to(self.device)
            made.append(parameter)
        return made


def _sampled(candidate: StepCandidate, settings: StepSettings) -> bool:
    """Whether only one matrix of each shape is stepped."""
    return candidate.one_a_shape and settings.device == "cpu"


def _parts(candidate: StepCandidate, case: StepCase, settings: StepSettings) -> list[Part]:
    if _sampled(candidate, settings):
        return one_a_shape(case.model, case.scope)
    return parts(case.model, case.scope, settings.layers)


def _profile(step: Step, candidate: StepCandidate, settings: StepSettings) -> StepProfile:
    """Profile a step that is not the first; of a slow peer the first: its state does not count."""
    if not _sampled(candidate, settings):
        finished(step, device=settings.device)
    return profile_step(step, settings.device)


def _times(
    built: dict[StepCandidate, list[tuple[float, Step]]], settings: StepSettings
) -> dict[StepCandidate, list[float]]:
    """Milliseconds of a step of the whole model, round by round: those of its parts, added up."""
    calls = {
        f"{candidate.key} {number}": partial(finished, step, device=settings.device)
        for candidate, steps in built.items()
        for number, (_, step) in enumerate(steps)
    }
    measured = time_in_rounds(calls, repetitions=settings.repetitions, budget=settings.budget)
    found = {}
    for candidate, steps in built.items():
        own = [measured[f"{candidate.key} {number}"] for number in range(len(steps))]
        counts = [count for count, _ in steps]
        found[candidate] = [
            sum(count * time for count, time in zip(counts, together, strict=True))
            for together in zip(*own, strict=False)  # the rounds that every part was in
        ]
    return found


def _head(case: StepCase, candidate: StepCandidate) -> Row:
    return {
        "model": case.model.name,
        "scope": case.scope,
        "label": candidate.label,
        "key": candidate.key,
        "origin": candidate.origin,
        "reference": REFERENCES[case.scope].label,
        "skipped": None,
    }


def _row(
    case: StepCase,
    candidate: StepCandidate,
    times: dict[StepCandidate, list[float]],
    profiles: list[StepProfile],
    settings: StepSettings,
) -> Row:
    """The row of a candidate that was measured."""
    own = times[candidate]
    median, better = ratio(own, times[REFERENCES[case.scope]])
    stepped = _parts(candidate, case, settings)
    stages: dict[str, float] = {}
    for part, found in zip(stepped, profiles, strict=True):
        for stage, milliseconds in found.stages.items():
            stages[stage] = stages.get(stage, 0.0) + part.times * milliseconds
    whole = all(part.times == 1.0 for part in stepped)
    sampled = "a matrix of each shape" if _sampled(candidate, settings) else "some equal blocks"
    return {
        **_head(case, candidate),
        "stepped": "all" if whole else sampled,
        **summary(own),
        "over_reference": median,
        "over_reference_better_quartile": better,
        "over_torch_muon": ratio(own, times[TORCH_MUON])[0] if TORCH_MUON in times else None,
        "peak_mebibytes": max(found.peak_bytes for found in profiles) / 2**20,
        **stage_columns(stages),
    }
