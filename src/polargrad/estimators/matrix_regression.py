"""Linear regression whose unknown is a matrix: ridge or nuclear-norm penalty, missing targets."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_array

from polargrad.estimators.design import Design, times
from polargrad.estimators.iteration import HeldOut, Solution, Stopping
from polargrad.estimators.regression_solvers import (
    solve_directly,
    solve_lsqr,
    solve_polargrad,
    solve_proximal,
)
from polargrad.estimators.validation import (
    Array,
    check_iteration_options,
    check_no_empty_column,
    check_number,
    check_right_design,
    design_and_targets,
    held_out_split,
    linear_values,
    without_empty_rows,
)

__all__ = ["MatrixRegression"]

SOLVERS = ("auto", "direct", "lsqr", "polargrad", "proximal")


class MatrixRegression(MultiOutputMixin, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    r"""Least squares in a matrix, between the rows of X and a fixed design of the outputs.

    .. math:: \min_{W, c}\; \tfrac12 \sum_{(i,j)\ \text{observed}}
              \bigl(X W B + \mathbf 1 c^{\mathsf T} - Y\bigr)_{ij}^2
              + \tfrac{\alpha}{2}\|W\|_F^2 + \nu\|W\|_*

    X is n × p, W is p × k, B is k × q and Y is n × q. Without a right design B is the identity, and
    this is multi-output linear regression. B describes the outputs as X describes the samples: for
    a curve observed at q points its rows are k basis functions at these points. NaN in ``y`` is a
    target that was not observed. α is scikit-learn's ``Ridge(alpha)``. ν, the nuclear norm, makes W
    of low rank; W = 0 from ν = σ₁(XᵀYBᵀ) on, X and Y centred.

    Args:
        alpha: α, at least 0.
        nuclear: ν, at least 0.
        right_design: B, of shape k × q; None for the identity.
        fit_intercept: whether there is a constant c for each output, which is not penalised.
        solver: ``"direct"``, the closed form, one for each set of outputs with the same gaps;
            ``"lsqr"``, which needs products only; ``"polargrad"``, steepest descent in the spectral
            norm with momentum, its steps exact; ``"proximal"``, accelerated proximal gradient,
            where ``nuclear`` is positive. ``"auto"`` takes proximal for a nuclear norm, polargrad
            for early stopping, lsqr for missing targets with a right design, and else direct.
        max_iter: the most iterations; the direct solver has none.
        tol: where an iteration stops: lsqr's atol and btol; the nuclear norm of the gradient over
            that at W = 0 (polargrad); the duality gap over ½‖Y‖² (proximal).
        early_stopping: hold rows out and keep the iterate with the smallest mean square error on
            them. From W = 0 the iterates grow in norm: the number of steps regularises. For
            ``"polargrad"``.
        validation_fraction: the fraction of the rows that early stopping holds out.
        n_iter_no_change: iterations without a smaller error after which early stopping ends.
        verbose: print a line every so many iterations (proximal: a multiple of 10); 0 for none.
        random_state: seed of the choice of the rows that are held out.

    Attributes:
        coef_: (WB)ᵀ, of shape (q, p), or (p,) where ``y`` has one dimension.
        intercept_: c, of shape (q,), or a number.
        matrix_: W, of shape (p, k).
        solver_: the solver that ran.
        n_iter_: the iterations that it took, 1 for the direct solver.
        dual_gap_: a bound of f(W) minus the optimum; None for other solvers than proximal.
        validation_errors_: the mean square error on the rows held out, at W = 0 and after each
            iteration; None without early stopping.
        n_features_in_: p.
        feature_names_in_: the names of the columns of X, where it has any.

    Raises:
        TypeError: for an option of another type, or a sparse X.
        ValueError: for an option outside its range, options that exclude each other, NaN in X,
            infinite values, shapes that do not fit, or a column of ``y`` without observed entries.

    Warns:
        ConvergenceWarning: if ``max_iter`` iterations do not reach ``tol``.
        UserWarning: if rows have no observed target; they are left out.

    Computed in float64; float32 data give float32 coefficients and predictions.

    Example:
        >>> import numpy as np
        >>> X = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
        >>> Y = X @ np.array([[1.0, 2.0], [3.0, 4.0]]) + 5.0
        >>> Y[0, 1] = np.nan  # not observed
        >>> model = MatrixRegression().fit(X, Y)
        >>> model.predict(X[:1]).round(6)
        array([[6., 7.]])

    Source: Lau, Long and Su, arXiv 2505.21799, section 6.1; nuclear norm: Yuan, Ekici, Lu and
    Monteiro, J. R. Stat. Soc. B 69 (2007).
    """

    def __init__(
        self,
        alpha: float = 0.0,
        *,
        nuclear: float = 0.0,
        right_design: Any = None,
        fit_intercept: bool = True,
        solver: str = "auto",
        max_iter: int = 1000,
        tol: float = 1e-6,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.alpha = alpha
        self.nuclear = nuclear
        self.right_design = right_design
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Fit W and c to X, n × p, and y, n or n × q, where NaN is a target not observed."""
        self._check_options()
        X, y, dtype = design_and_targets(self, X, y, missing=True)
        Y = y[:, None] if y.ndim == 1 else y
        B = check_right_design(self.right_design, Y.shape[1])
        X, Y, observed = without_empty_rows(X, Y)
        self.solver_ = self._chosen_solver(observed is not None)
        kept, held_out = np.arange(len(X)), None
        if self.early_stopping:
            kept, rows = held_out_split(len(X), self.validation_fraction, self.random_state)
            if observed is not None:
                check_no_empty_column(observed[kept], "after rows are held out")
        design, offset, T = self._centred(X[kept], B, Y[kept])
        if self.early_stopping:
            seen = ~np.isnan(Y[rows])

            def error(W: Array) -> float:
                predicted = times(X[rows] - offset, W, B) + _means(design, Y[kept], W)
                return float(np.mean((predicted - Y[rows])[seen] ** 2))

            held_out = HeldOut(error, self.n_iter_no_change)
        solution = self._solve(design, T, held_out)
        (W,) = solution.unknown
        mapped = W if B is None else W @ B
        intercept = _means(design, Y[kept], W) - offset @ mapped
        self.matrix_ = W.astype(dtype)
        self.coef_ = (mapped[:, 0] if y.ndim == 1 else mapped.T).astype(dtype)
        self.intercept_ = (intercept[0] if y.ndim == 1 else intercept).astype(dtype)
        self.n_iter_ = solution.iterations
        self.dual_gap_ = solution.dual_gap
        self.validation_errors_ = None if held_out is None else np.array(held_out.errors)
        return self

    def predict(self, X: Any) -> Array:
        """Return X W B + 1 cᵀ, of shape (n, q), or (n,) where ``y`` had one dimension.

        Raises:
            NotFittedError: before :meth:`fit`.
            ValueError: if X has NaN, an infinite value or another number of columns.
        """
        return linear_values(self, X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R², averaged over the outputs, each over its observed entries.

        Without missing entries it is scikit-learn's score.
        """
        predicted = self.predict(X)
        y = check_array(y, ensure_2d=False, ensure_all_finite="allow-nan", input_name="y")
        Y, predicted = (a[:, None] if a.ndim == 1 else a for a in (y, predicted))
        observed = ~np.isnan(Y)
        check_no_empty_column(observed, "to score")
        weights = np.ones(len(Y)) if sample_weight is None else np.asarray(sample_weight)
        scores = [
            r2_score(Y[rows, j], predicted[rows, j], sample_weight=weights[rows])
            for j, rows in enumerate(observed.T)
        ]
        return float(np.mean(scores))

    def _check_options(self) -> None:
        """Raise for an option outside its range, or two that exclude each other."""
        check_iteration_options(self, SOLVERS)
        check_number("nuclear", self.nuclear)
        if self.early_stopping and self.nuclear > 0:
            raise ValueError(
                f"early_stopping regularises in place of nuclear, got nuclear={self.nuclear} "
                "with early_stopping=True"
            )
        if self.early_stopping and self.solver not in ("auto", "polargrad"):
            raise ValueError(
                f"early_stopping needs solver='polargrad' or 'auto', got {self.solver!r}"
            )
        if self.solver != "auto" and (self.solver == "proximal") != (self.nuclear > 0):
            raise ValueError(
                "solver='proximal' is for nuclear > 0, and the others for nuclear = 0: got "
                f"solver={self.solver!r} with nuclear={self.nuclear}"
            )

    def _chosen_solver(self, missing: bool) -> str:
        """The solver that runs."""
        coupled = missing and self.right_design is not None
        if self.solver == "direct" and coupled:
            raise ValueError(
                "solver='direct' has no closed form for missing targets with a right_design: "
                "use 'lsqr'"
            )
        if self.solver != "auto":
            return self.solver
        if self.nuclear > 0:
            return "proximal"
        if self.early_stopping:
            return "polargrad"
        return "lsqr" if coupled else "direct"

    def _centred(self, X: Array, B: Array | None, Y: Array) -> tuple[Design, Array, Array]:
        """The linear map on the centred X, the centre, and the projected targets."""
        observed = ~np.isnan(Y)
        mask = None if observed.all() else observed
        offset = X.mean(axis=0) if self.fit_intercept else np.zeros(X.shape[1])
        design = Design(X - offset, B, mask, bool(self.fit_intercept))
        return design, offset, design.project(Y)

    def _solve(self, design: Design, T: Array, held_out: HeldOut | None) -> Solution:
        """Run the chosen solver."""
        stopping = Stopping(type(self).__name__, self.max_iter, self.tol, self.verbose)
        if self.solver_ == "direct":
            return solve_directly(design, T, self.alpha)
        if self.solver_ == "lsqr":
            return solve_lsqr(design, T, self.alpha, stopping)
        if self.solver_ == "proximal":
            return solve_proximal(design, T, self.alpha, self.nuclear, stopping)
        return solve_polargrad(design, T, self.alpha, stopping, held_out)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _means(design: Design, Y: Array, W: Array) -> Array:
    """The constants of the outputs for the centred X: means of the observed Y − X W B."""
    if not design.centred:
        return np.zeros(Y.shape[1])
    return design.column_means(Y - times(design.X, W, design.B))
