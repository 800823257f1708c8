"""What came of a sweep as tables: of the searches, of the budget, of the runs on the seeds."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from typing import Any

from polargrad.experiments.pretraining.comparison import (
    Candidate,
    in_words,
    reference_of,
    way_to_mean,
    way_to_pair,
)
from polargrad.experiments.pretraining.halving import Line, Losses, Standing
from polargrad.experiments.pretraining.plan import steps_of
from polargrad.experiments.pretraining.protocol import Rates, Session, SweepProtocol
from polargrad.records.document import Table

MEBIBYTE = 2**20
CSV_HEADS = (
    *("optimizer", "method", "lr", "vector_lr", "embedding_lr", "seed", "steps"),
    *("step", "validation_loss"),
)


def search_table(protocol: SweepProtocol, found: Sequence[Standing]) -> Table:
    """Return the searches: a row a line, the best of its finished points marked with a star."""
    rows = []
    for search in found:
        for line in search.lines:
            grid = "" if line.best is None else _grid_in_words(line)
            held = {name: rate for name, rate in _rates(line) if name != line.axis}
            rows.append(
                [
                    search.entrant.title,
                    line.axis,
                    ", ".join(f"{name} {rate:g}" for name, rate in held.items()),
                    _points(line, protocol.steps),
                    grid,
                ]
            )
    heads = ["optimizer", "rate", "the others", "validation loss by rate", "its grid"]
    return Table(heads, rows, text=True)


def _rates(line: Line) -> Rates:
    return next(iter(line.runs.values())).rates


def _points(line: Line, steps: int) -> str:
    """The points of a line: final losses, and where the others were stopped."""
    words = []
    for k, run in sorted(line.runs.items()):
        rate, losses = dict(run.rates)[line.axis], line.losses.get(k, {})
        if not losses:
            continue
        step = max(losses)
        loss = "diverged" if losses[step] == math.inf else f"{losses[step]:.4f}"
        at = "" if step == steps or loss == "diverged" else f" (at {step})"
        words.append(f"{rate:g}: {loss}{at}" + (" *" if k == line.best else ""))
    return ", ".join(words)


def _grid_in_words(line: Line) -> str:
    """Whether the grid had to be extended, and whether the best point is inside it."""
    more = f"extended by {len(line.added)}" if line.added else "as planned"
    return f"{more}; the best is at its edge" if line.at_edge else more


def budget_table(protocol: SweepProtocol, found: Sequence[Standing], losses: Losses) -> Table:
    """Return the steps that each search took: of the grids, of their extensions, of the seeds."""
    rows = []
    for search in found:
        name = search.entrant.name
        own = [session for session in losses if session.run.entrant == name]
        searched = [session for session in own if session.run.seed == protocol.sweep_seed]
        added = {line.runs[k] for line in search.lines for k in line.added}
        extension = [session for session in searched if session.run in added]
        grid = [session for session in searched if session.run not in added]
        seeds = [s for s in own if s.run.seed != protocol.sweep_seed]
        parts = [steps_of(part).get(name, 0) for part in (grid, extension, seeds)]
        rows.append([search.entrant.title, *(f"{part:,}" for part in (*parts, sum(parts)))])
    heads = ["optimizer", "steps of the grids", "of extensions", "of the seeds", "together"]
    return Table(heads, rows)


def results_table(found: Sequence[Candidate]) -> Table:
    """Return the runs on the seeds: rates, losses, cost of the optimizer."""
    seeds = sorted({seed for candidate in found for seed in candidate.finals})
    rows = [
        [
            candidate.entrant.title,
            *_rate_cells(candidate.rates),
            *(_loss(candidate.finals.get(seed)) for seed in seeds),
            _loss(candidate.mean),
            "" if math.isnan(candidate.deviation) else f"{candidate.deviation:.4f}",
        ]
        for candidate in sorted(found, key=lambda candidate: candidate.mean)
    ]
    heads = ["optimizer", "lr", "of embedding and head", *(f"seed {seed}" for seed in seeds)]
    return Table([*heads, "mean", "deviation"], rows)


def cost_table(found: Sequence[Candidate]) -> Table:
    """Return what a step costs: its time, the optimizer's share of it, memory."""
    rows = []
    for candidate in found:
        curves = list(candidate.curves.values())
        if not curves:
            continue
        shares = [c.optimizer_share for c in curves]
        rows.append(
            [
                candidate.entrant.title,
                f"{1e3 * statistics.median([c.seconds_per_step for c in curves]):.0f}",
                f"{statistics.median([c.tokens_per_second for c in curves]):,.0f}",
                f"{statistics.median(shares):.1%}",
                f"{min(shares):.1%} … {max(shares):.1%}",
                f"{max(c.peak_memory for c in curves) / MEBIBYTE:,.0f}",
            ]
        )
    heads = ["optimizer", "ms a step", "tokens a second", "optimizer's share", "range over seeds"]
    return Table([*heads, "peak memory, MiB"], rows)


def way_table(found: Sequence[Candidate]) -> Table | None:
    """Return what it takes each to come to AdamW's final loss; None if AdamW was not run."""
    reference = reference_of(found)
    if reference is None:
        return None
    rows = []
    for candidate in found:
        if candidate is reference:
            continue
        pair, mean = way_to_pair(candidate, reference), way_to_mean(candidate, reference)
        rows.append(
            [
                candidate.entrant.title,
                in_words(pair.token_shares, ""),
                in_words(pair.time_shares, ""),
                in_words(mean.token_shares, ""),
                in_words(mean.time_shares, ""),
            ]
        )
    heads = ["optimizer", "tokens, on the same seed", "time, on the same seed"]
    return Table([*heads, "tokens to the mean", "time to the mean"], rows, text=True)


def _rate_cells(rates: Rates) -> list[str]:
    """The rate of the hidden matrices, and that of embedding and head."""
    known = dict(rates)
    first = f"{known['lr']:g}" if "lr" in known else "found"
    second = known.get("embedding_lr", known.get("vector_lr"))
    return [first, "as lr" if second is None else f"{second:g}"]


def _loss(value: float | None) -> str:
    if value is None:
        return ""
    return "diverged" if value == math.inf else f"{value:.4f}"


def sessions_csv(protocol: SweepProtocol, losses: Losses) -> str:
    """Return every finished session as a line of CSV; a loss that diverged is ``inf``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADS)
    names = {entrant.name: entrant for entrant in protocol.entrants}
    for session, loss in losses.items():
        if session.run.entrant in names:
            entrant = names[session.run.entrant]
            row = _csv_row(session, protocol.steps, loss)
            writer.writerow([entrant.optimizer, entrant.method or "", *row])
    return text.getvalue()


def _csv_row(session: Session, steps: int, loss: float) -> list[Any]:
    rates = dict(session.run.rates)
    cells = [rates.get(name, "") for name in ("lr", "vector_lr", "embedding_lr")]
    return [*cells, session.run.seed, steps, session.step, loss]
