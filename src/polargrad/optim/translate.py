"""Learning rates, momenta and decays of one optimizer in the terms of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from polargrad.optim.gaussian_size import matrix_shape
from polargrad.optim.group_options import LARGEST_DECAY_A_STEP
from polargrad.optim.update_size import ADAMW_RMS, DEFAULT_MOMENTUM, Rule, update_rms

__all__ = ["Rule", "Translation", "translate_lr", "update_rms"]

# Whose step grows with the gradient: its lr has the unit of 1/curvature.
DEGREE_ONE = ("polargrad", "gradient_descent")


@dataclass(frozen=True)
class Translation:
    """What :func:`translate_lr` found; ``print`` it for the explanation.

    Attributes:
        source: the rule that was given, completed.
        target: the rule asked for, with lr, momentum and decay.
        shape: (m, n).
        source_rms: predicted RMS of an update of ``source``.
        target_rms: of ``target``.
    """

    source: Rule
    target: Rule
    shape: tuple[int, int]
    source_rms: float
    target_rms: float

    @property
    def lr(self) -> float:
        """The learning rate of the target."""
        return _given(self.target.lr)

    @property
    def momentum(self) -> float:
        """The momentum of the target; β₁ of AdamW."""
        return _given(self.target.momentum)

    @property
    def weight_decay(self) -> float:
        """The decoupled decay of the target, 0 where ``decay_per_step`` takes its place."""
        return _given(self.target.weight_decay)

    @property
    def decay_per_step(self) -> float:
        """The decay of the target in the form that does not depend on the unit of its lr."""
        return self.target.decay_per_step

    def __str__(self) -> str:
        old, new = self.source, self.target
        rows, columns = self.shape
        before, after = _shrinkage(old), _shrinkage(new)
        lines = [
            f"{_title(old)} → {_title(new)}, a {rows} × {columns} matrix",
            f"  lr              {_given(old.lr):.6g} → {self.lr:.6g}",
            f"  momentum        {_given(old.momentum):.6g} → {self.momentum:.6g}",
            f"  weight_decay    {_given(old.weight_decay):.6g} → {self.weight_decay:.6g}",
            f"  decay_per_step  {old.decay_per_step:.6g} → {self.decay_per_step:.6g}",
            f"  decay in all    {before:.6g} → {after:.6g} of every entry a step",
            f"  update RMS      {self.source_rms:.6g} → {self.target_rms:.6g}",
        ]
        if new.kind in DEGREE_ONE:
            lines.append("  the new lr holds while gradients keep the size that was given")
        if after and new.kind == "polargrad" and not new.weight_decay:
            lines.append(
                f"  PolarGrad refuses lr·weight_decay ≥ {LARGEST_DECAY_A_STEP}: decay_per_step, "
                "which follows the schedule but not the unit of lr, takes its place"
            )
        return "\n".join(lines)


def translate_lr(
    from_: str | Rule,
    to: str | Rule,
    shape: Sequence[int],
    *,
    lr: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    rank: int | None = None,
    adamw_rms: float = ADAMW_RMS,
    nuclear_norm: float | None = None,
    gradient_rms: float | None = None,
) -> Translation:
    r"""Translate a learning rate, with momentum and decay, for one m × n matrix.

    .. math:: \gamma'\,s' = \gamma\,s, \qquad \beta' = \beta, \qquad \gamma'\lambda' = \gamma\lambda

    s is the RMS of an update at γ = 1 (:func:`update_rms`): updates keep their size, and decay
    what it takes away. AdamW's β₁ becomes the momentum, EMA and heavy ball have the same β, and
    β₂ has no counterpart. The directions differ all the same: the result is where a search begins.

    Args:
        from_: a name of :class:`Rule`, with ``lr`` and the like beside it, or a rule with its lr.
        to: a name, or a rule without lr; what it gives of momentum and decay is kept.
        shape: (m, n) of one logical matrix, m outputs and n inputs.
        lr, momentum, weight_decay: of ``from_``, where that is a name.
        rank, adamw_rms, nuclear_norm, gradient_rms: see :func:`update_rms`; the same for both.

    Returns:
        The rule asked for, complete, and the predicted sizes. Where PolarGrad would refuse the
        decay (γλ ≥ 0.1), it is ``decay_per_step``.

    Raises:
        ValueError: without an lr to translate, with two, for a size that needs to be known and is
            not, or a decay that takes away everything.
        TypeError: for what is neither a name nor a rule, or not a number.

    Example:
        >>> found = translate_lr("adamw", "muon", (512, 512), lr=3e-4, weight_decay=0.1)
        >>> print(found)
        adamw → muon, a 512 × 512 matrix
          lr              0.0003 → 0.00135765
          momentum        0.9 → 0.9
          weight_decay    0.1 → 0.0220971
          decay_per_step  0 → 0
          decay in all    3e-05 → 3e-05 of every entry a step
          update RMS      6e-05 → 6e-05
        >>> moonlight = Rule("muon", adjust="match_rms_adamw")
        >>> round(translate_lr("adamw", moonlight, (512, 512), lr=3e-4).lr, 12)
        0.0003

    Source: arXiv 2502.16982 (Moonlight), section 2.2, for the principle; arXiv 2505.21799.
    """
    m, n = matrix_shape(shape)
    source = _source(from_, lr, momentum, weight_decay)
    target = to if isinstance(to, Rule) else _named("to", to)
    if target.lr is not None:
        raise ValueError(f"to must leave lr to be found, got lr={target.lr}")
    if target.momentum is None:
        target = replace(target, momentum=source.momentum)
    known: dict[str, Any] = {
        "rank": rank,
        "adamw_rms": adamw_rms,
        "nuclear_norm": nuclear_norm,
        "gradient_rms": gradient_rms,
    }
    before = update_rms(source, (m, n), **known)
    target = replace(target, lr=before / update_rms(replace(target, lr=1.0), (m, n), **known))
    target = _with_decay(target, _shrinkage(source))
    return Translation(source, target, (m, n), before, update_rms(target, (m, n), **known))


def _source(
    from_: str | Rule, lr: float | None, momentum: float | None, weight_decay: float | None
) -> Rule:
    """The rule to translate, with all its numbers."""
    given = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    if isinstance(from_, Rule):
        twice = [name for name, value in given.items() if value is not None]
        if twice:
            raise ValueError(f"from_ is a rule, which has its own {', '.join(twice)}")
        rule = from_
    else:
        rule = replace(_named("from_", from_), lr=lr, momentum=momentum, weight_decay=weight_decay)
    if rule.lr is None:
        raise ValueError(f"lr of {rule.kind!r} must be given, got None: it is what is translated")
    beta = DEFAULT_MOMENTUM[rule.kind] if rule.momentum is None else rule.momentum
    return replace(rule, momentum=beta, weight_decay=rule.weight_decay or 0.0)


def _named(argument: str, kind: object) -> Rule:
    if not isinstance(kind, str):
        raise TypeError(f"{argument} must be a name or a Rule, got {type(kind).__name__}")
    return Rule(kind)


def _with_decay(rule: Rule, shrinkage: float) -> Rule:
    """The rule with the decay that takes away ``shrinkage`` a step, unless it has its own."""
    if shrinkage >= 1.0:
        raise ValueError(
            f"lr·weight_decay + decay_per_step must be below 1, got {shrinkage:.6g}: such a decay "
            "takes away everything in one step"
        )
    if rule.weight_decay is not None or rule.decay_per_step:
        kept = _given(rule.lr) * (rule.weight_decay or 0.0)
        if rule.kind == "polargrad" and kept >= LARGEST_DECAY_A_STEP:
            raise ValueError(
                f"weight_decay={rule.weight_decay} of to, with the lr found, {rule.lr:.6g}, "
                f"shrinks by {kept:.6g} a step, and PolarGrad allows less than "
                f"{LARGEST_DECAY_A_STEP}: leave it None, or give decay_per_step"
            )
        return replace(rule, weight_decay=rule.weight_decay or 0.0)
    if rule.kind == "polargrad" and shrinkage >= LARGEST_DECAY_A_STEP:
        return replace(rule, weight_decay=0.0, decay_per_step=shrinkage)
    return replace(rule, weight_decay=shrinkage / _given(rule.lr))


def _shrinkage(rule: Rule) -> float:
    """What decay takes away of every entry in one step."""
    return _given(rule.lr) * _given(rule.weight_decay) + rule.decay_per_step


def _title(rule: Rule) -> str:
    words = [rule.adjust, rule.momentum_form if rule.momentum_form != "ema" else None]
    inside = ", ".join(word for word in words if word)
    return f"{rule.kind} ({inside})" if inside else rule.kind


def _given(number: float | None) -> float:
    assert number is not None
    return number
