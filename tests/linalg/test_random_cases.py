"""Random cases: shape, dtype, spectrum, rank and scale drawn, every converged method checked."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_cases import DTYPES, check, draw, matrix

METHODS = ["auto", "svd", "qdwh", "mixed_qdwh", "newton", "zolotarev"]


@st.composite
def cases(draw_one):
    """A matrix and its rank; hypothesis shrinks what fails to something small."""
    m, n = draw_one(st.integers(1, 24)), draw_one(st.integers(1, 24))
    batch = draw_one(st.sampled_from([(), (1,), (3,), (2, 2)]))
    rank = draw_one(st.integers(0, min(m, n)))
    spread = draw_one(st.floats(0.0, 1.0))
    scale, seed = draw_one(st.integers(-100, 100)), draw_one(st.integers(0, 2**31))
    dtype = draw_one(st.sampled_from(DTYPES))
    return matrix((*batch, m, n), dtype, rank, spread, scale, seed), rank


@given(cases(), st.sampled_from(METHODS))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_case(case, method):
    check(*case, method)


@pytest.mark.parametrize("method", METHODS)
def test_fifty_random_cases(method):
    for seed in range(50):
        check(*draw(seed), method, f"seed {seed}:")


@pytest.mark.parametrize("seed", range(1000, 1006))
def test_larger_random_cases(seed):
    for method in METHODS:
        check(*draw(seed, 300), method, f"seed {seed}:")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("thousand", range(2))
def test_thousands_of_random_cases(method, thousand):
    for seed in range(1000 * (thousand + 1), 1000 * (thousand + 2)):
        check(*draw(seed), method, f"seed {seed}:")
