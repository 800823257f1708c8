r"""Schedules: the factor of all learning rates at every step of a run.

Each is a pure function of the number k of updates before this one and the number n of all of them.
The first w updates are the warmup, in which the rate grows in equal parts,

.. math:: f(k) = (k + 1)/w, \qquad k < w,

so that the last of them has the whole rate. A decay reaches zero at k = n, the update after the
last. Where the warmup and the decay of a short run overlap, the smaller factor is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

# Ours: what every run had before there was a choice.
WARMUP_STEPS = 20
LINEAR_SHARE = 0.4
# Hägele et al. (2024), section 4: longer decays gain little.
WSD_SHARE = 0.1


def constant(step: int, steps: int, *, warmup: int = WARMUP_STEPS) -> float:
    r"""Return the factor of a constant rate after a warmup.

    .. math:: f(k) = \min\{1,\; (k + 1)/w\}

    Example:
        >>> [constant(step, 100) for step in (0, 9, 19, 99)]
        [0.05, 0.5, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def linear(
    step: int, steps: int, *, warmup: int = WARMUP_STEPS, share: float = LINEAR_SHARE
) -> float:
    r"""Return the factor of a rate that is constant, then falls to zero on a line.

    .. math:: f(k) = \min\{1,\; (k + 1)/w,\; (n - k)/(d\,n)\}

    Args:
        step: k.
        steps: n.
        warmup: w.
        share: d, the share of the steps in which the rate falls.

    Example:
        >>> [round(linear(step, 100), 3) for step in (0, 19, 60, 61, 99)]
        [0.05, 1.0, 1.0, 0.975, 0.025]
    """
    return min(constant(step, steps, warmup=warmup), max(0, steps - step) / (share * steps))


def cosine(step: int, steps: int, *, warmup: int = WARMUP_STEPS) -> float:
    r"""Return the factor of a rate that falls to zero on half a wave of the cosine.

    .. math:: f(k) = \tfrac12 + \tfrac12\cos\Bigl(\pi\,\frac{k - w}{n - w}\Bigr), \qquad k \ge w

    A run of no more than w steps is all warmup.

    Example:
        >>> [round(cosine(step, 100), 3) for step in (0, 19, 20, 60, 99)]
        [0.05, 1.0, 1.0, 0.5, 0.0]

    Source: I. Loshchilov and F. Hutter, *SGDR: stochastic gradient descent with warm restarts*
    (2017), equation 5, without restarts.
    """
    if step < warmup:
        return constant(step, steps, warmup=warmup)
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 0.5 + 0.5 * math.cos(math.pi * done)


def wsd(step: int, steps: int, *, warmup: int = WARMUP_STEPS, share: float = WSD_SHARE) -> float:
    r"""Return the factor of warmup, stable, decay: late, the rate falls as one minus a root.

    .. math:: f(k) = \min\{1,\; (k + 1)/w,\; 1 - \sqrt t\},
              \qquad t = \max\Bigl\{0,\; 1 - \frac{n - k}{d\,n}\Bigr\}

    Args:
        step: k.
        steps: n.
        warmup: w.
        share: d, the share of the steps in which the rate falls.

    Example:
        >>> [round(wsd(step, 1000), 3) for step in (0, 19, 900, 901, 925, 1000)]
        [0.05, 1.0, 1.0, 0.9, 0.5, 0.0]

    Source: S. Hu et al., *MiniCPM* (arXiv 2404.06395), section 4, for the three stages; A. Hägele
    et al., *Scaling laws and compute-optimal training beyond fixed training durations* (arXiv
    2405.18392), section 4, for the form 1 − √t.
    """
    done = max(0.0, 1.0 - max(0, steps - step) / (share * steps))
    return min(constant(step, steps, warmup=warmup), 1.0 - math.sqrt(done))


SCHEDULES: dict[str, Callable[..., float]] = {
    "linear": linear,
    "cosine": cosine,
    "wsd": wsd,
    "constant": constant,
}
# Those whose decay has a length of its own, and the one it has by default.
DECAY_SHARES = {"linear": LINEAR_SHARE, "wsd": WSD_SHARE}


def schedule_of(
    name: str, steps: int, *, warmup: int = WARMUP_STEPS, share: float | None = None
) -> Callable[[int], float]:
    """Return the schedule ``name`` as a function of the step alone.

    Args:
        name: a key of :data:`SCHEDULES`.
        steps: of the whole run.
        warmup: steps of the warmup, 0 for none.
        share: the share of the steps in which the rate falls, of the schedules in
            :data:`DECAY_SHARES`; None takes the one there.

    Raises:
        ValueError: if an argument is not allowed.

    Example:
        >>> schedule_of("wsd", 100, warmup=0, share=0.5)(50)
        1.0
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}: choose from {', '.join(SCHEDULES)}")
    if warmup < 0:
        raise ValueError(f"warmup must be at least 0, got {warmup}")
    function = SCHEDULES[name]
    if name not in DECAY_SHARES:
        if share is not None:
            raise ValueError(
                f"decay_share is of the schedules {' and '.join(DECAY_SHARES)}; {name} has none, "
                f"got {share}"
            )
        return lambda step: function(step, steps, warmup=warmup)
    part = DECAY_SHARES[name] if share is None else share
    if not 0 < part <= 1:
        raise ValueError(f"decay_share must be above 0 and at most 1, got {part}")
    return lambda step: function(step, steps, warmup=warmup, share=part)


def build_schedule(
    optimizer: torch.optim.Optimizer, factor: Callable[[int], float]
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the scheduler that applies a schedule to the learning rates of all groups alike."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
