"""What a run writes down while it goes on: records, spectra, a tracker, words on the terminal."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from polargrad.errors import MissingExtraError
from polargrad.language.progress import Progress
from polargrad.language.ranks import Ranks
from polargrad.records import (
    RecordWriter,
    provenance,
    read_records,
    require,
    rewind_records,
    write_atomically,
)

RECORDS = "records.jsonl"
SPECTRA = "spectra.jsonl"
PROVENANCE = "provenance.json"
TRACKER_PROJECT = "polargrad"


class Journal:
    """The records of a run, written by rank 0; on the others nothing is written.

    Args:
        folder: of the run.
        ranks: the processes; their accelerator has the tracker, if one was asked for.
        label: what the run is called on the terminal.
        first: the steps done before.
        steps: of the whole run.
        spectra: whether spectra will be written.
        settings: what a tracker is told of the run, as plain data.
    """

    def __init__(
        self,
        folder: Path,
        ranks: Ranks,
        *,
        label: str,
        first: int,
        steps: int,
        spectra: bool,
        settings: Mapping[str, Any],
    ) -> None:
        self._ranks = ranks
        self._open = contextlib.ExitStack()
        self._records: RecordWriter | None = None
        self._spectra: RecordWriter | None = None
        self._progress: Progress | None = None
        if ranks.first:
            self._records = self._open.enter_context(RecordWriter(folder / RECORDS))
            if spectra:
                self._spectra = self._open.enter_context(RecordWriter(folder / SPECTRA))
            self._progress = self._open.enter_context(
                Progress(label=label, first=first, steps=steps)
            )
        self._tracks = bool(ranks.accelerator.log_with)
        if self._tracks:
            ranks.accelerator.init_trackers(TRACKER_PROJECT, config=flat(settings))

    def say(self, text: str) -> None:
        """Say something on the terminal."""
        if self._progress is not None:
            self._progress.say(text)

    def record(self, record: Mapping[str, Any]) -> None:
        """Write the record of a step and report it."""
        if self._records is not None:
            self._records.write(record)
        if self._progress is not None and "loss" in record:
            self._progress.report(record["step"], record["loss"], record.get("validation_loss"))
        if self._tracks:
            values = {
                key: value
                for key, value in record.items()
                if isinstance(value, int | float) and key != "step"
            }
            self._ranks.accelerator.log(values, step=record["step"])

    def spectra(self, record: Mapping[str, Any]) -> None:
        """Write a record of spectra."""
        if self._spectra is not None:
            self._spectra.write(record)

    def sync(self) -> None:
        """Wait until all records are on disk, as a checkpoint that counts on them needs it."""
        for writer in (self._records, self._spectra):
            if writer is not None:
                writer.sync()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()
        if self._tracks:
            # Not accelerate's end_training, which also ends the process group.
            for tracker in self._ranks.accelerator.trackers:
                tracker.finish()


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested data as one mapping of numbers and words, as trackers take it.

    Example:
        >>> flat({"preset": {"layers": 4}, "clip": None})
        {'preset.layers': 4, 'clip': 'None'}
    """
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, bool | int | float | str)
            found[prefix + key] = value if plain else str(value)
    return found


def require_tracker(name: str | None) -> None:
    """Raise unless accelerate has a tracker of this name, and its package is installed.

    Raises:
        ValueError: if accelerate has no such tracker.
        MissingExtraError: if its package is missing.
    """
    if name is None:
        return
    tracking = require("accelerate.tracking", extra="language")
    known = sorted(map(str, tracking.LOGGER_TYPE_TO_CLASS))
    if name not in known:
        raise ValueError(f"unknown tracker {name!r}: choose from {', '.join(known)}")
    if name not in map(str, tracking.get_available_trackers()):
        raise MissingExtraError(
            f"the tracker {name!r} needs its package, which is not installed: pip install {name}"
        )


def records_in(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run's folder; none where there is no file."""
    path = folder / RECORDS
    return list(read_records(path)) if path.exists() else []


def rewind(folder: Path, step: int) -> None:
    """Drop what was recorded after ``step`` steps, so that a resumed run writes it once.

    Before the first step (a run killed before its first checkpoint begins again) the loss of the
    initial parameters is measured and recorded anew.
    """
    for name in (RECORDS, SPECTRA):
        rewind_records(folder / name, last_step=step if step else -1)


def add_session(folder: Path, **facts: Any) -> None:
    """Append this session, with what it is and where it runs, to those that made the run."""
    path = folder / PROVENANCE
    sessions = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    sessions.append({**facts, **provenance()})
    text = json.dumps(sessions, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
