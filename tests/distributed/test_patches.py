"""Parts of a matrix in a box: against the positions of its entries, whatever the view."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polargrad.distributed.patches import Strided, patches
from polargrad.distributed.placement import Box, boxes
from polargrad.distributed.shared_matrix import SharedMatrix
from polargrad.optim.routing.views import (
    FLATTEN,
    WHOLE,
    conv,
    experts,
    heads,
    interleaved,
    regions,
    split,
)

CASES = {
    "whole": (WHOLE, (6, 5)),
    "turned": ({"kind": "whole", "transpose": True}, (6, 5)),
    "one row": (WHOLE, (1, 6)),
    "one column": (WHOLE, (6, 1)),
    "split": (split([4, 1, 1]), (6, 5)),
    "split, turned": (split(2, transpose=True), (5, 6)),
    "heads": (heads(3), (6, 4)),
    "heads of columns": (heads(2, dim=1), (5, 6)),
    "turns": (interleaved(2), (8, 3)),
    "groups": (interleaved(groups=3, sizes=[2, 1]), (9, 4)),
    "groups of heads": (interleaved(groups=2, sizes=[3, 2], each=WHOLE), (10, 2)),
    "convolution": (FLATTEN, (4, 3, 2, 2)),
    "convolution, turned": (conv(transpose=True), (4, 3, 2, 2)),
    "taps": (conv(taps=True), (4, 3, 2, 2)),
    "experts": (experts(), (4, 3, 5)),
    "experts, split": (experts(split(2)), (3, 4, 5)),
    "experts of experts": (experts(), (2, 2, 3, 4)),
}


def strided(view, shape):
    found = regions(view, torch.empty(shape, device="meta"))
    return [
        Strided(tuple(r.tensor.shape), r.tensor.stride(), r.tensor.storage_offset(), r.rows)
        for r in found
    ]


@pytest.mark.parametrize("case", CASES)
@settings(deadline=None, derandomize=True, max_examples=40)
@given(data=st.data())
def test_patches_are_what_lies_in_the_box(case, data):
    """Each entry of the matrix in the box is in one patch, at its place in both."""
    view, shape = CASES[case]
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    box = []
    for size in shape:
        start = data.draw(st.integers(0, size))
        box.append((start, data.draw(st.integers(0, size - start))))
    local = whole
    for dim, (start, size) in enumerate(box):
        local = local.narrow(dim, start, size)
    # In memory of its own, in another order of dimensions now and then.
    local = local.clone() if data.draw(st.booleans()) else local.mT.contiguous().mT
    for matrix, region in zip(strided(view, shape), regions(view, whole), strict=True):
        found = torch.full(matrix.sizes, -1)
        for patch in patches(matrix, shape, Box(*map(tuple, zip(*box, strict=True)))):
            place = patch.within(found)
            assert bool((place == -1).all())
            place.copy_(patch.of(local))
        inside = torch.isin(region.tensor.contiguous(), local.contiguous())
        assert torch.equal(found, torch.where(inside, region.tensor, -1))


def test_one_patch_where_a_group_is_not_cut():
    (first, second) = strided(interleaved(groups=4, sizes=[2, 1]), (12, 5))
    for matrix in (first, second):
        assert len(patches(matrix, (12, 5), Box((3, 0), (6, 5)))) == 1
    assert len(patches(first, (12, 5), Box((1, 0), (9, 5)))) == 3


class TestSharedMatrix:
    """Who holds a matrix, who gives it, and who counts it."""

    def shared(self, placements, mesh=(2, 2), shape=(8, 6)):
        (matrix,) = strided(WHOLE, shape)
        return SharedMatrix(matrix, shape, boxes(shape, mesh, tuple(placements)))

    def test_of_copies_each_owner_has_what_it_needs(self):
        from torch.distributed.tensor import Replicate

        matrix = self.shared([Replicate(), Replicate()])
        assert matrix.holders == (0, 1, 2, 3)
        assert [matrix.givers(owner) for owner in range(4)] == [(0,), (1,), (2,), (3,)]

    def test_of_replicated_shards_those_of_its_own_replica_give(self):
        from torch.distributed.tensor import Replicate, Shard

        matrix = self.shared([Replicate(), Shard(0)])
        assert matrix.holders == ()
        assert [matrix.givers(owner) for owner in range(4)] == [(0, 1), (0, 1), (2, 3), (2, 3)]

    def test_each_entry_is_counted_once(self):
        from torch.distributed.tensor import Replicate, Shard

        matrix = self.shared([Replicate(), Shard(1)])
        for turn in range(3):
            counted = [rank for rank in range(4) if matrix.counted_by(rank, turn)]
            assert counted == [[0, 1], [2, 3]][turn % 2]

    def test_an_empty_shard_gives_nothing(self):
        from torch.distributed.tensor import Shard

        matrix = self.shared([Shard(0)], mesh=(4,), shape=(1, 6))
        assert matrix.holders == (0,)
        assert matrix.givers(3) == (0,)
        assert matrix.patches[1:] == ((), (), ())
