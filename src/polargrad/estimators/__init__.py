"""The matrix problems with scikit-learn's fit, predict and transform; the extra ``estimators``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polargrad.records import require

if TYPE_CHECKING:
    from polargrad.estimators.completion import MatrixCompletion
    from polargrad.estimators.matrix_logistic import MatrixLogisticRegression
    from polargrad.estimators.matrix_regression import MatrixRegression
    from polargrad.estimators.reduced_rank import ReducedRankRegression

__all__ = [
    "MatrixCompletion",
    "MatrixLogisticRegression",
    "MatrixRegression",
    "ReducedRankRegression",
]

FILES = {
    "MatrixCompletion": "completion",
    "MatrixLogisticRegression": "matrix_logistic",
    "MatrixRegression": "matrix_regression",
    "ReducedRankRegression": "reduced_rank",
}


def __getattr__(name: str) -> Any:
    """Import an estimator when it is first asked for, and scikit-learn with it."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("sklearn", extra="estimators")
    return getattr(require(f"{__name__}.{FILES[name]}", extra="estimators"), name)
