"""``polargrad bench``: measure what the package claims to be fast and accurate at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polargrad.experiments.bench_figure import FIGURE
from polargrad.experiments.bench_polar import CSV, FULL, QUICK, bench_polar, with_changes
from polargrad.experiments.bench_results import table

SUBJECTS = ("polar",)
SUBJECT = tyro.conf.arg(metavar="{" + ",".join(SUBJECTS) + "}")
OUT = tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: runs/bench-SUBJECT)")
FLAG = tyro.conf.arg(help_behavior_hint="")


def _hint(metavar: str, full: object, quick: object) -> object:
    """An option whose default --quick changes, if it does."""
    text = f"(default: {_words(full)}"
    changed = f"; with --quick {_words(quick)}" if quick != full else ""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"{text}{changed})")


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


SHAPES = _hint("SHAPE [SHAPE ...]", FULL.shapes, QUICK.shapes)
SPECTRA_OPTION = _hint("SPECTRUM [SPECTRUM ...]", FULL.spectra, QUICK.spectra)
TOLERANCES = _hint("FLOAT [FLOAT ...]", FULL.tolerances, QUICK.tolerances)
DTYPES_OPTION = _hint("DTYPE [DTYPE ...]", FULL.dtypes, QUICK.dtypes)
METHODS = tyro.conf.arg(metavar="METHOD [METHOD ...]", help_behavior_hint="(default: all)")
THREADS = tyro.conf.arg(metavar="INT", help_behavior_hint="(default: torch's own number)")
REPETITIONS = _hint("INT", FULL.repetitions, QUICK.repetitions)
BUDGET = _hint("SECONDS", FULL.budget, QUICK.budget)
DEVICE = tyro.conf.arg(metavar="{cpu,cuda}")


@dataclass(frozen=True)
class Bench:
    """Measure speed and accuracy against the peers, all in one run on this machine.

    polar measures our polar factors against torch's SVD, scipy and jax (where they are installed),
    Muon's quintic and the published QDWH. All candidates of a case take turns, round after round;
    ratios are formed round by round. scipy and jax are timed afterwards in processes of their own,
    and marked so. Errors are against an SVD in double precision. The folder receives settings.json,
    provenance.json, results.jsonl, results.csv and accuracy_time.png.
    """

    subject: Annotated[tyro.conf.Positional[str], SUBJECT]
    """What is measured."""
    shapes: Annotated[tuple[str, ...] | None, SHAPES] = None
    """ROWSxCOLUMNS, or BATCHxROWSxCOLUMNS for a stack."""
    spectra: Annotated[tuple[str, ...] | None, SPECTRA_OPTION] = None
    """gaussian, flat, spiked, power-law, geometric or half-large-half-small; with a condition
    number behind it, as in geometric:1e6, where it takes one."""
    tolerances: Annotated[tuple[float, ...] | None, TOLERANCES] = None
    """Tolerances that the planner is asked for, besides converged."""
    dtypes: Annotated[tuple[str, ...] | None, DTYPES_OPTION] = None
    """float32, float64, complex64 or complex128."""
    methods: Annotated[tuple[str, ...] | None, METHODS] = None
    """Which of ours: auto (the planner), names of methods, or descriptions as JSON, such as
    '{"name": "qdwh", "steps": 3}'."""
    threads: Annotated[int | None, THREADS] = None
    """Threads of every candidate."""
    repetitions: Annotated[int | None, REPETITIONS] = None
    """Rounds of each case."""
    budget: Annotated[float | None, BUDGET] = None
    """Time for the rounds of a case: a candidate that needs more than its share is in fewer."""
    bfloat16: Annotated[bool, FLAG] = False
    """Measure Muon's quintic in bfloat16 too, which is slow where the processor emulates it."""
    device: Annotated[str, DEVICE] = "cpu"
    """Of everything but scipy and jax, which use the processor."""
    seed: int = 0
    """Seed of the matrices."""
    quick: Annotated[bool, FLAG] = False
    """Fewer shapes, spectra and rounds, where they are not given."""
    calibrate: Annotated[bool, FLAG] = False
    """Also write calibration.json: for each dtype, shape and tolerance our fastest method."""
    out: Annotated[Path | None, OUT] = None
    """Folder of the results, new or empty."""
    overwrite: Annotated[bool, FLAG] = False
    """Delete the run in the folder and start again."""

    def run(self) -> int:
        """Run the benchmark, print its table, and return the exit code."""
        if self.subject not in SUBJECTS:
            raise ValueError(f"subject must be one of {', '.join(SUBJECTS)}, got {self.subject!r}")
        settings = with_changes(
            QUICK if self.quick else FULL,
            shapes=self.shapes,
            spectra=self.spectra,
            tolerances=self.tolerances,
            dtypes=self.dtypes,
            methods=self.methods,
            threads=self.threads,
            repetitions=self.repetitions,
            budget=self.budget,
            bfloat16=self.bfloat16,
            device=self.device,
            seed=self.seed,
        )
        out = Path("runs") / f"bench-{self.subject}" if self.out is None else self.out
        rows = bench_polar(out, settings, calibrate=self.calibrate, overwrite=self.overwrite)
        print(table(rows))
        print(f"\nresults: {out / CSV}, figure: {out / FIGURE}")
        return 0
