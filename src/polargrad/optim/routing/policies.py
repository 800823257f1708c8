r"""Policies: which rule steps which role, as data.

====================  ============  =================  ===================  ====================
role                  ``muon``      ``paper``          ``paper-embedding``  ``symmetry``
====================  ============  =================  ===================  ====================
hidden matrix         matrix        matrix             matrix               matrix
fused QKV             matrix        matrix             matrix               matrix
attention heads       matrix        matrix             matrix               matrix
gate/up, down         matrix        matrix             matrix               matrix
expert gate/up        matrix        matrix             matrix               rows normalised
expert down           matrix        matrix             matrix               columns normalised
stacked experts       matrix        matrix             matrix               matrix
low-rank adapter      matrix        matrix             matrix               matrix
convolution           matrix        matrix             matrix               matrix
unknown matrix        matrix        matrix             matrix               matrix
router                AdamW         AdamW              AdamW                centred left polar
embedding             AdamW         AdamW              QDWH PolarSGDM       right polar
head                  AdamW         AdamW              QDWH PolarSGDM       centred, rows then
                                                                            right polar
tied embedding        AdamW         AdamW              QDWH PolarSGDM       right polar
all others            AdamW         AdamW              AdamW                AdamW
====================  ============  =================  ===================  ====================

"matrix" is the optimizer's own rule, with its own options. ``symmetry`` and ``symmetry-runs`` take
attention's projections apart by heads where these are known, fused or not. ``symmetry-runs`` is
``symmetry`` as the follow-up's published runs had it: embedding and head (centred) with rows
normalised, and experts with the optimizer's own rule. A tied pair follows the embedding there,
which is never centred.

Sources: ``muon``: K. Jordan, https://kellerjordan.github.io/posts/muon/. ``paper``: arXiv
2505.21799, "polar methods on true matrices only"; its map is Muon's. ``paper-embedding``: the third
run of its Qwen2.5 experiment, with momentum 0.5. ``symmetry``: arXiv 2605.18106, the defaults of
its published routing; its joint orientation of gate and up (one row for both of a neuron) is not
offered. The paper says nothing of routers: ``muon`` and ``paper`` leave them to AdamW, as they
leave heads, because the rows of experts that get no token have no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["POLICIES", "Policy"]

Entry = Mapping[str, Any]
RULES = ("matrix", "adamw")
# What an entry may say beside its rule. With one of the first kind a role is stepped in a unit of
# its own, and needs a learning rate of its own.
OWN_UNIT = ("geometry", "magnitude", "exponent", "momentum_form", "order")
MATRIX_OPTIONS = (
    *OWN_UNIT,
    *("lr", "lr_scale", "momentum", "nesterov", "bias_correction", "weight_decay"),
    *("decay_per_step", "max_dual_norm", "method", "tol", "compute_dtype", "state_dtype"),
    *("approximation", "rounding", "rounding_seed", "maximize", "foreach"),
)
VECTOR_OPTIONS = ("lr", "lr_scale", "betas", "eps", "weight_decay", "maximize", "foreach")


@dataclass(frozen=True)
class Policy:
    """Which rule steps which role.

    Attributes:
        name: how it is called.
        entries: for each role that takes the matrix rule, ``{"rule": "matrix"}`` and the options of
            its group that differ from the optimizer's; a role without an entry takes AdamW.
        per_head: whether attention's projections are taken apart by heads where these are known.
    """

    name: str
    entries: Mapping[str, Entry]
    per_head: bool = False


OWN: Entry = {"rule": "matrix"}
HIDDEN: dict[str, Entry] = dict.fromkeys(
    (
        *("hidden matrix", "fused QKV", "attention heads", "gate/up", "down", "stacked experts"),
        *("expert gate/up", "expert down", "low-rank adapter", "convolution", "unknown matrix"),
    ),
    OWN,
)
# An average of gradients and its direction, whatever the optimizer itself does with its momentum.
EMA: Entry = {"momentum_form": "ema", "order": "momentum-first", "nesterov": False}
QDWH_MOMENTUM: Entry = {
    "rule": "matrix",
    **EMA,
    "geometry": {"name": "spectral"},
    "magnitude": "dual_norm",
    "method": "qdwh",
    "momentum": 0.5,
}


def _symmetric(geometry: Mapping[str, Any], magnitude: str, *, centred: bool = False) -> Entry:
    """An entry of the follow-up's map; it decays no role of these."""
    form = {"name": "centred", "inner": dict(geometry)} if centred else dict(geometry)
    return {
        "rule": "matrix",
        **EMA,
        "geometry": form,
        "magnitude": magnitude,
        "weight_decay": 0.0,
        "decay_per_step": 0.0,
    }


