"""``polargrad theory``: check the theorems of the paper with numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polargrad.experiments.bench.tables import aligned
from polargrad.experiments.theory.check import Check
from polargrad.experiments.theory.form import FULL, QUICK
from polargrad.experiments.theory.run import VERDICTS, run_theory

OUT = tyro.conf.arg(
    metavar="PATH", help_behavior_hint="(default: runs/theory, with --quick runs/theory-quick)"
)
FLAG = tyro.conf.arg(help_behavior_hint="")


@dataclass(frozen=True)
class Theory:
    """Check the paper's theorems with numbers, step by step, on matrix quadratic regression.

    The descent inequality, the one-step limit, the linear rates, the bounds for an inexact polar
    factor, the stability limit, null-gradient consistency, the plateau of sign methods, the noise
    floor and the scale law. Finished checks are not run again. The folder receives settings,
    records, verdicts and a figure of each check.
    """

    out: Annotated[Path | None, OUT] = None
    """Folder of the results, new, empty, or of the same command."""
    seed: int = 42
    """Seed of data, starts and noise; the paper's code uses 42."""
    quick: Annotated[bool, FLAG] = False
    """Fewer steps, learning rates and oracles, on problems of the same sizes."""
    overwrite: Annotated[bool, FLAG] = False
    """Delete what the folder holds of this command and start again."""

    def run(self) -> int:
        """Run what is not finished, print the verdicts, and return the exit code."""
        default = Path("runs") / ("theory-quick" if self.quick else "theory")
        out = default if self.out is None else self.out
        found = run_theory(
            out, extent=QUICK if self.quick else FULL, seed=self.seed, overwrite=self.overwrite
        )
        if not found.done:
            print(f"nothing to do: all {len(found.checks)} checks are finished")
        for check in found.checks:
            print_check(check)
        print(f"\nverdicts: {out / VERDICTS}")
        print("figures: " + ", ".join(str(out / check.figure) for check in found.checks))
        return 0


def print_check(check: Check) -> None:
    """Print the verdict of a check, its evidence, and a line for each claim."""
    print(f"\n{check.name}: {check.claim.judgement}")
    print(f"  {check.evidence}")
    lines = [("claim", "violations", "margin", "verdict")]
    lines += [
        (f.claim, f"{f.violations}/{f.steps}", f"{f.margin:.3g}", f.verdict) for f in check.findings
    ]
    places = ("where", *(f.condition for f in check.findings))
    for line, where in zip(aligned(lines), places, strict=True):
        print(f"  {line}  {where}")
