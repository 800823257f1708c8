"""What a folder of the quadratic experiment holds, read back from its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polargrad.errors import RunFolderError
from polargrad.experiments.protocol import records_name
from polargrad.records import read_records, write_atomically
from polargrad.records.run_folder import SETTINGS

PROVENANCE = "provenance.json"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class Results:
    """The settings of the experiment, where it ran, and the records of each run.

    Args:
        settings: as in ``settings.json``.
        provenance: as in ``provenance.json``.
        curves: the records of each run by the run's name, in the order of the settings.
    """

    settings: dict[str, Any]
    provenance: dict[str, Any]
    curves: dict[str, list[dict[str, Any]]]

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Read the folder of a finished experiment.

        Raises:
            RunFolderError: if a file is missing or not what this experiment writes.
        """
        settings = read_json(folder / SETTINGS)
        if settings.get("experiment") != "quadratic":
            raise RunFolderError(f"{str(folder)!r} does not hold the experiment 'quadratic'")
        curves = {}
        for run in settings["runs"]:
            path = folder / records_name(run["name"])
            curves[run["name"]] = list(read_records(path)) if path.exists() else []
            if not curves[run["name"]]:
                raise RunFolderError(f"{str(path)!r} has no records: the experiment did not finish")
        return cls(settings, read_json(folder / PROVENANCE), curves)

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The settings of each run."""
        return list(self.settings["runs"])

    def gap(self, run: str, step: int) -> float | None:
        """Return f - f* of a run before the update of this step; None if it was not sampled."""
        for record in self.curves.get(run, []):
            if record["step"] == step:
                return float(record["gap"])
        return None

    def summary(self) -> list[dict[str, Any]]:
        """Return the last record of each run with its settings, as ``summary.json`` keeps it."""
        rows = []
        for run in self.runs:
            last = self.curves[run["name"]][-1]
            rows.append(
                {
                    **{key: run[key] for key in ("name", "label", "lr", "decay")},
                    **{key: value for key, value in last.items() if key not in ("run", "seconds")},
                    "seconds_per_step": last["seconds"] / max(last["step"], 1),
                }
            )
        return rows


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


def write_json(path: Path, data: Mapping[str, Any] | list[dict[str, Any]]) -> None:
    """Write plain data to a file, whole or not at all."""
    text = json.dumps(data, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
