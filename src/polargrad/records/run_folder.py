"""A folder that belongs to one run, and says which."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polargrad.errors import RunFolderError
from polargrad.records.files import UNFINISHED, write_atomically

SETTINGS = "settings.json"
# Other programs have a settings.json too, and `overwrite` must not delete their folders.
OWNER = {"written_by": "polargrad"}


@dataclass(frozen=True)
class RunFolder:
    """An output folder with the settings of the run that owns it in ``settings.json``."""

    path: Path

    @classmethod
    def claim(
        cls,
        path: Path,
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> RunFolder:
        """Take ``path`` for a run with these settings, which must be plain JSON data.

        A new or empty folder is made and marked. A folder of the same settings is taken again with
        ``resume``; a folder that holds a run is emptied and taken with ``overwrite``.

        Raises:
            RunFolderError: if the folder holds another run, a run that was not to be resumed, or
                files that no run of ours wrote; or if there is nothing to resume. Nothing is
                changed then.
        """
        wanted = cls.check(path, settings, resume=resume, overwrite=overwrite)
        marker = path / SETTINGS
        if marker.exists():
            if resume or not overwrite:
                return cls(path)
            _empty(path)
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**OWNER, **wanted}, indent=2) + "\n"
        write_atomically(marker, lambda file: file.write(text.encode()))
        return cls(path)

    @staticmethod
    def check(
        path: Path,
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """Return the settings as they are kept, if :meth:`claim` would take ``path`` for them.

        Raises:
            RunFolderError: if it would not. Nothing is changed in any case.
        """
        wanted: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        marker = path / SETTINGS
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"out is {str(path)!r}, a file: give a folder")
        if marker.exists():
            found = _read_settings(marker)
            if resume or not overwrite:
                _check(path, found, wanted, resume=resume)
        elif resume:
            raise RunFolderError(f"nothing to resume: {str(path)!r} has no {SETTINGS}")
        elif path.exists() and any(not _is_unfinished(child) for child in path.iterdir()):
            raise RunFolderError(
                f"out is {str(path)!r}, which holds other files: give a new or empty folder"
            )
        return wanted


def _is_unfinished(path: Path) -> bool:
    """Whether this is the mark of a run that was killed while it wrote it, before all else."""
    return path.name.startswith(f".{SETTINGS}.") and path.name.endswith(UNFINISHED)


def _read_settings(marker: Path) -> dict[str, Any]:
    """The settings in the file ``marker``, which must be one that a run of ours wrote."""
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise RunFolderError(f"{str(marker)!r} is not JSON") from None
    if not isinstance(found, dict) or not OWNER.items() <= found.items():
        raise RunFolderError(
            f"{str(marker)!r} is not of a run of this package: give a new or empty folder"
        )
    return {key: value for key, value in found.items() if key not in OWNER}


def _check(path: Path, found: dict[str, Any], wanted: dict[str, Any], *, resume: bool) -> None:
    """Raise unless the run in ``path`` has the wanted settings and is to be resumed."""
    keys = [k for k in {**found, **wanted} if found.get(k) != wanted.get(k)]
    if keys:
        differences = ", ".join(
            f"{k}: {found.get(k)!r} there, {wanted.get(k)!r} here" for k in keys
        )
        raise RunFolderError(
            f"out is {str(path)!r}, which holds a run with other settings ({differences}): "
            "give another folder"
        )
    if not resume:
        raise RunFolderError(
            f"out is {str(path)!r}, which already holds this run: "
            "resume it, overwrite it or give another folder"
        )


def _empty(path: Path) -> None:
    """Delete what the folder holds except the mark that it is ours, which is replaced later."""
    for child in path.iterdir():
        if child.name == SETTINGS:
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()
