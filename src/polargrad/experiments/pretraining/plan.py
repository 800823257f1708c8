"""What a sweep will take: sessions, steps and time, with what is known of them so far."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from polargrad.experiments.pretraining.halving import Losses, next_session
from polargrad.experiments.pretraining.protocol import Session, SweepProtocol

# Above every loss: what is known is better than what is only expected.
UNKNOWN = 1e6
MINUTE, HOUR = 60.0, 3600.0


@dataclass(frozen=True)
class Share:
    """What an entrant takes of a sweep: sessions and steps, done and to come."""

    entrant: str
    sessions_done: int
    steps_done: int
    sessions: int
    steps: int
    seconds_per_step: float | None

    @property
    def seconds(self) -> float | None:
        """The time of what is to come, once a session of any entrant has been timed."""
        return None if self.seconds_per_step is None else self.steps * self.seconds_per_step


def to_come(protocol: SweepProtocol, losses: Losses) -> list[Session]:
    """Return the sessions that are left if no grid needs to be extended.

    It is the scheduler itself that is asked, with losses that fall towards the centre of every
    grid in the place of those that are not known yet.

    Example:
        >>> protocol = SweepProtocol(optimizers=("muon",), steps=100, eval_every=25, seeds=(1,))
        >>> sessions = to_come(protocol, {})
        >>> len(sessions), sessions[-1].run.folder
        (18, 'muon-lr_0.01-vector_lr_0.03-seed_1')
    """
    imagined, found = dict(losses), list[Session]()
    while (session := next_session(protocol, imagined)) is not None:
        found.append(session)
        imagined[session] = UNKNOWN + _distance(protocol, session)
    return found


def _distance(protocol: SweepProtocol, session: Session) -> float:
    """How far a run is from the centres, in logarithms of its rates."""
    centres = dict(protocol.entrant(session.run.entrant).centres)
    return sum(abs(math.log(rate / centres[name])) for name, rate in session.run.rates)


def steps_of(sessions: Iterable[Session], before: Iterable[Session] = ()) -> dict[str, int]:
    """Return the steps that sessions take, by entrant: each from where its run stood before.

    Args:
        sessions: in any order.
        before: sessions whose steps are already taken.
    """
    reached: dict[object, int] = {}
    for session in before:
        reached[session.run] = max(reached.get(session.run, 0), session.step)
    steps: dict[str, int] = {}
    for session in sorted(sessions, key=lambda s: s.step):
        more = max(0, session.step - reached.get(session.run, 0))
        reached[session.run] = max(reached.get(session.run, 0), session.step)
        steps[session.run.entrant] = steps.get(session.run.entrant, 0) + more
    return steps


def shares(
    protocol: SweepProtocol, losses: Losses, seconds_per_step: Mapping[str, Sequence[float]]
) -> list[Share]:
    """Return what each entrant takes.

    Args:
        protocol: of the sweep.
        losses: of the sessions so far.
        seconds_per_step: of the sessions so far, by entrant; one that has none yet is taken to be
            as fast as the others.
    """
    left = to_come(protocol, losses)
    taken, expected = steps_of(losses), steps_of(left, losses)
    every = [value for values in seconds_per_step.values() for value in values]
    found = []
    for entrant in protocol.entrants:
        own = seconds_per_step.get(entrant.name) or every
        found.append(
            Share(
                entrant=entrant.name,
                sessions_done=sum(s.run.entrant == entrant.name for s in losses),
                steps_done=taken.get(entrant.name, 0),
                sessions=sum(s.run.entrant == entrant.name for s in left),
                steps=expected.get(entrant.name, 0),
                seconds_per_step=statistics.median(own) if own else None,
            )
        )
    return found


def plan_text(found: Sequence[Share], tokens: int) -> str:
    """Return the plan as a table in plain text.

    Args:
        found: of each entrant.
        tokens: of a step.
    """
    rows = [["optimizer", "done", "sessions", "steps", "tokens", "time"]]
    rows += [
        [
            share.entrant,
            f"{share.steps_done:,} steps",
            str(share.sessions),
            f"{share.steps:,}",
            f"{share.steps * tokens:,}",
            "not known yet" if share.seconds is None else duration(share.seconds),
        ]
        for share in found
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*lines, _total(found)])


def _total(found: Sequence[Share]) -> str:
    steps = sum(share.steps for share in found)
    text = f"to come: {sum(share.sessions for share in found)} sessions, {steps:,} steps"
    known = [share.seconds for share in found if share.seconds is not None]
    if len(known) < len(found):
        return f"{text}; the time will be known after the first session"
    return f"{text}, about {duration(sum(known))}, if no grid has to be extended"


def duration(seconds: float) -> str:
    """Return a time as it is read.

    Example:
        >>> duration(42), duration(600), duration(9000)
        ('42 s', '10 min', '2.5 h')
    """
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR:
        return f"{seconds / MINUTE:.0f} min"
    return f"{seconds / HOUR:.1f} h"
