"""The rule that steps a parameter group, read from the group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polargrad.linalg import NewtonSchulz, RandomizedSVD
from polargrad.linalg import method as method_of
from polargrad.optim.gaussian_size import newton_schulz_rms
from polargrad.optim.step_size import is_found
from polargrad.optim.update_size import ADJUSTMENTS, Rule

__all__ = ["rule_of"]

# Geometries without options of their own, by the magnitude that makes them a rule.
PLAIN = {
    ("frobenius", "dual_norm"): "gradient_descent",
    ("max_entry", "unit"): "sign_sgd",
    ("largest_row", "unit"): "row_norm",
    ("largest_column", "unit"): "column_norm",
}


def rule_of(group: Mapping[str, Any], shape: Sequence[int]) -> Rule | None:
    """Return the rule of a parameter group for a matrix of this shape, for its predicted size.

    Args:
        group: of an optimizer of this package, ``torch.optim.Muon`` or ``torch.optim.AdamW``.
        shape: (m, n) of one logical matrix, which decides what Newton–Schulz leaves of it.

    Returns:
        The rule, with ``lr`` times ``lr_scale`` as its lr, for
        :func:`polargrad.optim.update_size.update_rms` and
        :func:`polargrad.optim.translate.translate_lr`; None where no prediction is known, as for
        Shampoo, SSD, damped or clipped factors, Polyak's order, an exponent other than 1, a step
        size that the run finds, or an approximation.

    Example:
        >>> import torch, polargrad as pg
        >>> optimizer = pg.PolarGrad([torch.nn.Parameter(torch.eye(4))], lr=0.1)
        >>> rule = rule_of(optimizer.param_groups[0], (4, 4))
        >>> rule.kind, rule.lr, rule.momentum
        ('polargrad', 0.1, 0.95)

    Source: the table of :func:`polargrad.optim.update_size.update_rms`.
    """
    lr = float(group["lr"]) * group.get("lr_scale", 1.0)
    numbers: dict[str, Any] = {"lr": lr, "weight_decay": float(group["weight_decay"])}
    if group.get("rule", "adamw") == "adamw" and "betas" in group:
        return Rule("adamw", momentum=float(group["betas"][0]), **numbers)
    if "ns_coefficients" in group:  # torch.optim.Muon
        method = NewtonSchulz(group["ns_coefficients"], group["ns_steps"])
        numbers |= {"adjust": group["adjust_lr_fn"], "factor_rms": newton_schulz_rms(shape, method)}
        return Rule(
            "muon", momentum=float(group["momentum"]), nesterov=group["nesterov"], **numbers
        )
    numbers |= {
        key: group[key] for key in ("momentum_form", "nesterov", "decay_per_step") if key in group
    }
    return _of_matrices(group, shape, {**numbers, "momentum": float(group["momentum"])})


def _of_matrices(
    group: Mapping[str, Any], shape: Sequence[int], numbers: dict[str, Any]
) -> Rule | None:
    """The rule of a matrix group of this package."""
    form, size = dict(group["geometry"]), group["magnitude"]
    name = form.pop("name")
    differs = group["max_dual_norm"] is not None or group["order"] == "polyak"
    differs = differs or is_found(group) or group.get("approximation") is not None
    if differs or (size == "dual_norm" and group["exponent"] != 1.0):
        return None
    if (name, size) in PLAIN:
        return Rule(PLAIN[name, size], **numbers)
    if name != "spectral" or form.get("damping"):
        return None
    kind = "polargrad" if size == "dual_norm" else "muon"
    if kind == "muon":
        if size not in ADJUSTMENTS:
            return None
        numbers["adjust"] = size
    method = None if group["method"] == "auto" else method_of(group["method"])
    if isinstance(method, RandomizedSVD):
        return None
    if isinstance(method, NewtonSchulz):
        # Of ⟨M, U⟩ U both factors fall short, which one number does not say.
        if kind == "polargrad":
            return None
        numbers["factor_rms"] = newton_schulz_rms(shape, method)
    return Rule(kind, **numbers)
