"""What a sweep is: who takes part, on what grid, for how long; and the runs it is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from polargrad.experiments.folders import check_seeds
from polargrad.language import RECIPES, TrainSettings
from polargrad.language.recipes import recipe_of

# Rates are rounded to this many digits, so that a folder's name says them in full.
DIGITS = 3
# The protocol's own, and what a session of a run decides.
NOT_SHARED = (
    *("optimizer", "method", "lr", "vector_lr", "embedding_lr", "steps", "seed", "out"),
    *("eval_every", "watch_every", "checkpoint_every", "keep", "stop_after"),
    *("resume", "overwrite"),
)
LEAST = {"steps": 1, "eval_every": 1, "watch_every": 0, "passes": 1, "extensions": 0}
PATHS = ("tokenizer", "cache")
LR, BOTH = "lr", "both"

# Names of learning rates with their values, in the order of the search.
Rates = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Entrant:
    """An optimizer that takes part.

    Args:
        name: as it was asked for, ``"muon"`` or ``"polarmuon:qdwh"``.
        optimizer: a key of :data:`polargrad.language.RECIPES`.
        method: of the polar factors of its hidden matrices; None for its own.
        centres: the learning rates around which its grids lie.
        axes: those of them that are searched, in this order.
    """

    name: str
    optimizer: str
    method: str | None
    centres: Rates
    axes: tuple[str, ...]

    @property
    def title(self) -> str:
        """How a table or a figure calls it."""
        title = RECIPES[self.optimizer].title
        return title if self.method is None else f"{title} ({self.method})"


@dataclass(frozen=True)
class Run:
    """One training run: an entrant at its learning rates, on a seed."""

    entrant: str
    rates: Rates
    seed: int

    @property
    def folder(self) -> str:
        """The name of its folder, as ``muon-lr_0.01-vector_lr_0.03-seed_0``."""
        rates = "".join(f"-{name}_{value:g}" for name, value in self.rates)
        return f"{self.entrant.replace(':', '_')}{rates}-seed_{self.seed}"


@dataclass(frozen=True)
class Session:
    """A part of a run: to the end of step ``step``, from wherever it stands."""

    run: Run
    step: int


@dataclass(frozen=True, kw_only=True)
class SweepProtocol:
    """How learning rates are found, and what is run at the best of them.

    Every optimizer is searched alike: along ``lr``, the rate of the hidden matrices, and then, at
    the best of these, along the rate of embedding and head, which is ``vector_lr`` or, where these
    have a rule of their own, ``embedding_lr``. Each line has ``points`` rates, a ``factor`` apart,
    around the optimizer's default. It is halved: all its points go to the first rung, the better
    half of them (rounded up) to the next, and so on; the last rung is the whole run. A line whose
    best point is its first or last is extended there by one point, which is run to the end, up to
    ``extensions`` times. At the best point the optimizer is run on ``seeds``.

    Step sizes that a run finds, as ``polargrad`` does unless its ``lr`` has a centre, are not
    searched. With ``rates="lr"`` ``adamw`` has one rate for everything.

    Args:
        optimizers: who takes part: names, or ``NAME:METHOD`` for another polar method.
        steps: of a whole run.
        eval_every: steps between measurements of the validation loss; a rung is a multiple of it.
        watch_every: steps between two looks at spectra, in the runs on ``seeds``; 0 for none.
        sweep_seed: of the search.
        seeds: of the runs at the best points; the first of a sweep is not among them by default,
            since its best point is the best for that seed.
        points: of a line, an odd number.
        factor: between neighbours.
        rungs: rising shares of the steps, the last of them 1.
        rates: "both", or "lr" for the first line alone.
        passes: how often the lines are gone through.
        extensions: of a line, at most.
        centres: other centres than the defaults, as ``{"muon.lr": 0.02}``.
        training: what all runs share beside these: arguments of
            :class:`~polargrad.language.TrainSettings`, as plain data, paths as text.

    Raises:
        ValueError: if a value is not allowed, or an optimizer is unknown or twice there.

    Example:
        >>> protocol = SweepProtocol(optimizers=("adamw", "muon"), steps=400, eval_every=50)
        >>> protocol.rung_steps
        (100, 200, 400)
        >>> protocol.entrants[1].centres
        (('lr', 0.01), ('vector_lr', 0.03))
    """

    optimizers: tuple[str, ...]
    steps: int
    eval_every: int
    watch_every: int = 0
    sweep_seed: int = 0
    seeds: tuple[int, ...] = (1, 2, 3)
    points: int = 5
    factor: float = 2.0
    rungs: tuple[float, ...] = (0.25, 0.5, 1.0)
    rates: str = BOTH
    passes: int = 1
    extensions: int = 4
    centres: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        check_seeds([self.sweep_seed])
        for name, least in LEAST.items():
            _require(name, getattr(self, name), getattr(self, name) >= least, f"at least {least}")
        odd = self.points >= 3 and self.points % 2 == 1
        _require("points", self.points, odd, "an odd number of at least 3")
        wide = math.isfinite(self.factor) and self.factor >= 1.1
        _require("factor", self.factor, wide, "at least 1.1 and finite")
        rising = all(a < b for a, b in zip((0.0, *self.rungs), self.rungs, strict=False))
        ends = bool(self.rungs) and self.rungs[-1] == 1.0
        _require("rungs", self.rungs, rising and ends, "rising shares of which the last is 1")
        _require("rates", self.rates, self.rates in (LR, BOTH), f"{LR!r} or {BOTH!r}")
        shared = {f.name for f in fields(TrainSettings)} - set(NOT_SHARED)
        for name, value in self.training.items():
            _require("training", name, name in shared, f"one of {', '.join(sorted(shared))}")
            plain = value is None or isinstance(value, str | int | float)
            _require(f"training {name}", value, plain, "plain data")
        _check_entrants(self.optimizers, self.entrants, self.centres)
        for entrant in self.entrants:  # raises for what training refuses
            self.settings(Run(entrant.name, entrant.centres, self.sweep_seed))

    @property
    def entrants(self) -> tuple[Entrant, ...]:
        """Who takes part, with the centres and axes of the search."""
        return tuple(_entrant(word, self.rates, self.centres) for word in self.optimizers)

    @property
    def rung_steps(self) -> tuple[int, ...]:
        """The steps of the rungs: multiples of ``eval_every``, where a loss is measured."""
        rounded = (
            min(self.steps, self.eval_every * max(1, round(share * self.steps / self.eval_every)))
            for share in self.rungs[:-1]
        )
        return tuple(sorted({*rounded, self.steps}))

    def entrant(self, name: str) -> Entrant:
        """The entrant of this name."""
        return next(entrant for entrant in self.entrants if entrant.name == name)

    def at(self, entrant: Entrant, offsets: Mapping[str, int], seed: int) -> Run:
        """The run of an entrant so many factors away from its centres."""
        rates = tuple(
            (name, rounded(centre * self.factor ** offsets.get(name, 0)))
            for name, centre in entrant.centres
        )
        return Run(entrant.name, rates, seed)

    def as_data(self) -> dict[str, Any]:
        """Return the protocol as plain data, from which :meth:`from_data` makes it again.

        All centres are among them: another version may have other defaults.
        """
        centres = {f"{e.name}.{name}": value for e in self.entrants for name, value in e.centres}
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)} | {"centres": centres}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> SweepProtocol:
        """Return the protocol of this data.

        Raises:
            ValueError, TypeError: if it is not that of a protocol.
        """
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**given)

    def settings(self, run: Run, **session: Any) -> TrainSettings:
        """The settings of a run, and of the session at hand."""
        entrant = self.entrant(run.entrant)
        options: dict[str, Any] = {
            **{name: _as_given(name, value) for name, value in self.training.items()},
            "optimizer": entrant.optimizer,
            "steps": self.steps,
            "seed": run.seed,
            "eval_every": self.eval_every,
            "watch_every": self.watch_every if run.seed in self.seeds else 0,
            **dict(run.rates),
            **session,
        }
        if entrant.method is not None:
            options["method"] = entrant.method
        return TrainSettings(**options)


def _plain(value: Any) -> Any:
    """Tuples as lists, mappings as dicts."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _as_given(name: str, value: Any) -> Any:
    """A setting of training as it takes it: some paths come as text here."""
    return Path(value) if name in PATHS and value is not None else value


