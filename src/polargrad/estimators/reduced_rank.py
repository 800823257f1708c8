"""Reduced-rank regression: multi-output least squares whose coefficient matrix has low rank."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    MultiOutputMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.model_selection import check_cv
from sklearn.utils.extmath import svd_flip
from sklearn.utils.validation import check_is_fitted, validate_data

from polargrad.estimators.validation import (
    Array,
    check_count,
    check_flag,
    check_number,
    design_and_targets,
    linear_values,
)

__all__ = ["ReducedRankRegression"]


class _Path(NamedTuple):
    """The solutions of all ranks: that of rank r is projection[:, :r] loadings[:, :r]ᵀ.

    Attributes:
        projection: U, p × s.
        loadings: V, q × s, with orthonormal columns.
        singular_values: of the fitted values, s of them, largest first.
        x_mean, y_mean: what was subtracted.
    """

    projection: Array
    loadings: Array
    singular_values: Array
    x_mean: Array
    y_mean: Array


class ReducedRankRegression(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    MultiOutputMixin,  # type: ignore[misc]
    RegressorMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    r"""Multi-output linear regression with a coefficient matrix of given rank.

    .. math:: \min_{W, c}\; \|X W + \mathbf 1 c^{\mathsf T} - Y\|_F^2 + \alpha\|W\|_F^2
              \quad\text{with}\quad \operatorname{rank} W \le r

    X is n × p, W is p × q and Y is n × q. The outputs depend on X through r scores, X U, alone. Use
    it where many outputs follow few causes; it predicts better than separate regressions where
    that is so and data are few.

    With :math:`\hat W = (X^{\mathsf T}X + \alpha I)^{-1} X^{\mathsf T} Y` (X and Y centred) and V
    the first r right singular vectors of the fitted values :math:`(X; \sqrt\alpha I)\,\hat W`,

    .. math:: W = U V^{\mathsf T}, \qquad U = \hat W V .

    It is exact: a singular value decomposition of X and one of a min(n, p) × q matrix.

    Args:
        rank: r, from 1 to min(n, p, q), or ``"auto"``: the rank with the smallest squared error
            on held-out rows, the smaller one of two that are equal.
        alpha: α, at least 0, scikit-learn's ``Ridge(alpha)``.
        fit_intercept: whether there is a constant c for each output, which is not penalised.
        cv: how rows are held out for ``rank="auto"``: a number of folds (not shuffled), a splitter
            such as ``ShuffleSplit(n_splits=1)``, or pairs of index arrays. All ranks cost one
            decomposition a fold.

    Attributes:
        coef_: Wᵀ, of shape (q, p), or (p,) where ``y`` has one dimension.
        intercept_: c, of shape (q,), or a number.
        rank_: r.
        projection_: U, of shape (p, r): the scores are (X - mean) U.
        loadings_: V, of shape (q, r), with orthonormal columns.
        singular_values_: of the fitted values of all ranks, largest first; their squares are what
            each further rank takes from the objective.
        cv_errors_: the mean square error on held-out rows for the ranks 1, 2, ...; None where the
            rank was given or can only be 1.
        n_features_in_: p.
        feature_names_in_: the names of the columns of X, where it has any.

    Raises:
        TypeError: for an option of another type, or a sparse X.
        ValueError: for an option outside its range, a rank larger than possible, NaN or infinite
            values, or shapes that do not fit.

    Computed in float64; float32 data give float32 results.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(200, 6))
        >>> W = rng.normal(size=(6, 2)) @ rng.normal(size=(2, 5))
        >>> Y = X @ W + 0.1 * rng.normal(size=(200, 5))
        >>> model = ReducedRankRegression().fit(X, Y)
        >>> model.rank_, model.transform(X).shape, model.predict(X).shape
        (2, (200, 2), (200, 5))

    Source: A. J. Izenman, J. Multivariate Anal. 5 (1975); with a ridge: A. Mukherjee and J. Zhu,
    Stat. Anal. Data Min. 4 (2011).
    """

    def __init__(
        self,
        rank: int | str = "auto",
        *,
        alpha: float = 0.0,
        fit_intercept: bool = True,
        cv: Any = 5,
    ) -> None:
        self.rank = rank
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.cv = cv

    def fit(self, X: Any, y: Any) -> Self:
        """Fit W and c to X, n × p, and y, n or n × q."""
        check_number("alpha", self.alpha)
        check_flag("fit_intercept", self.fit_intercept)
        automatic = isinstance(self.rank, str)
        if automatic and self.rank != "auto":
            raise ValueError(f"rank must be a whole number or 'auto', got {self.rank!r}")
        X, y, dtype = design_and_targets(self, X, y, missing=False, min_samples=1 + automatic)
        Y = y[:, None] if y.ndim == 1 else y
        self.cv_errors_ = None
        if automatic:
            if min(X.shape[1], Y.shape[1]) > 1:
                self.cv_errors_ = self._held_out_errors(X, Y)
            self.rank_ = 1 if self.cv_errors_ is None else 1 + int(np.argmin(self.cv_errors_))
        else:
            check_count("rank", self.rank)
            most = min(*X.shape, Y.shape[1])
            if int(self.rank) > most:
                raise ValueError(
                    f"rank must be at most {most}, the smallest of {X.shape[0]} samples, "
                    f"{X.shape[1]} features and {Y.shape[1]} targets, got {self.rank}"
                )
            self.rank_ = int(self.rank)
        path = self._path(X, Y)
        projection, loadings = path.projection[:, : self.rank_], path.loadings[:, : self.rank_]
        W = projection @ loadings.T
        intercept = path.y_mean - path.x_mean @ W
        self.projection_ = projection.astype(dtype)
        self.loadings_ = loadings.astype(dtype)
        self.singular_values_ = path.singular_values.astype(dtype)
        self.coef_ = (W[:, 0] if y.ndim == 1 else W.T).astype(dtype)
        self.intercept_ = (intercept[0] if y.ndim == 1 else intercept).astype(dtype)
        self._score_offset = (path.x_mean @ projection).astype(dtype)
        return self

    def predict(self, X: Any) -> Array:
        """Return X W + 1 cᵀ, of shape (n, q), or (n,) where ``y`` had one dimension.

        Raises:
            NotFittedError: before :meth:`fit`.
            ValueError: if X has NaN, an infinite value or another number of columns.
        """
        return linear_values(self, X)

    def transform(self, X: Any) -> Array:
        """Return the scores (X - mean) U, of shape (n, r): all that the predictions depend on.

        Raises:
            NotFittedError: before :meth:`fit`.
            ValueError: if X has NaN, an infinite value or another number of columns.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        scores: Array = X @ self.projection_.astype(X.dtype) - self._score_offset.astype(X.dtype)
        return scores

    def _path(self, X: Array, Y: Array) -> _Path:
        r"""The solutions of all ranks.

        With X = P S Qᵀ the fitted values have the Gram matrix MᵀM of the smaller matrix
        :math:`M = \operatorname{diag}(s/\sqrt{s^2 + \alpha})\, P^{\mathsf T} Y`, and
        :math:`\hat W = Q \operatorname{diag}(1/\sqrt{s^2 + \alpha})\, M`.
        """
        x_mean = X.mean(axis=0) if self.fit_intercept else np.zeros(X.shape[1])
        y_mean = Y.mean(axis=0) if self.fit_intercept else np.zeros(Y.shape[1])
        P, s, Qt = np.linalg.svd(X - x_mean, full_matrices=False)
        cutoff = max(X.shape) * np.finfo(s.dtype).eps * s.max(initial=0.0)
        kept = s > cutoff
        root = np.sqrt(np.where(kept, s, 1.0) ** 2 + self.alpha)
        M = np.where(kept, s / root, 0.0)[:, None] * (P.T @ (Y - y_mean))
        left, values, Vt = np.linalg.svd(M, full_matrices=False)
        left, Vt = svd_flip(left, Vt, u_based_decision=False)  # signs that do not depend on LAPACK
        projection = Qt.T @ (np.where(kept, 1.0 / root, 0.0)[:, None] * (left * values))
        return _Path(projection, Vt.T, values, x_mean, y_mean)

    def _held_out_errors(self, X: Array, Y: Array) -> Array:
        r"""The mean square error on held-out rows for each rank that all folds can fit.

        With orthonormal loadings and scores Z the squared error of rank r is
        :math:`\|Y\|_F^2 - 2\langle YV, Z\rangle + \|Z\|_F^2`, whose terms add up over the columns.
        """
        errors: list[Array] = []
        held_out = 0
        for fitted, rows in check_cv(self.cv).split(X, Y):
            path = self._path(X[fitted], Y[fitted])
            target = Y[rows] - path.y_mean
            scores = (X[rows] - path.x_mean) @ path.projection
            change = (scores**2 - 2.0 * (target @ path.loadings) * scores).sum(axis=0)
            errors.append(float((target**2).sum()) + np.cumsum(change))
            held_out += len(rows)
        most = min(len(error) for error in errors)
        mean: Array = np.sum([error[:most] for error in errors], axis=0) / (held_out * Y.shape[1])
        return mean

    @property
    def _n_features_out(self) -> int:
        """How many scores there are, for the names that scikit-learn gives them."""
        return int(self.rank_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
