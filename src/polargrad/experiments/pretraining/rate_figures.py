"""The figures of a search: loss against learning rate at every rung, a figure for each line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polargrad.experiments.pretraining.comparison import Candidate
from polargrad.experiments.pretraining.halving import Line, Standing
from polargrad.experiments.pretraining.protocol import LR, SweepProtocol
from polargrad.records import require
from polargrad.records.figures import line_style, panels, save_png

FIRST_FIGURE, SECOND_FIGURE = "rates_hidden.png", "rates_tables.png"
# Of a panel, as a share of its losses.
LEAST_SPAN = 0.02
# Where a decade has labels, by the least range of rates: as many as do not run into each other.
MARKS = ((100.0, (1.0,)), (10.0, (1.0, 3.0)), (0.0, (1.0, 2.0, 5.0)))
LABELS = {
    FIRST_FIGURE: "learning rate of the hidden matrices",
    SECOND_FIGURE: "learning rate of embedding and head",
}


def draw_rates(
    protocol: SweepProtocol,
    found: Sequence[Standing],
    candidates: Sequence[Candidate],
    folder: Path,
    *,
    unit: str,
) -> list[Path]:
    """Draw loss against learning rate at each rung for every optimizer; return the figures' paths.

    A point is a run of the search. At the last rung a bar at the best point is the range of the
    seeds, a cross their mean.

    Args:
        protocol: of the sweep.
        found: the searches.
        candidates: the runs on the seeds, as far as there are some.
        folder: of the figures.
        unit: what a loss is measured per, "byte" or "token".
    """
    paths = []
    for name in (FIRST_FIGURE, SECOND_FIGURE):
        first = name == FIRST_FIGURE
        lines = {
            s.entrant.name: [x for x in s.lines if (x.axis == LR) == first and x.losses]
            for s in found
        }
        if any(lines.values()):
            _draw(protocol, found, lines, candidates, folder / name, unit)
            paths.append(folder / name)
    return paths


def _draw(
    protocol: SweepProtocol,
    found: Sequence[Standing],
    lines: dict[str, list[Line]],
    candidates: Sequence[Candidate],
    path: Path,
    unit: str,
) -> None:
    rungs = protocol.rung_steps
    titles = [f"step {rung} of {protocol.steps}" for rung in rungs[:-1]]
    figure, axes = panels([*titles, "the whole run"], extra="language", width=3.9, height=4.0)
    for axis, rung in zip(axes, rungs, strict=True):
        for index, search in enumerate(found):
            for line in lines[search.entrant.name][-1:]:
                _draw_line(axis, line, rung, search.entrant.title, index)
        if rung == protocol.steps:
            for index, search in enumerate(found):
                own = [c for c in candidates if c.entrant == search.entrant]
                if own and lines[search.entrant.name]:
                    axis_name = lines[search.entrant.name][-1].axis
                    _draw_seeds(axis, own[0], axis_name, index)
        _cut_off(axis)
        _logarithmic(axis)
        axis.set_xlabel(LABELS[path.name])
    axes[0].set_ylabel(f"validation loss (nats per {unit})")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    save_png(figure, path)


def _logarithmic(axis: Any) -> None:
    """Rates on a logarithmic scale, with as few labels as tell them apart."""
    ticker = require("matplotlib.ticker", extra="language")
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    marks = next(marks for least, marks in MARKS if high / low > least)
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=marks))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda rate, _: f"{rate:g}"))
    axis.xaxis.set_minor_locator(ticker.NullLocator())


def _cut_off(axis: Any) -> None:
    """Show the best of every optimizer and as much above them: a rate too large can be far off."""
    best = [min(line.get_ydata()) for line in axis.lines]
    if best:
        low, high = min(best), max(best)
        span = max(high - low, LEAST_SPAN * high)
        axis.set_ylim(low - 0.1 * span, high + span)


def _draw_line(axis: Any, line: Line, rung: int, label: str, index: int) -> None:
    """The points of a line that came to a rung with a finite loss."""
    points = sorted(
        (dict(line.runs[k].rates)[line.axis], losses[rung])
        for k, losses in line.losses.items()
        if losses.get(rung, math.inf) < math.inf
    )
    if points:
        xs, ys = zip(*points, strict=True)
        axis.plot(xs, ys, marker="o", markersize=4, label=label, **line_style(index))


def _draw_seeds(axis: Any, candidate: Candidate, rate: str, index: int) -> None:
    """The final losses of the seeds at the best point."""
    finals = [loss for loss in candidate.finals.values() if loss < math.inf]
    place = dict(candidate.rates).get(rate)
    if not finals or place is None:
        return
    mean = math.fsum(finals) / len(finals)
    axis.errorbar(
        [place],
        [mean],
        yerr=[[mean - min(finals)], [max(finals) - mean]],
        marker="x",
        markersize=7,
        capsize=4,
        color=line_style(index)["color"],
    )
