"""Which box of a tensor each process holds: torch.chunk's arithmetic, and a partition."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

import polargrad as pg
from polargrad.distributed import check_layout
from polargrad.distributed.placement import boxes

SIZES = st.integers(0, 9)


def entries(box):
    """The indices of a box."""
    ranges = [range(a, a + n) for a, n in zip(box.start, box.shape, strict=True)]
    return set(itertools.product(*ranges))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.tuples(SIZES, SIZES), st.integers(1, 6), st.integers(0, 1))
def test_a_shard_is_a_chunk(shape, count, dim):
    whole = torch.arange(shape[0] * shape[1]).view(shape)
    chunks = list(torch.chunk(whole, count, dim)) if shape[dim] else []
    for place, box in enumerate(boxes(shape, (count,), (Shard(dim),))):
        expected = chunks[place] if place < len(chunks) else whole[:0, :0]
        held = whole[box.start[0] :, box.start[1] :][: box.shape[0], : box.shape[1]]
        assert torch.equal(held.flatten(), expected.flatten())


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.tuples(SIZES, SIZES),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(*[st.sampled_from([Replicate(), Shard(0), Shard(1)])] * 2),
)
def test_every_entry_has_as_many_holders_as_there_are_copies(shape, mesh, placements):
    copies = 1
    for count, placement in zip(mesh, placements, strict=True):
        copies *= count if placement.is_replicate() else 1
    held = [entries(box) for box in boxes(shape, mesh, placements)]
    for index in itertools.product(range(shape[0]), range(shape[1])):
        assert sum(index in mine for mine in held) == copies


def test_tensor_parallelism_inside_fully_shard():
    """Two pieces of rows, each of which is cut in two: the mesh counts the pieces last."""
    found = boxes((12, 3), (2, 2), (_StridedShard(0, split_factor=2), Shard(0)))
    assert [box.start[0] for box in found] == [0, 6, 3, 9]
    assert all(box.shape == (3, 3) for box in found)


def test_shards_that_are_no_boxes_are_refused():
    with pytest.raises(ValueError, match="no boxes of the tensor: apply parallelize_module before"):
        boxes((8, 3), (2, 2), (Shard(0), _StridedShard(0, split_factor=2)))


def test_sums_that_are_not_added_up_are_refused():
    with pytest.raises(ValueError, match="sums that have not been added up"):
        boxes((8, 3), (2,), (Partial(),))


@pytest.mark.parametrize("mark", ["_is_flat_param", "_fsdp_flattened"])
def test_a_flattened_parameter_is_refused_with_the_remedy(mark):
    """As FullyShardedDataParallel marks them, with and without use_orig_params."""
    p = nn.Parameter(torch.zeros(12))
    setattr(p, mark, True)
    message = r"parameter blocks\.0 of shape \(12,\) was flattened .* use fully_shard"
    with pytest.raises(TypeError, match=message):
        check_layout(p, "blocks.0")
    with pytest.raises(TypeError, match=r"parameter number 0 of shape \(12,\) was flattened"):
        pg.PolarGrad([nn.Parameter(torch.eye(2)), p], lr=0.1, vector_lr=0.1)
