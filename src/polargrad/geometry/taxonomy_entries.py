"""The methods: what each preconditions, how, and which step it takes.

Every entry names the preset of :mod:`polargrad` that it is about, so that each of its claims can be
compared with what the code does. The degree and the consistency are those of the last step of a
history of gradients that is scaled as a whole, from a zero state, with eps = 0, without decay and
with exact polar factors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

__all__ = ["EXPLICIT", "GROUPS", "METHODS", "Entry"]

# The groups whose elements a step can commute with, u(P(G)) = P(u(G)) for a whole history.
GROUPS: dict[str, str] = {
    "orthogonal on entries": "every rotation of the vector of all entries",
    "signed permutations of entries": "entries permuted and their signs changed",
    "orthogonal × orthogonal": "P G Qᵀ with orthogonal P and Q",
    "permutation × orthogonal": "rows permuted and their signs changed, columns rotated",
    "orthogonal × permutation": "rows rotated, columns permuted and their signs changed",
    "identity": "none in general: the problem's own",
}
# Geometries with a preconditioner that is formed and inverted, or a root of it.
EXPLICIT = ("diagonal", "kronecker", "one_sided_kronecker", "rotated_diagonal", "given_hessian")


@dataclass(frozen=True)
class Entry:
    """One method.

    Attributes:
        name: what it is called.
        rule: its update, without weight decay where that is not the point.
        view: whether the parameter counts as a vector of entries or as a matrix.
        anisotropy: which anisotropy it addresses: of the curvature (the Hessian's spectrum), of the
            gradient (the update's singular values, rows or columns), both or none.
        preconditioner: a matrix that is formed and inverted (explicit), a norm (implicit), or none.
        null_gradient_consistent: whether the step goes to zero with the gradients.
        scale_degree: a, where gradients times c make the step times c to the power of a.
        equivariance: a key of ``GROUPS``, the largest whose elements the step commutes with.
        condition_number: a bound on κ of the update, over its nonzero singular values; None where
            it has none.
        geometry: its norm or preconditioner, a name of ``polargrad.geometry.GEOMETRIES``.
        magnitude: how far it goes along the unit direction (:func:`polargrad.geometry.magnitude`).
        signal: what the direction is of, and what is averaged.
        preset: the class of :mod:`polargrad.optim` that is this method ...
        options: ... with these arguments.
        source: where it is from.
    """

    name: str
    rule: str
    view: Literal["vector", "matrix"]
    anisotropy: Literal["curvature", "gradient", "both", "none"]
    preconditioner: Literal["explicit", "implicit", "none"]
    null_gradient_consistent: bool
    scale_degree: float
    equivariance: str
    condition_number: float | None
    geometry: str
    magnitude: str
    signal: Literal[
        "gradient", "momentum", "Nesterov momentum", "momentum of directions", "momentum of steps"
    ]
    preset: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def call(self) -> str:
        """The preset with its arguments, as code."""
        arguments = ", ".join(f"{key}={_code(value)}" for key, value in self.options.items())
        return f"{self.preset}({arguments})"


PAPER = "Lau, Long, Su, arXiv 2505.21799"
FOLLOW_UP = "Lau, Su, arXiv 2605.18106"

GRADIENT_DESCENT = Entry(
    name="gradient descent",
    rule="X ← X − γ G",
    view="vector",
    anisotropy="none",
    preconditioner="none",
    null_gradient_consistent=True,
    scale_degree=1.0,
    equivariance="orthogonal on entries",
    condition_number=None,
    geometry="frobenius",
    magnitude="dual_norm",
    signal="gradient",
    preset="GradientDescent",
    source="Cauchy 1847",
)
SIGN_DESCENT = replace(
    GRADIENT_DESCENT,
    name="sign descent",
    rule="X ← X − γ (Σ abs G) sgn(G)",
    preconditioner="implicit",
    equivariance="signed permutations of entries",
    geometry="max_entry",
    preset="SignSGD",
    options={"scaled": True},
    source=PAPER,
)
SIGN_SGD = replace(
    SIGN_DESCENT,
    name="signSGD",
    rule="X ← X − γ sgn(G)",
    null_gradient_consistent=False,
    scale_degree=0.0,
    magnitude="unit",
    options={},
    source="Bernstein et al., arXiv 1802.04434",
)
ADAM = replace(
    SIGN_SGD,
    name="Adam",
    rule="M ← β₁M + (1−β₁)G; V ← β₂V + (1−β₂)G²; X ← X − γ M̂ / (√V̂ + ε), entry by entry",
    anisotropy="curvature",
    preconditioner="explicit",
    geometry="diagonal",
    magnitude="dual_norm",
    signal="momentum",
    preset="MatrixOptimizer",
    options={"geometry": "diagonal", "momentum": 0.9, "bias_correction": True},
    source="Kingma, Ba, arXiv 1412.6980",
)
NEWTON = replace(
    GRADIENT_DESCENT,
    name="Newton",
    rule="vec X ← vec X − γ H⁻¹ vec G",
    anisotropy="curvature",
    preconditioner="explicit",
    equivariance="identity",
    geometry="given_hessian",
    preset="MatrixOptimizer",
    options={"geometry": "given_hessian"},
    source=PAPER,
)
SHAMPOO = Entry(
    name="Shampoo",
    rule="L ← L + GGᵀ; R ← R + GᵀG; X ← X − γ L^(−1/4) G R^(−1/4)",
    view="matrix",
    anisotropy="both",
    preconditioner="explicit",
    null_gradient_consistent=False,
    scale_degree=0.0,
    equivariance="orthogonal × orthogonal",
    condition_number=None,
    geometry="kronecker",
    magnitude="dual_norm",
    signal="gradient",
    preset="Shampoo",
    source="Gupta, Koren, Singer, arXiv 1802.09568",
)
POLAR_GRAD = Entry(
    name="PolarGrad",
    rule="U H = polar(G); X ← X − γ tr(H) U",
    view="matrix",
    anisotropy="gradient",
    preconditioner="implicit",
    null_gradient_consistent=True,
    scale_degree=1.0,
    equivariance="orthogonal × orthogonal",
    condition_number=1.0,
    geometry="spectral",
    magnitude="dual_norm",
    signal="gradient",
    preset="PolarGrad",
    options={"momentum": 0.0},
    source=PAPER,
)
POLAR_GRAD_M = replace(
    POLAR_GRAD,
    name="PolarGradM, momentum-first",
    rule="M ← βM + (1−β)G; U H = polar(M); X ← X − γ tr(H) U",
    signal="momentum",
    options={"momentum": 0.9},
)
MATRIX_SIGN_DESCENT = replace(
    POLAR_GRAD,
    name="matrix sign descent",
    rule="U H = polar(G); X ← X − γ U",
    null_gradient_consistent=False,
    scale_degree=0.0,
    magnitude="unit",
    preset="MatrixSignDescent",
    options={},
)
MUON = replace(
    MATRIX_SIGN_DESCENT,
    name="Muon (Jordan)",
    rule="M ← βM + G; U H = polar(βM + G); X ← X − γ max(1, m/n)^½ U",
    magnitude="original",
    signal="Nesterov momentum",
    preset="Muon",
    options={"momentum_form": "heavy-ball"},
    source="Jordan 2024, kellerjordan.github.io/posts/muon",
)
ROW_NORM = replace(
    MATRIX_SIGN_DESCENT,
    name="row norm",
    rule="M ← βM + (1−β)G; X ← X − γ rows(M), each row of M over its norm",
    equivariance="permutation × orthogonal",
    condition_number=None,
    geometry="largest_row",
    signal="momentum",
    preset="RowNorm",
    source=FOLLOW_UP,
)
COLUMN_NORM = replace(
    ROW_NORM,
    name="column norm",
    rule="M ← βM + (1−β)G; X ← X − γ columns(M), each column of M over its norm",
    equivariance="orthogonal × permutation",
    geometry="largest_column",
    preset="ColumnNorm",
)
ONE_SIDED = replace(
    POLAR_GRAD_M,
    name="right one-sided PolarGrad",
    rule="M ← βM + (1−β)G; U = M (MᵀM)^(−1/2); X ← X − γ ⟨M, U⟩^α U, α = 1",
    preset="OneSidedPolarGrad",
    options={"side": "right"},
    source=FOLLOW_UP,
)
HYBRID = replace(
    ONE_SIDED,
    name="hybrid PolarGrad, row then polar",
    rule="M ← βM + (1−β)G; W = rows(M); U H = polar(W); X ← X − γ tr(H)^α U",
    null_gradient_consistent=False,
    scale_degree=0.0,
    equivariance="permutation × orthogonal",
    geometry="row_then_polar",
    preset="HybridPolarGrad",
    options={"hybrid": "row_then_polar"},
)

METHODS: tuple[Entry, ...] = (
    GRADIENT_DESCENT,
    SIGN_DESCENT,
    SIGN_SGD,
    replace(
        SIGN_SGD,
        name="Signum",
        rule="M ← βM + (1−β)G; X ← X − γ sgn(M)",
        signal="momentum",
        options={"momentum": 0.9},
    ),
    ADAM,
    replace(
        ADAM,
        name="AdamW",
        rule="Adam, and X ← (1 − γλ) X before it",
        options={**ADAM.options, "weight_decay": 0.01},
        source="Loshchilov, Hutter, arXiv 1711.05101",
    ),
    NEWTON,
    SHAMPOO,
    replace(
        SHAMPOO,
        name="left one-sided Shampoo",
        rule="L ← L + GGᵀ; X ← X − γ L^(−1/2) G",
        geometry="one_sided_kronecker",
        options={"side": "left"},
    ),
    replace(
        SHAMPOO,
        name="right one-sided Shampoo",
        rule="R ← R + GᵀG; X ← X − γ G R^(−1/2)",
        geometry="one_sided_kronecker",
        options={"side": "right"},
    ),
    replace(
        SHAMPOO,
        name="SOAP",
        rule="Adam of QᴸᵀGQᴿ, turned back, in eigenbases Qᴸ and Qᴿ of averages of GGᵀ and GᵀG",
        geometry="rotated_diagonal",
        signal="momentum",
        preset="SOAP",
        source="Vyas et al., arXiv 2409.11321",
    ),
    replace(
        POLAR_GRAD,
        name="SSD (stochastic spectral descent)",
        rule="W S Vᵀ = randomized SVD of G of rank k; X ← X − γ tr(S) W Vᵀ",
        preset="SSD",
        options={"rank": 2},
        source="Carlson et al., AISTATS 2015",
    ),
    MATRIX_SIGN_DESCENT,
    MUON,
    replace(
        MUON,
        name="Muon (torch)",
        rule="M ← βM + (1−β)G; U H = polar(βM + (1−β)G); X ← X − γ max(1, m/n)^½ U",
        options={},
        source="torch.optim.Muon",
    ),
    replace(
        MUON,
        name="Muon (Moonlight)",
        rule="M ← βM + G; U H = polar(βM + G); X ← X − γ 0.2 max(m, n)^½ U",
        magnitude="match_rms_adamw",
        options={"adjust_lr_fn": "match_rms_adamw", "momentum_form": "heavy-ball"},
        source="Liu et al., arXiv 2502.16982",
    ),
    POLAR_GRAD,
    replace(POLAR_GRAD, name="PolarSGD", rule="G stochastic; U H = polar(G); X ← X − γ tr(H) U"),
    POLAR_GRAD_M,
    replace(
        POLAR_GRAD_M,
        name="PolarGradM, heavy ball",
        rule="M ← βM + G; U H = polar(M); X ← X − γ tr(H) U",
        options={"momentum": 0.9, "momentum_form": "heavy-ball"},
    ),
    replace(
        POLAR_GRAD_M,
        name="PolarGradM, polar-first",
        rule="U H = polar(G); M ← βM + (1−β)U; X ← X − γ tr(H) M",
        condition_number=None,
        signal="momentum of directions",
        options={"momentum": 0.9, "order": "polar-first"},
    ),
    replace(
        POLAR_GRAD_M,
        name="PolarGradM, Polyak",
        rule="U H = polar(G); X ← X − γ tr(H) U + β (X − previous X)",
        condition_number=None,
        signal="momentum of steps",
        options={"momentum": 0.9, "order": "polyak"},
    ),
    replace(
        POLAR_GRAD_M,
        name="PolarMuon",
        rule="M ← βM + (1−β)G; N = βM + (1−β)G; U H = polar(N); X ← X − γ tr(H) U",
        signal="Nesterov momentum",
        preset="PolarMuon",
        options={},
    ),
    ONE_SIDED,
    replace(
        ONE_SIDED,
        name="left one-sided PolarGrad",
        rule="M ← βM + (1−β)G; U = (MMᵀ)^(−1/2) M; X ← X − γ ⟨M, U⟩^α U, α = 1",
        options={"side": "left"},
    ),
    replace(
        ONE_SIDED,
        name="right one-sided PolarGrad, α = ½",
        rule="as the right one, with α = ½",
        scale_degree=0.5,
        options={"side": "right", "exponent": 0.5},
    ),
    ROW_NORM,
    replace(
        ROW_NORM,
        name="row norm, scaled",
        rule="as row norm, times the sum of the norms of the rows",
        null_gradient_consistent=True,
        scale_degree=1.0,
        magnitude="dual_norm",
        options={"scaled": True},
    ),
    COLUMN_NORM,
    replace(
        COLUMN_NORM,
        name="column norm, scaled",
        rule="as column norm, times the sum of the norms of the columns",
        null_gradient_consistent=True,
        scale_degree=1.0,
        magnitude="dual_norm",
        options={"scaled": True},
    ),
    HYBRID,
    replace(
        HYBRID,
        name="hybrid PolarGrad, polar then row",
        rule="M ← βM + (1−β)G; U H = polar(M); X ← X − γ tr(H)^α rows(U)",
        null_gradient_consistent=True,
        scale_degree=1.0,
        condition_number=None,
        geometry="polar_then_row",
        options={"hybrid": "polar_then_row"},
    ),
)


def _code(value: object) -> str:
    """A value as Python code, strings in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
