"""``polargrad reproduce``: repeat the paper's matrix experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polargrad.experiments.experiment import ERAS, PUBLISHED_SEEDS
from polargrad.experiments.folders import check_seeds
from polargrad.experiments.oracles import ORACLES
from polargrad.experiments.paper_report import (
    REPORT,
    Sources,
    check_report,
    write_paper_report,
)
from polargrad.experiments.published import comparisons
from polargrad.experiments.reproduce import (
    EXPERIMENTS,
    Reproduction,
    choose,
    reproduce,
)
from polargrad.experiments.results import SUMMARY, Results

ALL = "all"
EXPERIMENT = tyro.conf.arg(metavar="{" + ",".join([*EXPERIMENTS, ALL]) + "}")
ERA = tyro.conf.arg(metavar="{" + ",".join(ERAS) + "}")
ORACLE = tyro.conf.arg(metavar="{" + ",".join(ORACLES) + "}")
SEEDS = tyro.conf.arg(
    metavar="INT...",
    help_behavior_hint="(default: " + " ".join(map(str, PUBLISHED_SEEDS)) + ", with --quick 42)",
)
OUT = tyro.conf.arg(
    metavar="PATH", help_behavior_hint="(default: runs/reproduce, with the options in its name)"
)
WORKERS = tyro.conf.arg(metavar="INT", help_behavior_hint="(default: one a core)")
FLAG = tyro.conf.arg(help_behavior_hint="")


@dataclass(frozen=True)
class Reproduce:
    """Repeat the matrix experiments of the PolarGrad paper, beside what a user would pick instead.

    quadratic is section 6.1, logistic 6.2, completion 6.3, each with its momentum version. Finished
    runs are not run again and killed ones continue, so a second call does nothing. The folder
    receives, for each experiment, settings, records and figures, and report.html and report.md with
    the paper's claims. In full some 40 minutes on two cores, with --quick 5.
    """

    experiment: Annotated[tyro.conf.Positional[str], EXPERIMENT]
    """Which experiment."""
    quick: Annotated[bool, FLAG] = False
    """Fewer runs, steps and seeds, with the same settings otherwise."""
    seeds: Annotated[tuple[int, ...], SEEDS] = ()
    """Seeds of data and start; the paper's code uses 42."""
    era: Annotated[str, ERA] = "reference"
    """Settings of the published code: as it is today, or as it was for the paper."""
    oracle: Annotated[str, ORACLE] = "published"
    """Polar factor of the runs with QDWH."""
    workers: Annotated[int | None, WORKERS] = None
    """Runs side by side, each in a process of one thread."""
    out: Annotated[Path | None, OUT] = None
    """Folder of the results, new, empty, or of the same command."""
    overwrite: Annotated[bool, FLAG] = False
    """Delete what the folder holds of these experiments and start again."""

    def run(self) -> int:
        """Run what is not finished, say what came of it, and return the exit code."""
        names = list(EXPERIMENTS) if self.experiment == ALL else [self.experiment]
        experiments = choose(names, quick=self.quick, era=self.era, oracle=self.oracle)
        seeds = self.seeds or (PUBLISHED_SEEDS[:1] if self.quick else PUBLISHED_SEEDS)
        check_seeds(seeds)
        out = self._folder() if self.out is None else self.out
        check_report(out)
        done = reproduce(
            out, experiments, seeds=seeds, workers=self.workers, overwrite=self.overwrite
        )
        report = out / f"{REPORT}.html"
        if _is_older(report, [folder / SUMMARY for folder in done.folders.values()]):
            write_paper_report(out, Sources(reproduce=out))
        _say(done)
        print(f"report: {report}")
        return 0

    def _folder(self) -> Path:
        """The folder that says which options made it."""
        words = ["reproduce"]
        words += ["quick"] if self.quick else []
        words += [self.era] if self.era != "reference" else []
        words += [self.oracle] if self.oracle != "published" else []
        return Path("runs") / "-".join(words)


def _is_older(report: Path, summaries: Sequence[Path]) -> bool:
    """Whether the report is not there, or was made before one of the summaries."""
    if not report.exists():
        return True
    return any(report.stat().st_mtime_ns < path.stat().st_mtime_ns for path in summaries)


def _say(done: Reproduction) -> None:
    """Print what each experiment came to."""
    for name, folder in done.folders.items():
        results = Results.read(folder)
        print(f"{name}: {results.settings['metric_title']}, seeds {results.seeds}")
        for row in results.summary():
            lost = row["median"] == float("inf")
            value = "diverged" if lost else f"{row['median']:.3g}"
            print(f"  {row['label']:30s} {value} at step {row['steps']}")
        compared = comparisons(results)
        if compared:
            agree = sum(c.agrees for c in compared)
            print(f"  published code, seed 42: {agree} of {len(compared)} values agree")
    if done.runs == 0 and not done.concluded:
        print("nothing to do: all runs are finished")
    elif done.runs == 0:
        print("all runs were finished; made again: what follows from them")
