"""The optimizers at their best learning rates beside each other: losses, and the way to AdamW's."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from polargrad.experiments.pretraining.curves import Curves, Point
from polargrad.experiments.pretraining.halving import Standing, seed_sessions
from polargrad.experiments.pretraining.protocol import Entrant, Rates, SweepProtocol
from polargrad.experiments.pretraining.results import SweepResults

# The optimizer whose final loss the others are to reach.
REFERENCE = "adamw"


@dataclass(frozen=True)
class Candidate:
    """An entrant at its best learning rates, run on the seeds.

    Args:
        entrant: which.
        rates: its best ones.
        curves: of the runs that are finished, by seed.
        diverged: the seeds on which it diverged.
    """

    entrant: Entrant
    rates: Rates
    curves: dict[int, Curves]
    diverged: tuple[int, ...] = ()

    @property
    def finals(self) -> dict[int, float]:
        """The final validation losses by seed, infinite where it diverged."""
        return {seed: c.final for seed, c in self.curves.items()} | dict.fromkeys(
            self.diverged, math.inf
        )

    @property
    def mean(self) -> float:
        """Of the final losses."""
        return statistics.fmean(self.finals.values())

    @property
    def deviation(self) -> float:
        """The sample standard deviation of the final losses; NaN for fewer than two."""
        finals = list(self.finals.values())
        return statistics.stdev(finals) if len(finals) > 1 and not self.diverged else math.nan


@dataclass(frozen=True)
class Way:
    """What it takes a candidate to come to a loss of the reference.

    Args:
        reached: by seed; None where it does not come there.
        tokens: of the reference's run, by seed.
        seconds: of the steps of that run, by seed.
    """

    reached: dict[int, Point | None]
    tokens: dict[int, float]
    seconds: dict[int, float]

    @property
    def token_shares(self) -> list[float]:
        """Tokens as a share of the reference's, infinite where the loss is not reached."""
        return [
            math.inf if point is None else point.tokens / self.tokens[seed]
            for seed, point in self.reached.items()
        ]

    @property
    def time_shares(self) -> list[float]:
        """Seconds as a share of the reference's, infinite where the loss is not reached."""
        return [
            math.inf if point is None else point.seconds / self.seconds[seed]
            for seed, point in self.reached.items()
        ]


def candidates(
    protocol: SweepProtocol, results: SweepResults, found: Sequence[Standing]
) -> list[Candidate]:
    """Return the entrants whose best point was found and run on a seed at least.

    Raises:
        RunFolderError: if the folder of a finished run is missing or damaged.
    """
    by_entrant: dict[str, Candidate] = {}
    for session in seed_sessions(protocol, found):
        loss = results.losses.get(session)
        if loss is None:
            continue
        run = session.run
        known = by_entrant.get(run.entrant)
        curves = dict(known.curves) if known else {}
        diverged = known.diverged if known else ()
        if loss == math.inf:
            diverged = (*diverged, run.seed)
        else:
            curves[run.seed] = Curves.read(results.folder_of(run))
        entrant = protocol.entrant(run.entrant)
        by_entrant[run.entrant] = Candidate(entrant, run.rates, curves, diverged)
    return [by_entrant[e.name] for e in protocol.entrants if e.name in by_entrant]


def reference_of(found: Sequence[Candidate]) -> Candidate | None:
    """Return the candidate to whose loss the others are compared, if it has a finished run."""
    return next((c for c in found if c.entrant.optimizer == REFERENCE and c.curves), None)


def way_to_pair(candidate: Candidate, reference: Candidate) -> Way:
    """Return the way to the reference's final loss on the same seed, where both were run."""
    seeds = [seed for seed in reference.curves if seed in candidate.finals]
    return Way(
        {seed: _reach(candidate, seed, reference.curves[seed].final) for seed in seeds},
        {seed: reference.curves[seed].tokens for seed in seeds},
        {seed: reference.curves[seed].seconds for seed in seeds},
    )


def way_to_mean(candidate: Candidate, reference: Candidate) -> Way:
    """Return the way to the mean of the reference's final losses, on every seed."""
    curves = reference.curves.values()
    target = statistics.fmean(c.final for c in curves)
    seeds = list(candidate.finals)
    return Way(
        {seed: _reach(candidate, seed, target) for seed in seeds},
        dict.fromkeys(seeds, statistics.fmean(c.tokens for c in curves)),
        dict.fromkeys(seeds, statistics.fmean(c.seconds for c in curves)),
    )


def _reach(candidate: Candidate, seed: int, loss: float) -> Point | None:
    curves = candidate.curves.get(seed)
    return None if curves is None else curves.reach(loss)


def paired(ours: Candidate, theirs: Candidate) -> dict[int, float]:
    """Return the differences of the final losses on the seeds that both were run on."""
    return {
        seed: ours.finals[seed] - theirs.finals[seed]
        for seed in ours.finals
        if seed in theirs.finals
    }


def in_words(shares: Sequence[float], unit: str) -> str:
    """Return shares of the reference's run as the median and the range, or what was not reached.

    Example:
        >>> in_words([0.5, 0.4, 0.45], "of its tokens")
        '0.45 of its tokens [0.40 … 0.50]'
        >>> in_words([math.inf, 0.9], "of its tokens")
        '0.90 of its tokens on 1 of 2 seeds, not reached on 1'
    """
    known = [share for share in shares if share < math.inf]
    if not known:
        return "not reached"
    text = f"{statistics.median(known):.2f} {unit}".strip()
    spread = f" [{min(known):.2f} … {max(known):.2f}]" if len(known) > 1 else ""
    if len(known) == len(shares):
        return text + spread
    missing = len(shares) - len(known)
    return f"{text}{spread} on {len(known)} of {len(shares)} seeds, not reached on {missing}"
