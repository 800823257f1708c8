"""Checkpoints: everything a run needs to go on to the bit, the last few of them in a folder."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from polargrad.errors import RunFolderError
from polargrad.records import write_atomically

CHECKPOINTS = "checkpoints"
PREFIX, SUFFIX = "step_", ".pt"
# Raised when the contents change, so that another version's checkpoint is refused by name.
FORMAT = 2


class DamagedError(RunFolderError):
    """A checkpoint is cut off or was changed: the one before it may be whole."""


def save_checkpoint(
    path: Path,
    *,
    step: int,
    identity: Mapping[str, Any],
    model: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    schedule: Mapping[str, Any],
    random_states: Sequence[Mapping[str, Tensor]],
    ranks: str,
) -> None:
    """Write the state after ``step`` steps to ``path``, whole or not at all.

    The file holds tensors and plain data alone: ``torch.load(path, weights_only=True)`` reads it.

    Args:
        path: of the file.
        step: the number of steps.
        identity: of the run.
        model, optimizer, schedule: their states, as one process has them.
        random_states: of the random generators, one a rank.
        ranks: how many there are and how the model lies over them, in words.
    """
    contents = {
        "format": FORMAT,
        "step": step,
        "identity": dict(identity),
        "model": dict(model),
        "optimizer": dict(optimizer),
        "schedule": dict(schedule),
        "random_states": [dict(state) for state in random_states],
        "ranks": ranks,
        "torch": str(torch.__version__),
    }
    write_atomically(path, lambda file: _save(contents, file))


def load_checkpoint(
    path: Path, identity: Mapping[str, Any], *, mapped: bool = False
) -> dict[str, Any]:
    """Return the contents of the checkpoint at ``path``, which must be of the run ``identity``.

    Args:
        path: of the file.
        identity: of the run.
        mapped: leave the tensors in the file until they are read: for processes that each take a
            part.

    Raises:
        DamagedError: if the file is cut off, changed or no archive.
        RunFolderError: if it is no checkpoint of ours, or of another run, model or text.
    """
    _require_whole(path)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
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
        DamagedError: if the file is cut off, changed or no archive at all.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise DamagedError(f"{str(path)!r} is not a checkpoint, or damaged: {error}") from None
    if damaged is not None:
        raise DamagedError(f"{str(path)!r} is damaged: its part {damaged!r} was changed")


def restore(
    contents: Mapping[str, Any],
    model: torch.nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
) -> None:
    """Put the states of a checkpoint into objects that were built from the same settings.

    Random states, one a rank, are left to the ranks.

    Raises:
        RunFolderError: if a state does not fit its object.
    """
    try:
        model.load_state_dict(contents["model"])
        optimizer.load_state_dict(contents["optimizer"])
        schedule.load_state_dict(contents["schedule"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(f"the checkpoint does not fit this model: {reason}") from None


def ranks_of(contents: Mapping[str, Any]) -> str:
    """Return in words of which ranks a checkpoint is; those of before there were meshes count them.

    Example:
        >>> ranks_of({"random_states": [{}, {}]})
        '2 ranks'
    """
    count = len(contents["random_states"])
    return str(contents.get("ranks", f"{count} rank{'s' * (count > 1)}"))


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run: files ``step_00000300.pt`` in a folder, the last ``keep`` of them.

    Args:
        folder: where they are; it is made with the first of them.
        keep: how many stay.
        mapped: see :func:`load_checkpoint`.
    """

    folder: Path
    keep: int
    mapped: bool = False

    def path(self, step: int) -> Path:
        """Return the file of the checkpoint after ``step`` steps."""
        return self.folder / f"{PREFIX}{step:08d}{SUFFIX}"

    @property
    def steps(self) -> list[int]:
        """The steps of which there is a file, in order."""
        names = (path.name for path in self.folder.glob(f"{PREFIX}*{SUFFIX}"))
        numbers = (name.removeprefix(PREFIX).removesuffix(SUFFIX) for name in names)
        return sorted(int(number) for number in numbers if number.isdecimal())

    def load(self, step: int, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Return the contents of one of them, see :func:`load_checkpoint`."""
        return load_checkpoint(self.path(step), identity, mapped=self.mapped)

    def save(self, step: int, **state: Any) -> None:
        """Write the checkpoint after ``step`` steps, then remove those that need not stay.

        Until it is complete and on disk, the earlier ones are left as they are. Later ones, which a
        resume has passed over because they are damaged, are removed too.

        Args:
            step: the number of steps.
            state: what :func:`save_checkpoint` takes.

        Raises:
            OSError: if it cannot be written, as on a full disk.
        """
        self.folder.mkdir(exist_ok=True)
        save_checkpoint(self.path(step), step=step, **state)
        found = self.steps
        stay = [each for each in found if each <= step][-self.keep :]
        for each in set(found) - set(stay):
            self.path(each).unlink(missing_ok=True)

    def newest(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the contents of the last checkpoint that is whole; None if there never was one.

        Args:
            identity: of the run, which the checkpoint must have.

        Warns:
            UserWarning: for each later one, which is damaged.

        Raises:
            DamagedError: if all are damaged.
            RunFolderError: if one is of another run, or no checkpoint.
        """
        passed_over: list[DamagedError] = []
        for step in reversed(self.steps):
            try:
                contents = self.load(step, identity)
            except DamagedError as error:
                passed_over.append(error)
                continue
            for damage in passed_over:
                warnings.warn(f"{damage}; the run goes on from step {step}", stacklevel=2)
            return contents
        if passed_over:
            raise passed_over[0]
        return None


class _Watched:
    """A file whose errors are remembered: torch.save would say something else of a full disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _save(contents: Mapping[str, Any], file: IO[bytes]) -> None:
    """Write an archive of torch, or raise what the disk said."""
    watched = _Watched(file)
    try:
        torch.save(contents, watched)  # type: ignore[arg-type]
    except RuntimeError:
        if watched.error is not None:
            raise watched.error from None
        raise
