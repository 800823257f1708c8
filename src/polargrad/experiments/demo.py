"""The demonstration: an experiment and a language model, in one folder with a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from polargrad.errors import RunFolderError
from polargrad.experiments.experiment import Experiment
from polargrad.experiments.language_results import LOSS_FIGURE, LanguageRun, draw_language
from polargrad.experiments.quadratic import quadratic
from polargrad.experiments.report import (
    commands_section,
    experiment_section,
    language_section,
    settings_section,
    write_report,
)
from polargrad.experiments.reproduce import reproduce
from polargrad.experiments.results import Results
from polargrad.language import Preset, TrainSettings, rate_in_words, train
from polargrad.records.document import Paragraph

REPORT = "report"
TITLE = "polargrad: a demonstration"
SEED_OF_THE_EXPERIMENT = 42
OPTIMIZERS = ("polargrad", "muon", "adamw")
# The best for each of the three in benchmarks/tiny_sweep.py, so that what differs is the rule of
# the hidden matrices alone.
VECTOR_LR = 3e-2


def run_demo(
    out: Path,
    *,
    steps: int = 300,
    seed: int = 0,
    experiment: Experiment | None = None,
    preset: str | Preset = "tiny",
) -> Path:
    """Run the quadratic experiment and three training runs into ``out``; return the report's path.

    An earlier demonstration in ``out`` is replaced.

    Args:
        out: a new or empty folder, or one that holds an earlier demonstration.
        steps: of each training run.
        seed: of the training runs; the experiment keeps the paper's.
        experiment: the quick version of 6.1 if it is not given.
        preset: of the model.

    Raises:
        RunFolderError: if ``out`` holds anything else; nothing is changed then.
        ValueError: if ``steps`` or ``seed`` is not allowed.
    """
    experiment = quadratic(quick=True) if experiment is None else experiment
    settings = [
        TrainSettings(
            optimizer=name,
            steps=steps,
            seed=seed,
            out=out / _folder(name),
            preset=preset,
            vector_lr=VECTOR_LR,
            eval_every=max(1, min(50, steps // 2)),
            overwrite=True,
        )
        for name in OPTIMIZERS
    ]
    _require_own(out)
    out.mkdir(parents=True, exist_ok=True)
    say(f"1/2 matrix quadratic regression ({experiment.version})")
    reproduce(out, [experiment], seeds=(SEED_OF_THE_EXPERIMENT,), overwrite=True)
    say("2/2 language model")
    for setting in settings:
        result = train(setting)
        if result.interrupted is not None:
            raise KeyboardInterrupt
    return _report(out, experiment, {"--steps": steps, "--seed": seed})


def _report(out: Path, experiment: Experiment, options: dict[str, int]) -> Path:
    """Write the report of what ``out`` holds."""
    folder = out / experiment.name
    results = Results.read(folder)
    runs = [LanguageRun.read(out / _folder(name)) for name in OPTIMIZERS]
    draw_language(runs, out / LOSS_FIGURE)
    words = " ".join(f"{option} {value}" for option, value in options.items())
    parts = {
        "Quadratic regression": results.settings,
        **{f"Language model, {run.optimizer}": run.settings for run in runs},
    }
    blocks = [
        Paragraph(
            "PolarGrad steps along the polar factor of the matrix gradient, scaled by its nuclear "
            "norm; Muon is the same without the scale; Adam treats the matrix as a long vector. "
            "Below, all three on a strongly convex matrix problem, and on a small language model."
        ),
        *experiment_section(experiment, results, folder),
        *language_section(runs, out / LOSS_FIGURE),
        *commands_section(
            {
                "all of it": f"polargrad demo {words}",
                "the experiment": "polargrad reproduce quadratic --quick",
                "all experiments of the paper, in full": "polargrad reproduce all",
                "one training run": "polargrad train --preset tiny --optimizer adamw "
                f"--vector-lr {VECTOR_LR:g} {words} --out runs/adamw",
            }
        ),
        *settings_section(parts, results.provenance[-1]),
    ]
    return write_report(out, REPORT, TITLE, blocks)


def summary(out: Path) -> str:
    """Return the results of the demonstration in ``out`` as a plain-text table."""
    results = Results.read(out / "quadratic")
    runs = [LanguageRun.read(out / _folder(name)) for name in OPTIMIZERS]
    rows = [
        (
            row["label"],
            "–" if row["lr"] is None else f"{row['lr']:g}",
            str(row["steps"]),
            "diverged" if row["median"] == float("inf") else f"{row['median']:.3g}",
            f"{row['gradient_ms'] + row['update_ms']:.1f}",
        )
        for row in results.summary()
    ]
    language = [
        (
            run.optimizer,
            rate_in_words(run.settings["lr"]),
            f"{run.validation[-1][1]:.4f}",
            f"{1e3 * run.seconds_per_step:.0f}",
        )
        for run in runs
    ]
    return "\n".join(
        [
            *_lines(("quadratic regression", "lr", "steps", "f − f*", "ms a step"), rows),
            "",
            *_lines(("language model", "lr", "validation loss", "ms a step"), language),
        ]
    )


def say(text: str) -> None:
    """Say what begins now, where progress is shown."""
    print(text, file=sys.stderr, flush=True)


def _folder(optimizer: str) -> str:
    return f"language-{optimizer}"


def _require_own(out: Path) -> None:
    """Raise unless ``out`` is free, or holds nothing but what a demonstration writes."""
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"out is {str(out)!r}, a file: give a folder")
    own = {
        f"{REPORT}.html",
        f"{REPORT}.md",
        LOSS_FIGURE,
        "quadratic",
        *map(_folder, OPTIMIZERS),
    }
    foreign = sorted(p.name for p in out.iterdir() if p.name not in own) if out.exists() else []
    if foreign:
        raise RunFolderError(
            f"out is {str(out)!r}, which holds other files ({', '.join(foreign[:3])}): "
            "give a new or empty folder"
        )


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: the first column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (heads, *rows)
    ]
