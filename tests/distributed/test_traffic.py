"""What all processes send together is what each of them says of itself."""

import pytest
import torch

from polargrad.distributed.mesh_sizes import MeshSizes
from polargrad.distributed.patches import Strided
from polargrad.distributed.placement import Box
from polargrad.distributed.schedule import Output, Schedule, SharedSource
from polargrad.distributed.shared_matrix import SharedMatrix
from polargrad.distributed.traffic import exchanged

STACKS = 3


def sources(count, mesh, rows, columns=2048):
    """Matrices of float32 by rows, ``rows`` of them, on the shards of each replica of a mesh."""
    shape, length = (rows, columns), -(-rows // mesh.fsdp)
    held = []
    for rank in range(mesh.ranks):
        start = min(rank % mesh.fsdp * length, rows)
        held.append(Box((start, 0), (min(length, rows - start), columns)))
    matrix = SharedMatrix(Strided(shape, (columns, 1), 0, 1), shape, held)
    return [
        SharedSource(
            key="all",
            size=4 * rows * columns,
            matrix=matrix,
            read=lambda: ([],),
            inputs=(torch.float32,),
            direction=torch.float32,
            outputs=(Output((), torch.float32, False), Output((3,), torch.float64, True)),
            cost=float(1 + i % 5),
            name=f"w{i}",
            device=torch.device("cpu"),
        )
        for i in range(count)
    ]


MESHES = [MeshSizes(fsdp=4), MeshSizes(dp=4), MeshSizes(dp=2, fsdp=3), MeshSizes(dp=3, fsdp=2)]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize(("count", "rows"), [(13, 8), (7, 2), (300, 64), (1, 1)])
def test_each_process_sends_what_its_schedule_says(mesh, count, rows):
    """Also where shards are empty, and where there is more than one round."""
    given = sources(count, mesh, rows)
    found = exchanged(given, mesh, [STACKS] * count)
    for me in range(mesh.ranks):
        schedule = Schedule(given, mesh.ranks, me)
        parts = [*schedule.gathers, *(p.traffic for lists in schedule.returns for p in lists)]
        sent = torch.tensor([part.sent for part in parts]).sum(0)
        by_link = torch.zeros(3, dtype=torch.int64).index_add_(0, mesh.links(me), sent)
        assert found.sent[me].tolist() == by_link.tolist()
        assert found.owners == schedule.owners


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_what_is_held_is_at_least_the_stacks_and_what_arrives(mesh):
    given = sources(300, mesh, 64)
    held = exchanged(given, mesh, [STACKS] * len(given)).held
    for me in range(mesh.ranks):
        schedule = Schedule(given, mesh.ranks, me)
        for owned, gather in zip(schedule.rounds, schedule.gathers, strict=True):
            work = STACKS * sum(given[i].size for i in owned[me])
            assert held[me] >= work + sum(gather.sent) + sum(gather.received)


def test_what_is_held_does_not_grow_with_the_matrices():
    mesh = MeshSizes(dp=2, fsdp=2)
    few, many = (exchanged(sources(n, mesh, 512), mesh, [STACKS] * n) for n in (200, 800))
    assert few.held.max() == many.held.max()
    assert few.sent.sum() * 4 == many.sent.sum()


def test_one_process_sends_nothing_and_holds_its_stacks():
    given = sources(5, MeshSizes(), 4)
    found = exchanged(given, MeshSizes(), [STACKS] * 5)
    assert found.sent.tolist() == [[0, 0, 0]]
    assert found.held.tolist() == [5 * STACKS * given[0].size]


def test_over_a_dimension_of_one_process_nothing_is_sent():
    for mesh, links in ((MeshSizes(dp=4), [0]), (MeshSizes(fsdp=4), [1]), (MESHES[2], [0, 1])):
        total = exchanged(sources(9, mesh, 8), mesh, [STACKS] * 9).sent.sum(0)
        assert [k for k, size in enumerate(total.tolist()) if size] == links
