"""Who works on what: the longest first, alike on all processes, and evenly."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import polargrad as pg
from polargrad.distributed.assignment import assign, imbalance
from polargrad.geometry import geometry
from polargrad.optim.shared_step import direction_cost

COSTS = st.lists(st.floats(0.0, 10.0), max_size=7)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(COSTS, st.integers(1, 3))
def test_within_the_bound_of_the_best(costs, ranks):
    """Graham's bound, 4/3 − 1/(3R), by trying all assignments."""

    def longest(owners):
        return max(
            sum(c for c, o in zip(costs, owners, strict=True) if o == r) for r in range(ranks)
        )

    best = min(map(longest, itertools.product(range(ranks), repeat=len(costs))))
    assert longest(assign(costs, ranks)) <= (4 / 3 - 1 / (3 * ranks)) * best + 1e-9


def test_equal_costs_go_round():
    assert assign([1.0] * 7, 3) == [0, 1, 2, 0, 1, 2, 0]


def test_who_holds_a_matrix_owns_it():
    """And the others fill up around that."""
    assert assign([5.0, 1.0, 1.0, 1.0], 2, [[1], [], [], []]) == [1, 0, 0, 0]
    assert assign([1.0, 1.0], 4, [[2, 3], [2, 3]]) == [2, 3]


def test_refuses_no_process_and_a_missing_list():
    with pytest.raises(ValueError, match="ranks must be at least 1, got 0"):
        assign([1.0], 0)
    with pytest.raises(ValueError, match="holders must have 2 entries, got 1"):
        assign([1.0, 1.0], 2, [[]])


GPT2_SMALL = [(2304, 768), (768, 768), (3072, 768), (768, 3072)] * 12


@pytest.mark.parametrize("form", ["spectral", "largest_row", "kronecker"])
@pytest.mark.parametrize("ranks", [2, 3, 4, 7])
def test_the_matrices_of_gpt2_small_are_divided_evenly(form, ranks):
    """Fused queries, keys and values as one matrix: the unevenest that there is."""
    group = pg.PolarGrad([torch.nn.Parameter(torch.eye(2))], lr=0.1).param_groups[0]
    costs = [
        direction_cost(group, geometry(form), shape, torch.float32, torch.device("cpu"))
        for shape in GPT2_SMALL
    ]
    assert imbalance(costs, assign(costs, ranks), ranks) < 0.1


def test_a_longer_side_costs_more():
    group = pg.PolarGrad([torch.nn.Parameter(torch.eye(2))], lr=0.1).param_groups[0]
    for form in ("spectral", "max_entry", "diagonal", "rotated_diagonal"):
        small, large = (
            direction_cost(group, geometry(form), shape, torch.float32, torch.device("cpu"))
            for shape in ((64, 32), (128, 32))
        )
        assert small < large


def test_a_transpose_costs_the_same():
    group = pg.PolarGrad([torch.nn.Parameter(torch.eye(2))], lr=0.1).param_groups[0]
    first, second = (
        direction_cost(group, geometry("spectral"), shape, torch.float32, torch.device("cpu"))
        for shape in ((64, 320), (320, 64))
    )
    assert first == second
