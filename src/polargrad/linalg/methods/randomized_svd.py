"""Randomized SVD: the leading part of the polar factor, from products with a thin matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.linalg.methods.outcome import Factor, Promise, Work
from polargrad.linalg.methods.svd import SVD
from polargrad.linalg.precision import rank_cutoff


@dataclass(frozen=True)
class RandomizedSVD:
    r"""The partial isometry of the leading k singular directions, by a random range finder.

    .. math:: Y = (A A^{\mathsf H})^q A\,\Omega, \quad Q = \operatorname{orth}(Y), \quad
              Q^{\mathsf H}A = W\Sigma V^{\mathsf H}, \qquad
              U = Q\,W_k V_k^{\mathsf H}

    with a Gaussian :math:`\Omega` of k + p columns; products with A and its transpose alternate
    with a QR, so that small directions are not lost in the power. U has k singular values 1 and the
    others 0: the oracle of stochastic spectral descent. It is not the polar factor unless A has
    rank at most k, and not even defined where :math:`\sigma_k = \sigma_{k+1}`.

    Use it where the spectrum decays and a few directions are wanted of a large matrix. The subspace
    is wrong by an angle of about

    .. math:: \left(\frac{\sigma_{k+p+1}}{\sigma_k}\right)^{2q+1} \sqrt{\frac{n}{p}},

    so without decay the directions are those of a random projection; for k near n an SVD is both
    cheaper and exact, and from k ≥ n on it is what is computed. Directions that are zero to
    rounding (as in :class:`SVD`) stay zero.

    Cost: 4 (q + 1) m n l + 4 (q + 1) (m + n) l² flops, l = min(k + p, n).

    Args:
        rank: k, at least 1.
        oversampling: p, at least 0: columns beyond k.
        power_iterations: q, at least 0.
        seed: of the Gaussian matrix, which is drawn anew on the device of A by every call: the same
            result every time on one kind of device, another one on another kind. All matrices of a
            stack share it.

    Raises:
        TypeError: for a rank, oversampling, number of iterations or seed that is not an int.
        ValueError: for a rank below 1, or one of the others below 0.

    Example:
        >>> x = torch.diag(torch.tensor([-0.9, 0.6, 0.3]))
        >>> RandomizedSVD(rank=2)(x).U.round(decimals=4).diagonal()
        tensor([-1.,  1.,  0.])

    Source: N. Halko, P. G. Martinsson, J. A. Tropp, *SIAM Review* 53 (2011), algorithms 4.4, 5.1
    and section 10; D. Carlson et al., *Stochastic spectral descent*, AISTATS (2015).
    """

    rank: int
    oversampling: int = 8
    power_iterations: int = 2
    seed: int = 0

    name: ClassVar[str] = "randomized_svd"
    products_only: ClassVar[bool] = False
    scale_free: ClassVar[bool] = True
    converged: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        lowest = {"rank": 1, "oversampling": 0, "power_iterations": 0, "seed": 0}
        for option, least in lowest.items():
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{option} must be an int, got {value!r}")
            if value < least:
                raise ValueError(f"{option} must be at least {least}, got {value}")

    def work(self, rows: int, columns: int, dtype: torch.dtype, condition: float) -> Work:
        """See :class:`Work`; the same for every condition number."""
        if self.rank >= columns:
            return SVD().work(rows, columns, dtype, condition)
        passes = 2 * self.power_iterations
        return Work(products=4 + passes, factorizations=2 + passes)

    def __call__(self, x: Tensor) -> Factor:
        """Return the factor of a tall stack ``x`` (..., m, n) with finite entries."""
        columns = x.shape[-1]
        if self.rank >= columns:
            return SVD()(x)
        basis = self._range(x)
        w, sigma, vh = torch.linalg.svd(basis.mH @ x, full_matrices=False)
        w, leading, vh = w[..., : self.rank], sigma[..., : self.rank], vh[..., : self.rank, :]
        kept = leading > rank_cutoff(columns, sigma.dtype) * sigma[..., :1]
        return Factor(basis @ (w * kept.unsqueeze(-2)) @ vh, rank=kept.sum(dim=-1))

    def promise(self, rows: int, columns: int, dtype: torch.dtype) -> Promise:
        """Return what every result keeps: that of an SVD for k ≥ n, and nothing about 1 below.

        Direction k + 1 is left at 0 however large its singular value is.
        """
        if self.rank >= columns:
            rounding = 10.0 * columns * torch.finfo(dtype).eps
            return Promise(rounding, rank_cutoff(columns, dtype), residual=3.0 * rounding)
        return Promise(deviation=1.0, down_to=1.0)

    def _range(self, x: Tensor) -> Tensor:
        """Return orthonormal columns, (..., m, l), that span most of the leading range of x."""
        columns = x.shape[-1]
        generator = torch.Generator(device=x.device).manual_seed(self.seed)
        sketch = torch.randn(
            columns,
            min(self.rank + self.oversampling, columns),
            dtype=x.dtype,
            device=x.device,
            generator=generator,
        )
        basis: Tensor = torch.linalg.qr(x @ sketch).Q
        for _ in range(self.power_iterations):
            basis = torch.linalg.qr(x @ torch.linalg.qr(x.mH @ basis).Q).Q
        return basis
