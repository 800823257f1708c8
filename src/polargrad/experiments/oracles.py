"""What computes the polar factor in the runs of the paper, and the options they share."""

from __future__ import annotations

from typing import Any

from polargrad.linalg import QDWH, NewtonSchulz, Zolotarev
from polargrad.linalg.methods import plain

# published: two steps of QDWH, which has not converged; exact: to rounding; tolerance: the
# cheapest method at training accuracy, the optimizers' default.
ORACLES = ("published", "exact", "tolerance")
TRAINING_TOLERANCE = 0.11

# Muon of the published experiments (muon.py, Muon_polar): an average as momentum, Nesterov, and
# neither a factor of the shape nor weight decay.
_MUON = {"magnitude": "unit", "momentum": 0.95, "nesterov": True}


def oracle_options(oracle: str, *, steps: int = 2) -> dict[str, Any]:
    """Return the options of an optimizer for an oracle.

    Args:
        oracle: one of :data:`ORACLES`.
        steps: of the published QDWH.

    Raises:
        ValueError: if the oracle is unknown.

    Example:
        >>> oracle_options("exact")
        {'method': 'auto', 'tol': None}
    """
    if oracle not in ORACLES:
        raise ValueError(f"oracle must be one of {', '.join(ORACLES)}, got {oracle!r}")
    if oracle == "published":
        return {"method": plain(QDWH.reference(steps))}
    return {"method": "auto", "tol": None if oracle == "exact" else TRAINING_TOLERANCE}


def polargrad_options(
    oracle: str, momentum: float = 0.0, order: str = "momentum-first"
) -> dict[str, Any]:
    """Return the options of PolarGrad: without momentum, or in one of its two orders."""
    return {"momentum": momentum, "order": order, **oracle_options(oracle)}


def muon_options(oracle: str, *, steps: int = 2) -> dict[str, Any]:
    """Return the options of the Muon that the published experiments compare with."""
    return {**_MUON, **oracle_options(oracle, steps=steps)}


# The published Newton–Schulz runs in bfloat16; here it runs in float32.
MUON_NEWTON_SCHULZ: dict[str, Any] = {**_MUON, "method": plain(NewtonSchulz())}
MUON_ZOLOTAREV: dict[str, Any] = {**_MUON, "method": plain(Zolotarev())}
POLARGRAD_ZOLOTAREV: dict[str, Any] = {"momentum": 0.0, "method": plain(Zolotarev())}
