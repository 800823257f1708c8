"""The insights: the paper's explanations of Adam and Muon, put to the test on the tiny model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from polargrad.experiments.folders import add_session, at_work_in, check_seeds, number_of_workers
from polargrad.experiments.insights.curvature import curvature_verdicts
from polargrad.experiments.insights.figures import FIGURES, draw_insights
from polargrad.experiments.insights.instability import instability_verdicts
from polargrad.experiments.insights.protocol import FULL, InsightRun, InsightsProtocol
from polargrad.experiments.insights.results import InsightsResults
from polargrad.experiments.insights.speed import speed_verdicts
from polargrad.experiments.insights.training import Training, cached_input
from polargrad.experiments.insights.verdict import (
    VERDICTS,
    Verdict,
    read_insights,
    write_verdicts,
)
from polargrad.experiments.insights.warmup import warmup_verdicts
from polargrad.experiments.runner import execute_all, records_of
from polargrad.experiments.trace import is_finished
from polargrad.records import RecordWriter, require

SEEDS = (0, 1, 2)

__all__ = ["SEEDS", "Insights", "Verdict", "judge_insights", "read_insights", "run_insights"]


@dataclass(frozen=True)
class InsightJob:
    """A run on one seed, and the file of its records."""

    protocol: InsightsProtocol
    seed: int
    run: InsightRun
    data: Path | None
    records: Path

    @property
    def title(self) -> str:
        """What progress calls it."""
        return f"insights, seed {self.seed}: {self.run.label}"

    def execute(self) -> None:
        """Take all steps; a run that was killed begins again, as it takes less than a minute."""
        self.records.parent.mkdir(parents=True, exist_ok=True)
        self.records.unlink(missing_ok=True)
        with RecordWriter(self.records) as writer:
            for record in Training(self.run, self.protocol, self.data, self.seed).records():
                writer.write(record)
            writer.sync()


@dataclass(frozen=True)
class Insights:
    """What a call of :func:`run_insights` did.

    Args:
        runs: how many runs it executed; 0 if all were finished.
        skipped: how many were finished before.
        verdicts: on the statements, by all finished runs of the folder.
    """

    runs: int
    skipped: int
    verdicts: tuple[Verdict, ...]


def run_insights(
    out: Path,
    *,
    protocol: InsightsProtocol = FULL,
    seeds: Sequence[int] = SEEDS,
    data: Path | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> Insights:
    """Execute what is not finished of the runs, and judge by all that is.

    The folder receives ``settings.json``, ``provenance.json``, one file of records a run and seed,
    ``verdicts.json`` and the figures. A finished run is not run again.

    Args:
        out: a new or empty folder, or one of the same protocol and text.
        protocol: the runs of a seed.
        seeds: of initial parameters and batches; every protocol's runs are done for each.
        data: a UTF-8 text file or a folder of them; None for the standard library's source.
        workers: processes side by side, each with one thread; None for one a core.
        overwrite: delete first what the folder holds of the insights.

    Raises:
        ValueError: if a seed is not allowed, or ``workers`` is below 1.
        DataError: if the text is missing, empty, not text or too short.
        RunFolderError: if the folder holds something else; nothing is changed then.
        MissingExtraError: if transformers, matplotlib or tqdm is missing.
    """
    check_seeds(seeds)
    workers = number_of_workers(workers)
    for module in ("matplotlib", "tqdm", "transformers"):
        require(module, extra="language")
    digest = cached_input(protocol.preset, data).data.digest
    settings = {out: {**protocol.as_data(), "corpus": digest}}
    with at_work_in(settings, overwrite=overwrite):
        return _run(out, protocol, seeds, data, workers)


def _run(
    folder: Path,
    protocol: InsightsProtocol,
    seeds: Sequence[int],
    data: Path | None,
    workers: int,
) -> Insights:
    """The work of :func:`run_insights`, with no other process in the folder."""
    jobs = [
        InsightJob(protocol, seed, run, data, records_of(folder, seed, run.name))
        for seed in seeds
        for run in protocol.runs
    ]
    left = [job for job in jobs if not is_finished(job.records)]
    if left:
        add_session(folder)
        execute_all(left, workers=workers)
    if left or not all((folder / name).exists() for name in (VERDICTS, *FIGURES)):
        _conclude(folder)
    return Insights(len(left), len(jobs) - len(left), read_insights(folder))


def _conclude(folder: Path) -> None:
    """Judge by all finished runs of the folder, and draw them."""
    print("insights: verdicts and figures", file=sys.stderr, flush=True)
    results = InsightsResults.read(folder)
    write_verdicts(
        folder,
        judge_insights(results),
        version=results.protocol.version,
        seeds=results.seeds,
        runs=len(results.traces),
        seconds_of_all_runs=round(sum(trace.seconds for trace in results.traces)),
    )
    draw_insights(results, folder)


def judge_insights(results: InsightsResults) -> list[Verdict]:
    """Return the verdicts on all statements, by the runs that are finished."""
    quick = " --quick" if results.protocol.version == "quick" else ""
    seeds = " ".join(map(str, results.seeds))
    command = f"polargrad insights{quick} --seeds {seeds}"
    found = [
        *instability_verdicts(results),
        *speed_verdicts(results),
        *warmup_verdicts(results),
        *curvature_verdicts(results),
    ]
    return [replace(verdict, command=command) for verdict in found]
