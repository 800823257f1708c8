"""A diagonal preconditioner in rotated coordinates: SOAP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.geometry.base import State, divided, over_power_of_two
from polargrad.geometry.checks import check_count, check_flag, check_number
from polargrad.geometry.diagonal import root_mean_square
from polargrad.geometry.preconditioner import Preconditioner, square_stack
from polargrad.linalg.precision import double_dtype, working_dtype
from polargrad.linalg.roots import hermitian_eigen
from polargrad.linalg.scaling import times_power_of_two

__all__ = ["RotatedDiagonal"]


@dataclass(frozen=True)
class RotatedDiagonal(Preconditioner):
    r"""The norm of SOAP: Adam's second moment in the eigenbases of Shampoo's factors.

    .. math::
       \begin{aligned}
         V &\leftarrow \beta_2 V + (1 - \beta_2)\,(Q_L^{\mathsf T} G Q_R)^{\circ 2} \\
         L &\leftarrow \beta L + (1 - \beta)\,GG^{\mathsf T}, \qquad
         R \leftarrow \beta R + (1 - \beta)\,G^{\mathsf T}G \\
         P^{-1}S &= Q_L \left[\frac{Q_L^{\mathsf T} S Q_R}{\sqrt{V/(1 - \beta_2^t)} + \varepsilon}
                    \right] Q_R^{\mathsf T}
       \end{aligned}

    The first gradient gives L, R and their eigenvectors :math:`Q_L, Q_R` and nothing else: it is
    not measured in its own basis, where it is diagonal, and the direction is zero until the
    second. After every ``refresh`` gradients that were measured, one step of power iteration and a
    QR factorization, :math:`Q_L \leftarrow \operatorname{qr}(L Q_L)`, with the columns and the
    entries of V sorted by :math:`\operatorname{diag}(Q_L^{\mathsf T} L Q_L)`, brings the bases up
    to date. That happens when the next gradient comes, so that no gradient is measured in a basis
    that has seen it. The vectors of a basis in which a factor is still zero are arbitrary, and
    rounding decides on them.

    ε has the unit of a gradient, as for :class:`polargrad.geometry.Diagonal`: for gradients far
    above it, it is lost in rounding; far below it, the step is S/ε, in any basis.

    Cost: 2 m n (m + n) flops for a rotation of the gradient and for two of the signal, in the dtype
    of the bases, and for L and R, in float64, as a refresh, 3 (m³ + n³). The number of gradients is
    looked at on the host by each accumulation, since different matrices of a stack may be due: free
    on a CPU, one synchronization on a GPU.

    State: ``left`` (B, m, m), ``right`` (B, n, n) and ``second_moment`` (B, m, n), float64;
    ``left_basis`` (B, m, m) and ``right_basis`` (B, n, n) in at least float32; ``count`` (B,),
    int64. With float32 bases 12 (m² + n²) + 8 m n bytes a matrix. The whole range of float32
    gradients has its squares and products in it. Real matrices.

    Args:
        beta: β of the factors in [0, 1).
        beta2: β₂ of the second moment in [0, 1).
        eps: ε, at least 0.
        refresh: how many gradients share a basis, at least 1.
        bias_correction: divide V by :math:`1 - \beta_2^t`, t one less than the gradients so far.

    Raises:
        ValueError: for a number outside its range.
        TypeError: for an option of another type.

    Example:
        >>> soap = RotatedDiagonal(eps=0.0)
        >>> G = torch.tensor([[[3.0, 0.0], [0.0, 2.0]]])
        >>> state = soap.accumulate(soap.start(G), G)
        >>> soap.sharp(G, state).any()
        tensor(False)
        >>> soap.sharp(G, soap.accumulate(state, G)).round(decimals=5)
        tensor([[[1., 0.],
                 [0., 1.]]])

    Source: N. Vyas et al., *SOAP* (2024), arXiv 2409.11321, algorithm 3, and its authors' code for
    the first gradient and the sorting.
    """

    beta: float = 0.95
    beta2: float = 0.95
    eps: float = 1e-8
    refresh: int = 10
    bias_correction: bool = True

    name: ClassVar[str] = "rotated_diagonal"
    accumulates: ClassVar[bool] = True
    begins_with_first: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("beta", self.beta, below=1.0)
        check_number("beta2", self.beta2, below=1.0)
        check_number("eps", self.eps)
        check_count("refresh", self.refresh)
        check_flag("bias_correction", self.bias_correction)

    def start(self, example: Tensor) -> State:
        """Return zeros; the bases are zero too until the first gradient."""
        rows, columns = example.shape[-2:]
        dtype, wide = working_dtype(example.dtype), double_dtype(example.dtype)
        return {
            "left": square_stack(example, rows, wide),
            "right": square_stack(example, columns, wide),
            "left_basis": square_stack(example, rows, dtype),
            "right_basis": square_stack(example, columns, dtype),
            "second_moment": torch.zeros_like(example, dtype=wide),
            "count": torch.zeros(example.shape[0], dtype=torch.int64, device=example.device),
        }

    def accumulate(self, state: State, gradient: Tensor) -> State:
        """Return bases brought up to date where they are due, V, L and R averaged, and t + 1."""
        old = self._known(gradient, state)
        counts = old["count"].tolist()
        new = {key: value.clone() for key, value in old.items()}
        measured = [count - 1 for count in counts]
        _refresh(new, [i for i, t in enumerate(measured) if t > 0 and t % self.refresh == 0])
        g = gradient.to(new["left"].dtype)
        # Where there is no basis yet it is zero, and so is the rotated gradient.
        rotated = _between(new["left_basis"].mT, g, new["right_basis"])
        new["second_moment"].lerp_(rotated.square(), 1.0 - self.beta2)
        new["left"].lerp_(g @ g.mT, 1.0 - self.beta)
        new["right"].lerp_(g.mT @ g, 1.0 - self.beta)
        new["count"] += 1
        _begin(new, [i for i, count in enumerate(counts) if count == 0])
        return new

    def _solve(self, S: Tensor, state: State) -> Tensor:
        left, right = (state[key].to(S.dtype) for key in ("left_basis", "right_basis"))
        rotated = (left.mT @ S @ right).to(double_dtype(S.dtype))
        return _between(left, divided(rotated, self._diagonal(state)), right.mT)

    def _apply(self, X: Tensor, state: State) -> Tensor:
        left, right = (state[key].to(X.dtype) for key in ("left_basis", "right_basis"))
        rotated = (left.mT @ X @ right).to(double_dtype(X.dtype))
        return _between(left, self._diagonal(state) * rotated, right.mT)

    def _diagonal(self, state: State) -> Tensor:
        """The entries of P in the rotated coordinates; zero while nothing has been measured."""
        count = state["count"] - 1
        beta2 = self.beta2 if self.bias_correction else None
        diagonal = root_mean_square(state["second_moment"], count, beta2) + self.eps
        known = (count > 0)[:, None, None]
        # A state that is not finite stays so: NaN before the second gradient is not hidden.
        return torch.where(known | diagonal.isnan(), diagonal, 0.0)


def _between(left: Tensor, x: Tensor, right: Tensor) -> Tensor:
    """Return left · x · right in the dtype of x, multiplied in that of the bases.

    x is divided by a power of two on the way, which keeps it in range; NaN where it is not finite.
    """
    if x.numel() == 0:
        return x
    scaled, exponent, finite = over_power_of_two(x)
    product = (left @ scaled.to(left.dtype) @ right).to(x.dtype)
    return torch.where(finite, times_power_of_two(product, exponent), torch.nan)


def _begin(state: State, which: list[int]) -> None:
    """Write the eigenvectors of L and R, largest eigenvalue first, for these matrices."""
    if not which:
        return
    index = torch.tensor(which, device=state["count"].device)
    for factor, basis in (("left", "left_basis"), ("right", "right_basis")):
        state[basis][index] = _eigenvectors(state[factor][index]).to(state[basis].dtype)


def _eigenvectors(factors: Tensor) -> Tensor:
    """Eigenvectors of symmetric matrices, largest eigenvalue first; NaN for one not finite."""
    if factors.numel() == 0:
        return factors
    scaled, _, finite = over_power_of_two(factors.to(double_dtype(factors.dtype)))
    _, vectors = hermitian_eigen(scaled)
    return torch.where(finite, vectors.flip(-1), torch.nan)


def _refresh(state: State, which: list[int]) -> None:
    """Write bases one power iteration further, and V in their order, for these matrices."""
    if not which:
        return
    index = torch.tensor(which, device=state["count"].device)
    orders = []
    for factor, basis in (("left", "left_basis"), ("right", "right_basis")):
        average = state[factor][index]
        old = state[basis][index].to(average.dtype)
        product = average @ old
        order = (old * product).sum(dim=-2).argsort(dim=-1, descending=True, stable=True)
        product = product.gather(-1, order.unsqueeze(-2).expand_as(product))
        state[basis][index] = torch.linalg.qr(product).Q.to(state[basis].dtype)
        orders.append(order)
    v = state["second_moment"][index]
    v = v.gather(-2, orders[0].unsqueeze(-1).expand_as(v))
    state["second_moment"][index] = v.gather(-1, orders[1].unsqueeze(-2).expand_as(v))