def rounded(rate: float) -> float:
    """Return a learning rate to three digits, as it is written.

    Example:
        >>> rounded(0.03 / 16)
        0.00187
    """
    return float(f"{rate:.{DIGITS}g}")


def _entrant(word: str, rates: str, centres: Mapping[str, float]) -> Entrant:
    """An optimizer as it was asked for, with the rates it has and those to be searched."""
    optimizer, _, method = word.partition(":")
    recipe = recipe_of(optimizer)
    defaults = recipe.defaults
    found = {"lr": defaults.lr, "vector_lr": defaults.vector_lr}
    if defaults.embedding_lr is not None:
        found["embedding_lr"] = defaults.embedding_lr
    if rates == BOTH and defaults.vector_lr is None:
        found["vector_lr"] = recipe.vector_lr_centre
    found |= {name: centres[f"{word}.{name}"] for name in found if f"{word}.{name}" in centres}
    known = tuple((name, value) for name, value in found.items() if value is not None)
    searched = (LR, recipe.second_rate) if rates == BOTH else (LR,)
    axes = tuple(axis for axis in searched if axis in dict(known))
    return Entrant(word, optimizer, method or None, known, axes)


def _check_entrants(
    words: Sequence[str], entrants: Sequence[Entrant], centres: Mapping[str, float]
) -> None:
    """Raise ValueError for an optimizer that is twice there, or the centre of none."""
    if not words or len(set(words)) < len(words):
        raise ValueError(f"optimizers must be at least one, each once, got {list(words)}")
    known = {
        f"{entrant.name}.{name}"
        for entrant in entrants
        for name in {"lr", "vector_lr", RECIPES[entrant.optimizer].second_rate}
    }
    for name, value in centres.items():
        _require("centres", name, name in known, f"of {', '.join(sorted(known))}")
        good = math.isfinite(value) and value > 0
        _require(f"centre {name}", value, good, "positive and finite")


def _require(name: str, value: object, allowed: bool, rule: str) -> None:
    """Raise a ValueError that names the argument unless its value is allowed."""
    if not allowed:
        raise ValueError(f"{name} must be {rule}, got {value}")
