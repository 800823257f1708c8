"""One profiled step: its stages and its memory are those of what was called."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import Parameter

from polargrad.experiments.bench import step_profile as bench_step_profile
from polargrad.experiments.bench.step_candidates import (
    muon_auto,
    muon_five_steps,
    optimizer_of,
    polar_grad,
)
from polargrad.experiments.bench.step_profile import MARKED, PREFIX, WHOLE, mark, profile_step


def test_memory_that_is_live_at_once_adds_up():
    def one_after_the_other():
        for _ in range(3):
            torch.empty(1000, 250)

    def together():
        return [torch.empty(1000, 250) for _ in range(3)] and None

    megabyte = 1000 * 250 * 4
    assert profile_step(one_after_the_other, "cpu").peak_bytes == megabyte
    assert profile_step(together, "cpu").peak_bytes == 3 * megabyte


def test_what_stays_does_not_count():
    kept = []

    def step():
        kept.append(torch.empty(500))
        torch.empty(300)

    assert profile_step(step, "cpu").peak_bytes == 1200


def test_what_goes_does_not_count_either():
    held = [torch.empty(5000)]

    def step():
        held.clear()
        torch.empty(300)

    assert profile_step(step, "cpu").peak_bytes == 1200


def test_temporaries_inside_of_an_operation_count():
    a = torch.eye(100)
    # The factor, and beside it the copy that the decomposition works on.
    found = profile_step(lambda: torch.linalg.svd(a, full_matrices=False), "cpu").peak_bytes
    assert found > 2 * a.numel() * 4


def test_stages_are_those_that_are_marked():
    def step():
        for _ in range(3):
            with mark("direction"):
                torch.eye(64) @ torch.eye(64)
        with mark("update"):
            torch.eye(64)

    assert set(profile_step(step, "cpu").stages) == {"direction", "update", "other"}


def test_what_no_stage_holds_is_the_rest_of_the_step():
    """Microseconds of a recorded profile: 10 000 in all, 3000 + 1000 of them in stages."""
    spent = {WHOLE: 10_000.0, PREFIX + "direction": 3000.0, PREFIX + "update": 1000.0, "mm": 2000.0}
    events = [SimpleNamespace(key=key, cpu_time_total=time) for key, time in spent.items()]
    profiler = SimpleNamespace(key_averages=lambda: events)
    found = bench_step_profile._stages(profiler, cuda=False)
    assert found == {"direction": 3.0, "update": 1.0, "other": 6.0}


@pytest.mark.parametrize("make", [polar_grad, muon_auto, muon_five_steps])
def test_our_optimizers_mark_their_stages(make):
    params = [Parameter(torch.zeros(shape)) for shape in ((6, 4), (6, 4), (5,))]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = optimizer_of(make, params[:2], params[2:])
    optimizer.step()
    found = profile_step(optimizer.step, "cpu").stages
    assert set(found) == {*MARKED, "other"}
