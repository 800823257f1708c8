"""Bugs that peers have with several processes (docs/peer_defects.md, 49 to 52)."""

import pytest
import ranks
import torch
import torch.distributed as dist

import polargrad as pg

SHARDED = ("updates", {"layout": "fully_shard", "preset": "PolarGrad, found", "steps": 2})
TOGETHER = ("same_everywhere", {"preset": "PolarGrad, found"})
EMPTY = ("random_shapes", {"layout": "fully_shard", "seed": 2})
CUT = ("shards_as_matrices", {"layout": "fully_shard"})
CASES = [SHARDED, TOGETHER, EMPTY, CUT]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What four processes find, by case."""
    given = [("shared_cases", *case) for case in CASES]
    results = ranks.launch(4, given, tmp_path_factory.mktemp("processes"))
    assert not any(isinstance(r, str) and "Traceback" in r for of in results for r in of), results
    return {case[0]: [of[i] for of in results] for i, case in enumerate(CASES)}


def test_c15_shards_take_the_step_of_their_matrix(found):
    """Taken for matrices they would be off by far more."""
    assert max(distance for distance, *_ in found["updates"]) < 1e-12
    assert min(found["shards_as_matrices"]) > 1e-3


def test_c49_empty_and_uneven_shards_neither_hang_nor_crash(found):
    """Up to seven rows among four, and matrices without any."""
    assert max(distance for distance, *_ in found["random_shapes"]) < 1e-12


def test_c50_one_device_needs_no_process_group():
    assert not dist.is_initialized()
    X = torch.nn.Parameter(torch.eye(3))
    X.grad = torch.eye(3)
    optimizer = pg.PolarGrad([X], lr=0.1)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert not dist.is_initialized()
    assert X[0, 0] < 1


def test_c52_processes_hold_the_same_bits_after_every_step(found):
    """Parameters and state, though each process works on other matrices."""
    assert len(set(found["same_everywhere"])) == 1
