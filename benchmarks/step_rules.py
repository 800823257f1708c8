"""Other rules for the size of a step, carried over to the spectral norm, for `found_steps*.py`.

A rule holds matrices and steps them with the gradients it is given: X ← X − s·U, with U the polar
factor of the gradient or of its momentum. What one has to be told is ``lr``, or the ``first`` size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import polargrad as pg

__all__ = [
    *("RULES", "Armijo", "BarzilaiBorwein", "DAdaptation", "DoG", "Mechanic", "OptMuon", "Polyak"),
    *("Prodigy", "Rule", "ScheduleFree", "ScheduleFreeUnit"),
]

Loss = Callable[[Sequence[Tensor]], float]


class Rule:
    """Matrices, their momentum, and the polar factors of it; what is missing is the size.

    Args:
        matrices: what is stepped, in place.
        number: lr, or the first size, as the rule reads it.
        momentum: of the gradients, with Nesterov's correction; 0 for none.
        tol: of the polar factors; None for converged.
    """

    def __init__(
        self,
        matrices: Sequence[Tensor],
        number: float,
        *,
        momentum: float = 0.0,
        tol: float | None = 0.11,
    ) -> None:
        self.matrices, self.number, self.momentum, self.tol = list(matrices), number, momentum, tol
        self.start = [X.clone() for X in self.matrices]
        self.averages = [torch.zeros_like(X) for X in self.matrices]

    def step(self, gradients: Sequence[Tensor], share: float, loss: Loss | None = None) -> None:
        """Step all matrices; ``share`` is the multiplier of a schedule."""
        directions, duals = [], []
        for M, G in zip(self.averages, gradients, strict=True):
            M.mul_(self.momentum).add_(G, alpha=1.0 - self.momentum)
            signal = self.momentum * M + (1.0 - self.momentum) * G
            factor = pg.polar(signal, tol=self.tol)
            directions.append(factor.U)
            duals.append(factor.nuclear_norm * G.norm() / signal.norm())
        sizes = self.sizes(gradients, directions, duals, loss)
        for X, U, size in zip(self.matrices, directions, sizes, strict=True):
            X.sub_(share * size * U)

    def sizes(
        self,
        gradients: Sequence[Tensor],
        directions: Sequence[Tensor],
        duals: Sequence[Tensor],
        loss: Loss | None,
    ) -> Sequence[Tensor | float]:
        """The size of the step of each matrix."""
        raise NotImplementedError

    def results(self) -> Sequence[Tensor]:
        """What a run ends with: the matrices, or an average of where they have been."""
        return self.matrices


class Polar(Rule):
    """PolarGrad itself: γ‖G‖_*."""

    def sizes(self, gradients, directions, duals, loss):
        return [self.number * dual for dual in duals]


class DoG(Rule):
    """The largest distance from the start by the root of the sum of squared directions.

    Source: M. Ivgi, O. Hinder, Y. Carmon (2023), arXiv 2302.12022, for gradients.
    """

    def __init__(self, matrices, number, **options):
        super().__init__(matrices, number, **options)
        self.farthest, self.total = [number] * len(self.matrices), [0.0] * len(self.matrices)

    def sizes(self, gradients, directions, duals, loss):
        for i, (X, start, U) in enumerate(zip(self.matrices, self.start, directions, strict=True)):
            self.farthest[i] = max(self.farthest[i], float((X - start).norm()))
            self.total[i] += float(U.square().sum())
        return [r / math.sqrt(t) for r, t in zip(self.farthest, self.total, strict=True)]


class Prodigy(Rule):
    """The lower bound of the distance to a solution that the gradients prove, of all matrices.

    The dual of the largest spectral norm is the sum of nuclear norms: gradients are divided by
    theirs, and the weighted sum of them is measured in it, at the price of a second polar factor.

    Source: A. Defazio, K. Mishchenko (2023), arXiv 2301.07733 and 2306.06101, for gradients.
    """

    MEMORY = math.sqrt(0.999)

    def weight(self) -> float:
        """What a gradient counts in both sums."""
        return (1.0 - self.MEMORY) * self.distance**2

    def __init__(self, matrices, number, **options):
        super().__init__(matrices, number, **options)
        self.distance, self.agreed = number, 0.0
        self.sums = [torch.zeros_like(X) for X in self.matrices]

    def sizes(self, gradients, directions, duals, loss):
        total = sum(float(dual) for dual in duals)
        weight, beta, moved = self.weight(), self.MEMORY, 0.0
        for X, start, G, held in zip(self.matrices, self.start, gradients, self.sums, strict=True):
            moved += float((G * (start - X)).sum()) / total
            held.mul_(beta).add_(G, alpha=weight / total)
        self.agreed = beta * self.agreed + weight * moved
        bound = sum(float(pg.polar(held, tol=self.tol).nuclear_norm) for held in self.sums)
        if bound > 0:
            self.distance = max(self.distance, self.agreed / bound)
        return [self.distance] * len(self.matrices)


class DAdaptation(Prodigy):
    """As Prodigy, with nothing forgotten and gradients counted by the distance, not its square.

    Source: A. Defazio, K. Mishchenko (2023), arXiv 2301.07733, for gradients: the bound by inner
    products.
    """

    MEMORY = 1.0

    def weight(self):
        return self.distance


class Mechanic(Rule):
    """All steps so far, scaled anew after each by wagers on whether they agree with the gradient.

    Source: A. Cutkosky, A. Defazio, H. Mehta (2023), arXiv 2306.00144, with its six memories and
    its decay, and with wagers of at most the largest gain so far; ``number`` is its s_init.
    """

    MEMORIES = tuple(1.0 - 0.1**k for k in range(1, 7))
    DECAY, EPS = 1e-2, 1e-8

    def __init__(self, matrices, number, **options):
        super().__init__(matrices, number, **options)
        count = len(self.MEMORIES)
        self.most, self.squares, self.gains = [0.0] * count, [0.0] * count, [0.0] * count
        self.scales = [number] * count
        self.moved = [torch.zeros_like(X) for X in self.matrices]

    def step(self, gradients, share, loss=None):
        places = [X.clone() for X in self.matrices]
        agreed = sum(float((G * D).sum()) for G, D in zip(gradients, self.moved, strict=True))
        size = math.sqrt(sum(float(G.square().sum()) for G in gradients))
        length = math.sqrt(sum(float(X.square().sum()) for X in places))
        inward = sum(float((X * D).sum()) for X, D in zip(places, self.moved, strict=True))
        agreed += self.DECAY * sum(self.scales) * size * inward / (length + self.EPS)
        super().step(gradients, share)  # by U, of which only the step is used
        for moved, X, place in zip(self.moved, self.matrices, places, strict=True):
            moved.add_(place - X)
        self._wager(agreed)
        for X, start, moved in zip(self.matrices, self.start, self.moved, strict=True):
            X.copy_(start - sum(self.scales) * moved)

    def sizes(self, gradients, directions, duals, loss):
        return [1.0] * len(self.matrices)

    def _wager(self, agreed: float) -> None:
        """Find the scales for what the last ones have won."""
        for i, beta in enumerate(self.MEMORIES):
            held = min(max(agreed, -self.most[i]), self.most[i])
            self.most[i] = max(beta * self.most[i], abs(agreed) + self.EPS)
            self.squares[i] = beta * beta * self.squares[i] + agreed * agreed
            self.gains[i] = beta * self.gains[i] + held * self.scales[i]
            wealth = self.number / len(self.MEMORIES) * self.most[i] + max(0.0, self.gains[i])
            self.scales[i] = wealth / (math.sqrt(self.squares[i]) + self.EPS)


class ScheduleFree(Polar):
    """PolarGrad at a constant rate from gradients beside the average of where it has been.

    Source: A. Defazio et al. (2024), arXiv 2405.15682, with β = 0.9, for gradients.
    """

    BETA = 0.9

    def __init__(self, matrices, number, **options):
        super().__init__(matrices, number, **options | {"momentum": 0.0})
        self.looked_at = self.matrices
        self.matrices = [X.clone() for X in self.looked_at]
        self.means = [X.clone() for X in self.looked_at]
        self.total = 0.0

    def step(self, gradients, share, loss=None):
        super().step(gradients, share)
        self.total += share * share
        for Y, Z, mean in zip(self.looked_at, self.matrices, self.means, strict=True):
            mean.lerp_(Z, share * share / self.total if share else 0.0)
            Y.copy_(torch.lerp(Z, mean, self.BETA))

    def results(self):
        return self.means


class ScheduleFreeUnit(ScheduleFree):
    """The same for steps of one size, as Muon's are."""

    def sizes(self, gradients, directions, duals, loss):
        return [self.number] * len(self.matrices)


