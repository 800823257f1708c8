"""``polargrad reproduce``: repeat an experiment of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polargrad.experiments import FULL, QUICK, reproduce_quadratic
from polargrad.experiments.quadratic_figures import GAP_FIGURE, NUCLEAR_NORM_FIGURE
from polargrad.experiments.quadratic_published import comparisons

EXPERIMENTS = ("quadratic",)
EXPERIMENT = tyro.conf.arg(metavar="{" + ",".join(EXPERIMENTS) + "}")
OUT = tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: runs/EXPERIMENT)")
FLAG = tyro.conf.arg(help_behavior_hint="")


@dataclass(frozen=True)
class Reproduce:
    """Repeat an experiment of the PolarGrad paper with its published settings.

    quadratic is matrix quadratic regression, section 6.1: eight runs of 4000 steps, or with --quick
    five of 1000. The folder receives settings.json, provenance.json, one file of records a run,
    summary.json and the figures.
    """

    experiment: Annotated[tyro.conf.Positional[str], EXPERIMENT]
    """Which experiment."""
    quick: Annotated[bool, FLAG] = False
    """Fewer runs and steps, with the same settings otherwise."""
    seed: int = 42
    """Seed of the data and the start; the paper's code uses 42."""
    out: Annotated[Path | None, OUT] = None
    """Folder of the results, new or empty."""
    overwrite: Annotated[bool, FLAG] = False
    """Delete the run in the folder and start again."""

    def run(self) -> int:
        """Run the experiment, say what came of it, and return the exit code."""
        if self.experiment not in EXPERIMENTS:
            raise ValueError(
                f"experiment must be one of {', '.join(EXPERIMENTS)}, got {self.experiment!r}"
            )
        out = Path("runs") / self.experiment if self.out is None else self.out
        results = reproduce_quadratic(
            out, protocol=QUICK if self.quick else FULL, seed=self.seed, overwrite=self.overwrite
        )
        for row in results.summary():
            gap = "diverged" if row["diverged"] else f"f - f* = {row['gap']:.3g}"
            print(f"{row['label']:22s} {gap} at step {row['step']}")
        for c in comparisons(results):
            print(
                f"{c.label:22s} step {c.step:4d}: {c.ours:.4g}, published code {c.published:.4g} "
                f"({c.deviation:+.1%})"
            )
        print(f"figures: {out / GAP_FIGURE}, {out / NUCLEAR_NORM_FIGURE}")
        return 0
