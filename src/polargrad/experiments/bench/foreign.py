"""The process of a peer that must not share one with torch: it reads a matrix and times the peer.

Started by peers.py, as a script, with one JSON object as its argument. It imports nothing of
this package, and so not torch.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LEAST_SECONDS = 2e-3  # of one measurement: a shorter call is repeated in it


def keep_to(threads: int) -> None:
    """Let this process use so many cores only: XLA has no option for the size of its pool."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def scipy_polar(matrix: Any) -> Callable[[], Any]:
    """scipy.linalg.polar, which computes H as well, one matrix after the other."""
    numpy = importlib.import_module("numpy")
    polar = importlib.import_module("scipy.linalg").polar
    if matrix.ndim == 2:
        return lambda: polar(matrix)[0]
    return lambda: numpy.stack([polar(one)[0] for one in matrix])


def jax_polar(matrix: Any) -> Callable[[], Any]:
    """jax.scipy.linalg.polar by its default, QDWH, compiled; a wide matrix as its transpose."""
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    polar = importlib.import_module("jax.scipy.linalg").polar
    wide = matrix.shape[-2] < matrix.shape[-1]
    operand = jax.numpy.asarray(matrix.swapaxes(-2, -1).conj() if wide else matrix)

    def factor(one: Any) -> Any:
        return polar(one)[0]

    call = jax.jit(factor if matrix.ndim == 2 else jax.vmap(factor))

    def run() -> Any:
        result = call(operand).block_until_ready()
        return result.swapaxes(-2, -1).conj() if wide else result

    return run


PEERS: dict[str, Callable[[Any], Callable[[], Any]]] = {
    "scipy.linalg.polar": scipy_polar,
    "jax.scipy.linalg.polar": jax_polar,
}


def main() -> None:
    """Time the peer, write its factor beside the matrix and print the milliseconds as JSON."""
    task = json.loads(sys.argv[1])
    keep_to(task["threads"])
    numpy = importlib.import_module("numpy")
    folder = Path(task["folder"])
    call = PEERS[task["peer"]](numpy.load(folder / "matrix.npy"))
    numpy.save(folder / "factor.npy", numpy.asarray(call()))  # the first call also compiles
    began = time.perf_counter()
    call()
    number = min(100, max(1, round(LEAST_SECONDS / max(time.perf_counter() - began, 1e-9))))
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < task["repetitions"] and (
        not times or time.perf_counter() - start < task["budget"]
    ):
        began = time.perf_counter()
        for _ in range(number):
            call()
        times.append(1e3 * (time.perf_counter() - began) / number)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
