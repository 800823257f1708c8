"""Logistic regression whose unknown is a matrix: binary, several classes, or several labels."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    column_or_1d,
    validate_data,
)

from polargrad.estimators.iteration import HeldOut, Solution, Stopping
from polargrad.estimators.logistic_losses import BinaryLoss, CategoricalLoss, Loss
from polargrad.estimators.logistic_solvers import LogisticProblem, solve_lbfgs, solve_polargrad
from polargrad.estimators.validation import (
    Array,
    Rows,
    check_iteration_options,
    check_no_empty_column,
    check_right_design,
    held_out_split,
    linear_values,
    listed,
    without_empty_rows,
)

__all__ = ["MatrixLogisticRegression"]

SOLVERS = ("auto", "lbfgs", "polargrad")
INDICATORS = (0.0, 1.0)
NEEDS_INDICATORS = (
    "a y with several columns must hold labels 0 and 1, and NaN where one is not known"
)


class MatrixLogisticRegression(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    r"""Logistic regression in a matrix, between the rows of X and a fixed design of the outputs.

    .. math:: \min_{W, c}\; \ell(Z) + \tfrac{\alpha}{2}\|W\|_F^2, \qquad
              Z = X W B + \mathbf 1 c^{\mathsf T}

    X is n × p, W is p × k and B is k × q; without a right design B is the identity. What ``y`` is
    decides the loss ℓ:

    - one dimension, two classes: q = 1 and :math:`\ell = \sum_i \log(1 + e^{-C_i Z_i})`, with
      C = 1 for the second class and -1 for the first;
    - one dimension, more classes: q classes, :math:`P(j \mid i) = \operatorname{softmax}(Z_i)_j`,
      and ℓ is the sum of :math:`-\log P(y_i \mid i)`;
    - an n × q matrix of 0 and 1, q > 1: q labels of their own, with
      :math:`\ell = \sum_{ij} \log(1 + e^{-C_{ij} Z_{ij}})`, C = 2y - 1, the loss of the paper's
      section 6.2. NaN is a label that is not known, and C = 0 without a loss.

    1/α is scikit-learn's ``LogisticRegression(C)``. A positive α keeps W finite where the classes
    are separable.

    Args:
        alpha: α, at least 0.
        right_design: B, of shape k × q; None for the identity.
        fit_intercept: whether there is a constant c for each column, which is not penalised.
        solver: ``"lbfgs"``, or ``"polargrad"``, steepest descent in the spectral norm with
            momentum, its steps from the curvature of the loss. ``"auto"`` takes polargrad for early
            stopping and else lbfgs.
        max_iter: the most iterations.
        tol: where an iteration stops: the largest entry of the gradient (lbfgs) or its dual norm
            (polargrad) over that at zero.
        early_stopping: hold rows out and keep the iterate with the smallest loss on them. For
            ``"polargrad"``.
        validation_fraction: the fraction of the rows that early stopping holds out; in proportion
            to the classes, where there are enough rows of each.
        n_iter_no_change: iterations without a smaller loss after which early stopping ends.
        verbose: print a line every so many iterations; 0 for none.
        random_state: seed of the choice of the rows that are held out.

    Attributes:
        classes_: the classes; for a matrix ``y`` the numbers of its columns.
        coef_: (WB)ᵀ, of shape (q, p).
        intercept_: c, of shape (q,).
        matrix_: W, of shape (p, k).
        multilabel_: whether ``y`` was a matrix.
        solver_: the solver that ran.
        n_iter_: the iterations that it took.
        validation_errors_: the mean loss on the rows held out, at zero and after each iteration;
            None without early stopping.
        n_features_in_: p.
        feature_names_in_: the names of the columns of X, where it has any.

    Raises:
        TypeError: for an option of another type, or a sparse X.
        ValueError: for an option outside its range, options that exclude each other, NaN in X,
            infinite values, shapes that do not fit, one class only, or a matrix ``y`` with other
            entries than 0, 1 and NaN.

    Warns:
        ConvergenceWarning: if ``max_iter`` iterations do not reach ``tol``.
        UserWarning: if rows of a matrix ``y`` have no known label; they are left out.

    Computed in float64; float32 data give float32 coefficients and probabilities.

    Example:
        >>> import numpy as np
        >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
        >>> model = MatrixLogisticRegression(alpha=0.1).fit(X, ["no", "no", "yes", "yes"])
        >>> model.predict([[-1.0], [4.0]]).tolist()
        ['no', 'yes']

    Source: Lau, Long and Su, arXiv 2505.21799, section 6.2.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
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
        """Fit W and c to X, n × p, and y: n classes, or n × q labels with NaN where not known."""
        self._check_options()
        X, y = self._checked_data(X, y)
        dtype, X = X.dtype, X.astype(np.float64, copy=False)
        self.multilabel_ = y.ndim == 2 and y.shape[1] > 1
        loss: Loss
        if self.multilabel_:
            X, Y, _ = without_empty_rows(X, _indicators(y))
            self.classes_, loss, groups = np.arange(Y.shape[1]), _label_loss(Y), None
        else:
            groups = column_or_1d(y, warn=True)
            self.classes_, loss = _class_loss(type(self).__name__, groups)
        kept, rows = np.arange(len(X)), None
        if self.early_stopping:
            kept, rows = held_out_split(len(X), self.validation_fraction, self.random_state, groups)
            check_no_empty_column(loss.observed[kept], "after rows are held out")
        B = check_right_design(self.right_design, loss.observed.shape[1])
        offset = X[kept].mean(axis=0) if self.fit_intercept else np.zeros(X.shape[1])
        problem = LogisticProblem(X - offset, B, loss, self.alpha, bool(self.fit_intercept))
        W, c = self._solve(problem, kept, rows).unknown
        mapped = W if B is None else W @ B
        self.matrix_ = W.astype(dtype)
        self.coef_ = mapped.T.astype(dtype)
        self.intercept_ = (c - offset @ mapped).astype(dtype)
        return self

    def decision_function(self, X: Any) -> Array:
        """Return the logits X W B + 1 cᵀ, of shape (n, q), or (n,) for two classes.

        Raises:
            NotFittedError: before :meth:`fit`.
            ValueError: if X has NaN, an infinite value or another number of columns.
        """
        logits = linear_values(self, X)
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n, classes), or of each label, (n, q).

        Raises:
            NotFittedError: before :meth:`fit`.
            ValueError: if X has NaN, an infinite value or another number of columns.
        """
        logits = self.decision_function(X)
        if logits.ndim == 1:
            return np.column_stack([expit(-logits), expit(logits)])
        probabilities: Array = expit(logits) if self.multilabel_ else softmax(logits, axis=1)
        return probabilities

    def predict(self, X: Any) -> Any:
        """Return the most probable class, (n,), or the labels of probability above ½, (n, q).

        Raises:
            NotFittedError: before :meth:`fit`.
            ValueError: if X has NaN, an infinite value or another number of columns.
        """
        logits = self.decision_function(X)
        if self.multilabel_:
            return (logits > 0).astype(np.int64)
        chosen = (logits > 0).astype(np.intp) if logits.ndim == 1 else logits.argmax(axis=1)
        return self.classes_[chosen]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of rows predicted right: their class, or all of their known labels."""
        predicted = self.predict(X)
        if self.multilabel_:
            Y = _indicators(check_array(y, ensure_all_finite="allow-nan", input_name="y"))
            if Y.shape != predicted.shape:
                raise ValueError(f"y must have shape {predicted.shape}, got {Y.shape}")
            y = np.where(np.isnan(Y), predicted, Y)
        return float(accuracy_score(y, predicted, sample_weight=sample_weight))

    def _check_options(self) -> None:
        """Raise for an option outside its range, or two that exclude each other."""
        check_iteration_options(self, SOLVERS)
        if self.early_stopping and self.solver == "lbfgs":
            raise ValueError("early_stopping needs solver='polargrad' or 'auto', got 'lbfgs'")

    def _checked_data(self, X: Any, y: Any) -> tuple[Array, Any]:
        """X as a finite float array, and y as an array of one or two dimensions."""
        for_x = {"dtype": [np.float64, np.float32]}
        for_y = {
            "dtype": None,
            "ensure_2d": False,
            "ensure_all_finite": "allow-nan",
        }
        X, y = validate_data(self, X, y, validate_separately=(for_x, for_y))
        check_consistent_length(X, y)
        return X, y

    def _solve(self, problem: LogisticProblem, kept: Rows, rows: Rows | None) -> Solution:
        """Run the chosen solver on the rows that are kept; note what it says."""
        self.solver_ = self.solver
        if self.solver == "auto":
            self.solver_ = "polargrad" if self.early_stopping else "lbfgs"
        stopping = Stopping(type(self).__name__, self.max_iter, self.tol, self.verbose)
        held_out = None
        if rows is not None:
            unseen = problem.of_rows(rows)
            held_out = HeldOut(
                lambda W, c: unseen.loss.value(unseen.logits(W, c)) / unseen.loss.size,
                self.n_iter_no_change,
            )
            problem = problem.of_rows(kept)
        if self.solver_ == "lbfgs":
            solution = solve_lbfgs(problem, stopping)
        else:
            solution = solve_polargrad(problem, stopping, held_out)
        self.n_iter_ = solution.iterations
        self.validation_errors_ = None if held_out is None else np.array(held_out.errors)
        return solution

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _class_loss(owner: str, y: Any) -> tuple[Any, Loss]:
    """The classes of y, of length n, and the loss.

    Raises:
        ValueError: if there is one class only, or y does not hold classes.
    """
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) == 1:
        raise ValueError(
            f"{owner} needs samples of at least 2 classes in the data, but the data contains only "
            f"one class: {classes[0]!r}"
        )
    if len(classes) == 2:
        return classes, BinaryLoss(np.where(codes[:, None] > 0, 1.0, -1.0))
    return classes, CategoricalLoss(np.eye(len(classes))[codes])


def _indicators(y: Any) -> Array:
    """y, n × q, as float64 with the entries 0, 1 and NaN.

    Raises:
        ValueError: if it has other entries.
    """
    try:
        Y: Array = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{NEEDS_INDICATORS}, got entries that are not numbers") from None
    others = np.setdiff1d(Y[~np.isnan(Y)], INDICATORS)
    if len(others):
        raise ValueError(f"{NEEDS_INDICATORS}, got {others[0]:g}")
    return Y


def _label_loss(Y: Array) -> BinaryLoss:
    """The loss of labels, n × q, NaN where one is not known.

    Raises:
        ValueError: if a column has one class only.
    """
    smallest, largest = np.nanmin(Y, axis=0), np.nanmax(Y, axis=0)
    single = np.flatnonzero(smallest == largest)
    if len(single):
        raise ValueError(
            f"y contains only one class, {smallest[single[0]]:g}, in column {listed(single)}: "
            "each column needs samples of both, leave such a column out"
        )
    return BinaryLoss(np.where(np.isnan(Y), 0.0, 2.0 * Y - 1.0))
