"""What the singular values of a completed table pay: from the nuclear norm to a log-determinant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polargrad.estimators.observations import Values

__all__ = ["Shrinkage"]


@dataclass(frozen=True)
class Shrinkage:
    r"""A penalty on singular values that spares the large ones.

    .. math:: \Phi(Z) = \lambda \sum_k \epsilon \log(1 + \sigma_k(Z)/\epsilon),
              \qquad \epsilon = \lambda / c

    For c → 0 this is λ‖Z‖_*, soft-impute's penalty, which takes λ from every singular value, large
    ones too. For c > 0 the price of a further unit falls with σ, as λ / (1 + cσ/λ); up to c = 1 the
    proximal map stays continuous. In two factors it is a ridge that is reweighted:

    .. math:: \Phi(X Y^{\mathsf T}) = \min_{X' Y'^{\mathsf T} = X Y^{\mathsf T}}
              \tfrac{\lambda\epsilon}2 \bigl[\log\det(I + X'^{\mathsf T} X'/\epsilon)
              + \log\det(I + Y'^{\mathsf T} Y'/\epsilon)\bigr]

    which is attained where XᵀX = YᵀY = diag(σ) (by Horn's log-majorisation of σ(XYᵀ) by
    σ(X)σ(Y), and (1 + ab)² ≤ (1 + a²)(1 + b²)). The log-determinant is concave in XᵀX, so the ridge
    ½ Σ λ_k ‖x_k‖², λ_k = λ/(1 + cσ_k/λ), lies above it and touches it there: a step that does not
    raise the ridge objective does not raise this one.

    Args:
        strength: λ, above 0, in the unit of a singular value of the table.
        concavity: c, at least 0 and below 1.

    Example:
        >>> Shrinkage(2.0, 0.0).ridge(np.array([0.0, 10.0]))
        array([2., 2.])
        >>> Shrinkage(2.0, 0.2).ridge(np.array([0.0, 10.0]))
        array([2., 1.])

    Source: Mazumder, Hastie and Tibshirani, JMLR 11 (2010) 2287, for c = 0; Fazel, Hindi and Boyd,
    ACC 2003, for the log-determinant; Srebro, Rennie and Jaakkola, NIPS 2004, for the factors.
    """

    strength: float
    concavity: float

    def ridge(self, sizes: Values) -> Values:
        """Return λ_k, the ridge of each component whose singular value is given."""
        weights: Values = self.strength / (1 + sizes * (self.concavity / self.strength))
        return weights

    def penalty(self, sizes: Values) -> float:
        """Return Φ of a matrix with these singular values."""
        sizes = sizes.astype(np.float64)
        if self.concavity == 0:
            return self.strength * float(sizes.sum())
        scale = self.strength / self.concavity
        return self.strength * scale * float(np.log1p(sizes / scale).sum())

    def shrunk(self, sizes: Values) -> Values:
        r"""Return argmin_x ½(x - σ)² + φ(x), x ≥ 0: the larger root of (x + ε)(x - σ) + λε = 0."""
        above: Values = np.maximum(sizes - self.strength, 0)
        if self.concavity == 0:
            return above
        scale = self.strength / self.concavity
        root = np.sqrt(np.maximum((sizes + scale) ** 2 - 4 * self.strength * scale, 0))
        larger: Values = np.where(above > 0, (sizes - scale + root) / 2, 0).astype(sizes.dtype)
        return larger
