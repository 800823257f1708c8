"""Checks that the regression estimators share: options, designs, targets, held-out rows."""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

__all__ = [
    "Array",
    "Mask",
    "Rows",
    "check_choice",
    "check_count",
    "check_flag",
    "check_inside",
    "check_iteration_options",
    "check_no_empty_column",
    "check_number",
    "check_right_design",
    "check_verbose",
    "design_and_targets",
    "held_out_split",
    "linear_values",
    "listed",
    "without_empty_rows",
]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]
NAMED = 5  # how many rows or columns a message lists


def check_number(name: str, value: object) -> None:
    """Raise unless ``value`` is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0.0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be at least 0 and finite, got {value}")


def check_inside(name: str, value: object) -> None:
    """Raise unless ``value`` is a number strictly between 0 and 1."""
    check_number(name, value)
    if not 0.0 < float(value) < 1.0:  # type: ignore[arg-type]
        raise ValueError(f"{name} must lie between 0 and 1, both excluded, got {value}")


def check_count(name: str, value: object) -> None:
    """Raise unless ``value`` is a whole number of at least 1; NumPy's whole numbers count too."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def check_flag(name: str, value: object) -> None:
    """Raise unless ``value`` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_verbose(value: object) -> None:
    """Raise unless ``value`` is a whole number of at least 0, or a truth value."""
    if not isinstance(value, numbers.Integral):
        raise TypeError(f"verbose must be a whole number, got {value!r}")
    if value < 0:
        raise ValueError(f"verbose must be at least 0, got {value}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_iteration_options(estimator: Any, solvers: tuple[str, ...]) -> None:
    """Raise for an option outside its range, of those that the iterative regressions share."""
    for name in ("alpha", "tol"):
        check_number(name, getattr(estimator, name))
    for name in ("max_iter", "n_iter_no_change"):
        check_count(name, getattr(estimator, name))
    for name in ("fit_intercept", "early_stopping"):
        check_flag(name, getattr(estimator, name))
    check_choice("solver", estimator.solver, solvers)
    check_inside("validation_fraction", estimator.validation_fraction)
    check_verbose(estimator.verbose)


def linear_values(estimator: Any, X: Any) -> Array:
    """Return X Cᵀ + 1 cᵀ for the ``coef_`` C and ``intercept_`` c of a fitted estimator.

    Raises:
        NotFittedError: before ``fit``.
        ValueError: if X has NaN, an infinite value or another number of columns.
    """
    check_is_fitted(estimator)
    X = validate_data(estimator, X, dtype=[np.float64, np.float32], reset=False)
    values: Array = X @ estimator.coef_.T + estimator.intercept_
    return values.astype(estimator.coef_.dtype, copy=False)


def design_and_targets(
    estimator: Any, X: Any, y: Any, *, missing: bool, min_samples: int = 1
) -> tuple[Array, Array, np.dtype[Any]]:
    """Return X and y in float64, in which everything is fitted, and the dtype of the results.

    The results are float32 where X is float32, else float64.

    Args:
        estimator: whose ``n_features_in_`` and ``feature_names_in_`` are set.
        X: n × p, finite.
        y: n or n × q, finite; with ``missing`` NaN is let through.
        missing: whether NaN stands for a target that was not observed.
        min_samples: the smallest n.

    Raises:
        TypeError: for sparse matrices.
        ValueError: for anything that is not such data, in scikit-learn's words.
    """
    for_x = {"dtype": [np.float64, np.float32], "ensure_min_samples": min_samples}
    for_y = {
        "dtype": "numeric",
        "ensure_2d": False,
        "ensure_all_finite": "allow-nan" if missing else True,
    }
    X, y = validate_data(estimator, X, y, validate_separately=(for_x, for_y))
    check_consistent_length(X, y)
    return X.astype(np.float64, copy=False), y.astype(np.float64, copy=False), X.dtype


def check_right_design(design: Any, columns: int) -> Array | None:
    """Return the right design B, k × q, in float64; None where there is none.

    Raises:
        ValueError: if it is not a finite matrix with as many columns as y.
    """
    if design is None:
        return None
    checked: Array = check_array(design, dtype=np.float64, input_name="right_design")
    if checked.shape[1] != columns:
        raise ValueError(
            f"right_design must have a column for each of the {columns} columns of y, "
            f"got shape {checked.shape}"
        )
    return checked


def listed(indices: Rows) -> str:
    """The first few of ``indices`` in words."""
    shown = ", ".join(str(index) for index in indices[:NAMED])
    return shown if len(indices) <= NAMED else f"{shown} and {len(indices) - NAMED} more"


def check_no_empty_column(observed: Mask, where: str) -> None:
    """Raise if a column of ``observed`` (n × q) has no entry; ``where`` says among which rows."""
    empty = np.flatnonzero(~observed.any(axis=0))
    if len(empty):
        raise ValueError(
            f"y has no observed entry in column {listed(empty)} {where}: "
            "a column without targets teaches nothing, leave it out"
        )


def without_empty_rows(X: Array, Y: Array) -> tuple[Array, Array, Mask | None]:
    """Return the rows with an observed target, and the mask, None where nothing is missing.

    Raises:
        ValueError: if a column has no observed target.

    Warns:
        UserWarning: if rows are left out.
    """
    observed = ~np.isnan(Y)
    if observed.all():
        return X, Y, None
    check_no_empty_column(observed, "of the data")
    some = observed.any(axis=1)
    if not some.all():
        empty = np.flatnonzero(~some)
        warnings.warn(
            f"y has no observed entry in row {listed(empty)}: left out of the fit", stacklevel=3
        )
    return X[some], Y[some], observed[some]


def held_out_split(
    samples: int, fraction: float, random_state: Any, classes: Any = None
) -> tuple[Rows, Rows]:
    """Return the rows to fit and the rows to hold out, in increasing order.

    Args:
        samples: how many rows there are.
        fraction: which part of them is held out.
        random_state: the seed.
        classes: the class of each row. Both parts hold each class in proportion, where each class
            has two rows and each part as many rows as there are classes.

    Raises:
        ValueError: if a part would be empty, or a class were in no row that is fitted.
    """
    stratify = None
    if classes is not None:
        counts = np.unique(classes, return_counts=True)[1]
        held_out = math.ceil(fraction * samples)
        if counts.min() > 1 and min(held_out, samples - held_out) >= len(counts):
            stratify = classes
    kept, held = train_test_split(
        np.arange(samples), test_size=fraction, random_state=random_state, stratify=stratify
    )
    if classes is not None:
        absent = np.setdiff1d(classes, np.asarray(classes)[kept])
        if len(absent):
            raise ValueError(
                f"no row of class {absent[0]!r} is left after rows are held out: give more rows of "
                "it, a smaller validation_fraction or another random_state"
            )
    return np.sort(kept), np.sort(held)
