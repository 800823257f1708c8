"""The rule of an optimizer as data, and the size of its updates."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from polargrad.geometry import magnitude
from polargrad.linalg.preparation import check_choice
from polargrad.optim.gaussian_size import expected_nuclear_norm, matrix_shape, momentum_rms
from polargrad.optim.signal import FORMS

__all__ = ["ADAMW_RMS", "DEFAULT_MOMENTUM", "Rule", "update_rms"]

# The root mean square of AdamW's update at lr = 1 in the middle of a training run, as Moonlight
# observed it ("usually around 0.2 to 0.4", arXiv 2502.16982, section 2.2) and builds into its
# factor 0.2·√max(m, n). The first step of AdamW has 1.
ADAMW_RMS = 0.2
# The momentum that the optimizer itself takes where none is given.
DEFAULT_MOMENTUM = {
    "adamw": 0.9,
    "muon": 0.95,
    "polargrad": 0.95,
    "gradient_descent": 0.0,
    "sign_sgd": 0.0,
    "row_norm": 0.95,
    "column_norm": 0.95,
}
KINDS = tuple(DEFAULT_MOMENTUM)
ADJUSTMENTS = (
    None,
    "original",
    "match_rms_adamw",
    "spectral_unclamped",
    "largest_dimension",
    "unit",
)


@dataclass(frozen=True)
class Rule:
    r"""An optimizer's rule and its numbers, as data.

    What is None is found by :func:`translate_lr`, or is the optimizer's own default.

    Args:
        kind: ``"adamw"``, ``"muon"``, ``"polargrad"``, ``"gradient_descent"``, ``"sign_sgd"``,
            ``"row_norm"`` or ``"column_norm"``.
        lr: γ > 0.
        momentum: β in [0, 1); of AdamW β₁ (β₂ has no counterpart elsewhere).
        weight_decay: λ ≥ 0, decoupled: X ← (1 − γλ)X.
        decay_per_step: the part that a step takes away at the initial lr, in [0, 1); not AdamW's.
        adjust: Muon's factor of the shape (:func:`polargrad.geometry.magnitude`): ``"original"``,
            which None stands for, ``"match_rms_adamw"``, ``"spectral_unclamped"``,
            ``"largest_dimension"`` or ``"unit"``.
        momentum_form: ``"ema"``, M ← βM + (1 − β)G, or ``"heavy-ball"``, M ← βM + G, which is
            1/(1 − β) times as large: a step of degree 0 does not see it, PolarGrad's does.
        nesterov: whether the gradient is looked at once more after the average; a number in (0, 1)
            is its share.
        factor_rms: RMS of the singular values of the polar factor that is used: 1 if it is exact;
            see :func:`polargrad.optim.gaussian_size.newton_schulz_rms` for Muon's five steps.

    Raises:
        ValueError: for a number outside its range, or an option that the kind does not have.
        TypeError: for what is not a number.

    Example:
        >>> Rule("muon", lr=0.02, momentum=0.95).weight_decay is None
        True

    Source: arXiv 2505.21799 (PolarGrad), 2502.16982 (Moonlight); K. Jordan's post on Muon.
    """

    kind: str
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    decay_per_step: float = 0.0
    adjust: str | None = None
    momentum_form: str = "ema"
    nesterov: bool | float = False
    factor_rms: float = 1.0

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_choice("adjust", self.adjust, ADJUSTMENTS)
        check_choice("momentum_form", self.momentum_form, FORMS)
        _check_number("lr", self.lr, above=0.0)
        _check_number("momentum", self.momentum, below=1.0)
        _check_number("weight_decay", self.weight_decay)
        _check_number("decay_per_step", self.decay_per_step, below=1.0)
        _check_number("factor_rms", self.factor_rms, above=0.0)
        self._refuse("adjust", self.adjust is not None, ("muon",))
        self._refuse("factor_rms", self.factor_rms != 1.0, ("muon", "polargrad"))
        matrix = tuple(kind for kind in KINDS if kind != "adamw")
        self._refuse("momentum_form", self.momentum_form != "ema", matrix)
        if not isinstance(self.nesterov, bool):
            _check_number("nesterov", self.nesterov, above=0.0, below=1.0)
        self._refuse("nesterov", bool(self.nesterov), matrix)
        self._refuse("decay_per_step", self.decay_per_step != 0.0, matrix)

    def _refuse(self, option: str, given: bool, kinds: tuple[str, ...]) -> None:
        if given and self.kind not in kinds:
            raise ValueError(
                f"{option} belongs to {', '.join(kinds)}, got {option}={getattr(self, option)!r} "
                f"with kind {self.kind!r}"
            )


def update_rms(
    rule: Rule,
    shape: Sequence[int],
    *,
    rank: int | None = None,
    adamw_rms: float = ADAMW_RMS,
    nuclear_norm: float | None = None,
    gradient_rms: float | None = None,
) -> float:
    r"""Predict the RMS of the entries of one update, decay left out.

    ========================  ===============================================================
    ``"adamw"``               γ · ``adamw_rms``
    ``"muon"``                γ · a(m, n) · ρ · √(r/(mn)), a the factor ``adjust``
    ``"polargrad"``           γ · ‖M‖_* · ρ · √(r/(mn))
    ``"gradient_descent"``    γ · RMS of M
    ``"sign_sgd"``            γ
    ``"row_norm"``            γ / √n
    ``"column_norm"``         γ / √m
    ========================  ===============================================================

    r is the rank, ρ ``factor_rms``; a unit polar factor of full rank has the RMS 1/√max(m, n).
    M is the momentum. Its nuclear norm is ``nuclear_norm``, or that of independent Gaussian
    gradients of RMS ``gradient_rms`` averaged (:func:`momentum_rms`), which holds for both orders
    of PolarGrad. A heavy-ball M is 1/(1 − β) times the average. For row and column norms the count
    is of rows and columns that are not zero.

    Args:
        rule: with its lr.
        shape: (m, n).
        rank: r, None for full rank.
        adamw_rms: of AdamW's update at γ = 1. 0.2 is a convention (:data:`ADAMW_RMS`): 1 at the
            first step, about 0.2 to 0.4 later; measure yours.
        nuclear_norm: of the momentum in the form of an average (β weights that sum to 1).
        gradient_rms: of the entries of one gradient, for what is not measured.

    Raises:
        ValueError: for a rule without lr, a rank that the shape does not have, a number that is
            not positive, or a size that has to be known for this rule and is not.

    Example:
        >>> round(update_rms(Rule("muon", lr=0.02), (256, 1024)), 9)  # 0.02/√1024
        0.000625

    Source: arXiv 2502.16982 (Moonlight), section 2.2; arXiv 2505.21799.
    """
    m, n = matrix_shape(shape)
    if rule.lr is None:
        raise ValueError(f"rule must have an lr, got {rule}")
    sizes = {"adamw_rms": adamw_rms, "nuclear_norm": nuclear_norm, "gradient_rms": gradient_rms}
    for name, value in sizes.items():
        _check_number(name, value, above=0.0)
    full = min(m, n)
    if rank is not None and not (isinstance(rank, int) and 1 <= rank <= full):
        raise ValueError(f"rank must be None or between 1 and {full}, got {rank!r}")
    factor = rule.factor_rms * math.sqrt((rank or full) / (m * n))
    match rule.kind:
        case "adamw":
            size = adamw_rms
        case "muon":
            size = float(magnitude(rule.adjust or "original", torch.ones(()), m, n)) * factor
        case "polargrad":
            if nuclear_norm is None:
                if rank not in (None, full):
                    raise ValueError(f"nuclear_norm must be given with rank={rank}, got None")
                nuclear_norm = expected_nuclear_norm((m, n), _signal_rms(rule, gradient_rms))
            size = _form_factor(rule) * nuclear_norm * factor
        case "gradient_descent":
            size = _form_factor(rule) * _signal_rms(rule, gradient_rms)
        case "row_norm":
            size = 1.0 / math.sqrt(n)
        case "column_norm":
            size = 1.0 / math.sqrt(m)
        case _:
            size = 1.0
    return rule.lr * size


def _signal_rms(rule: Rule, gradient_rms: float | None) -> float:
    """The RMS of the average of independent gradients."""
    if gradient_rms is None:
        known = "nuclear_norm or gradient_rms" if rule.kind == "polargrad" else "gradient_rms"
        raise ValueError(
            f"{known} must be given for {rule.kind!r}, whose step grows with the gradient, got None"
        )
    return gradient_rms * momentum_rms(rule.momentum or 0.0, nesterov=rule.nesterov)


def _form_factor(rule: Rule) -> float:
    return 1.0 / (1.0 - (rule.momentum or 0.0)) if rule.momentum_form == "heavy-ball" else 1.0


def _check_number(
    name: str, value: object, *, above: float | None = None, below: float = math.inf
) -> None:
    """Raise unless the value is None, or a number in [0, below), or (above, below)."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not ((number >= 0.0 if above is None else number > above) and number < below):
        low = "at least 0" if above is None else f"above {above:g}"
        high = "finite" if below == math.inf else f"below {below:g}"
        raise ValueError(f"{name} must be {low} and {high}, got {value!r}")
