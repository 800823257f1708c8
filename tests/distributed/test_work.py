"""Work is done once, and no more is sent than has to be."""

import math
from pathlib import Path

import layouts
import pytest
import torch

from polargrad.distributed.patches import Strided
from polargrad.distributed.placement import Box
from polargrad.distributed.schedule import Output, Schedule, SharedSource
from polargrad.distributed.shared_matrix import SharedMatrix

RANKS = 4
MOST_STACKS = 12
SHARED = ("replicated", "fully_shard", "fully_shard, last dimension", "hybrid")
PRODUCTS = [("products", {"layout": name, "preset": "Muon, quintic"}) for name in SHARED]
SENT = [("sent", {"layout": name}) for name in ("replicated", "fully_shard", "hybrid")]
NESTEROV = ("sent", {"layout": "fully_shard", "preset": "PolarGrad, corrected"})
MEMORY = [
    ("memory", {"layout": layout, "count": count})
    for layout in ("replicated", "fully_shard")
    for count in (32, 48)
]
EXPERTS = ("sent", {"layout": "fully_shard", "large": False, "only": "experts.weight"})
PAGE = ("page", {"path": str(Path(__file__).parents[2] / "docs" / "distributed.md")})
FOUND = ("sent", {"layout": "fully_shard", "preset": "PolarGrad, found"})


@pytest.fixture(scope="module")
def counted(run):
    cases = [*PRODUCTS, *SENT, NESTEROV, EXPERTS, *MEMORY, FOUND, PAGE]
    return dict(zip(map(str, cases), run(RANKS, cases), strict=True))


def bytes_of(result):
    return sum(sent for sent, _ in result)


# The bytes of all matrices of `layouts.Large` in float64.
WHOLE = 8 * sum(x.numel() for x in layouts.weights(layouts.Large).values())


@pytest.mark.parametrize("case", PRODUCTS, ids=str)
def test_the_products_of_all_processes_are_those_of_one(counted, case):
    """Counted by torch, of a method that is products alone."""
    result = counted[str(case)]
    assert sum(mine for mine, _ in result) == result[0][1] > 0


def test_of_copies_each_direction_is_sent_once_to_each_other(counted):
    assert bytes_of(counted[str(SENT[0])]) == pytest.approx(WHOLE * (RANKS - 1), rel=0.1)


def test_shards_travel_to_the_owner_and_back(counted):
    """2·m·n·(R − 1)/R numbers a matrix."""
    bound = 2 * WHOLE * (RANKS - 1) / RANKS
    assert bound <= bytes_of(counted[str(SENT[1])]) <= 1.1 * bound


def test_replicas_of_shards_are_gathered_in_one_of_them(counted):
    """Half of a matrix to the owner; back to three others, a half each."""
    bound = WHOLE * (1 / 2 + 3 / 2)
    assert bound <= bytes_of(counted[str(SENT[2])]) <= 1.1 * bound


def test_a_look_ahead_sends_the_gradient_beside_the_momentum(counted):
    bound = 3 * WHOLE * (RANKS - 1) / RANKS
    assert bound <= bytes_of(counted[str(NESTEROV)]) <= 1.1 * bound


def test_whole_experts_on_a_shard_are_not_sent(counted):
    """The verdict on the gradients is all that is exchanged."""
    for sent, calls in counted[str(EXPERTS)]:
        assert (sent, calls) == (0, ["all_reduce"])


def test_sizes_that_are_found_cost_one_exchange_of_all_matrices_together(counted):
    for _, calls in counted[str(FOUND)]:
        assert calls.count("all_reduce") == 2


def test_the_code_in_the_page_runs(counted):
    """As under torchrun with four processes."""
    for names in counted[str(PAGE)]:
        assert {"new_model", "train", "optimizer", "mesh"} & set(names) >= {"train", "mesh"}


@pytest.mark.parametrize("layout", ["replicated", "fully_shard"])
def test_what_a_step_holds_does_not_grow_with_the_matrices(counted, layout):
    """Four rounds or six, and no more at a time."""
    few, many = (counted[str(case)] for case in MEMORY if case[1]["layout"] == layout)
    assert max(many) < max(few) + 1
    assert max(many) < MOST_STACKS


