"""``polargrad report``: one report of all that was run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from polargrad.experiments.paper_report import Sources, write_paper_report


@dataclass(frozen=True)
class Report:
    """Bring the results of reproduce, theory, sensitivity, insights and sweep together.

    Nothing is run. The table of the paper's claims comes first: claim, evidence, verdict, and the
    command that shows it. Parts that were not run are left out. Writes report.html, one file with
    all its figures, and report.md.
    """

    out: Path = Path("runs")
    """Folder of the report, and of the parts that are not named."""
    reproduce: Path | None = None
    """Folder of `polargrad reproduce`; reproduce in OUT by default."""
    theory: Path | None = None
    """Folder of `polargrad theory`; theory in OUT by default."""
    sensitivity: Path | None = None
    """Folder of `polargrad sensitivity`; sensitivity in OUT by default."""
    insights: Path | None = None
    """Folder of `polargrad insights`; insights in OUT by default."""
    pretraining: Path | None = None
    """Folder of `polargrad sweep`; sweep in OUT by default."""

    def run(self) -> int:
        """Write the report, say where it is, and return the exit code."""
        sources = Sources(
            reproduce=self.reproduce or self.out / "reproduce",
            theory=self.theory or self.out / "theory",
            sensitivity=self.sensitivity or self.out / "sensitivity",
            insights=self.insights or self.out / "insights",
            pretraining=self.pretraining or self.out / "sweep",
        )
        print(f"report: {write_paper_report(self.out, sources)}")
        return 0
