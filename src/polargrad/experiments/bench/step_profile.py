"""One profiled step: how long each stage of it takes, and what memory it needs beside its state."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

# As the engine marks them in the order of a step.
MARKED = ("check", "momentum", "direction", "update", "adamw")
# Of an optimizer that is not marked inside: its whole step of the matrices.
MATRICES = "matrices"
OTHER = "other"
STAGES = (*MARKED, MATRICES, OTHER)
PREFIX = "polargrad::"
WHOLE = "bench::step"


@dataclass(frozen=True)
class StepProfile:
    """What one profiled step showed.

    Args:
        stages: milliseconds by stage, of those that occurred; "other" is the rest of the step.
        peak_bytes: the most memory at a time, beyond what was there before and what stays.
    """

    stages: dict[str, float]
    peak_bytes: int


def mark(stage: str) -> Any:
    """Return a context in which everything counts as this stage."""
    return record_function(PREFIX + stage)


def profile_step(step: Callable[[], object], device: str) -> StepProfile:
    """Call ``step`` once under torch.profiler.

    On a CPU memory is what torch's allocator handed out, temporaries inside of an operation
    included; on a GPU what ``torch.cuda.max_memory_allocated`` tells. State that the step creates
    stays, and does not count. Times of stages are those of the device.

    Example:
        >>> def step():
        ...     with mark("direction"):
        ...         torch.ones(256, 256) @ torch.ones(256, 256)
        >>> found = profile_step(step, "cpu")
        >>> sorted(found.stages), found.peak_bytes
        (['direction', 'other'], 786432)
    """
    cuda = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    before = 0
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    gc.collect()  # or what an earlier call left in cycles would be freed on the way
    with (
        _quiet(),
        profile(activities=activities, profile_memory=not cuda, acc_events=True) as profiler,
    ):
        with record_function(WHOLE):
            step()
        if cuda:
            torch.cuda.synchronize()
    if cuda:
        after = torch.cuda.memory_allocated()
        peak = torch.cuda.max_memory_allocated() - max(before, after)
    else:
        peak = _peak_of_allocations(profiler)
    return StepProfile(_stages(profiler, cuda), max(0, peak))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the profiler's library from announcing itself on standard error."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "6")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _stages(profiler: profile, cuda: bool) -> dict[str, float]:
    """Milliseconds by stage, and what is left of the step."""
    found: dict[str, float] = {}
    total = 0.0
    for event in profiler.key_averages():
        if cuda and not str(event.device_type).endswith("CPU"):
            continue  # the same span once more, as it lies on the GPU's own timeline
        spent = (event.device_time_total if cuda else event.cpu_time_total) / 1e3
        if event.key == WHOLE:
            total = spent
        elif event.key.startswith(PREFIX):
            found[event.key.removeprefix(PREFIX)] = spent
    found[OTHER] = max(0.0, total - sum(found.values()))
    return found


def _peak_of_allocations(profiler: profile) -> int:
    """The most bytes that were live at a time, less those that are live at the end."""
    # The profiler's table has sums only; what the allocator reported is below it.
    results: Any = profiler.profiler.kineto_results  # type: ignore[union-attr]
    reports = [
        (event.start_ns(), event.nbytes())
        for event in results.events()
        if event.name() == "[memory]"
    ]
    live = lowest = rise = 0
    for _, change in sorted(reports, key=lambda report: report[0]):
        live += change
        # What was there before and is freed on the way makes room, and is no use of memory.
        lowest = min(lowest, live)
        rise = max(rise, live - lowest)
    return rise - (live - lowest)
