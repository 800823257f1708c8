"""The losses of a finished training run against tokens and time, read back from its folder."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polargrad.errors import RunFolderError
from polargrad.language.journal import PROVENANCE, SPECTRA, records_in
from polargrad.records import read_json, read_records
from polargrad.records.run_folder import SETTINGS


@dataclass(frozen=True)
class Point:
    """A loss, and what it took to get there: tokens, and seconds of steps."""

    tokens: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Curves:
    """A training run that went to its end.

    Args:
        settings: of the run.
        session: where and how its last session ran.
        training: the loss of every batch.
        validation: the validation loss where it was measured, from the initial parameters on.
        optimizer_share: of the time of the steps, that of the optimizer's.
        seconds_per_step: the median.
        tokens_per_second: the median.
        peak_memory: bytes, the most that the process held.
        spectra: what was looked at on the way, a record a look.
    """

    settings: dict[str, Any]
    session: dict[str, Any]
    training: tuple[Point, ...]
    validation: tuple[Point, ...]
    optimizer_share: float
    seconds_per_step: float
    tokens_per_second: float
    peak_memory: int
    spectra: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, folder: Path) -> Curves:
        """Read the folder of a training run.

        Raises:
            RunFolderError: if a file is missing or not what a training run writes.
        """
        settings = read_json(folder / SETTINGS)
        try:
            records = records_in(folder)
            training, validation = _points(records)
            steps = [record for record in records if "seconds" in record]
            optimizer = sum(record["optimizer_seconds"] for record in steps)
            looks = folder / SPECTRA
            return cls(
                settings=settings,
                session=json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))[-1],
                training=training,
                validation=validation,
                optimizer_share=optimizer / training[-1].seconds,
                seconds_per_step=statistics.median(record["seconds"] for record in steps),
                tokens_per_second=statistics.median(r["tokens_per_second"] for r in steps),
                peak_memory=max(record.get("peak_memory", 0) for record in steps),
                spectra=tuple(read_records(looks)) if looks.exists() else (),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise RunFolderError(
                f"{str(folder)!r} does not hold a finished training run ({error!r})"
            ) from None

    @property
    def final(self) -> float:
        """The last validation loss."""
        return self.validation[-1].loss

    @property
    def tokens(self) -> int:
        """Of the whole run."""
        return self.training[-1].tokens

    @property
    def seconds(self) -> float:
        """Of all its steps."""
        return self.training[-1].seconds

    def reach(self, loss: float) -> Point | None:
        """Return where the validation loss first comes to ``loss``; None where it never does.

        Between two measurements it is taken to change evenly with tokens and with time.

        Example:
            >>> points = (Point(0, 0.0, 5.0), Point(100, 10.0, 3.0), Point(200, 20.0, 2.0))
            >>> reach(points, 2.5)
            Point(tokens=150, seconds=15.0, loss=2.5)
            >>> reach(points, 1.0) is None
            True
        """
        return reach(self.validation, loss)


def reach(points: tuple[Point, ...], loss: float) -> Point | None:
    """Return where a curve first comes down to ``loss``, as :meth:`Curves.reach`."""
    before: Point | None = None
    for point in points:
        if point.loss <= loss:
            if before is None:
                return point
            share = (before.loss - loss) / (before.loss - point.loss)
            return Point(
                tokens=round(before.tokens + share * (point.tokens - before.tokens)),
                seconds=before.seconds + share * (point.seconds - before.seconds),
                loss=loss,
            )
        before = point
    return None


def _points(records: list[dict[str, Any]]) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """Training and validation losses, the time of the steps added up."""
    training, validation, seconds = list[Point](), list[Point](), 0.0
    for record in records:
        seconds += record.get("seconds", 0.0)
        tokens = record.get("tokens", 0)
        if "loss" in record:
            training.append(Point(tokens, seconds, record["loss"]))
        if "validation_loss" in record:
            validation.append(Point(tokens, seconds, record["validation_loss"]))
    return tuple(training), tuple(validation)


def smoothed(points: tuple[Point, ...], window: int) -> tuple[Point, ...]:
    """Return the means of consecutive points, ``window`` at a time, each at the end of its part.

    Example:
        >>> smoothed((Point(1, 1.0, 4.0), Point(2, 2.0, 2.0), Point(3, 3.0, 1.0)), 2)
        (Point(tokens=2, seconds=2.0, loss=3.0), Point(tokens=3, seconds=3.0, loss=1.0))
    """
    parts = [points[i : i + window] for i in range(0, len(points), window)]
    return tuple(
        Point(part[-1].tokens, part[-1].seconds, math.fsum(p.loss for p in part) / len(part))
        for part in parts
    )
