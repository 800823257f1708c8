"""The speed and the accuracy of a step on the shapes of GPT-2 small, against their targets.

    python benchmarks/step_targets.py [--layers 1] [--rounds 9] [--budget 120]

prints how long a step of PolarGrad and of Muon at training accuracy takes, relative to a float32
loop of five quintic steps written by hand (target: at most 0.5); how long our AdamW takes, relative
to torch's foreach AdamW (at most 1.1), on everything that is no matrix; and the largest |σ − 1| of
the directions in which the step went, over σ ≥ 1e-3·‖AᵀA‖_F^½ (at most 0.11). What step sizes that
the run finds add is for found_overhead.py: it is less than what one run can tell.

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/step_targets.py --torch-muon

hides the processor's bfloat16 units, where it has some, and prints how many times faster a step is
than that of torch.optim.Muon (at least 100), of which one matrix of each shape is stepped and
counted as often as the model has it. It needs minutes for a round.

Ratios are formed round by round in one run; the better quartile is in parentheses.
"""

from __future__ import annotations

import argparse
import os

import torch
from torch.nn import Parameter

from polargrad.experiments.bench.cases import Case, Shape, Spectrum
from polargrad.experiments.bench.errors import Oracle
from polargrad.experiments.bench.run import threads
from polargrad.experiments.bench.step import StepCase, StepSettings, measure
from polargrad.experiments.bench.step_candidates import LR, muon_auto, optimizer_of, polar_grad
from polargrad.experiments.bench.step_shapes import MODELS
from polargrad.experiments.bench.tables import Row

MODEL = "gpt2-small"
SPECTRA = (
    "gaussian",
    "flat",
    "spiked:1000",
    "power-law",
    "geometric:1000",
    "half-large-half-small:900",
)
OURS = {"polargrad": polar_grad, "muon": muon_auto}


def rows_of(scope: str, candidates: tuple[str, ...], options: argparse.Namespace) -> dict[str, Row]:
    """Measure some candidates; the rows by their keys."""
    settings = StepSettings(
        models=(MODEL,),
        scopes=(scope,),
        layers=options.layers,
        candidates=candidates,
        repetitions=options.rounds,
        budget=options.budget,
    )
    return {row["key"]: row for row in measure(StepCase(MODELS[MODEL], scope), settings)}


def quotient(row: Row) -> str:
    """The ratio to the reference, with its better quartile."""
    return f"{row['over_reference']:.3f} ({row['over_reference_better_quartile']:.3f})"


def print_times(options: argparse.Namespace) -> None:
    """Print the ratios of matrices and of AdamW, and what a step needs in memory."""
    peers = ("torch-muon",) if options.torch_muon else ()
    rows = rows_of("matrices", (*OURS, *peers), options)
    print("| step of the matrices | ms | relative to the loop by hand | peak MiB |")
    print("|---|---|---|---|")
    for row in rows.values():
        cells = (row["label"], f"{row['milliseconds']:.0f}", quotient(row))
        print(f"| {' | '.join(cells)} | {row['peak_mebibytes']:.1f} |")
    if options.torch_muon:
        print("\n| step of the matrices | times faster than torch.optim.Muon |\n|---|---|")
        for key in OURS:
            print(f"| {rows[key]['label']} | {1 / rows[key]['over_torch_muon']:.3g} |")
        return
    rows = rows_of("vectors", ("adamw", "adamw-rule"), options)
    print("\n| step of all else | ms | relative to torch's foreach AdamW |\n|---|---|---|")
    for row in rows.values():
        print(f"| {row['label']} | {row['milliseconds']:.1f} | {quotient(row)} |")


def deviation(key: str, shape: tuple[int, int]) -> dict[str, float]:
    """The largest |σ − 1| of the directions of one actual step, by spectrum of the gradient.

    All gradients of a shape are stepped at once, as a stack. From zero the step is −γaU with the
    signal a positive multiple of G, and ⟨G, U⟩ ≥ 0 fixes the sign. The magnitude a is √max(1, m/n)
    for Muon; for PolarGrad it is ⟨M, U⟩, so that ⟨M, γaU⟩ = γa², M = (1 − β)G after one step.
    """
    size = Shape(*shape)
    gradients = [Case("float32", size, Spectrum.parse(s)).matrix(1) for s in SPECTRA]
    params = [Parameter(torch.zeros(shape)) for _ in gradients]
    for parameter, gradient in zip(params, gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer = optimizer_of(OURS[key], params, [])
    optimizer.step()
    found = {}
    for name, parameter, gradient in zip(SPECTRA, params, gradients, strict=True):
        step = -parameter.detach().double() / LR
        if key == "muon":
            magnitude = max(1.0, shape[0] / shape[1]) ** 0.5
        else:
            momentum = optimizer.state[parameter]["momentum_buffer"].double()
            magnitude = (momentum * step).sum().sqrt().item()
        found[name] = Oracle.of(gradient).errors(step / magnitude)["deviation"]
    return found


def print_accuracy() -> None:
    """Print the deviations of both optimizers, the worst of each shape and spectrum."""
    shapes = dict.fromkeys(shape for block in MODELS[MODEL].blocks for shape in block.matrices)
    print("\n| largest deviation of σ from 1 | shape | " + " | ".join(SPECTRA) + " |")
    print("|---|---|" + "---|" * len(SPECTRA))
    worst = 0.0
    for key in OURS:
        for shape in shapes:
            found = deviation(key, shape)
            worst = max(worst, *found.values())
            cells = " | ".join(f"{value:.3f}" for value in found.values())
            print(f"| {key} | {shape[0]}x{shape[1]} | {cells} |", flush=True)
    print(f"\nlargest of all: {worst:.4f}")


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, help="step so many of 12 layers and multiply")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--budget", type=float, default=120.0, help="seconds for all rounds")
    parser.add_argument("--threads", type=int, help="default: torch's own number")
    parser.add_argument("--torch-muon", action="store_true", help="only the ratio to its step")
    parser.add_argument("--no-accuracy", action="store_true", help="only the times")
    options = parser.parse_args()
    with threads(options.threads):
        isa = ", ".join(
            f"{name}={os.environ[name]}"
            for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
            if name in os.environ
        )
        stepped = "all" if options.layers is None else f"{options.layers} (times multiplied)"
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads {isa}")
        print(f"{MODEL}, layers stepped: {stepped}\n")
        print_times(options)
        if not (options.torch_muon or options.no_accuracy):
            print_accuracy()


if __name__ == "__main__":
    main()
