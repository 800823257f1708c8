"""The planner: what it promises, and that it depends on nothing but its arguments."""

import pytest
import torch

from polargrad.linalg import QDWH, SVD, PolarExpress, plan


@pytest.mark.parametrize("tol", [0.05, 0.11, 0.2, 0.5, 0.9])
def test_training_tolerance_takes_the_fewest_steps_that_keep_it(tol):
    chosen = plan(tol=tol, dtype=torch.float32, device="cpu").method
    assert isinstance(chosen, PolarExpress)
    assert chosen.deviation <= tol
    if chosen.steps > 1:
        assert PolarExpress(steps=chosen.steps - 1, bound="schatten4").deviation > tol


@pytest.mark.parametrize("tol", [None, 1e-3, 0.049])
def test_finer_tolerances_are_converged(tol):
    assert plan(tol=tol, dtype=torch.float32, device="cpu").method == SVD()
    assert plan(tol=tol, dtype=torch.float64, device="cuda").method == QDWH()


def test_complex_matrices_never_get_a_real_method():
    assert plan(tol=0.11, dtype=torch.complex64, device="cpu").method.complex_input


@pytest.mark.parametrize("tol", [0.0, -0.1, 1.0, 2.0, float("nan")])
def test_tolerances_outside_the_unit_interval_are_refused(tol):
    with pytest.raises(ValueError, match=rf"tol must be None or in \(0, 1\), got {tol}"):
        plan(tol=tol, dtype=torch.float32, device="cpu")


def test_every_choice_says_why():
    for tol in (None, 0.11):
        assert len(plan(tol=tol, dtype=torch.float32, device="cpu").reason) > 20
