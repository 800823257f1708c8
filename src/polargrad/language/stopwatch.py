"""How long a part of a step takes on the device, and how much memory the process has had."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType

import torch


class Stopwatch:
    """Takes the time of a ``with`` block on the device it runs on.

    A GPU works on after the block has been left: there ``seconds`` may only be asked for once the
    device has been waited for, as the loss has when it is read.

    Example:
        >>> with Stopwatch(torch.device("cpu")) as watch:
        ...     _ = torch.ones(3).sum()
        >>> watch.seconds > 0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self._events = (
            [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
            if device.type == "cuda"
            else []
        )
        self._began = self._ended = 0.0

    def __enter__(self) -> Stopwatch:
        if self._events:
            self._events[0].record()
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = time.perf_counter()
        if self._events:
            self._events[1].record()

    @property
    def seconds(self) -> float:
        """The time between entering and leaving, of what was asked for in between."""
        if self._events:
            return float(self._events[0].elapsed_time(self._events[1])) / 1e3
        return self._ended - self._began


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has held: of the GPU, if it uses one, else of RAM.

    Example:
        >>> peak_memory(torch.device("cpu")) > 10_000_000
        True
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # a process's getrusage begins, on Linux, with what its parent had
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak_memory(device: torch.device) -> bool:
    """Let :func:`peak_memory` count from now on, on a GPU and on Linux; elsewhere nothing happens.

    Returns:
        Whether it does.

    Example:
        >>> _ = reset_peak_memory(torch.device("cpu"))
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # another system, or a container that does not allow it
        return False
    return True
