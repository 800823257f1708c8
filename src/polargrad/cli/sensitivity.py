"""``polargrad sensitivity``: how much depends on the learning rate and on the polar factor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polargrad.experiments.reproduce import EXPERIMENTS
from polargrad.experiments.sensitivity.protocol import sweep
from polargrad.experiments.sensitivity.results import read_sensitivity, table
from polargrad.experiments.sensitivity.run import sensitivity

ALL = "all"
EXPERIMENT = tyro.conf.arg(metavar="{" + ",".join([*EXPERIMENTS, ALL]) + "}")
OUT = tyro.conf.arg(
    metavar="PATH",
    help_behavior_hint="(default: runs/sensitivity, with --quick runs/sensitivity-quick)",
)
WORKERS = tyro.conf.arg(metavar="INT", help_behavior_hint="(default: one a core)")
FLAG = tyro.conf.arg(help_behavior_hint="")


@dataclass(frozen=True)
class Sensitivity:
    """Sweep the learning rate of each optimizer, and the accuracy of its polar factor.

    quadratic is section 6.1 of the PolarGrad paper, logistic 6.2, completion 6.3. For each
    optimizer and oracle: the best learning rate, the largest that does not diverge beside what
    theory says of it, and the width of the good region, the factor between the smallest and the
    largest learning rate that come within 10 times of the best. What was tried is not tried again,
    so an interrupted call continues and a second one does nothing. In full less than an hour on
    two cores, with --quick one minute.
    """

    experiment: Annotated[tyro.conf.Positional[str], EXPERIMENT]
    """Which experiment."""
    quick: Annotated[bool, FLAG] = False
    """A few optimizers and oracles, fewer steps, a coarser grid."""
    seed: int = 42
    """Seed of data and start; the paper's code uses 42."""
    workers: Annotated[int | None, WORKERS] = None
    """Optimizers side by side, each in a process of one thread."""
    out: Annotated[Path | None, OUT] = None
    """Folder of the results, new, empty, or of the same command."""
    overwrite: Annotated[bool, FLAG] = False
    """Delete what the folder holds of these experiments and start again."""

    def run(self) -> int:
        """Try what is left, print the table, and return the exit code."""
        names = list(EXPERIMENTS) if self.experiment == ALL else [self.experiment]
        sweeps = [sweep(name, quick=self.quick) for name in names]
        default = Path("runs") / ("sensitivity-quick" if self.quick else "sensitivity")
        out = default if self.out is None else self.out
        done = sensitivity(
            out, sweeps, seed=self.seed, workers=self.workers, overwrite=self.overwrite
        )
        rows = [row for row in read_sensitivity(out) if row.experiment in names]
        print(table(rows))
        print("* beyond this runs end above their start; without * they blow up")
        print(f"figures: {', '.join(str(folder) for folder in done.folders.values())}")
        if done.lines == 0:
            print("nothing to do: all lines are finished")
        return 0
