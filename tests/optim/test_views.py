"""Views: a parameter taken apart into logical matrices, and put together again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polargrad.optim.routing.views import (
    FLATTEN,
    STACK,
    WHOLE,
    join,
    logical_matrices,
    logical_shape,
    split,
)

SIZES = st.integers(1, 4)
TURNED = {**WHOLE, "transpose": True}


@st.composite
def viewed(draw):
    """A view and the shape of a tensor that has it."""
    kind = draw(st.sampled_from(["whole", "turned", "flatten", "stack", "split", "split, turned"]))
    m, n, parts = draw(SIZES), draw(SIZES), draw(SIZES)
    more = tuple(draw(st.lists(SIZES, max_size=2)))
    return {
        "whole": (WHOLE, (m, n)),
        "turned": (TURNED, (m, n)),
        "flatten": (FLATTEN, (m, n, *more)),
        "stack": (STACK, (*more, m, n)),
        "split": (split(parts), (parts * m, n)),
        "split, turned": (split(parts, transpose=True), (m, parts * n)),
    }[kind]


@settings(deadline=None, derandomize=True, max_examples=150)
@given(viewed(), st.booleans())
def test_join_is_the_inverse(case, transposed_memory):
    view, shape = case
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if transposed_memory:
        x = x.mT.contiguous().mT
    parts = logical_matrices(view, x)
    assert torch.equal(join(view, parts, x.shape), x)
    assert sum(part.numel() for part in parts) == x.numel()
    assert {tuple(part.shape) for part in parts} == {logical_shape(view, shape)[1:]}
    assert len(parts) == logical_shape(view, shape)[0]


def test_which_entries_a_part_holds():
    x = torch.arange(24.0)
    (flat,) = logical_matrices(FLATTEN, x.reshape(2, 3, 4))
    assert torch.equal(flat, x.reshape(2, 12))
    first, second = logical_matrices(STACK, x.reshape(2, 3, 4))
    assert torch.equal(second, x[12:].reshape(3, 4))
    rows = logical_matrices(split(3), x.reshape(6, 4))
    assert torch.equal(rows[1], x[8:16].reshape(2, 4))
    columns = logical_matrices(split(2, transpose=True), x.reshape(3, 8))
    assert torch.equal(columns[1], x.reshape(3, 8)[:, 4:].T)
    (turned,) = logical_matrices(TURNED, x.reshape(4, 6))
    assert torch.equal(turned, x.reshape(4, 6).T)
    assert torch.equal(first, x[:12].reshape(3, 4))


def test_parts_share_the_memory_of_a_plain_tensor():
    """Taking apart copies nothing: the one copy is the executor's."""
    for view, shape in (
        (WHOLE, (6, 4)),
        (FLATTEN, (6, 2, 2)),
        (STACK, (2, 6, 4)),
        (split(2), (6, 4)),
    ):
        x = torch.zeros(shape)
        assert all(
            part.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
            for part in logical_matrices(view, x)
        )


@pytest.mark.parametrize(
    ("view", "shape", "message"),
    [
        (
            {"kind": "heads"},
            (4, 4),
            "view must be one of whole, flatten, stack, split, got 'heads'",
        ),
        ({}, (4, 4), "view must be one of .* got None"),
        (WHOLE, (2, 3, 4), r"view 'whole' is for a matrix, got shape \(2, 3, 4\)"),
        (WHOLE, (4,), r"view 'whole' is for a matrix, got shape \(4,\)"),
        (split(2), (2, 3, 4), r"view 'split' is for a matrix, got shape \(2, 3, 4\)"),
        (FLATTEN, (4,), r"view 'flatten' needs at least two dimensions, got shape \(4,\)"),
        (STACK, (), r"view 'stack' needs at least two dimensions, got shape \(\)"),
        (split(3), (4, 6), "4 rows cannot be split into 3 equal parts"),
        (split(4, transpose=True), (4, 6), "6 rows cannot be split into 4 equal parts"),
        (split(0), (4, 6), "4 rows cannot be split into 0 equal parts"),
        ({"kind": "split"}, (4, 6), "4 rows cannot be split into None equal parts"),
    ],
    ids=str,
)
def test_refuses_a_view_that_does_not_fit(view, shape, message):
    with pytest.raises(ValueError, match=message):
        logical_matrices(view, torch.zeros(shape))
    with pytest.raises(ValueError, match=message):
        logical_shape(view, shape)
