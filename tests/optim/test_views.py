"""Views: a parameter taken apart into logical matrices where they lie."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import polargrad as pg
from polargrad.optim.routing.views import (
    FLATTEN,
    WHOLE,
    check,
    conv,
    experts,
    heads,
    interleaved,
    logical_shapes,
    regions,
    split,
)

SIZES = st.integers(1, 3)
TURNED = {**WHOLE, "transpose": True}


@st.composite
def viewed(draw, rows=None, depth=2):
    """A view and the shape of a matrix that has it; ``rows`` are given for a part."""
    rows = draw(st.integers(0, 12)) if rows is None else rows
    kinds = ["whole"]
    if depth:
        kinds += ["split", "sizes", "heads", "columns"]
        # Rows of a group cross the groups: what is inside them is drawn whole.
        kinds += ["turns", "groups"] if depth == 2 else []
    kind = draw(st.sampled_from(kinds))
    parts = draw(st.sampled_from([k for k in (1, 2, 3, 4) if rows % k == 0]))
    inner = draw(viewed(rows=rows // parts, depth=depth - 1)) if depth else WHOLE
    if kind == "sizes":
        first = draw(st.integers(0, rows))
        sizes = [first, rows - first]
        return split(sizes, each=[draw(viewed(rows=s, depth=depth - 1)) for s in sizes])
    if kind == "groups" and rows:
        first = draw(st.integers(0, rows // parts))
        return interleaved(groups=parts, sizes=[first, rows // parts - first])
    return {
        "whole": WHOLE,
        "split": split(parts, each=inner),
        "heads": heads(parts, each=inner),
        "columns": heads(2, dim=1),
        "turns": interleaved(parts, each=inner),
        "groups": WHOLE,
    }[kind]


@st.composite
def cases(draw):
    """A view and the shape of a parameter that has it, of any number of dimensions."""
    rows, columns = draw(st.integers(0, 12)), draw(st.sampled_from([2, 4]))
    view = draw(viewed(rows=rows))
    shape = (rows, columns)
    if draw(st.booleans()):
        view, shape = {**view, "transpose": True}, (columns, rows)
    more = tuple(draw(st.lists(SIZES, min_size=1, max_size=2)))
    return draw(
        st.sampled_from(
            [
                (view, shape),
                (experts(view), (*more, *shape)),
                (split(2, each=FLATTEN), (2 * rows, columns, *more)),
                (conv(transpose=True), (rows, columns, *more)),
                (conv(taps=True), (rows, columns, *more)),
                (conv(taps=True, transpose=True), (rows, columns, *more)),
                (experts(FLATTEN, leading=1), (2, rows, columns, *more)),
            ]
        )
    )


def strided(shape, layout):
    """A tensor of this shape, its numbers all different, in some order of memory."""
    x = torch.arange(math.prod(shape), dtype=torch.float64)
    if layout == "transposed":
        return x.reshape(shape[::-1]).permute(*reversed(range(len(shape))))
    if layout == "channels_last" and len(shape) > 2:
        return x.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    if layout == "every other":
        wide = torch.zeros(*shape[:-1], 2 * shape[-1], dtype=torch.float64)
        wide[..., ::2] = x.reshape(shape)
        return wide[..., ::2]
    return x.reshape(shape)


any_case = settings(deadline=None, derandomize=True, max_examples=200)
LAYOUTS = st.sampled_from(["contiguous", "transposed", "channels_last", "every other"])


@any_case
@given(cases(), LAYOUTS)
def test_regions_partition_the_tensor_and_share_its_memory(case, layout):
    """Writing to the regions fills every entry exactly once, whatever the strides."""
    view, shape = case
    x = strided(shape, layout)
    held = [number for region in regions(view, x) for number in region.matrix().flatten().tolist()]
    assert sorted(held) == list(range(x.numel()))
    x.zero_()
    for region in regions(view, x):
        region.tensor.add_(1.0)
    assert torch.equal(x, torch.ones_like(x))


@any_case
@given(cases(), LAYOUTS)
def test_a_matrix_goes_back_where_it_came_from(case, layout):
    view, shape = case
    x, wanted = strided(shape, layout), strided(shape, layout) * 2 + 1
    for region in regions(view, x):
        new = region.matrix() * 2 + 1
        assert tuple(new.shape) == region.shape
        region.tensor.copy_(new.reshape(region.tensor.shape))
    assert torch.equal(x, wanted)


@any_case
@given(cases())
def test_the_shapes_need_no_memory(case):
    view, shape = case
    shapes = [region.shape for region in regions(view, torch.zeros(shape))]
    assert logical_shapes(view, shape) == shapes
    check(view, shape)
    assert json.loads(json.dumps(view)) == view  # plain data, saved with the state


def numbered(*shape):
    return torch.arange(float(math.prod(shape))).reshape(shape)


def separate():
    """A view of a fused parameter, its shape, and its matrices by their definition in words."""
    q, k, v = torch.tensor([0, 1, 2, 3]), torch.tensor([4, 5]), torch.tensor([6, 7])
    two = [torch.cat((part, part + 8)) for part in (q, k, v)]  # two groups of eight rows
    return {
        "flatten": (FLATTEN, (2, 3, 4), lambda x: [x.reshape(2, 12)]),
        "transposed convolution": (
            *(conv(transpose=True), (2, 3, 4)),
            lambda x: [x.reshape(2, 12).T],
        ),
        "taps": (
            *(conv(taps=True), (2, 3, 1, 2)),
            lambda x: [x[:, :, 0, 0], x[:, :, 0, 1]],
        ),
        "taps, turned": (
            *(conv(taps=True, transpose=True), (2, 3, 2)),
            lambda x: [x[:, :, 0].T, x[:, :, 1].T],
        ),
        "experts": (experts(), (2, 3, 4), lambda x: [x[0], x[1]]),
        "old name of experts": ({"kind": "stack"}, (2, 3, 4), lambda x: [x[0], x[1]]),
        "experts' gate and up": (
            *(experts(split(2)), (2, 4, 3)),
            lambda x: [x[0, :2], x[0, 2:], x[1, :2], x[1, 2:]],
        ),
        "experts' gate and up by turns, turned": (
            *(experts(interleaved(2, transpose=True)), (1, 3, 4)),
            lambda x: [x[0].T[0::2], x[0].T[1::2]],
        ),
        "query, key, value": (split(3), (6, 4), lambda x: [x[:2], x[2:4], x[4:]]),
        "turned": (split(2, transpose=True), (3, 8), lambda x: [x[:, :4].T, x[:, 4:].T]),
        "grouped queries": (split([4, 2, 2]), (8, 3), lambda x: [x[:4], x[4:6], x[6:]]),
        "grouped queries, per head": (
            *(split([4, 2, 2], each=[heads(2), WHOLE, WHOLE]), (8, 3)),
            lambda x: [x[:2], x[2:4], x[4:6], x[6:]],
        ),
        "heads of an output": (heads(2, dim=1), (3, 4), lambda x: [x[:, :2], x[:, 2:]]),
        "by turns": (interleaved(2), (4, 3), lambda x: [x[0::2], x[1::2]]),
        "in groups": (
            *(interleaved(groups=2, sizes=[4, 2, 2]), (16, 3)),
            lambda x: [x[rows] for rows in two],
        ),
        "in groups, per head": (
            *(interleaved(groups=2, sizes=[4, 2, 2], each=[heads(4), heads(2), heads(1)]), (16, 3)),
            lambda x: [x[:2], x[2:4], x[8:10], x[10:12], x[4:6], x[12:14], x[two[2]]],
        ),
    }


@pytest.mark.parametrize("name", separate())
def test_which_entries_a_part_holds(name):
    view, shape, parts = separate()[name]
    x = numbered(*shape)
    found, expected = [region.matrix() for region in regions(view, x)], parts(x)
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
@pytest.mark.parametrize("name", separate())
def test_fused_equals_separate(name, order):
    """A fused parameter steps as its parts do that are parameters of their own, to the bit."""
    view, shape, parts = separate()[name]
    generator = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(4, *shape, dtype=torch.float64, generator=generator)
    fused = nn.Parameter(start.clone())
    alone = [nn.Parameter(part.clone()) for part in parts(start)]
    options = {"lr": 0.1, "momentum": 0.9, "order": order, "method": "svd"}
    one = pg.PolarGrad([{"params": [fused], "rule": "matrix", "views": [view]}], **options)
    many = pg.PolarGrad(alone, **options)
    for g in gradients:
        fused.grad = g
        for p, part in zip(alone, parts(g), strict=True):
            p.grad = part.clone()
        one.step()
        many.step()
    for part, p in zip(parts(fused.detach()), alone, strict=True):
        assert torch.equal(part, p.detach())


@pytest.mark.parametrize(
    ("view", "shape", "message"),
    [
        ({"kind": "rows"}, (4, 4), "kind must be one of whole, flatten, .* got 'rows'"),
        ({}, (4, 4), "kind must be one of .* got None"),
        (WHOLE, (2, 3, 4), "'whole' is for a matrix, got 3 dimensions"),
        (WHOLE, (4,), "needs at least two dimensions"),
        (split(2), (2, 3, 4), "'whole' is for a matrix, got 3 dimensions"),
        (FLATTEN, (4,), "needs at least two dimensions"),
        (experts(), (), "needs at least two dimensions"),
        (split(3), (4, 6), "4 rows cannot be split into 3 equal parts"),
        (split(4, transpose=True), (4, 6), "6 rows cannot be split into 4 equal parts"),
        (split(0), (4, 6), "parts must be at least 1, got 0"),
        (split(True), (4, 6), "parts must be at least 1, got True"),
        ({"kind": "split"}, (4, 6), "either parts or sizes"),
        ({"kind": "split", "parts": 2, "sizes": [2, 2]}, (4, 6), "either parts or sizes"),
        (split([3, 2]), (4, 6), r"sizes \[3, 2\] are not 4 rows in all"),
        (split([5, -1]), (4, 6), r"sizes must be numbers of rows, got \[5, -1\]"),
        (split([]), (4, 6), r"sizes must be numbers of rows, got \[\]"),
        (split(2, each=[WHOLE]), (4, 6), "parts_each must have 2 entries, got 1"),
        (heads(3), (4, 6), "4 rows cannot be split into 3 heads"),
        (heads(4, dim=1), (4, 6), "6 columns cannot be split into 4 heads"),
        (heads(2, dim=2), (4, 6), "dim must be 0 or 1, got 2"),
        (heads(0), (4, 6), "heads must be at least 1, got 0"),
        (interleaved(3), (4, 6), "4 rows cannot be split into 3 parts by turns"),
        (interleaved(groups=2, sizes=[2, 1]), (4, 6), "2 groups of .* are not 4 rows"),
        (interleaved(groups=2), (4, 6), "either parts, or groups and sizes"),
        (interleaved(2, sizes=[2, 2]), (4, 6), "either parts, or groups and sizes"),
        (interleaved(groups=4, sizes=[2, 1], each=heads(3)), (12, 6), "8 rows .* 3 heads"),
        (interleaved(groups=3, sizes=[2, 2], each=heads(2)), (12, 6), "cross groups of 2 rows"),
        (conv(taps=True), (4, 6), "'taps' needs at least three dimensions"),
        (experts(leading=2), (2, 3, 4), "leading must be from 0 to 1, got 2"),
        (split(2, each=experts()), (4, 2), None),
        (interleaved(groups=2, sizes=[2], each=experts()), (4, 2), "must come before"),
        ({"kind": "whole", "parts": 3}, (6, 4), "'whole' may say transpose, got parts"),
        ({"kind": "heads", "heads": 2, "size": 2}, (4, 4), "got size"),
    ],
    ids=str,
)
def test_refuses_a_view_that_does_not_fit(view, shape, message):
    """The message names view and shape."""
    if message is None:
        check(view, shape)
        return
    for call in (lambda: regions(view, torch.zeros(shape)), lambda: check(view, shape)):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert f"view {view} does not fit shape {shape}" in str(caught.value)
