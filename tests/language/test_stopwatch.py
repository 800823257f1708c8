"""The peak memory of one run in a process that had others before."""

import pytest
import torch

from polargrad.language.stopwatch import peak_memory, reset_peak_memory

CPU = torch.device("cpu")
BYTES = 200 * 2**20


def test_a_peak_that_was_before_does_not_count_after_a_reset():
    block = torch.ones(BYTES // 4)
    peak = peak_memory(CPU)
    del block
    assert peak_memory(CPU) == pytest.approx(peak, rel=0.02)  # the system counts by and by
    if not reset_peak_memory(CPU):
        pytest.skip("the system has no way to reset it")
    assert peak_memory(CPU) < peak - BYTES // 2
