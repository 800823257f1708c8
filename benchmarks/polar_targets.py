"""The speed of the default choices against torch's SVD, Muon's quintic and the published QDWH.

    python benchmarks/polar_targets.py [--rounds 15] [--budget 12] [--part exact|training]

A line for each case: how many times faster we are, as the median and the better quartile of ratios
round by round, all in one run. Exact: `polar_factor(A)`; training: `polar_factor(A, tol=0.11)`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from polargrad.experiments.bench.cases import Case, Shape, Spectrum
from polargrad.experiments.bench.errors import Oracle
from polargrad.experiments.bench.peers import muon_quintic, published_qdwh, svd_factor
from polargrad.experiments.bench.rounds import ratio, time_in_rounds
from polargrad.linalg import label, plan, polar_factor

EXACT = [
    ("float32", shape, f"geometric:{condition}")
    for shape in ("256x256", "512x512", "768x768", "1024x1024")
    for condition in ("100", "10000")
]
EXACT += [
    ("float32", shape, "geometric:10000")
    for shape in ("256x64", "500x100", "3072x768", "4096x1024", "20000x64", "64x64x64")
]
EXACT += [
    ("float64", shape, f"geometric:{condition}")
    for shape in ("128x128", "256x256", "512x512")
    for condition in ("100", "10000")
]
EXACT += [
    ("float64", shape, "geometric:10000")
    for shape in ("500x100", "3072x768", "20000x64", "1024x1024")
]
# What must never be slow: ill-conditioned and rank-deficient matrices.
EXACT += [("float32", shape, "geometric:1e6") for shape in ("128x128", "256x256", "512x512")]
EXACT += [("float32", "1024x1024", "geometric:1e6"), ("float64", "512x512", "geometric:1e10")]
TRAINING = [
    "16x16",
    "32x32",
    "64x64",
    "64x256",
    "128x128",
    "160x160",
    "192x192",
    "256x256",
    "512x512",
    "768x768",
    "1024x1024",
    "500x100",
]
TRAINING += ["512x128", "768x3072", "1024x4096", "20000x64", "64x64x64", "16x256x128", "12x768x768"]
SPECTRA = ("flat", "spiked:1000", "power-law", "geometric:1000", "half-large-half-small:900")
LARGE = 2_000_000  # entries from which the unbatched published code is left out


def measure(
    case: Case,
    peers: dict[str, Callable[[Tensor], Tensor]],
    names: tuple[str, ...],
    tol: float | None,
    options: argparse.Namespace,
) -> None:
    """Print one line, with a dash for a peer that is left out."""
    A = case.matrix(0)
    ours = partial(polar_factor, tol=tol)
    calls = {name: partial(peer, A) for name, peer in {**peers, "ours": ours}.items()}
    times = time_in_rounds(calls, repetitions=options.rounds, budget=options.budget)
    found = []
    for name in names:
        if name in peers:
            median, better = ratio(times["ours"], times[name])
            found.append(f"{1 / median:.2f} ({1 / better:.2f})")
        else:
            found.append("–")
    method = label(plan(A, tol=tol).method)
    print(f"| {case.dtype} | {case.shape} | {case.spectrum} | {method} | {' | '.join(found)} |")


def worst_deviation(shape: Shape) -> float:
    """The largest |σ − 1| at training accuracy over the spectra, for σ ≥ 1e-3 ‖AᴴA‖_F^½."""
    worst = 0.0
    for spectrum in SPECTRA:
        A = Case("float32", shape, Spectrum.parse(spectrum)).matrix(1)
        worst = max(worst, Oracle.of(A).errors(polar_factor(A, tol=0.11))["deviation"])
    return worst


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=12.0, help="seconds a line")
    parser.add_argument("--part", choices=("exact", "training"))
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    if options.part != "training":
        print_exact(options)
    if options.part != "exact":
        print_training(options)


def print_exact(options: argparse.Namespace) -> None:
    """Print the table of converged factors."""
    print("| dtype | shape | spectrum | method | × torch SVD | × published QDWH, 5 steps |")
    print("|---|---|---|---|---|---|")
    for dtype, shape, spectrum in EXACT:
        case = Case(dtype, Shape.parse(shape), Spectrum.parse(spectrum))
        peers = {"svd": svd_factor, "qdwh": partial(published_qdwh, steps=5)}
        if case.shape.rows * case.shape.columns > LARGE:
            del peers["qdwh"]
        measure(case, peers, ("svd", "qdwh"), None, options)


def print_training(options: argparse.Namespace) -> None:
    """Print the table of training accuracy, and how far the factors are off."""
    print("\n| dtype | shape | spectrum | method | × Muon's quintic in float32 |")
    print("|---|---|---|---|---|")
    for shape in TRAINING:
        case = Case("float32", Shape.parse(shape), Spectrum.parse("gaussian"))
        peers = {"quintic": partial(muon_quintic, dtype=torch.float32)}
        measure(case, peers, ("quintic",), 0.11, options)
    print("\n| shape | largest deviation of a singular value that counts |\n|---|---|")
    for shape in TRAINING:
        if not shape.startswith("20000"):
            print(f"| {shape} | {worst_deviation(Shape.parse(shape)):.3f} |")


if __name__ == "__main__":
    main()
