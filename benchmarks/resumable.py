"""Runs that are dataclasses, each with one number as its result, kept in a file of records.

A benchmark that takes hours can be stopped at any time and started again: what is in the file is
not run again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

from polargrad.records import RecordWriter, provenance, read_records

Run = TypeVar("Run")


class Results(Generic[Run]):
    """The results in a folder.

    Args:
        folder: made if it is missing; its results.jsonl has a line for each finished run.
        kind: the dataclass of a run.
        value: the name of the result in a line.
    """

    def __init__(self, folder: Path, kind: Callable[..., Run], value: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.kind, self.value = folder / "results.jsonl", kind, value

    def known(self) -> dict[Run, float]:
        """The results so far, of other processes that write the file too."""
        lines = read_records(self.path) if self.path.exists() else []
        return {self.kind(**line["run"]): float(line[self.value]) for line in lines}

    def complete(
        self,
        runs: Iterable[Run],
        result: Callable[[Run], float],
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the runs that are not known yet in their order; ``more`` is written with each."""
        for run in runs:
            if run in self.known():
                continue
            began = time.perf_counter()
            value = result(run)
            seconds = time.perf_counter() - began
            described = asdict(run)  # type: ignore[call-overload]
            with RecordWriter(self.path) as records:
                records.write(
                    {
                        "run": described,
                        self.value: value if math.isfinite(value) else str(value),
                        "seconds": seconds,
                        **(more or {}),
                        "provenance": provenance(),
                    }
                )
            print(json.dumps(described), f"{value:.4g}", f"{seconds:.0f} s", flush=True)