class TestSchedule:
    """Rounds: what is held at a time is bounded, whatever the number of matrices."""

    def sources(self, count, ranks, cost=lambda i: 1.0, sharded=True, size=2**20, shards=None):
        """Matrices of float32 of ``size`` bytes each, a row on each process, or copied.

        With ``shards`` there are so many rows, and as many replicas as there are processes for.
        """
        rows = shards or 4
        columns = size // (4 * rows)
        shape = (rows, columns)
        held = [
            Box((rank % rows, 0), (1, columns)) if sharded else Box((0, 0), shape)
            for rank in range(ranks)
        ]
        matrix = Strided(shape, (columns, 1), 0, 1)
        return [
            SharedSource(
                key="all",
                size=size,
                matrix=SharedMatrix(matrix, shape, held),
                read=lambda: ([],),
                inputs=(torch.float32,),
                direction=torch.float32,
                outputs=(Output((), torch.float32, False),),
                cost=cost(i),
                name=f"w{i}",
                device=torch.device("cpu"),
            )
            for i in range(count)
        ]

    @pytest.mark.parametrize("sharded", [False, True])
    @pytest.mark.parametrize("count", [1, 4, 70, 1000])
    def test_every_matrix_is_in_one_stack_of_its_owner(self, sharded, count):
        sources = self.sources(count, 4, lambda i: 1.0 + i % 7, sharded)
        schedule = Schedule(sources, 4, 0)
        seen = [i for owned in schedule.rounds for stack in owned for i in stack]
        assert sorted(seen) == list(range(count))
        for owned in schedule.rounds:
            for owner, stack in enumerate(owned):
                assert all(schedule.owners[i] == owner for i in stack)
                assert len(stack) <= 64

    def test_the_longest_are_worked_on_at_the_same_time(self):
        schedule = Schedule(self.sources(8, 4, float, size=2**26), 4, 0)
        assert [[stack[0] for stack in owned] for owned in schedule.rounds] == [
            [7, 6, 5, 4],
            [0, 1, 2, 3],
        ]

    @pytest.mark.parametrize("sharded", [False, True])
    def test_what_a_process_receives_at_a_time_is_bounded(self, sharded):
        """Three stacks of 64 MiB: a thousand copies do not send theirs at once."""
        ranks, limit = 4, 3 * 2**26
        schedule = Schedule(self.sources(500, ranks, sharded=sharded), ranks, 1)
        for lists in schedule.returns:
            assert all(sum(part.traffic.received) <= limit for part in lists)
        for traffic in schedule.gathers:
            assert sum(traffic.received) <= limit
        parts = [len(lists) for lists in schedule.returns]
        assert max(parts) == (1 if sharded else ranks / 2)

    @pytest.mark.parametrize("copies", [2, 8, 64])
    def test_of_many_replicas_an_owner_sends_to_some_at_a_time(self, copies):
        """Three stacks, or one copy of one; and each process is sent its part once."""
        ranks, limit = 4 * copies, 3 * 2**26
        sources = self.sources(4 * ranks, ranks, size=2**25, shards=4)
        for me in (0, 5):
            schedule = Schedule(sources, ranks, me)
            for owned, lists in zip(schedule.rounds, schedule.returns, strict=True):
                assert all(sum(part.traffic.sent) <= 1.4 * limit for part in lists)
                assert all(sum(part.traffic.received) <= limit for part in lists)
                sent = [sum(part.traffic.sent[t] for part in lists) for t in range(ranks)]
                due = [sum(sources[i].returned_bytes(t) for i in owned[me]) for t in range(ranks)]
                assert sent == [0 if t == me else size for t, size in enumerate(due)]

    def test_what_one_sends_the_other_receives(self):
        sources = self.sources(13, 4, lambda i: float(1 + i % 5))
        schedules = [Schedule(sources, 4, me) for me in range(4)]
        for a in range(4):
            for b in range(4):
                for mine, theirs in zip(schedules[a].gathers, schedules[b].gathers, strict=True):
                    assert mine.sent[b] == theirs.received[a]
                    assert mine.needed == theirs.needed
                for mine, theirs in zip(schedules[a].returns, schedules[b].returns, strict=True):
                    sent = [part.traffic.sent[b] for part in mine]
                    assert sent == [part.traffic.received[a] for part in theirs]

    def test_bytes_are_known_beforehand(self):
        """Each owner is given three quarters of a matrix, and gives them back."""
        size = 2**20
        schedules = [Schedule(self.sources(8, 4, size=size), 4, me) for me in range(4)]
        given = sum(sum(t.sent) for s in schedules for t in s.gathers)
        back = sum(
            sum(part.traffic.sent) for s in schedules for lists in s.returns for part in lists
        )
        assert given == 8 * size * 3 / 4
        assert math.isclose(back, given, rel_tol=1e-3)
