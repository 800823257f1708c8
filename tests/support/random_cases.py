"""Random polar decompositions, and everything that must hold of one."""

import math

import torch
from matrices import double, eps, negativity, orthogonality, residual, with_singular_values

import polargrad as pg

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


def matrix(shape, dtype, rank, spread, scale, seed):
    """A stack of this rank, with singular values over ``spread`` of the decades there are.

    The smallest σ that counts stays a factor of ten above the cutoff √k·eps.
    """
    generator = torch.Generator().manual_seed(seed)
    k = min(shape[-2:])
    decades = -math.log10(10 * k**0.5 * eps(dtype))
    sigma = torch.zeros(k, dtype=torch.float64)
    exponents = spread * decades * torch.rand(rank, generator=generator, dtype=torch.float64)
    sigma[:rank] = 10.0**-exponents
    sigma = sigma.sort(descending=True).values
    if rank:
        sigma[0] = 1.0
    return with_singular_values(shape, sigma, dtype, seed) * 2.0**scale


def draw(seed, largest=40):
    """A matrix or a small stack, everything about it drawn, and its rank."""
    generator = torch.Generator().manual_seed(seed)

    def integer(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    dtype = DTYPES[integer(0, 3)]
    m, n = integer(1, largest), integer(1, largest)
    batch = () if integer(0, 1) else (integer(1, 3),)
    rank = min(m, n) if integer(0, 2) else integer(0, min(m, n))
    spread = float(torch.rand((), generator=generator))
    return matrix((*batch, m, n), dtype, rank, spread, integer(-60, 60), seed), rank


def ambiguous(a, rank):
    """Whether rounding of the entries has put a σ next to the cutoff: it may go either way."""
    noise = torch.linalg.svdvals(double(a))
    noise = (noise / noise[..., :1].clamp(min=1e-300))[..., rank:]
    return bool((noise > 0.3 * min(a.shape[-2:]) ** 0.5 * eps(a.dtype)).any())


def check(a, rank, method, where=""):
    """Check factor, norm and certificate of a matrix of this rank."""
    if ambiguous(a, rank):
        return
    result = pg.polar(a, method=method, certify=True)
    certificate = result.certificate
    out = torch.linalg.svdvals(double(result.U))
    e = eps(a.dtype)
    where = f"{where} {tuple(a.shape)}, {a.dtype}, rank {rank}, {certificate.method}"
    assert (out[..., :rank] - 1).abs().max().item() <= 100 * e if rank else True, where
    assert out[..., rank:].abs().max().item() <= 100 * e if rank < out.shape[-1] else True, where
    if rank:
        assert residual(a, result.U, result.H, result.side) <= 100 * e, where
        assert negativity(result.H, a) <= 100 * e, where
    if rank == min(a.shape[-2:]):
        assert orthogonality(result.U) <= 100 * e, where
    if method == "auto":
        check_default(a, result, rank, where)
    sigma = torch.linalg.svdvals(double(a))
    exact, zero = sigma.sum(-1), sigma[..., rank:].sum(-1)  # what counts as zero is not in U
    error = (result.nuclear_norm.double() - exact).abs()
    limit = 6 if method == "auto" else 20  # 4 of the default's own, 2 of the oracle's
    assert (error <= limit * e * exact + zero).all(), where
    check_certificate(a, result, rank, where)


def check_default(a, result, rank, where):
    """The default method keeps 5 eps in single precision and 40 in double, on its range."""
    limit = (5 if a.dtype in (torch.float32, torch.complex64) else 40) * eps(a.dtype)
    u = double(result.U)
    u = u if u.shape[-2] >= u.shape[-1] else u.mH
    gram = u.mH @ u
    defect = torch.linalg.matrix_norm(gram @ gram - gram) / gram.shape[-1] ** 0.5
    assert (defect <= limit).all(), where
    if rank:
        assert residual(a, result.U, result.H, result.side) <= limit, where
        assert negativity(result.H, a) <= limit, where


def check_certificate(a, result, rank, where):
    """What it bounds is within its bounds, as far as a float64 SVD can tell."""
    certificate = result.certificate
    assert (certificate.rank == rank).all(), where
    assert certificate.keeps(1e-3).all(), where
    assert certificate.semidefinite.all(), where
    w, sigma, vh = torch.linalg.svd(double(a), full_matrices=False)
    best = w[..., :rank] @ vh[..., :rank, :]
    factor = torch.linalg.matrix_norm(double(result.U) - best)
    oracle = 50 * eps(torch.float64) * (sigma[..., 0] / sigma[..., rank - 1]) if rank else 0.0
    assert (factor <= certificate.factor_error + oracle).all(), where
    size = torch.linalg.matrix_norm(double(a)).clamp(min=1e-300)
    nuclear = (result.nuclear_norm.double() - sigma.sum(-1)).abs() / size
    rounded = 8 * eps(torch.float64) * sigma.shape[-1] ** 0.5  # of the oracle
    assert (nuclear <= certificate.nuclear_norm_error + rounded).all(), where
