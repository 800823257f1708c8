"""What step sizes that the run finds add to a step, on the matrices of GPT-2 small.

    python benchmarks/found_overhead.py [--layers 1] [--builds 12] [--pairs 8] [--way gradients]

Two optimizers that differ in nothing else step the same matrices in turn. How fast one is depends
by several per cent on where its state happens to lie in memory; so both are made anew many times,
in changing order, and what is printed is the mean of the medians of all builds with its standard
error. Asked: less than 3 %.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import time
from collections.abc import Callable

import torch
from found_steps import WAYS
from torch.nn import Parameter

import polargrad as pg
from polargrad.experiments.bench.run import threads
from polargrad.experiments.bench.step_candidates import LR, MOMENTUM, TRAINING
from polargrad.experiments.bench.step_shapes import MODELS, parts

MODEL = "gpt2-small"
NETWORK = {"momentum": MOMENTUM, "nesterov": True}  # as networks take it
RULES = {"gradients": NETWORK, "directions": WAYS["directions"]}


def matrices(layers: int) -> list[Parameter]:
    """The matrices of some layers, with gradients."""
    made = []
    for part in parts(MODELS[MODEL], "matrices", layers):
        for shape in part.matrices:
            parameter = Parameter(torch.randn(shape) / shape[1] ** 0.5)
            parameter.grad = torch.randn(shape)
            made.append(parameter)
    return made


def seconds(step: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def excess(layers: int, pairs: int, way: str, first: bool) -> tuple[float, float]:
    """Median of the ratios of some pairs of steps, less 1, and the milliseconds of a given one."""
    params = matrices(layers)
    makes = {
        "given": lambda: pg.PolarGrad(params, LR, tol=TRAINING, **RULES[way]),
        "found": lambda: pg.PolarGrad(params, tol=TRAINING, **RULES[way]),
    }
    keys = list(makes) if first else list(makes)[::-1]
    optimizers = {key: makes[key]() for key in keys}
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.step()
    times: dict[str, list[float]] = {key: [] for key in keys}
    for pair in range(pairs):
        for key in keys if pair % 2 else keys[::-1]:
            times[key].append(seconds(optimizers[key].step))
    ratios = [found / given for found, given in zip(times["found"], times["given"], strict=True)]
    return statistics.median(ratios) - 1.0, 1e3 * statistics.median(times["given"])


def main() -> None:
    """Print the excess of each build, and their mean."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=1, help="of 12 equal ones")
    parser.add_argument("--builds", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=8, help="of steps for each build")
    parser.add_argument("--way", choices=tuple(RULES), default="gradients")
    parser.add_argument("--threads", type=int, help="default: torch's own number")
    options = parser.parse_args()
    torch.manual_seed(0)
    found, times = [], []
    with threads(options.threads):
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, way {options.way}")
        for build in range(options.builds):
            more, milliseconds = excess(
                options.layers, options.pairs, options.way, first=build % 2 == 0
            )
            gc.collect()
            found.append(100.0 * more)
            times.append(milliseconds)
            print(f"{found[-1]:+.1f} % of {milliseconds:.0f} ms", flush=True)
    error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.nan
    print(
        f"mean {statistics.mean(found):+.2f} % ± {error:.2f} (standard error of {len(found)} "
        f"builds), median {statistics.median(found):+.2f} % of {statistics.median(times):.0f} ms"
    )


if __name__ == "__main__":
    main()
