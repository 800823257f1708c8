"""Approximations of a step's directions: named, described by data, and never a default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from polargrad.linalg import RandomizedSVD
from polargrad.linalg import method as method_of
from polargrad.linalg.descriptions import named_options, options_of

__all__ = ["Approximation", "Rounds", "Sketch", "approximation", "check_approximation", "plain"]


@dataclass(frozen=True)
class Rounds:
    r"""Each matrix's direction is found anew in every k-th step only, and used again between.

    .. math:: D_t = \begin{cases}\operatorname{polar}(S_t) & t \equiv j \pmod k\\
              D_{t-1} & \text{otherwise}\end{cases}, \qquad
              a_t = \langle S_t, D_t\rangle \;\text{(where the magnitude is the dual norm)}

    The turns j are dealt out so that every step has about 1/k of the work; the first step of a
    parameter finds all of its directions. Where :math:`\langle S_t, D_{t-1}\rangle \le 0` an old
    direction no longer descends: the matrix takes no step then, whatever the magnitude, but for
    decay. With every = 1 nothing is approximated, and nothing kept.

    Whose turn it is the host decides, so that on a GPU it waits in every step for the verdict on
    the gradients: a step that is skipped is nobody's turn.

    The last direction is state: as many numbers as the parameter has, in its dtype, float32 at
    least, sharded as it is. Between its turns a matrix that processes share has one number summed
    over them, and nothing else is sent of it.

    Args:
        every: k, at least 1.

    Raises:
        ValueError: for k below 1.
        TypeError: if k is not an integer.

    Example:
        >>> approximation({"name": "rounds", "every": 4})
        Rounds(every=4)
    """

    every: int
    name: ClassVar[str] = "rounds"

    def __post_init__(self) -> None:
        _check_integer("every", self.every, 1)


@dataclass(frozen=True)
class Sketch:
    r"""The polar factor of the signal's projection on r directions, which follow the signal.

    For a signal S of m × n entries, m ≤ n (a tall one is transposed), and the last V of n × r:

    .. math:: P = \operatorname{orth}(S V_{\text{last}}), \qquad R = S^{\mathsf T} P, \qquad
              V = \operatorname{polar}(R), \qquad D = P V^{\mathsf T} = \operatorname{polar}(P
              P^{\mathsf T} S)

    One step of a power iteration a step of the optimizer, begun at a Gaussian matrix. D has the
    spectral norm 1, rank r, and :math:`\langle S, D\rangle = \|P P^{\mathsf T} S\|_* \ge 0` is the
    dual norm that the step takes, never more than that of S. With r ≥ min(m, n) P is orthogonal and
    D the polar factor of S itself, to rounding.

    There is no error feedback: the momentum is that of all of the gradient, as without a sketch,
    and what is left out of a step stays in it.

    P and V are state, (m + n)·r numbers a matrix, and the same on all processes that share it. They
    sum m·r and then n·r numbers of a matrix, and no part of the matrix is sent.

    Args:
        rank: r, at least 1; of a smaller matrix its smaller side.
        seed: of the Gaussian matrices.

    Raises:
        ValueError: for a rank below 1, or a seed below 0.
        TypeError: if one is not an integer.

    Example:
        >>> approximation({"name": "sketch", "rank": 16})
        Sketch(rank=16, seed=0)

    Source: after K. Ahn et al. (Dion), arXiv 2504.05295, who normalise the columns of R instead,
    which is not exact at full rank, and feed back what is left out.
    """

    rank: int
    seed: int = 0
    name: ClassVar[str] = "sketch"

    def __post_init__(self) -> None:
        _check_integer("rank", self.rank, 1)
        _check_integer("seed", self.seed, 0)


Approximation = Rounds | Sketch
KINDS: dict[str, type[Rounds] | type[Sketch]] = {kind.name: kind for kind in (Rounds, Sketch)}
OPTIONS = {name: options_of(kind) for name, kind in KINDS.items()}


def approximation(spec: Mapping[str, Any] | Approximation | None) -> Approximation | None:
    """Return the approximation that plain data or a description stands for; None for none.

    Raises:
        ValueError: for an unknown name, or options that it does not have or needs.
        TypeError: for anything else.
    """
    if spec is None or isinstance(spec, Rounds | Sketch):
        return spec
    name, options = named_options("approximation", spec, OPTIONS)
    return KINDS[name](**options)


def plain(description: Approximation | None) -> dict[str, Any] | None:
    """Return a description as plain data, which :func:`approximation` turns back into it.

    Example:
        >>> plain(Rounds(every=2))
        {'name': 'rounds', 'every': 2}
    """
    return None if description is None else {"name": description.name, **asdict(description)}


def check_approximation(options: dict[str, Any]) -> None:
    """Check the approximation of a group beside its other options, and make it plain data.

    Raises:
        ValueError, TypeError: as :func:`approximation`; for a geometry without a polar factor, and
            options that say how a direction is found which is not found.
    """
    found = approximation(options["approximation"])
    options["approximation"] = plain(found)
    if found is None:
        return
    told, form = f"approximation={options['approximation']}", options["geometry"]
    if form["name"] != "spectral":
        raise ValueError(
            f"{told} is of a polar factor, and geometry {form['name']!r} has none for its "
            "direction: leave it out, or give it to the groups of geometry 'spectral' alone"
        )
    if form["correct"]:
        raise ValueError(
            f"{told}: the geometry's correct=True is for a factor of the whole signal that has "
            "just been found: leave one of them out"
        )
    if options["bias_correction"]:
        raise ValueError(
            f"{told} does not count gradients, by which bias_correction=True divides: leave one of "
            "them out"
        )
    if isinstance(found, Sketch):
        _check_sketched(told, options)


def _check_sketched(told: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for what makes no sense of a matrix of few columns."""
    form = options["geometry"]
    if form["side"] is not None or form["damping"]:
        raise ValueError(
            f"{told} has no Gram matrix of the signal's side={form['side']!r} or for its "
            f"damping={form['damping']}: leave one of them out, or approximate by rounds"
        )
    if options["method"] != "auto" and isinstance(method_of(options["method"]), RandomizedSVD):
        raise ValueError(
            f"{told} and method 'randomized_svd' both take a part of low rank: leave one of them "
            "out, or approximate by rounds"
        )


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