class OptMuon(Rule):
    """AdaGrad-norm coefficients on polar directions, of each matrix.

    Source: arXiv 2606.08783, with q = 1/2; ``number`` is its θ.
    """

    def __init__(self, matrices, number, **options):
        super().__init__(matrices, number, **options | {"momentum": 0.0})
        self.held = [torch.zeros_like(X) for X in self.matrices]
        count = len(self.matrices)
        self.most, self.squares, self.weighted = [0.0] * count, [0.0] * count, [0.0] * count
        self.alpha, self.least = [1.0] * count, [1.0] * count

    def step(self, gradients, share, loss=None):
        for i, (X, G, M) in enumerate(zip(self.matrices, gradients, self.held, strict=True)):
            a = self.alpha[i]
            M.mul_(1.0 - a).add_(G)
            length = float(M.norm())
            self.weighted[i] += a * a * length * length
            gamma = min(a * a, a / math.sqrt(1.0 + self.weighted[i]))
            X.sub_(share * self.number * gamma * length * pg.polar(M, tol=self.tol).U)
            square = float(G.square().sum())
            self.most[i], self.squares[i] = max(self.most[i], square), self.squares[i] + square
            self.least[i] = min(
                self.least[i], math.sqrt((1.0 + self.most[i]) / (1.0 + self.squares[i]))
            )
            self.alpha[i] = self.least[i]


