r"""The step sizes that a run finds: what a look at the gradients says of them, as pure functions.

The derivative of the objective with respect to the size of the last step is −⟨G, D⟩, with G the
gradient after it and D its direction. Its sign is what matters, and how far it can be trusted; its
own root mean square takes the unit away, and all matrices of a group vote. Where directions are
averages of polar factors, they say it themselves: they turn less than averages of independent ones
while all go on, and more once all go back and forth.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    *("COLUMNS", "FALLS", "LARGEST", "OWN_WEIGHT", "RATE", "chance_cosine", "cosine", "followed"),
    "slope",
]

# What a matrix keeps: two averages of its own, and what its group knows, the same for all of it.
COLUMNS = ("weight", "square", "group weight", "group square", "trend weight", "trend")
# One more where falls are counted, which a group knows too.
FALLS = "falls"
OWN_WEIGHT, GROUP_WEIGHT = COLUMNS.index("weight"), COLUMNS.index("group weight")

# docs/step_size.md has what other values do.
RATE = 0.1
# While it is sure a size doubles. Nothing is halved: a step that goes too far along some directions
# may still be short along others, and they would be left behind (6.1, first step 10: a gap of 4).
SURE_RATE = math.log(2.0)
SURE_POWER = 2
# How much faster a size falls than it grows. At 1 a step that overshoots by as much as the one
# before fell short stays as it is, and the iterates go back and forth: on |X|²/2 from a size of
# 100 for good. At 1.1 no problem of the tests stalls, and noise costs no more.
FALL = 1.1
# The part of the rate by which a matrix goes its own way: what one alone says is mostly noise.
OWN = 0.1
# The memory of a root mean square, and of the trend.
MEMORY, TREND_MEMORY = 0.95, 0.8
# Falls are remembered over some 100 looks; after so many growing is half as fast. Where noise is
# all that moves, growing and falling would hold each other at a size at which stiff directions only
# go back and forth. With a longer memory a sudden change of the data is answered too slowly.
FALL_MEMORY, PATIENCE = 0.99, 3.0
# Where averages of directions have a singular value above this, all but a tenth of the last polar
# factors had a direction in common: it is still on its way, and no size falls.
STEADY = 0.8
# A size stays a number whatever the objective does: one without a minimum doubles it for ever.
LARGEST = 1e30


def slope(inner: Tensor, sizes: Tensor) -> Tensor:
    r"""Return how far gradients agree with the last directions, one number a matrix.

    .. math:: c = \frac{\langle G, D\rangle}{\|G\|_F}

    0/0 is 0. ‖G‖_* in the place of ‖G‖_F would take a direction of G, and only the course of c
    counts: :func:`followed` divides it by its root mean square, which takes out ‖D‖_F too, since
    unit directions hardly vary in length.

    Args:
        inner: ⟨G, D⟩, (B,).
        sizes: ‖G‖_F, (B,).

    Returns:
        c, float32, (B,).

    Example:
        >>> slope(torch.tensor([-2.0, 3.0, 0.0]), torch.tensor([2.0, 6.0, 0.0]))
        tensor([-1.0000,  0.5000,  0.0000])
    """
    return (inner / sizes).nan_to_num(0.0, 0.0, 0.0).float()


def cosine(inner: Tensor, sizes: Tensor, lengths: Tensor) -> Tensor:
    r"""Return how far matrices agree, one number a pair.

    .. math:: c = \frac{\langle X, Y\rangle}{\|X\|_F\,\|Y\|_F} \in [-1, 1]

    0/0 is 0.

    Args:
        inner: ⟨X, Y⟩, (B,).
        sizes, lengths: ‖X‖_F and ‖Y‖_F, (B,).

    Returns:
        c, float32, (B,).

    Example:
        >>> cosine(torch.tensor([-2.0, 3.0, 0.0]), torch.tensor([2.0, 3.0, 0.0]), torch.ones(3))
        tensor([-1.,  1.,  0.])
    """
    return ((inner / sizes) / lengths).nan_to_num(0.0, 0.0, 0.0).clamp(-1.0, 1.0).float()


def chance_cosine(momentum: float | Tensor, share: float | Tensor = 0.0) -> float | Tensor:
    r"""Return the cosine of successive averages whose terms are independent, of mean zero.

    .. math::
       D_k = (1-a) M_k + a\,U_k = \sum_j w_j U_{k-j}, \qquad
       c_0 = \frac{\sum_j w_j w_{j+1}}{\sum_j w_j^2}
           = \frac{w_0 w_1 + \beta w_1^2/(1-\beta^2)}{w_0^2 + w_1^2/(1-\beta^2)}

    with M ← βM + (1 − β)U, w₀ = (1 − a)(1 − β) + a and w₁ = (1 − a)(1 − β)β, after many steps.

    Args:
        momentum: β in [0, 1).
        share: a in [0, 1): 0 for M itself, 1 − β for Nesterov's.

    Returns:
        c₀ in [0, 1).

    Example:
        >>> chance_cosine(0.9), round(chance_cosine(0.9, 0.1), 3)
        (0.9, 0.658)

    Source: N. Hansen and A. Ostermeier, *Completely derandomized self-adaptation in evolution
    strategies* (2001), for the comparison with independent steps.
    """
    past = (1.0 - share) * (1.0 - momentum)
    newest, before = past + share, past * momentum
    tail = before**2 / (1.0 - momentum**2)
    return (newest * before + momentum * tail) / (newest**2 + tail)


def followed(
    sizes: Tensor,
    evidence: Tensor,
    cosines: Tensor,
    reach: Tensor,
    rate: float,
    share: Tensor | float = 1.0,
    slopes: Tensor | None = None,
    norms: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Return the step sizes of a group of matrices, and their evidence, after another look.

    .. math::
       x_i = \frac{c_i}{\operatorname{rms}(c_i)}, \quad
       \bar x = \frac1N \sum_i x_i, \quad z = \frac{\bar x}{\operatorname{rms}(\bar x)}, \quad
       m = \operatorname{avg}(z), \qquad
       s_i \leftarrow s_i \exp\bigl(u + \tfrac{\eta}{10} (x_i - \bar x)\bigr)

    .. math::
       u = \begin{cases}
         (\eta + (\log 2 - \eta)\, m_+^2)\, z & z > 0 \\
         1.1\,\eta\, \bar x & z < 0
       \end{cases}

    x, z in [−1, 1]; the averages are exponential, over some 20 and 5 looks, and of the looks that
    there were. A step that a schedule holds back to the share f of its size says less of how far
    one could go: what makes a size grow counts f². From its reach on a size grows at the rate η
    alone. Where falls are counted, growing is slower by the factor 1/(1 + n/3), with n the sum of
    all falls :math:`-\bar x` over some 100 looks (Kesten's rule). Together no size grows while the
    sum of the slopes is negative, and none falls while the mean of the norms is above 0.8.

    Args:
        sizes: s, float32, (N,).
        evidence: what earlier calls returned, zeros to begin with, float32, (N, 6), or (N, 7) where
            falls are counted.
        cosines: c of :func:`slope` or :func:`cosine`, (N,); where one is 0 the matrix has no vote.
        reach: up to which sizes may double, (N,).
        rate: η.
        share: f in [0, 1].
        slopes: c of the gradients, (N,), where the cosines are those of directions.
        norms: ‖D‖₂ of the last directions, (N,), likewise.

    Returns:
        s and the evidence.

    Example:
        >>> sizes, evidence = torch.ones(1), torch.zeros(1, len(COLUMNS))
        >>> for c in (0.5, 0.5, -0.5):
        ...     sizes, evidence = followed(sizes, evidence, torch.tensor([c]), sizes + 9, 0.1)
        >>> sizes  # 2 · 2 · exp(-0.11)
        tensor([3.5833])

    Source: A. G. Baydin et al., *Online learning rate adaptation with hypergradient descent*
    (2018), for the derivative; H. Kesten, *Accelerated stochastic approximation* (1958), for what
    counts falls; the vote, its scale and the asymmetry are of this package.
    """
    seen = cosines != 0
    own = _averaged(evidence[:, 0], evidence[:, 1], cosines.square(), MEMORY, seen)
    x = _scaled(cosines, *own)
    mean = torch.where(seen, x, 0.0).sum() / seen.sum().clamp(min=1)
    # All know the same, but for one whose gradient was missing for some time.
    best = evidence.index_select(0, evidence[:, GROUP_WEIGHT].argmax().view(1))[0]
    weight, square, trend_weight, trend, *falls = best[GROUP_WEIGHT:].unbind(0)
    looked = mean != 0
    weight, square = _averaged(weight, square, mean.square(), MEMORY, looked)
    z = _scaled(mean, weight, square)
    trend_weight, trend = _averaged(trend_weight, trend, z, TREND_MEMORY, looked)
    sure = (trend / trend_weight.clamp(min=1e-30) * z.sign()).clamp(0.0, 1.0)

    quick = torch.where(sizes < reach, (SURE_RATE - rate) * sure**SURE_POWER, 0.0)
    growing = (rate + quick) * z
    if falls:
        more = FALL_MEMORY * falls[0] - mean.clamp(max=0.0)
        falls = [torch.where(looked, more, falls[0])]
        growing = growing / (1.0 + falls[0] / PATIENCE)
    if slopes is not None:
        growing = torch.where(slopes.sum() < 0, 0.0, growing)
    held = share * share
    common = torch.where(z > 0, held * growing, FALL * rate * mean)
    if norms is not None:
        longest = torch.where(seen, norms, 0.0).sum() / seen.sum().clamp(min=1)
        common = torch.where(longest > STEADY, common.clamp(min=0.0), common)
    apart = OWN * rate * held * torch.where(seen, x - mean, 0.0)
    known = torch.stack([weight, square, trend_weight, trend, *falls])
    after = torch.cat([torch.stack(own, dim=1), known.expand(len(sizes), -1)], dim=1)
    return (sizes * torch.exp(common + apart)).clamp(max=LARGEST), after


def _averaged(
    weight: Tensor, total: Tensor, value: Tensor, memory: float, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """An exponential average as its weight and its total, after a value where one was seen."""
    weight = torch.where(seen, memory * weight + (1.0 - memory), weight)
    return weight, torch.where(seen, memory * total + (1.0 - memory) * value, total)


def _scaled(value: Tensor, weight: Tensor, square: Tensor) -> Tensor:
    """A value by its root mean square, in [-1, 1]; 0/0 is 0."""
    typical = (square / weight.clamp(min=1e-30)).sqrt()
    return (value / typical).nan_to_num(0.0, 0.0, 0.0).clamp(-1.0, 1.0)
