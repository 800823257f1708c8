"""What is known of a sweep: a line for each finished session, in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from polargrad.errors import RunFolderError
from polargrad.experiments.pretraining.protocol import Run, Session
from polargrad.records import RecordWriter, read_records

RESULTS = "results.jsonl"
RUNS = "runs"


class SweepResults:
    """The finished sessions of a sweep's folder, in memory and on disk.

    Args:
        folder: of the sweep.

    Raises:
        RunFolderError: if the file is damaged, or of runs on different data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.losses: dict[Session, float] = {}
        self.seconds_per_step: dict[str, list[float]] = {}
        self.data: str | None = None
        path = folder / RESULTS
        for record in read_records(path) if path.exists() else ():
            try:
                self._take(record)
            except (KeyError, TypeError, ValueError):
                raise RunFolderError(f"{str(path)!r} does not hold results of a sweep") from None

    def folder_of(self, run: Run) -> Path:
        """The folder of a run."""
        return self.folder / RUNS / run.folder

    def add(
        self, session: Session, *, loss: float, steps: int, seconds: float, data: str, why: str = ""
    ) -> None:
        """Write down what a session came to.

        Args:
            session: which.
            loss: the validation loss at its end, infinite for a run that diverged.
            steps: that it took.
            seconds: that it took, with all that is not a step.
            data: the digest of the tokens.
            why: what a run that diverged said.

        Raises:
            RunFolderError: if the tokens are not those of the sessions before.
        """
        record = {
            "run": asdict(session.run),
            "step": session.step,
            "validation_loss": loss,
            "steps": steps,
            "seconds": seconds,
            "data": data,
            **({"error": why} if why else {}),
        }
        self._take(record)
        with RecordWriter(self.folder / RESULTS) as results:
            results.write(record)
            results.sync()

    def _take(self, record: Mapping[str, Any]) -> None:
        run = record["run"]
        rates = tuple((str(name), float(rate)) for name, rate in run["rates"])
        session = Session(Run(run["entrant"], rates, int(run["seed"])), int(record["step"]))
        if self.data not in (None, record["data"]):
            raise RunFolderError(
                f"{str(self.folder)!r} holds runs on other data ({self.data}) than those at hand "
                f"({record['data']}): give another folder"
            )
        self.data = record["data"]
        self.losses[session] = float(record["validation_loss"])
        if record["steps"]:
            speeds = self.seconds_per_step.setdefault(session.run.entrant, [])
            speeds.append(float(record["seconds"]) / int(record["steps"]))