class Polyak(Rule):
    """(f − f*)/‖G‖_*, the sum of dual norms; f* = 0 and the loss must be known."""

    def sizes(self, gradients, directions, duals, loss):
        size = self.number * loss(self.matrices) / sum(float(dual) for dual in duals)
        return [size] * len(self.matrices)


class BarzilaiBorwein(Rule):
    """γ‖G‖_* with γ = ‖ΔX‖²/⟨ΔX, ΔG⟩ in the spectral norm, of each matrix; the first is given."""

    def __init__(self, matrices, number, **options):
        super().__init__(matrices, number, **options)
        self.before: list[tuple[Tensor, Tensor]] = []
        self.gammas: list[float] = []

    def sizes(self, gradients, directions, duals, loss):
        if not self.before:
            self.gammas = [self.number / float(dual) for dual in duals]
        else:
            for i, (X, G) in enumerate(zip(self.matrices, gradients, strict=True)):
                moved, turned = X - self.before[i][0], G - self.before[i][1]
                curvature = float((moved * turned).sum())
                if curvature > 0:
                    self.gammas[i] = float(torch.linalg.matrix_norm(moved, 2)) ** 2 / curvature
        self.before = [
            (X.clone(), G.clone()) for X, G in zip(self.matrices, gradients, strict=True)
        ]
        return [gamma * float(dual) for gamma, dual in zip(self.gammas, duals, strict=True)]


class Armijo(Rule):
    """Doubled, then halved until the loss falls by a third of what the slope promises."""

    SHARE = 1.0 / 3.0

    def sizes(self, gradients, directions, duals, loss):
        value, slope = loss(self.matrices), sum(float(dual) for dual in duals)
        self.number *= 2.0
        for _ in range(60):
            trial = [X - self.number * U for X, U in zip(self.matrices, directions, strict=True)]
            if loss(trial) <= value - self.SHARE * self.number * slope:
                break
            self.number /= 2.0
        return [self.number] * len(self.matrices)


RULES: dict[str, type[Rule]] = {
    "PolarGrad, lr": Polar,
    "DoG": DoG,
    "Prodigy": Prodigy,
    "D-adaptation": DAdaptation,
    "Mechanic": Mechanic,
    "schedule-free, lr": ScheduleFree,
    "schedule-free Muon": ScheduleFreeUnit,
    "OptMuon, θ": OptMuon,
    "Polyak, factor": Polyak,
    "Barzilai–Borwein": BarzilaiBorwein,
    "Armijo": Armijo,
}
