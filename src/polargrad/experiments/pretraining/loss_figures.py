"""The figures of the runs at the best rates: losses against tokens and time, and spectra."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from polargrad.experiments.pretraining.comparison import Candidate
from polargrad.experiments.pretraining.curves import Curves, Point, smoothed
from polargrad.experiments.pretraining.spectra import (
    EMBEDDING,
    GRADIENT,
    HEAD,
    HIDDEN,
    KAPPA,
    MOMENTUM,
    NUCLEAR,
    medians,
)
from polargrad.records.figures import line_style, panels, save_png

TOKENS_FIGURE, TIME_FIGURE = "loss_tokens.png", "loss_time.png"
TABLES_FIGURE, HIDDEN_FIGURE = "spectra_tables.png", "spectra_hidden.png"
# The loss of a batch swings from step to step: each point is the mean of this share of the run.
TRAINING_POINTS = 40
# The fall from the loss of an untrained model would take the whole figure: it is cut off above the
# largest loss at this share of the run.
SHOWN_FROM = 0.1
TITLES = {KAPPA: "κ₂", NUCLEAR: "nuclear norm"}


def draw_pretraining(found: Sequence[Candidate], folder: Path, *, unit: str) -> list[Path]:
    """Draw what there is of the figures into ``folder``; return their paths.

    Lines are means over the seeds, bands reach from the least to the largest value. Spectra are
    drawn where any run recorded them.

    Args:
        found: the optimizers; those without a finished run are left out.
        folder: of the figures.
        unit: what a loss is measured per, "byte" or "token".
    """
    drawn = [candidate for candidate in found if candidate.curves]
    if not drawn:
        return []
    paths = [folder / TOKENS_FIGURE, folder / TIME_FIGURE]
    _draw_losses(drawn, paths[0], f"{unit}s", lambda point: point.tokens, unit)
    _draw_losses(drawn, paths[1], "seconds of steps", lambda point: point.seconds, unit)
    looked_at = [c for c in drawn if any(curves.spectra for curves in c.curves.values())]
    if looked_at:
        paths += [folder / TABLES_FIGURE, folder / HIDDEN_FIGURE]
        tables = [(kind, GRADIENT, what) for what in TITLES for kind in (EMBEDDING, HEAD)]
        hidden = [(HIDDEN, kind, what) for what in TITLES for kind in (GRADIENT, MOMENTUM)]
        _draw_spectra(looked_at, paths[2], tables)
        _draw_spectra(looked_at, paths[3], hidden)
    return paths


def _draw_losses(
    found: Sequence[Candidate],
    path: Path,
    label: str,
    place: Callable[[Point], float],
    unit: str,
) -> None:
    """Training and validation loss side by side."""
    figure, axes = panels(
        ["Training loss", "Validation loss"], extra="language", width=5.2, height=4.2
    )
    for axis, kind in zip(axes, ("training", "validation"), strict=True):
        tops = []
        for index, candidate in enumerate(found):
            lines = [_line(curves, kind) for curves in candidate.curves.values()]
            _draw_band(axis, lines, place, candidate.entrant.title, index)
            tops += [_loss_at(line, SHOWN_FROM) for line in lines]
        bottom = min(p.loss for c in found for x in c.curves.values() for p in _line(x, kind))
        top = max(tops)
        axis.set_ylim(bottom - 0.05 * (top - bottom), top + 0.05 * (top - bottom))
        axis.set_xlim(left=0)
        axis.set_xlabel(label)
    axes[0].set_ylabel(f"nats per {unit}")
    axes[1].legend(frameon=False)
    save_png(figure, path)


def _line(curves: Curves, kind: str) -> tuple[Point, ...]:
    if kind == "validation":
        return curves.validation
    return smoothed(curves.training, max(1, len(curves.training) // TRAINING_POINTS))


def _loss_at(line: Sequence[Point], share: float) -> float:
    """The loss where a share of the tokens is done."""
    return next(p.loss for p in line if p.tokens >= share * line[-1].tokens)


def _draw_band(
    axis: Any,
    lines: Sequence[Sequence[Point]],
    place: Callable[[Point], float],
    label: str,
    index: int,
) -> None:
    """The mean of several lines of equally many points, and their range."""
    style = line_style(index)
    columns = list(zip(*lines, strict=True))
    xs = [statistics.fmean(map(place, column)) for column in columns]
    losses = [[point.loss for point in column] for column in columns]
    axis.plot(xs, [statistics.fmean(each) for each in losses], label=label, **style)
    low, high = [min(each) for each in losses], [max(each) for each in losses]
    axis.fill_between(xs, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _draw_spectra(
    found: Sequence[Candidate], path: Path, wanted: Sequence[tuple[str, str, str]]
) -> None:
    """A panel for each kind of matrix, tensor and measure: the medians of every candidate."""
    titles = [
        f"{TITLES[measure]}, {kind if kind != HIDDEN else 'hidden'}, {what}"
        for kind, what, measure in wanted
    ]
    figure, axes = panels(titles, extra="language", width=3.6, height=3.6)
    for axis, (kind, what, measure) in zip(axes, wanted, strict=True):
        for index, candidate in enumerate(found):
            points = medians(candidate.curves.values(), kind, what, measure)
            if points:
                axis.plot(
                    *zip(*points, strict=True), label=candidate.entrant.title, **line_style(index)
                )
        axis.set_yscale("log")
        axis.set_xlabel("step")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    save_png(figure, path)
