"""Accuracy of the converged methods over condition numbers, in units of eps: the table of the docs.

    python benchmarks/polar_accuracy.py

Random 200 × 120 matrices with singular values spaced evenly in their logarithm, three seeds; the
worst of ‖UᵀU − I‖_F/√n, of ‖A − UH‖_F/‖A‖_F with H = sym(UᵀA), and of −λ_min(H)/‖A‖₂.
"""

from __future__ import annotations

import torch

import polargrad as pg

SHAPE = (200, 120)
CONDITIONS = {
    torch.float64: [10.0**k for k in range(0, 13, 2)],
    torch.float32: [1.0, 1e2, 1e4, 1e5],
}


def matrix(condition: float, seed: int) -> torch.Tensor:
    """A random matrix of this condition number, in float64."""
    generator = torch.Generator().manual_seed(seed)
    gauss = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(gauss, full_matrices=False)
    return (u * condition ** -torch.linspace(0, 1, SHAPE[1], dtype=torch.float64)) @ vh


def errors(a: torch.Tensor, method: str) -> list[float]:
    """The three measures in units of eps, evaluated in float64."""
    u, h = (x.double() for x in pg.polar(a, method=method))
    eps, a = torch.finfo(a.dtype).eps, a.double()
    norm = torch.linalg.matrix_norm
    return [
        (norm(u.mT @ u - torch.eye(SHAPE[1])) / SHAPE[1] ** 0.5 / eps).item(),
        (norm(a - u @ h) / norm(a) / eps).item(),
        (-torch.linalg.eigvalsh(h)[0] / norm(a, 2) / eps).clamp(min=0).item(),
    ]


def main() -> None:
    """Print the table as Markdown."""
    print("| method, dtype, condition numbers | orthogonality | residual | λ_min(H) below zero |")
    print("|---|---|---|---|")
    for dtype, conditions in CONDITIONS.items():
        for method in ("svd", "qdwh"):
            found = [errors(matrix(k, s).to(dtype), method) for k in conditions for s in range(3)]
            worst = " | ".join(f"{max(column):.2g}" for column in zip(*found, strict=True))
            name = str(dtype).removeprefix("torch.")
            print(f"| {method}, {name}, 1 … {conditions[-1]:.0e} | {worst} |")


if __name__ == "__main__":
    main()
