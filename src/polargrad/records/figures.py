"""Figures: one look for all, drawn without a screen and without LaTeX."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polargrad.records.extras import require
from polargrad.records.files import write_atomically

# Okabe and Ito's palette: told apart by people who see colours differently, and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
# Solid, dashed, dash-dot, dotted, dash-dot-dot, and long dashes.
DASHES = ("-", "--", "-.", ":", (0, (4, 1, 1, 1, 1, 1)), (0, (9, 3)))
STYLE = {
    "figure.facecolor": "white",
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}


def panels(titles: Sequence[str], *, extra: str, width: float = 4.6, height: float = 3.6) -> Any:
    """Return a matplotlib figure and its axes, one panel a title, side by side.

    ``extra`` is the extra to name if matplotlib is missing. The figure belongs to no window and to
    no global state, so nothing has to be closed.
    """
    matplotlib = require("matplotlib", extra=extra)
    figure_module = require("matplotlib.figure", extra=extra)
    with matplotlib.rc_context(STYLE):
        figure = figure_module.Figure(figsize=(width * len(titles), height), layout="constrained")
        axes = figure.subplots(1, len(titles), squeeze=False)[0]
        for axis, title in zip(axes, titles, strict=True):
            axis.set_title(title)
    return figure, list(axes)


def line_style(index: int) -> dict[str, Any]:
    """Colour and dash of the ``index``-th line: dashes change when the colours are used up."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
    }


def png(figure: Any, *, dpi: int = 150) -> bytes:
    """Return the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def save_png(figure: Any, path: Path) -> None:
    """Write the figure to ``path`` as a PNG, whole or not at all."""
    data = png(figure)
    write_atomically(path, lambda file: file.write(data))


def data_uri(image: bytes) -> str:
    """Return a PNG as a data URI, for a page that carries its pictures within itself."""
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")
