"""The benchmark of polar factors: our methods and their peers, timed in turn in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from polargrad.experiments.bench.candidates import Candidate, candidates, method_data, parse_method
from polargrad.experiments.bench.cases import DTYPES, Case, Shape, Spectrum
from polargrad.experiments.bench.errors import Oracle
from polargrad.experiments.bench.figure import FIGURE, draw
from polargrad.experiments.bench.peers import (
    FOREIGN,
    QUINTIC_PEER,
    SVD_PEER,
    missing,
    peers,
    run_foreign,
)
from polargrad.experiments.bench.results import COLUMNS, calibration
from polargrad.experiments.bench.rounds import quartiles, ratio, time_in_rounds
from polargrad.experiments.bench.run import RunSettings, finished, run_cases, summary
from polargrad.experiments.bench.tables import Row
from polargrad.records import write_json

CALIBRATION = "calibration.json"


@dataclass(frozen=True, kw_only=True)
class BenchSettings(RunSettings):
    """What is measured, and how carefully.

    Args:
        shapes: as 500x100, or 64x32x16 for a stack of 64.
        spectra: names of :data:`~polargrad.experiments.bench.cases.SPECTRA`, with :κ behind those
            that take a condition number.
        tolerances: asked of the planner and of methods that take one.
        dtypes: of the matrices.
        methods: of ours: "auto", names, or descriptions as JSON; empty for all.
        bfloat16: measure Muon's quintic in bfloat16 too.

    The device is that of everything but the peers in processes of their own, which use the
    processor. For the other arguments see :class:`~polargrad.experiments.bench.run.RunSettings`.

    Raises:
        ValueError: for whatever of it can't be measured.
    """

    shapes: tuple[str, ...]
    spectra: tuple[str, ...]
    tolerances: tuple[float, ...] = (0.3, 0.1, 0.01)
    dtypes: tuple[str, ...] = ("float32",)
    methods: tuple[str, ...] = ()
    bfloat16: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_some("shapes", "spectra", "dtypes")
        unknown = [dtype for dtype in self.dtypes if dtype not in DTYPES]
        if unknown:
            raise ValueError(f"a dtype must be one of {', '.join(DTYPES)}, got {unknown[0]!r}")
        for tol in self.tolerances:
            if not 0.0 < tol < 1.0:
                raise ValueError(f"a tolerance must lie in (0, 1), got {tol}")
        for word in self.methods:
            parse_method(word)
        _ = self.cases  # shapes and spectra are refused here rather than after an hour

    @property
    def cases(self) -> list[Case]:
        """Every dtype with every shape and spectrum."""
        shapes = [Shape.parse(text) for text in self.shapes]
        spectra = [Spectrum.parse(text) for text in self.spectra]
        return [Case(d, s, p) for d in self.dtypes for s in shapes for p in spectra]


FULL = BenchSettings(
    shapes=("256x256", "1024x1024", "3072x768", "500x100", "64x64x64"),
    spectra=("gaussian", "power-law", "geometric:1000"),
)
QUICK = BenchSettings(
    shapes=("128x128", "500x100"), spectra=("gaussian",), repetitions=5, budget=5.0
)


def bench_polar(
    out: Path,
    settings: BenchSettings = FULL,
    *,
    calibrate: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> list[Row]:
    """Measure all cases and write results.jsonl, results.csv, provenance.json and the figure.

    With ``calibrate`` also calibration.json, see
    :func:`~polargrad.experiments.bench.results.calibration`.

    Args:
        out: a new or empty folder, or with ``overwrite`` one that holds a benchmark.
        settings: what is measured.
        calibrate: write the table of a planner.
        overwrite: delete the run that ``out`` holds.
        say: is told which case begins; None for standard error.

    Returns:
        A row for each case and candidate, as results.jsonl has them.

    Raises:
        RunFolderError: if ``out`` is not free.
    """
    folder, rows, where = run_cases(
        out,
        {"experiment": "bench polar", **asdict(settings)},
        settings.cases,
        partial(measure, settings=settings),
        settings=settings,
        columns=COLUMNS,
        packages=FOREIGN.values(),
        overwrite=overwrite,
        say=say,
    )
    if calibrate:
        write_json(folder / CALIBRATION, calibration(rows, settings.tolerances, where))
    draw(rows, folder / FIGURE)
    return rows


def measure(case: Case, settings: BenchSettings) -> list[Row]:
    """Measure one case: who is left out, then errors, times and ratios of all others."""
    A = case.matrix(settings.seed).to(settings.device)
    oracle = Oracle.of(A)
    own, skipped = candidates(A, settings.methods, settings.tolerances)
    others, without = peers(bfloat16=settings.bfloat16)
    described = {candidate.label: candidate for candidate in own}
    functions: dict[str, Callable[[Tensor], Tensor]] = {**others, **described}
    skipped.update(without)
    strangers = {*others, *without, *FOREIGN}
    errors: dict[str, dict[str, float]] = {}
    for label, function in functions.items():
        try:
            errors[label] = oracle.errors(function(A))
        except (TypeError, ValueError, RuntimeError) as error:
            if label in (SVD_PEER, QUINTIC_PEER):
                raise  # there is no ratio without them
            # A method that does not take this matrix must not cost the results of the others.
            skipped[label] = " ".join(str(error).split())
    times = time_in_rounds(
        {label: partial(finished, functions[label], A, device=settings.device) for label in errors},
        repetitions=settings.repetitions,
        budget=settings.budget,
    )
    rows = [_row(case, label, times, errors, described) for label in errors]
    for label in FOREIGN:
        reason = missing(label)
        try:
            if reason is None:
                rows.append(_foreign_row(case, label, times, oracle, A, settings))
        except RuntimeError as error:
            reason = str(error)
        if reason is not None:
            skipped[label] = reason
    return [
        *rows,
        *(_skipped_row(case, label, why, label in strangers) for label, why in skipped.items()),
    ]


def _head(case: Case, label: str, *, origin: str, process: str) -> Row:
    shape = case.shape
    return {
        "dtype": case.dtype,
        "shape": str(shape),
        "rows": shape.rows,
        "columns": shape.columns,
        "batch": 1 if shape.batch is None else shape.batch,
        "spectrum": str(case.spectrum),
        "label": label,
        "origin": origin,
        "process": process,
        "is_svd": label == SVD_PEER,
        "skipped": None,
    }


def _row(
    case: Case,
    label: str,
    times: dict[str, list[float]],
    errors: dict[str, dict[str, float]],
    described: dict[str, Candidate],
) -> Row:
    """The row of a candidate of this process."""
    ours = label in described
    row = _head(case, label, origin="ours" if ours else "peer", process="same")
    row["method"] = method_data(described[label]) if ours else None
    row.update(summary(times[label]))
    for name, reference in (("svd", SVD_PEER), ("quintic", QUINTIC_PEER)):
        median, better = ratio(times[label], times[reference])
        row.update({f"over_{name}": median, f"over_{name}_better_quartile": better})
    return {**row, **errors[label]}


def _foreign_row(
    case: Case,
    label: str,
    times: dict[str, list[float]],
    oracle: Oracle,
    A: Tensor,
    settings: BenchSettings,
) -> Row:
    """The row of a peer in a process of its own: with no rounds in common, of medians."""
    factor, own = run_foreign(
        label,
        A,
        repetitions=settings.repetitions,
        budget=settings.budget / 4,
        threads=torch.get_num_threads(),
    )
    row = {**_head(case, label, origin="peer", process="separate"), "method": None}
    row.update(summary(own))
    for name, reference in (("svd", SVD_PEER), ("quintic", QUINTIC_PEER)):
        _, median, _ = quartiles(times[reference])
        row[f"over_{name}"] = row["milliseconds"] / median
        row[f"over_{name}_better_quartile"] = row["lower_quartile"] / median
    return {**row, **oracle.errors(factor.to(A.device))}


def _skipped_row(case: Case, label: str, reason: str, peer: bool) -> Row:
    head = _head(
        case,
        label,
        origin="peer" if peer else "ours",
        process="separate" if label in FOREIGN else "same",
    )
    return {**head, "skipped": reason}
