"""The finished runs of the insights, read back from their files."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polargrad.errors import RunFolderError
from polargrad.experiments.insights.protocol import FAMILIES, InsightRun, InsightsProtocol
from polargrad.experiments.insights.statistics import median
from polargrad.experiments.runner import records_of
from polargrad.experiments.trace import BUDGET, ENDED
from polargrad.language.schedules import LINEAR_SHARE, WARMUP_STEPS
from polargrad.records import read_json, read_records
from polargrad.records.run_folder import SETTINGS


@dataclass(frozen=True)
class InsightTrace:
    """One finished run.

    Args:
        run: its settings.
        seed: its seed.
        layers: names of the hidden matrices.
        losses: the training loss before each update.
        samples: records of the updates that were looked at, ascending by step.
        curvature: records of the looks at the Hessians, ascending by step.
        validation: the final validation loss in nats per byte, infinite if the run diverged.
        seconds: what the run took, with its measurements.
    """

    run: InsightRun
    seed: int
    layers: tuple[str, ...]
    losses: tuple[float, ...]
    samples: tuple[dict[str, Any], ...]
    curvature: tuple[dict[str, Any], ...]
    validation: float
    seconds: float

    @classmethod
    def read(cls, run: InsightRun, seed: int, path: Path) -> InsightTrace | None:
        """Read the file of a run; None if it is missing or the run did not end.

        Raises:
            RunFolderError: if it is not a file of records.
        """
        records = list(read_records(path)) if path.exists() else []
        if not records or ENDED not in records[-1]:
            return None
        last = records[-1]
        return cls(
            run,
            seed,
            tuple(records[0]["layers"]),
            tuple(r["loss"] for r in records if "loss" in r),
            tuple(r for r in records if "update" in r),
            tuple(r for r in records if "curvature" in r),
            last["validation_loss"] if last[ENDED] == BUDGET else math.inf,
            last["seconds"],
        )

    def between(self, first: float, last: float) -> list[dict[str, Any]]:
        """Return the samples of steps in [first, last)."""
        return [sample for sample in self.samples if first <= sample["step"] < last]

    def middle(self, kind: str, field: str, first: float = 0, last: float = math.inf) -> float:
        """Return the median of a measure over layers and samples of steps in [first, last)."""
        return median([v for s in self.between(first, last) for v in s[kind][field]])

    def loss_near(self, step: int, reach: int = 5) -> float:
        """Return the mean training loss of the updates within ``reach`` of one."""
        known = self.losses[max(0, step - reach) : step + reach + 1]
        return statistics.fmean(known) if known else math.nan

    def rising(self) -> float:
        """Return the share of sampled updates that raised the loss on their own batch."""
        found = [sample["change"] > 0 or math.isnan(sample["change"]) for sample in self.samples]
        return sum(found) / len(found) if found else math.nan


def rise(sample: dict[str, Any]) -> float:
    r"""Return how the loss of an update's own batch changed, over the size of its first order.

    .. math:: \frac{f(X + \Delta X) - f(X)}{|\langle \nabla f(X), \Delta X\rangle|}

    It is −1 where the update is so small that its first order is all there is, 0 where curvature
    has eaten up the whole decrease, above 0 where the update raised the loss it was to lower.
    """
    predicted = abs(sample["predicted"])
    return float(sample["change"]) / predicted if predicted > 0 else math.nan


@dataclass(frozen=True)
class InsightsResults:
    """All runs of the finished seeds of a folder, with the protocol they follow."""

    protocol: InsightsProtocol
    traces: tuple[InsightTrace, ...]

    @classmethod
    def read(cls, folder: Path) -> InsightsResults:
        """Read the folder of the insights.

        Raises:
            RunFolderError: if it holds something else, or no seed whose runs are all finished.
        """
        settings = read_json(folder / SETTINGS)
        if settings.get("experiment") != "insights":
            raise RunFolderError(f"{str(folder)!r} does not hold the insights")
        protocol = InsightsProtocol.from_data(settings)
        seeds = sorted(int(path.name.removeprefix("seed-")) for path in folder.glob("seed-*"))
        traces: list[InsightTrace] = []
        for seed in seeds:
            paths = {run: records_of(folder, seed, run.name) for run in protocol.runs}
            found = [InsightTrace.read(run, seed, path) for run, path in paths.items()]
            finished = [trace for trace in found if trace is not None]
            # Runs are compared with each other: those of a part of a seed would bias that.
            traces += finished if len(finished) == len(found) else []
        if not traces:
            raise RunFolderError(f"{str(folder)!r} holds no finished seed")
        return cls(protocol, tuple(traces))

    @property
    def seeds(self) -> list[int]:
        """The finished seeds."""
        return sorted({trace.seed for trace in self.traces})

    @property
    def constant(self) -> tuple[float, float]:
        """The steps [first, last) in which every run has its full learning rate."""
        return float(WARMUP_STEPS), (1.0 - LINEAR_SHARE) * self.protocol.steps

    def chosen(
        self,
        families: Iterable[str],
        *,
        lr: float | None = None,
        warmup: bool | None = None,
    ) -> list[InsightTrace]:
        """Return the runs of some families, of one learning rate, with or without warmup."""
        names = set(families)
        return [
            trace
            for trace in self.traces
            if trace.run.family in names
            and lr in (None, trace.run.lr)
            and warmup in (None, trace.run.warmup)
        ]

    def families(self) -> list[str]:
        """Return the families that have runs, in the order of :data:`FAMILIES`."""
        return [name for name in FAMILIES if self.chosen([name])]

    def rates(self, family: str) -> list[float]:
        """Return the learning rates of a family, ascending."""
        return sorted({trace.run.lr for trace in self.chosen([family])})

    def validation(self, family: str, lr: float, *, warmup: bool) -> float:
        """Return the median final validation loss over the seeds."""
        return median([t.validation for t in self.chosen([family], lr=lr, warmup=warmup)])

    def best_rate(self, family: str) -> float:
        """Return the learning rate whose runs with warmup end lowest, by the median over seeds."""
        rates = [lr for lr in self.rates(family) if self.chosen([family], lr=lr, warmup=True)]
        return min(rates, key=lambda lr: self.validation(family, lr, warmup=True))

    def best(self, family: str) -> list[InsightTrace]:
        """Return the runs with warmup at the best learning rate, one a seed."""
        return self.chosen([family], lr=self.best_rate(family), warmup=True)

    def harms(self, family: str, lr: float) -> dict[int, float]:
        """Return, by seed, how much higher the final validation loss is without warmup."""
        with_warmup, without = (
            {t.seed: t.validation for t in self.chosen([family], lr=lr, warmup=warmup)}
            for warmup in (True, False)
        )
        return {
            seed: without[seed] - with_warmup[seed]
            for seed in sorted(with_warmup.keys() & without.keys())
        }


def median_over(traces: Sequence[InsightTrace], kind: str, field: str, *steps: float) -> float:
    """Return the median over runs of :meth:`InsightTrace.middle`, for steps in [first, last)."""
    return median([trace.middle(kind, field, *steps) for trace in traces])
