"""The order of a sweep: a pure function from the losses so far to the next session.

A search is written as a coroutine that asks for one loss after another. Losses that are known are
given to it at once; the first that is not is what has to be run next. So a sweep can be stopped
anywhere: the same losses lead to the same question.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field

from polargrad.experiments.pretraining.protocol import Entrant, Rates, Run, Session, SweepProtocol

# The validation loss at the end of a session, infinite for a run that diverged before.
Losses = Mapping[Session, float]


@dataclass
class Line:
    """A line of the search: one rate varied, the others held.

    Args:
        axis: the rate that is varied.
        runs: by offset, how many factors from the centre.
        losses: by offset and step.
        stopped: the offsets that were not continued.
        added: the offsets by which the grid was extended, in order.
        through: the offset of the best point of the line before, which is not run again.
        best: the offset of the best finished run, once the line is finished.
    """

    axis: str
    runs: dict[int, Run] = field(default_factory=dict)
    losses: dict[int, dict[int, float]] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)
    added: list[int] = field(default_factory=list)
    through: int | None = None
    best: int | None = None

    @property
    def at_edge(self) -> bool:
        """Whether the best point is the first or the last of the grid, extensions included."""
        return self.best in (min(self.runs), max(self.runs))


@dataclass
class Standing:
    """Where the search of an entrant stands.

    Args:
        entrant: whose.
        lines: those that were begun.
        wanted: what has to be run next; None when the search is finished.
        rates: the best ones, when it is finished and any run kept a finite loss.
    """

    entrant: Entrant
    lines: list[Line] = field(default_factory=list)
    wanted: Session | None = None
    rates: Rates | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to search."""
        return self.wanted is None

    def done_with(self, last: int) -> set[Run]:
        """The runs that no session will continue: stopped, diverged, or at their last step."""
        return {
            line.runs[k]
            for line in self.lines
            for k, losses in line.losses.items()
            if k in line.stopped or last in losses or math.inf in losses.values()
        }


def standing(entrant: Entrant, protocol: SweepProtocol, losses: Losses) -> Standing:
    """Return where the search of an entrant stands, given all losses so far."""
    found = Standing(entrant)
    asking = _search(entrant, protocol, found.lines)
    try:
        wanted = next(asking)
        while wanted in losses:
            wanted = asking.send(losses[wanted])
    except StopIteration as finished:
        found.rates = finished.value
    else:
        found.wanted = wanted
    return found


def next_session(protocol: SweepProtocol, losses: Losses) -> Session | None:
    """Return what has to be run next, or None when the sweep is finished.

    First the searches, one entrant after the other; then the seeds, on each of them every entrant
    in turn, so that what the machine does meanwhile meets all alike.

    Args:
        protocol: of the sweep.
        losses: of the sessions so far; others are ignored.
    """
    found = [standing(entrant, protocol, losses) for entrant in protocol.entrants]
    searching = (s.wanted for s in found if s.wanted is not None)
    to_come = (session for session in seed_sessions(protocol, found) if session not in losses)
    return next(searching, None) or next(to_come, None)


def seed_sessions(protocol: SweepProtocol, found: Iterable[Standing]) -> list[Session]:
    """Return the runs at the best points, of the entrants whose search found one."""
    standings = [s for s in found if s.rates is not None]
    return [
        Session(Run(s.entrant.name, s.rates, seed), protocol.steps)
        for seed in protocol.seeds
        for s in standings
        if s.rates is not None
    ]


def _search(
    entrant: Entrant, protocol: SweepProtocol, lines: list[Line]
) -> Generator[Session, float, Rates | None]:
    """Ask for losses line after line; return the best rates, None if no run kept a finite loss."""
    offsets: dict[str, int] = {}
    known: dict[int, float] | None = None
    for axis in entrant.axes * protocol.passes:
        line = Line(axis)
        lines.append(line)
        best = yield from _line(line, entrant, protocol, offsets, known)
        offsets[axis], known = best, line.losses[best]
    if known is not None and known.get(protocol.steps, math.inf) == math.inf:
        return None
    return protocol.at(entrant, offsets, protocol.sweep_seed).rates


def _line(
    line: Line,
    entrant: Entrant,
    protocol: SweepProtocol,
    offsets: Mapping[str, int],
    known: dict[int, float] | None,
) -> Generator[Session, float, int]:
    """Search a line through the best point so far, whose losses are known but on the first line.

    Returns:
        The offset of its best point.
    """
    centre, reach = offsets.get(line.axis, 0), protocol.points // 2
    finished: dict[int, float] = {}

    def add(k: int) -> None:
        place = {**offsets, line.axis: k}
        line.runs[k] = protocol.at(entrant, place, protocol.sweep_seed)

    for k in range(centre - reach, centre + reach + 1):
        add(k)
    if known is not None:
        line.through, line.losses[centre] = centre, dict(known)
        finished[centre] = known.get(protocol.steps, math.inf)
    fresh = [k for k in line.runs if k not in finished]
    finished |= yield from _halve(line, fresh, centre, protocol)
    while True:
        line.best = best = min(finished, key=lambda k: _place(finished[k], k, centre))
        if not line.at_edge or len(line.added) == protocol.extensions:
            return best
        further = best + (1 if best == max(line.runs) else -1)
        add(further)
        line.added.append(further)
        finished |= yield from _halve(line, [further], centre, protocol)


def _place(loss: float, k: int, centre: int) -> tuple[float, int, int]:
    """The order of points: by loss, then by nearness to the centre; diverged ones by their rate."""
    return (loss, 0 if loss == math.inf else abs(k - centre), k)


def _halve(
    line: Line, offsets: list[int], centre: int, protocol: SweepProtocol
) -> Generator[Session, float, dict[int, float]]:
    """Run these points of a line from rung to rung; return the losses of those that finish.

    A run that diverged stays where it is, with an infinite loss.
    """
    alive, diverged = list(offsets), dict[int, float]()
    for rung in protocol.rung_steps:
        kept = math.ceil(len(alive) / 2)
        for k in alive:
            line.losses.setdefault(k, {})[rung] = yield Session(line.runs[k], rung)
        losses = {k: line.losses[k][rung] for k in alive}
        diverged |= {k: math.inf for k in alive if losses[k] == math.inf}
        if rung == protocol.steps:
            return {**losses, **diverged}
        better = sorted(
            (k for k in alive if k not in diverged), key=lambda k: _place(losses[k], k, centre)
        )
        line.stopped |= {k for k in alive if k not in better[:kept]}
        alive = sorted(better[:kept])
    raise AssertionError("the last rung is the whole run")
