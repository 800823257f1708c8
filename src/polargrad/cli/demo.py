"""``polargrad demo``: an experiment and a language model in small, with a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from polargrad.experiments.demo import run_demo, summary


@dataclass(frozen=True)
class Demo:
    """Run the paper's first experiment and train a small language model, and report on both.

    The quick version of matrix quadratic regression, and the preset tiny with PolarGrad, Muon and
    AdamW on the source of the Python standard library: some four minutes on two cores. An earlier
    demonstration in the folder is replaced.
    """

    out: Path = Path("demo")
    """Folder of the results and of report.html, new or empty, or of an earlier demonstration."""
    steps: int = 300
    """Steps of each training run."""
    seed: int = 0
    """Seed of the training runs."""

    def run(self) -> int:
        """Run the demonstration, print its results and where the report is."""
        report = run_demo(self.out, steps=self.steps, seed=self.seed)
        print(summary(self.out))
        print(f"\nReport: {report.resolve()}")
        return 0
