"""Processes that run cases together, over gloo and a file, with a watchdog.

Starting a process and importing torch take seconds, so many cases share one launch. A fork server
imports everything once.
"""

import datetime
import importlib
import multiprocessing
import os
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

# What a test waits for at most, and what a process waits for another.
WATCHDOG, TIMEOUT = 120.0, 30.0
# Installed modules alone: the fork server of Python 3.11 does not see the path of the tests.
PRELOADED = [
    "polargrad",
    "torch.distributed.checkpoint",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torch.utils.flop_counter",
]


def launch(count, cases, folder, *, timeout=TIMEOUT, watchdog=WATCHDOG, together=True):
    """Run cases, one after the other, in ``count`` processes; return a list of results for each.

    Args:
        count: how many processes.
        cases: (module, function, arguments) each: the function is called in all processes.
        folder: an empty one, for what is exchanged.
        timeout: of the process group, in seconds.
        together: whether all processes are there to say good-bye at the end.
        watchdog: after so many seconds all processes are killed, and the test fails.

    Returns:
        For each process the list of what the functions returned; what one of them raised, as text,
        in the place of its result, and nothing behind it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    folder = Path(folder)
    processes = [
        context.Process(target=_run, args=(rank, count, cases, folder, timeout, together))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + watchdog
    try:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        alive = [rank for rank, process in enumerate(processes) if process.is_alive()]
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
    assert not alive, f"processes {alive} were still running after {watchdog} s"
    return [_result(folder, rank) for rank in range(count)]


def _result(folder, rank):
    file = folder / f"result{rank}"
    return torch.load(file, weights_only=False) if file.exists() else None


def _run(rank, count, cases, folder, timeout, together):
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(seconds=timeout),
    )
    results = []
    for module, function, arguments in cases:
        try:
            results.append(getattr(importlib.import_module(module), function)(**arguments))
        except Exception:
            results.append(traceback.format_exc())
            break  # the others would wait for this one
        finally:
            torch.save(results, folder / f"result{rank}")
    else:
        if together:
            dist.barrier()
            dist.destroy_process_group()
            return
    os._exit(1)  # without a word to the others, as a process dies
