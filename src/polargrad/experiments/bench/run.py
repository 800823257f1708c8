"""What every benchmark does around its measurements: a folder, provenance, threads, records."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch

from polargrad.experiments.bench.rounds import quartiles
from polargrad.experiments.bench.tables import Row, write_csv
from polargrad.experiments.results import PROVENANCE
from polargrad.records import RecordWriter, RunFolder, provenance, write_json

RECORDS = "results.jsonl"
CSV = "results.csv"

Settings = TypeVar("Settings")
Case = TypeVar("Case")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How carefully something is measured, and where.

    Args:
        threads: of every candidate; None for torch's own number.
        repetitions: rounds of a case.
        budget: seconds for the rounds of a case; a slow candidate is in fewer rounds.
        device: cpu or cuda.
        seed: of the data.

    Raises:
        ValueError: for whatever of it can't be used.
    """

    threads: int | None = None
    repetitions: int = 15
    budget: float = 60.0
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("threads", "repetitions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0.0 < self.budget < float("inf"):
            raise ValueError(f"budget must be a positive number of seconds, got {self.budget}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu or cuda, got {self.device!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda', which this torch does not see")

    def _require_some(self, *names: str) -> None:
        """Raise ValueError for one of these that is empty."""
        for name in names:
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one")


def run_cases(
    out: Path,
    data: Mapping[str, Any],
    cases: Sequence[Case],
    measure: Callable[[Case], Iterable[Row]],
    *,
    settings: RunSettings,
    columns: Sequence[str],
    packages: Iterable[str] = (),
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> tuple[Path, list[Row], dict[str, Any]]:
    """Measure the cases one after the other; write settings, provenance, results.jsonl and .csv.

    Args:
        out: a new or empty folder, or with ``overwrite`` one that holds a benchmark.
        data: what settings.json keeps, with the key ``experiment``.
        cases: what there is to measure; each is announced as its text.
        measure: returns the rows of a case.
        settings: threads and device.
        columns: what of a row results.csv has.
        packages: distributions whose versions the provenance has, where they are installed.
        overwrite: delete the run that ``out`` holds.
        say: is told which case begins; None for standard error.

    Returns:
        The folder, the rows as results.jsonl has them, and the provenance.

    Raises:
        RunFolderError: if ``out`` is not free.
    """
    say = say or partial(print, file=sys.stderr, flush=True)
    folder = RunFolder.claim(out, dict(data), overwrite=overwrite).path
    rows: list[Row] = []
    with threads(settings.threads), RecordWriter(folder / RECORDS) as records:
        where = {**provenance(), **_device_and_versions(settings.device, packages)}
        write_json(folder / PROVENANCE, where)
        for number, case in enumerate(cases, start=1):
            say(f"{number}/{len(cases)} {case}")
            for row in measure(case):
                records.write(row)
                rows.append(row)
    write_csv(folder / CSV, rows, columns)
    return folder, rows, where


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Let torch use so many threads, for a while; None for as many as now."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if number is None else number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device_and_versions(device: str, packages: Iterable[str]) -> dict[str, str]:
    """The device, and the versions of the peers that are installed."""
    found = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def is_installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    return importlib.util.find_spec(module) is not None


def finished(function: Callable[..., object], *arguments: object, device: str) -> None:
    """Call and wait for the device."""
    function(*arguments)
    if device == "cuda":
        torch.cuda.synchronize()


def summary(times: list[float]) -> Row:
    """The columns of a row that say how long its rounds took."""
    lower, median, upper = quartiles(times)
    return {
        "milliseconds": median,
        "lower_quartile": lower,
        "upper_quartile": upper,
        "repetitions": len(times),
        "rounds": times,
    }


def with_changes(settings: Settings, **changes: Any) -> Settings:
    """Return the settings (a dataclass) with the changes that are not None."""
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(settings, **given)  # type: ignore[type-var]
