"""``polargrad insights``: the paper's explanations of Adam and Muon, put to the test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polargrad.experiments.insights.figures import FIGURES
from polargrad.experiments.insights.protocol import FULL, QUICK
from polargrad.experiments.insights.run import SEEDS, run_insights

SEEDS_OPTION = tyro.conf.arg(
    metavar="INT...",
    help_behavior_hint=f"(default: {' '.join(map(str, SEEDS))}, with --quick {SEEDS[0]})",
)
OUT = tyro.conf.arg(
    metavar="PATH", help_behavior_hint="(default: runs/insights, with --quick runs/insights-quick)"
)
WORKERS = tyro.conf.arg(metavar="INT", help_behavior_hint="(default: one a core)")
FLAG = tyro.conf.arg(help_behavior_hint="")


@dataclass(frozen=True)
class Insights:
    """Test on a small language model what the paper explains by condition numbers.

    Three phenomena: Adam's instabilities, Muon's speed and the need for warmup; beside them the
    Hessians of single layers. AdamW, Muon and PolarGrad train preset tiny at several learning
    rates, with and without warmup. Finished runs are not run again. The folder receives settings,
    records, figures and verdicts.json. In full some 25 minutes on two cores, with --quick one.
    """

    out: Annotated[Path | None, OUT] = None
    """Folder of the results, new, empty, or of the same command."""
    quick: Annotated[bool, FLAG] = False
    """One learning rate, few steps, one seed: too little to judge by, enough to see it work."""
    seeds: Annotated[tuple[int, ...], SEEDS_OPTION] = ()
    """Seeds of initial parameters and batches."""
    workers: Annotated[int | None, WORKERS] = None
    """Runs side by side, each in a process of one thread."""
    overwrite: Annotated[bool, FLAG] = False
    """Delete what the folder holds of this command and start again."""

    def run(self) -> int:
        """Run what is not finished, print the verdicts, and return the exit code."""
        default = Path("runs") / ("insights-quick" if self.quick else "insights")
        out = default if self.out is None else self.out
        found = run_insights(
            out,
            protocol=QUICK if self.quick else FULL,
            seeds=self.seeds or (SEEDS[:1] if self.quick else SEEDS),
            workers=self.workers,
            overwrite=self.overwrite,
        )
        if found.runs:
            print(f"{found.runs} runs done, {found.skipped} were finished before")
        else:
            print(f"nothing to do: all {found.skipped} runs are finished")
        for verdict in found.verdicts:
            print(f"\n{verdict.phenomenon}: {verdict.claim}")
            print(f"  {verdict.judgement}")
            print(f"  {verdict.evidence}")
        print(f"\nfigures: {', '.join(str(out / name) for name in FIGURES)}")
        return 0
