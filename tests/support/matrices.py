"""Matrices with known singular values, and the float64 SVD that every test is judged by."""

import torch

REAL = (torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
HALF = (torch.float16, torch.bfloat16)


def double(a):
    """The same matrix in double precision, real or complex."""
    return a.to(torch.complex128 if a.is_complex() else torch.float64)


def eps(dtype):
    return torch.finfo(dtype).eps


def geometric(count, condition):
    """Singular values from 1 down to 1/condition, evenly spaced in their logarithm."""
    if count == 1:
        return torch.ones(1, dtype=torch.float64)
    return float(condition) ** -torch.linspace(0, 1, count, dtype=torch.float64)


def with_singular_values(shape, sigma, dtype=torch.float64, seed=0):
    """A random stack ``(..., m, n)`` with these singular values, min(m, n) of them."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    gauss = torch.randn(shape, generator=generator, dtype=wide)
    u, _, vh = torch.linalg.svd(gauss, full_matrices=False)
    return ((u * sigma.to(wide)) @ vh).to(dtype)


def conditioned(shape, condition, dtype=torch.float64, seed=0):
    """A random stack of this condition number."""
    return with_singular_values(shape, geometric(min(shape[-2:]), condition), dtype, seed)


def polar_oracle(a, cutoff=0.0):
    """The polar factor by a float64 SVD; directions with σ ≤ cutoff·σ₁ are zero."""
    u, sigma, vh = torch.linalg.svd(double(a), full_matrices=False)
    return (u * (sigma > cutoff * sigma[..., :1]).unsqueeze(-2)) @ vh


def orthogonality(u):
    """‖UᴴU − I‖_F/√n on the small side."""
    u = double(u)
    gram = u.mH @ u if u.shape[-2] >= u.shape[-1] else u @ u.mH
    n = gram.shape[-1]
    identity = torch.eye(n, dtype=gram.dtype)
    return (torch.linalg.matrix_norm(gram - identity) / n**0.5).max().item()


def residual(a, u, h, side):
    """‖A − UH‖_F/‖A‖_F, or ‖A − HU‖_F/‖A‖_F."""
    a, u, h = double(a), double(u), double(h)
    product = u @ h if side == "right" else h @ u
    return (torch.linalg.matrix_norm(a - product) / torch.linalg.matrix_norm(a)).max().item()


def negativity(h, a):
    """How negative H's lowest eigenvalue is, over ‖A‖₂: zero for a semidefinite H."""
    lowest = torch.linalg.eigvalsh(double(h))[..., 0]
    return (-lowest / torch.linalg.matrix_norm(double(a), 2)).clamp(min=0).max().item()
