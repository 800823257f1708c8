"""Checkpoints: everything a run needs to go on to the bit, in one file."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from polargrad.errors import RunFolderError
from polargrad.records import write_atomically

CHECKPOINT = "checkpoint.pt"
# Raised when the contents change, so that another version's checkpoint is refused by name.
FORMAT = 1


def save_checkpoint(
    path: Path,
    *,
    step: int,
    identity: Mapping[str, Any],
    model: torch.nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
) -> None:
    """Write the state after ``step`` steps to ``path``, whole or not at all.

    The file holds tensors and plain data alone: ``torch.load(path, weights_only=True)`` reads it.
    """
    contents = {
        "format": FORMAT,
        "step": step,
        "identity": dict(identity),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random_state": torch.get_rng_state(),
        "torch": str(torch.__version__),
    }
    write_atomically(path, lambda file: torch.save(contents, file))


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of the checkpoint at ``path``, which must be of the run ``identity``.

    Raises:
        RunFolderError: if the file is damaged, no checkpoint of ours, or of another run, model or
            text.
    """
    _require_whole(path)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError):
        raise RunFolderError(
            f"{str(path)!r} is not a checkpoint: it holds more than tensors and plain data"
        ) from None
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise RunFolderError(f"{str(path)!r} is not a checkpoint of `polargrad train`")
    found = contents["identity"]
    differing = [key for key in {**found, **identity} if found.get(key) != identity.get(key)]
    if differing:
        differences = ", ".join(
            f"{key}: {found.get(key)!r} there, {identity.get(key)!r} here" for key in differing
        )
        raise RunFolderError(f"{str(path)!r} is of another run ({differences})")
    return contents


def _require_whole(path: Path) -> None:
    """Raise unless every part of the archive has its checksum, which torch.load does not look at.

    Raises:
        RunFolderError: if the file is cut off, changed or no archive at all.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise RunFolderError(f"{str(path)!r} is not a checkpoint, or damaged: {error}") from None
    if damaged is not None:
        raise RunFolderError(f"{str(path)!r} is damaged: its part {damaged!r} was changed")


def restore(
    contents: Mapping[str, Any],
    model: torch.nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
) -> None:
    """Put the states of a checkpoint into objects that were built from the same settings.

    Raises:
        RunFolderError: if a state does not fit its object.
    """
    try:
        model.load_state_dict(contents["model"])
        optimizer.load_state_dict(contents["optimizer"])
        schedule.load_state_dict(contents["schedule"])
        torch.set_rng_state(contents["random_state"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(f"the checkpoint does not fit this model: {reason}") from None
