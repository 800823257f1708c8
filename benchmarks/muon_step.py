"""One step of Muon: ours in float32 against torch.optim.Muon, which computes in bfloat16.

    python benchmarks/muon_step.py                      # one 512 × 512 parameter
    python benchmarks/muon_step.py --shapes 768x3072

On a processor with bfloat16 units (AVX512-BF16, AMX) the peer's products are fast; on one without
they are emulated. To see on the former what the latter does, hide the units from oneDNN:

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/muon_step.py

The steps alternate in one process; medians and their ratio are printed, with the distance of our
update from its formula in float64, and where the numbers come from.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import torch

import polargrad as pg
from polargrad.records import provenance

LR, DECAY, MOMENTUM = 0.02, 0.1, 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)


def timed(step: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def formula(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Muon's first step from zero momentum, in float64, from the equation alone."""
    signal = (1 - MOMENTUM) * g + MOMENTUM * (1 - MOMENTUM) * g
    wide = signal.mT if signal.shape[0] > signal.shape[1] else signal
    y = wide / torch.linalg.matrix_norm(wide)
    a, b, c = QUINTIC
    for _ in range(5):
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    y = y.mT if signal.shape[0] > signal.shape[1] else y
    return (1 - LR * DECAY) * x - LR * max(1.0, x.shape[0] / x.shape[1]) ** 0.5 * y


def measure(rows: int, columns: int, repeats: int) -> dict[str, object]:
    """Medians of both steps on one parameter, and our error against the formula."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(rows, columns, generator=generator)
    gradient = torch.randn(rows, columns, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    ours.grad, theirs.grad = gradient.clone(), gradient.clone()
    options = {"lr": LR, "weight_decay": DECAY, "momentum": MOMENTUM}
    mine, peer = pg.Muon([ours], **options), torch.optim.Muon([theirs], **options)
    mine.step()
    expected = formula(start.double(), gradient.double())
    moved = expected - (1 - LR * DECAY) * start.double()
    error = torch.linalg.matrix_norm(ours.detach().double() - expected).item()
    error /= torch.linalg.matrix_norm(moved).item()
    peer.step()
    times: dict[str, list[float]] = {"polargrad": [], "torch": []}
    for _ in range(repeats):
        times["torch"].append(timed(peer.step))
        times["polargrad"].extend(timed(mine.step) for _ in range(3))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "shape": f"{rows}x{columns}",
        "polargrad_ms": round(medians["polargrad"], 2),
        "torch_ms": round(medians["torch"], 2),
        "times_faster": round(medians["torch"] / medians["polargrad"], 2),
        "relative_error_of_the_update": error,
    }


def main() -> None:
    """Measure the shapes that were asked for and print one JSON line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=["512x512"], help="as 512x512")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    where = provenance()
    where["ONEDNN_MAX_CPU_ISA"] = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    where["bfloat16_units"] = str(torch.cpu.get_capabilities().get("avx512_bf16", "unknown"))
    print(json.dumps(where))
    for shape in arguments.shapes:
        rows, columns = map(int, shape.split("x"))
        print(json.dumps(measure(rows, columns, arguments.repeats)))


if __name__ == "__main__":
    main()