RIGHT = {"name": "spectral", "side": "right"}
LEFT = {"name": "spectral", "side": "left"}
ROWS = {"name": "largest_row"}
COLUMNS = {"name": "largest_column"}
ROW_THEN_POLAR = {"name": "row_then_polar", "side": "right"}
ROUTER = _symmetric(LEFT, "dual_norm", centred=True)

POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy("muon", HIDDEN),
        Policy("paper", HIDDEN),
        Policy(
            "paper-embedding",
            {**HIDDEN, **dict.fromkeys(("embedding", "head", "tied embedding"), QDWH_MOMENTUM)},
        ),
        Policy(
            "symmetry",
            {
                **HIDDEN,
                "expert gate/up": _symmetric(ROWS, "unit"),
                "expert down": _symmetric(COLUMNS, "unit"),
                "router": ROUTER,
                "embedding": _symmetric(RIGHT, "dual_norm"),
                "tied embedding": _symmetric(RIGHT, "dual_norm"),
                "head": _symmetric(ROW_THEN_POLAR, "dual_norm", centred=True),
            },
            per_head=True,
        ),
        Policy(
            "symmetry-runs",
            {
                **HIDDEN,
                "router": ROUTER,
                "embedding": _symmetric(ROWS, "unit"),
                "tied embedding": _symmetric(ROWS, "unit"),
                "head": _symmetric(ROWS, "unit", centred=True),
            },
            per_head=True,
        ),
    )
}


def named_policy(policy: str | Policy | Mapping[str, Entry], roles: Sequence[str]) -> Policy:
    """Return the policy of a name, or the user's own.

    Args:
        policy: a key of ``POLICIES``, a :class:`Policy`, or a mapping from roles to entries, which
            stands for Muon's policy with these entries changed.
        roles: the roles that there are.

    Raises:
        ValueError: for an unknown name, role or option.
        TypeError: for anything else.

    Example:
        >>> named_policy({"router": {"rule": "matrix"}}, ["router"]).entries["router"]
        {'rule': 'matrix'}
    """
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
        return POLICIES[policy]
    if isinstance(policy, Policy):
        chosen, entries = policy, policy.entries
    elif isinstance(policy, Mapping):
        entries = policy
        chosen = Policy("own", {**POLICIES["muon"].entries, **policy})
    else:
        raise TypeError(f"policy must be a name, a Policy or a mapping of roles, got {policy!r}")
    for role, entry in entries.items():
        if role not in roles:
            raise ValueError(f"policy: a role must be one of {', '.join(roles)}, got {role!r}")
        check_entry(f"policy: {role!r}", entry)
    return chosen


def check_entry(where: str, entry: Entry) -> None:
    """Raise ValueError unless the entry has a rule, and options that groups of that rule have."""
    rule = entry.get("rule")
    if rule not in RULES:
        raise ValueError(f"{where}: rule must be one of {', '.join(RULES)}, got {rule!r}")
    # An AdamW rule that a policy gives may be told options; which of them it is, is known later.
    allowed = {"rule", *MATRIX_OPTIONS, *VECTOR_OPTIONS}
    strange = sorted(entry.keys() - allowed)
    if strange:
        raise ValueError(
            f"{where}: options must be among {', '.join(sorted(allowed))}, got {', '.join(strange)}"
        )


def has_own_unit(options: Entry) -> bool:
    """Whether a group with these options is stepped in a unit that is not the optimizer's lr's."""
    return any(name in options for name in OWN_UNIT)
