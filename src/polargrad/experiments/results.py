"""What a folder of an experiment holds, read back from its files."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polargrad.errors import RunFolderError
from polargrad.experiments.experiment import PUBLISHED_SEEDS
from polargrad.experiments.runner import records_of
from polargrad.experiments.trace import DIVERGED, ENDED
from polargrad.records import read_json, read_records
from polargrad.records.run_folder import SETTINGS

PROVENANCE = "provenance.json"
SUMMARY = "summary.json"
TIMING = "timing.json"
CONSTANTS = "constants.json"


@dataclass(frozen=True)
class Results:
    """The settings of an experiment, where it ran, and the records of each run.

    Args:
        settings: as in ``settings.json``.
        provenance: the sessions that made the folder.
        curves: the records by seed and name of the run.
        timing: milliseconds of a step by name of the run, as in ``timing.json``; empty before it
            was measured.
        constants: what is known of the problem beforehand, by seed, as in ``constants.json``.
    """

    settings: dict[str, Any]
    provenance: list[dict[str, Any]]
    curves: dict[int, dict[str, list[dict[str, Any]]]]
    timing: dict[str, Any]
    constants: dict[str, dict[str, float]]

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Read the folder of an experiment of which at least one seed is finished.

        Raises:
            RunFolderError: if a file is missing or not what an experiment writes.
        """
        settings = read_json(folder / SETTINGS)
        if "experiment" not in settings or "runs" not in settings:
            raise RunFolderError(f"{str(folder)!r} does not hold an experiment")
        names = [run["name"] for run in settings["runs"]]
        seeds = sorted(int(path.name.removeprefix("seed-")) for path in folder.glob("seed-*"))
        curves = {}
        for seed in seeds:
            paths = {name: records_of(folder, seed, name) for name in names}
            found = {n: list(read_records(p)) for n, p in paths.items() if p.exists()}
            if len(found) == len(names) and all(c and ENDED in c[-1] for c in found.values()):
                curves[seed] = found
        if not curves:
            raise RunFolderError(
                f"{str(folder)!r} has no finished seed: the experiment did not end"
            )
        timing, constants = folder / TIMING, folder / CONSTANTS
        return cls(
            settings,
            read_json(folder / PROVENANCE)["sessions"],
            curves,
            read_json(timing) if timing.exists() else {},
            read_json(constants) if constants.exists() else {},
        )

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The settings of each run."""
        return list(self.settings["runs"])

    @property
    def seeds(self) -> list[int]:
        """The finished seeds."""
        return list(self.curves)

    @property
    def options(self) -> str:
        """The options of the command that makes the results, with a space before each word."""
        quick = self.settings["version"] == "quick"
        words = ["--quick"] if quick else []
        for key, default in (("era", "reference"), ("oracle", "published")):
            words += [f"--{key}", self.settings[key]] if self.settings[key] != default else []
        if self.seeds != list(PUBLISHED_SEEDS[:1] if quick else PUBLISHED_SEEDS):
            words += ["--seeds", *map(str, self.seeds)]
        return "".join(f" {word}" for word in words)

    @property
    def command(self) -> str:
        """The command that makes the results."""
        return f"polargrad reproduce {self.settings['experiment']}{self.options}"

    def value(self, run: str, step: int, *, seed: int) -> float | None:
        """Return the metric of a run before the update of this step; None if it was not sampled."""
        for record in self.curves.get(seed, {}).get(run, []):
            if record["step"] == step:
                return float(record[self.settings["metric"]])
        return None

    def first_step_below(self, run: str, bound: float, *, seed: int) -> int | None:
        """Return the first sampled step at which the metric is below ``bound``, or None."""
        metric = self.settings["metric"]
        for record in self.curves.get(seed, {}).get(run, []):
            if record[metric] < bound:
                return int(record["step"])
        return None

    def finals(self, run: str) -> list[float]:
        """Return the last metric of a run on each seed; infinity where it diverged."""
        metric = self.settings["metric"]
        lasts = [curves[run][-1] for curves in self.curves.values() if run in curves]
        return [float("inf") if last[ENDED] == DIVERGED else float(last[metric]) for last in lasts]

    def summary(self) -> list[dict[str, Any]]:
        """Return a row a run, as ``summary.json`` keeps it: median and range over the seeds."""
        return [
            {
                **{key: run[key] for key in ("name", "label", "group", "lr", "decay")},
                "steps": max(c[run["name"]][-1]["step"] for c in self.curves.values()),
                "seeds": self.seeds,
                **median_and_range(self.finals(run["name"])),
                **self.timing.get("runs", {}).get(run["name"], {}),
            }
            for run in self.runs
        ]


def median_and_range(values: Iterable[float]) -> dict[str, float]:
    """Return the median, the least and the largest of values.

    Example:
        >>> median_and_range([3.0, 1.0, 2.0])
        {'median': 2.0, 'least': 1.0, 'largest': 3.0}
    """
    known = list(values)
    return {"median": statistics.median(known), "least": min(known), "largest": max(known)}
