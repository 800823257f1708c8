"""Training runs of the language model side by side, read back from their folders."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polargrad.errors import RunFolderError
from polargrad.language.journal import PROVENANCE, RECORDS
from polargrad.language.optimizers import rate_in_words
from polargrad.records import read_json, read_records
from polargrad.records.figures import line_style, panels, save_png
from polargrad.records.run_folder import SETTINGS

LOSS_FIGURE = "language.png"
# The loss of a batch swings from step to step: the figure shows the mean of this many.
WINDOW = 10


@dataclass(frozen=True)
class LanguageRun:
    """One training run: its settings, where it ran, its records.

    Args:
        settings: as in ``settings.json``.
        provenance: of the last session of the run.
        records: one a step, the first of step 0.
    """

    settings: dict[str, Any]
    provenance: dict[str, Any]
    records: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> LanguageRun:
        """Read the folder of a training run.

        Raises:
            RunFolderError: if a file is missing or not what a training run writes.
        """
        settings = read_json(folder / SETTINGS)
        records = list(read_records(folder / RECORDS)) if (folder / RECORDS).exists() else []
        if "optimizer" not in settings or not any("validation_loss" in r for r in records):
            raise RunFolderError(f"{str(folder)!r} does not hold a training run with a loss")
        sessions = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        return cls(settings, sessions[-1], records)

    @property
    def optimizer(self) -> str:
        """The name of the optimizer."""
        return str(self.settings["optimizer"])

    @property
    def validation(self) -> list[tuple[int, float]]:
        """Step and validation loss, in nats per byte, where it was measured."""
        return [(r["step"], r["validation_loss"]) for r in self.records if "validation_loss" in r]

    @property
    def seconds_per_step(self) -> float:
        """The median time of a step."""
        return float(statistics.median(r["seconds"] for r in self.records if "seconds" in r))


def draw_language(runs: Sequence[LanguageRun], path: Path) -> None:
    """Draw training and validation losses of all runs as two panels of one PNG file."""
    figure, (training, validation) = panels(
        [f"Training loss (mean of {WINDOW} steps)", "Validation loss"],
        extra="language",
        width=5.2,
        height=3.9,
    )
    for index, run in enumerate(runs):
        label = f"{run.optimizer}, lr {rate_in_words(run.settings['lr'])}"
        style = line_style(index)
        losses = [(r["step"], r["loss"]) for r in run.records if "loss" in r]
        parts = [losses[i : i + WINDOW] for i in range(0, len(losses), WINDOW)]
        training.plot(
            [part[-1][0] for part in parts],
            [statistics.fmean(loss for _, loss in part) for part in parts],
            label=label,
            **style,
        )
        steps, values = zip(*run.validation, strict=True)
        validation.plot(steps, values, marker="o", markersize=4, label=label, **style)
    for axis in (training, validation):
        axis.set_xlabel("step")
        axis.set_ylabel("nats per byte")
    validation.legend()
    save_png(figure, path)
