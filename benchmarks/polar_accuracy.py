"""Accuracy of the polar factor, in units of eps: the tables of docs/results.md.

    python benchmarks/polar_accuracy.py [--quick]

First the default method over shapes, condition numbers from 1 to a tenth of 1/cutoff, ranks and
scales; then every converged method on 200 × 120. All with singular values spaced evenly in their
logarithm and three seeds; the worst of ‖UᵀU − P‖_F/√n on the range P of U, of ‖A − UH‖_F/‖A‖_F with
H = sym(UᵀA), and of −λ_min(H)/‖A‖_F, evaluated in float64; and the error of the nuclear norm.
"""

from __future__ import annotations

import argparse
import math

import torch

import polargrad as pg
from polargrad.linalg import GramEigh, Method, label, plan
from polargrad.linalg.precision import rank_cutoff

SHAPES = [(1, 1), (50, 1), (16, 16), (64, 64), (65, 64), (128, 128), (300, 300), (500, 100)]
SHAPES += [(600, 600), (3072, 768), (20000, 64), (1024, 1024), (2048, 2048)]
LARGE = 700  # sides for which one seed and fewer condition numbers have to do
METHODS: list[str | Method] = ["svd", GramEigh(), "qdwh", "mixed_qdwh", "newton", "zolotarev"]


def matrix(shape: tuple[int, int], condition: float, rank: int, seed: int) -> torch.Tensor:
    """A random matrix with ``rank`` singular values from 1 to 1/condition, in float64."""
    generator = torch.Generator().manual_seed(seed)
    u, v = (
        torch.linalg.qr(torch.randn(side, rank, generator=generator, dtype=torch.float64)).Q
        for side in shape
    )
    steps = torch.linspace(0, 1, rank, dtype=torch.float64) if rank > 1 else torch.zeros(rank)
    return (u * condition**-steps) @ v.mT


def errors(a: torch.Tensor, method: str | Method, rank: int) -> list[float]:
    """The four measures in units of eps, evaluated in float64."""
    result = pg.polar(a, method=method)
    u, h = (x.double() for x in result)
    eps, a = torch.finfo(a.dtype).eps, a.double()
    u, a = (u, a) if u.shape[0] >= u.shape[1] else (u.mT, a.mT)
    norm = torch.linalg.matrix_norm
    gram = u.mT @ u
    exact = torch.linalg.svdvals(a)[:rank].sum()
    return [
        (norm(gram @ gram - gram) / gram.shape[-1] ** 0.5 / eps).item(),
        (norm(a - u @ h) / norm(a) / eps).item(),
        (-torch.linalg.eigvalsh(h)[0] / norm(a) / eps).clamp(min=0).item(),
        ((result.nuclear_norm.double() - exact).abs() / exact / eps).item(),
    ]


def conditions(columns: int, dtype: torch.dtype, number: int) -> list[float]:
    """From 1 to where the smallest singular value is ten times the cutoff."""
    if columns == 1:
        return [1.0]
    most = 0.1 / rank_cutoff(columns, dtype)
    return [most ** (i / (number - 1)) for i in range(number)]


def default_rows(dtype: torch.dtype, shapes: list[tuple[int, int]]) -> list[str]:
    """A row for each shape: the worst over condition numbers, ranks and scales."""
    rows = []
    for shape in shapes:
        large = max(shape) > LARGE and min(shape) > 100
        columns = min(shape)
        found = []
        for seed in range(1 if large else 3):
            for condition in conditions(columns, dtype, 3 if large else 6):
                for rank in {columns, max(1, columns // 2)}:
                    a = matrix(shape, condition, rank, seed)
                    scales = (1.0,) if large else (1e-30, 1.0, 1e30)
                    found += [errors((a * scale).to(dtype), "auto", rank) for scale in scales]
        worst = " | ".join(f"{max(column):.2g}" for column in zip(*found, strict=True))
        method = label(plan(shape=shape, dtype=dtype).method)
        rows.append(f"| {shape[0]} × {shape[1]} | {method} | {worst} |")
        print(rows[-1], flush=True)
    return rows


def method_rows(dtype: torch.dtype) -> None:
    """A row for each converged method."""
    shape = (200, 120)
    most = conditions(120, dtype, 2)[-1]
    for method in METHODS:
        double_gram = isinstance(method, GramEigh) and dtype == torch.float64
        largest = 1e4 if double_gram else most
        found = [
            errors(matrix(shape, largest ** (i / 6), 120, seed).to(dtype), method, 120)
            for i in range(7)
            for seed in range(3)
        ]
        worst = " | ".join(f"{max(column):.2g}" for column in zip(*found, strict=True))
        name = method if isinstance(method, str) else label(method)
        span = f"1 … 1e{math.log10(largest):.1f}"
        print(f"| {name}, {str(dtype).removeprefix('torch.')}, {span} | {worst} |", flush=True)


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="sides up to 700 only")
    quick = parser.parse_args().quick
    shapes = [shape for shape in SHAPES if not quick or max(shape) <= LARGE]
    for dtype in (torch.float32, torch.float64):
        print(f"\n| {dtype} | method | orthogonality | residual | negativity | nuclear norm |")
        print("|---|---|---|---|---|---|")
        default_rows(dtype, shapes)
    print(
        "\n| method | orthogonality | residual | negativity | nuclear norm |\n|---|---|---|---|---|"
    )
    for dtype in (torch.float32, torch.float64):
        method_rows(dtype)


if __name__ == "__main__":
    main()
