"""The loss figure of a run, drawn from its records."""

from __future__ import annotations

from pathlib import Path

from polargrad.records import read_records
from polargrad.records.figures import line_style, panels, save_png

FIGURE = "loss.png"


def draw_losses(records: Path, path: Path, *, title: str) -> None:
    """Draw training and validation loss of a records file against the step, as a PNG."""
    train: list[tuple[int, float]] = []
    validation: list[tuple[int, float]] = []
    for record in read_records(records):
        for points, name in ((train, "loss"), (validation, "validation_loss")):
            if name in record:
                points.append((record["step"], record[name]))
    figure, (axis,) = panels([title], extra="language", width=6.0, height=4.0)
    if train:
        axis.plot(*zip(*train, strict=True), label="training", alpha=0.5, **line_style(0))
    if validation:
        # Points alone: a line between two measurements would say more than was measured.
        style = {**line_style(1), "linestyle": "none"}
        axis.plot(*zip(*validation, strict=True), label="validation", marker="o", **style)
    axis.set_xlabel("step")
    axis.set_ylabel("cross-entropy (nats per byte)")
    axis.legend(frameon=False)
    save_png(figure, path)
