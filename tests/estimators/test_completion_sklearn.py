"""MatrixCompletion under scikit-learn's own checks."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from polargrad.estimators import MatrixCompletion

ESTIMATORS = [
    MatrixCompletion(random_state=0),
    MatrixCompletion(1, regularization=0.1, bias=False, early_stopping=False),
    MatrixCompletion(1, regularization=0.1, solver="polargrad", tol=0.05, random_state=0),
]
# Both demand that predict returns one number for each row, which is right for a target; here
# there is none, and predict(X) is a table. Sparse tables are compared with dense ones by
# test_completion.py.
NOT_A_TARGET = "predict returns a table, there is no target"
CANNOT_APPLY = {
    "check_estimator_sparse_array": NOT_A_TARGET,
    "check_estimator_sparse_matrix": NOT_A_TARGET,
}


# The checks of sparse input store so few numbers that some rows have none.
@pytest.mark.filterwarnings("ignore:X has no observed entry:UserWarning")
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=lambda estimator: CANNOT_APPLY)
def test_scikit_learns_contract(estimator, check):
    check(estimator)
