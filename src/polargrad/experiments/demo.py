"""The demonstration: an experiment and a language model, in one folder with a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from polargrad.errors import RunFolderError
from polargrad.experiments.language_results import LOSS_FIGURE, LanguageRun
from polargrad.experiments.protocol import Protocol
from polargrad.experiments.quadratic import QUICK, reproduce_quadratic
from polargrad.experiments.quadratic_results import Results
from polargrad.experiments.report import write_report
from polargrad.language import Preset, TrainSettings, train

REPORT = "report.html"
QUADRATIC = "quadratic"
OPTIMIZERS = ("polargrad", "muon", "adamw")
# The best for each of the three in benchmarks/tiny_sweep.py, so that what differs is the rule of
# the hidden matrices alone.
VECTOR_LR = 3e-2


def run_demo(
    out: Path,
    *,
    steps: int = 300,
    seed: int = 0,
    protocol: Protocol = QUICK,
    preset: str | Preset = "tiny",
) -> Path:
    """Run the quadratic experiment and three training runs into ``out``; return the report's path.

    An earlier demonstration in ``out`` is replaced.

    Args:
        out: a new or empty folder, or one that holds an earlier demonstration.
        steps: of each training run.
        seed: of the training runs; the experiment keeps the paper's.
        protocol: of the experiment.
        preset: of the model.

    Raises:
        RunFolderError: if ``out`` holds anything else; nothing is changed then.
        ValueError: if ``steps`` or ``seed`` is not allowed.
    """
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
    say(f"1/2 matrix quadratic regression ({protocol.version})")
    reproduce_quadratic(out / QUADRATIC, protocol=protocol, overwrite=True)
    say("2/2 language model")
    for setting in settings:
        result = train(setting)
        if result.interrupted is not None:
            raise KeyboardInterrupt
    report = out / REPORT
    write_report(
        report,
        quadratic=out / QUADRATIC,
        language=[setting.out for setting in settings],
        commands={
            "all of it": f"polargrad demo --steps {steps} --seed {seed}",
            "the experiment": "polargrad reproduce quadratic --quick",
            "the experiment in full": "polargrad reproduce quadratic",
            "one training run": "polargrad train --preset tiny --optimizer adamw "
            f"--vector-lr {VECTOR_LR:g} --steps {steps} --seed {seed} --out runs/adamw",
        },
    )
    return report


def summary(out: Path) -> str:
    """Return the results of the demonstration in ``out`` as a plain-text table."""
    results = Results.read(out / QUADRATIC)
    runs = [LanguageRun.read(out / _folder(name)) for name in OPTIMIZERS]
    quadratic = [
        (
            row["label"],
            f"{row['lr']:g}",
            "diverged" if row["diverged"] else f"{row['gap']:.3g}",
            f"{1e3 * row['seconds_per_step']:.1f}",
        )
        for row in results.summary()
    ]
    language = [
        (
            run.optimizer,
            f"{run.settings['lr']:g}",
            f"{run.validation[-1][1]:.4f}",
            f"{1e3 * run.seconds_per_step:.0f}",
        )
        for run in runs
    ]
    steps = results.settings["steps"]
    return "\n".join(
        [
            *_lines(("quadratic regression", "lr", f"f − f* at {steps}", "ms a step"), quadratic),
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
    own = {REPORT, LOSS_FIGURE, QUADRATIC, *map(_folder, OPTIMIZERS)}
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
