"""JSON objects in files of their own: settings, summaries, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polargrad.errors import RunFolderError
from polargrad.records.files import write_atomically


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        RunFolderError: if the file is missing or is not a JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(f"{str(path)!r} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise RunFolderError(f"{str(path)!r} is not JSON") from None
    if not isinstance(data, dict):
        raise RunFolderError(f"{str(path)!r} is not a JSON object")
    return data


def write_json(path: Path, data: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write plain data to a file, whole or not at all."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
