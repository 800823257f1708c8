"""The two losses of a logistic regression: binary entries, and rows of one class in several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import expit, logsumexp, softmax

from polargrad.estimators.validation import Array, Mask, Rows

__all__ = ["BinaryLoss", "CategoricalLoss", "Loss"]


class Loss(ABC):
    """A convex loss of the logits Z, n × q, with its derivative and a bound of its curvature."""

    curvature: ClassVar[float]  # the second derivative along D is at most curvature · ‖Ω ∘ D‖²

    @property
    @abstractmethod
    def observed(self) -> Mask:
        """Ω, n × q: the entries that the loss depends on."""

    @abstractmethod
    def value(self, Z: Array) -> float:
        """The sum of the losses."""

    @abstractmethod
    def residual(self, Z: Array) -> Array:
        """The derivative with respect to Z, n × q, zero where nothing is observed."""

    @abstractmethod
    def of_rows(self, rows: Rows) -> Loss:
        """The loss of these rows alone."""

    @property
    def size(self) -> int:
        """How many binary labels, or rows of one class, were observed."""
        return int(self.observed.sum())


@dataclass(frozen=True)
class BinaryLoss(Loss):
    r"""Independent binary labels.

    .. math:: \sum_{C_{ij} \ne 0} \log(1 + e^{-C_{ij} Z_{ij}}), \qquad
              \frac{\partial}{\partial Z_{ij}} = -C_{ij}\,\sigma(-C_{ij} Z_{ij})

    Its second derivative σ(1 - σ) is at most ¼.

    Args:
        signs: C, n × q: 1, -1, and 0 where the label is not known.
    """

    signs: Array
    curvature: ClassVar[float] = 0.25

    @property
    def observed(self) -> Mask:
        known: Mask = self.signs != 0
        return known

    def value(self, Z: Array) -> float:
        return float(np.logaddexp(0.0, -self.signs * Z).sum(where=self.observed))

    def residual(self, Z: Array) -> Array:
        derivative: Array = -self.signs * expit(-self.signs * Z)
        return derivative

    def of_rows(self, rows: Rows) -> BinaryLoss:
        return BinaryLoss(self.signs[rows])


@dataclass(frozen=True)
class CategoricalLoss(Loss):
    r"""One class of several a row, with softmax probabilities.

    .. math:: \sum_i \Bigl(\log\sum_j e^{Z_{ij}} - Z_{i, y_i}\Bigr), \qquad
              \frac{\partial}{\partial Z} = \operatorname{softmax}(Z) - E

    Its Hessian for a row, diag(p) - ppᵀ, has no eigenvalue above ½.

    Args:
        indicator: E, n × q, with a 1 in the column of the row's class, else 0.
    """

    indicator: Array
    curvature: ClassVar[float] = 0.5

    @property
    def observed(self) -> Mask:
        return np.ones(self.indicator.shape, dtype=bool)

    @property
    def size(self) -> int:
        return len(self.indicator)

    def value(self, Z: Array) -> float:
        return float(logsumexp(Z, axis=1).sum() - np.vdot(self.indicator, Z))

    def residual(self, Z: Array) -> Array:
        derivative: Array = softmax(Z, axis=1) - self.indicator
        return derivative

    def of_rows(self, rows: Rows) -> CategoricalLoss:
        return CategoricalLoss(self.indicator[rows])
