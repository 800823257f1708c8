"""A line of a sweep from where it stands to its end: one run after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polargrad.experiments.sensitivity.grid import (
    Outcome,
    Tried,
    best,
    blows_up,
    limit,
    next_point,
    rate,
)
from polargrad.experiments.sensitivity.protocol import BOUND, Line, Sweep
from polargrad.experiments.sensitivity.theory import step_limits
from polargrad.experiments.trace import DIVERGED, ENDED, begin, trace
from polargrad.records import RecordWriter, read_records, write_json

RECORDS = "records"


@dataclass(frozen=True)
class LineJob:
    """A line of a sweep on one seed, and the folder of the experiment."""

    sweep: Sweep
    line: Line
    seed: int
    folder: Path

    @property
    def title(self) -> str:
        """Experiment and line."""
        return f"{self.sweep.experiment.name}: {self.line.label}"

    @property
    def records(self) -> Path:
        """One record a run, in the order in which they were tried."""
        return records_of(self.folder, self.line.name)

    @property
    def limits(self) -> Path:
        """What theory says along the run at the limit, or the best one where nothing blows up."""
        return limits_of(self.folder, self.line.name)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self._next(self._tried()) is None and not self._unprobed()

    def execute(self) -> None:
        """Try what is left; a run that was interrupted begins again."""
        self.records.parent.mkdir(parents=True, exist_ok=True)
        tried = self._tried()
        with RecordWriter(self.records) as writer:
            while (index := self._next(tried)) is not None:
                record = run_at(self.sweep, self.line, self.seed, index)
                writer.write(record)
                tried[index] = outcome(record, self.sweep.floor)
            writer.sync()
        if self._unprobed():
            index = limit(tried) if blows_up(tried) else best(tried)
            data = (
                {}
                if index is None
                else step_limits(self.sweep, self.line, self.line.at(index), self.seed)
            )
            write_json(self.limits, data)

    def _next(self, tried: Tried) -> int | None:
        return next_point(self.sweep.grid, self.line.window, tried)

    def _tried(self) -> dict[int, Outcome]:
        return read_tried(self.records, self.sweep.floor)

    def _unprobed(self) -> bool:
        return self.line.probed and not self.limits.exists()


def records_of(folder: Path, line: str) -> Path:
    """Return the file of the records of a line in the folder of its experiment."""
    return folder / RECORDS / f"{line}.jsonl"


def limits_of(folder: Path, line: str) -> Path:
    """Return the file of the limits of single steps of a line."""
    return folder / RECORDS / f"{line}.limits.json"


def read_tried(records: Path, floor: float) -> dict[int, Outcome]:
    """Return the outcomes that a file of records holds; none if there is no file."""
    if not records.exists():
        return {}
    return {record["index"]: outcome(record, floor) for record in read_records(records)}


def outcome(record: Mapping[str, Any], floor: float) -> Outcome:
    """Return what a record says of its run.

    Example:
        >>> outcome({"ended": "budget", "start": 8.0, "value": 1e-9}, floor=1e-6)
        Outcome(value=1e-06, lost=False, blown=False)
    """
    blown = record[ENDED] == DIVERGED
    value = max(float(record["value"]), floor)
    lost = blown or not value <= record["start"]
    return Outcome(math.inf if blown else value, lost=lost, blown=blown)


def run_at(sweep: Sweep, line: Line, seed: int, index: int) -> dict[str, Any]:
    """Run a line at one learning rate and return its record.

    The record holds the metric at the start (``start``) and at the end (``value``), the least and
    the largest one at a sample, and how and at which step the run ended.
    """
    experiment = sweep.experiment
    position = begin(experiment, seed, line.at(index))
    task = position.solver.task
    start = task.measure(task.start)[experiment.metric]
    values = []
    for record in trace(experiment, position, bound=BOUND * start):
        last = record
        values.append(record[experiment.metric])
    known = [value for value in values if math.isfinite(value)]
    return {
        "index": index,
        "lr": rate(index),
        ENDED: last[ENDED],
        "step": last["step"],
        "start": start,
        "value": values[-1],
        "least": min(known),
        "largest": max(known),
        "seconds": last["seconds"],
    }
