"""Folders that several calls fill: seeds, workers, and who is at work in them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from polargrad.experiments.results import PROVENANCE
from polargrad.records import RunFolder, exclusive, provenance, read_json, write_json
from polargrad.records.files import remove_unfinished
from polargrad.records.run_folder import SETTINGS

# torch's CPU generator takes 32 bits of a seed: two larger ones could be the same data.
SEEDS = 2**32


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise ValueError unless the seeds are some, different, and in range."""
    for seed in seeds:
        if not 0 <= seed < SEEDS:
            raise ValueError(f"seeds must be from 0 to {SEEDS - 1}, got {seed}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be at least one, each once, got {list(seeds)}")


def number_of_workers(workers: int | None) -> int:
    """Return the number of processes: one a core if it is not given.

    Raises:
        ValueError: if it is below 1.
    """
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    return workers


@contextlib.contextmanager
def at_work_in(folders: Mapping[Path, Mapping[str, Any]], *, overwrite: bool) -> Iterator[None]:
    """Take folders for what has these settings, with whatever of it is there already.

    All are taken or none, and no other process is let in before the end.

    Args:
        folders: each with the settings of what it holds.
        overwrite: delete first what they hold of it.

    Raises:
        RunFolderError: if one holds something else, or another process is at work in it; nothing
            is changed then.
    """
    with contextlib.ExitStack() as locks:
        for folder in folders:
            locks.enter_context(exclusive(folder))
        for folder, settings in folders.items():
            there = (folder / SETTINGS).exists() and not overwrite
            RunFolder.check(folder, settings, resume=there, overwrite=overwrite)
        for folder, settings in folders.items():
            _claim(folder, settings, overwrite=overwrite)
        yield


def _claim(folder: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    if overwrite and (folder / SETTINGS).exists():
        # `claim` alone would keep a folder of the same settings as it is.
        RunFolder.claim(folder, {"deleted": True}, overwrite=True)
        shutil.rmtree(folder)
    RunFolder.claim(folder, settings, resume=(folder / SETTINGS).exists())
    remove_unfinished(folder)


def add_session(folder: Path) -> None:
    """Append where and when to the sessions that made the folder."""
    path = folder / PROVENANCE
    sessions = read_json(path)["sessions"] if path.exists() else []
    write_json(path, {"sessions": [*sessions, provenance()]})
