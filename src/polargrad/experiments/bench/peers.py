"""What others compute: the peers of the benchmark, and why one is left out where it is."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polargrad.linalg.coefficients import MUON_QUINTIC
from polargrad.records import require

SVD_PEER = "torch.linalg.svd"
QUINTIC_PEER = "Muon's quintic, float32"
BFLOAT16_PEER = "Muon's quintic, bfloat16"

# Labels of the peers that run in a process of their own, and the packages they need. OpenBLAS of
# scipy, XLA of jax and OpenMP of torch each keep threads that wait busily for work: in one process
# on few cores every change from one to the other costs milliseconds.
FOREIGN = {"scipy.linalg.polar": "scipy", "jax.scipy.linalg.polar": "jax"}
# How long a separate process may take besides its measurements: to start, import and compile.
PATIENCE = 120.0


def peers(*, bfloat16: bool) -> tuple[dict[str, Callable[[Tensor], Tensor]], dict[str, str]]:
    """Return the peers of this process by label, and by label why others are left out."""
    found: dict[str, Callable[[Tensor], Tensor]] = {
        SVD_PEER: svd_factor,
        QUINTIC_PEER: partial(muon_quintic, dtype=torch.float32),
        "published QDWH, 2 steps": partial(published_qdwh, steps=2),
        "published QDWH, 5 steps": partial(published_qdwh, steps=5),
    }
    skipped: dict[str, str] = {}
    if bfloat16:
        found[BFLOAT16_PEER] = partial(muon_quintic, dtype=torch.bfloat16)
    polar = getattr(torch.linalg, "polar", None)
    if polar is None:
        skipped["torch.linalg.polar"] = f"torch {torch.__version__} has no torch.linalg.polar"
    else:
        found["torch.linalg.polar"] = lambda A: polar(A)[0]
    return found, skipped


def svd_factor(A: Tensor) -> Tensor:
    """The polar factor W Vᴴ by torch's singular value decomposition.

    Example:
        >>> svd_factor(torch.diag(torch.tensor([2.0, 3.0]))).abs()
        tensor([[1., 0.],
                [0., 1.]])
    """
    w, _, vh = torch.linalg.svd(A, full_matrices=False)
    factor: Tensor = w @ vh
    return factor


def muon_quintic(A: Tensor, *, dtype: torch.dtype) -> Tensor:
    r"""Five steps of Muon's quintic in the given precision, two dimensions or three.

    .. math:: X \leftarrow aX + (bG + cG^2)X, \qquad G = XX^{\mathsf H},\; X_0 = A/\|A\|_F

    with the short side first, every product and sum in one call, as torch.optim.Muon has it; there
    the precision is bfloat16. A complex matrix stays complex, in complex64.

    Source: K. Jordan's post on Muon (2024).
    """
    a, b, c = MUON_QUINTIC
    x = A.to(torch.complex64 if A.is_complex() else dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mH if tall else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    product = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(5):
        gram = x @ x.mH
        x = product(x, product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mH if tall else x).to(A.dtype)


def published_qdwh(A: Tensor, *, steps: int) -> Tensor:
    r"""QDWH as the published PolarGrad computes it, one matrix of the stack after the other.

    .. math:: X \leftarrow X (aI + bX^{\mathsf H}X)(I + cX^{\mathsf H}X)^{-1}

    from the lower bound eps of the dtype; a step with c > 100 by a QR factorization of the stacked
    matrix, one below by Cholesky; then the step (3, 1, 3) while the last Cholesky step moved X by
    more than the cube root of 5 eps and the budget lasts; and always one Newton–Schulz step. Two
    steps are its optimizers' default, five that of its decomposition.

    Source: the formulas of the published code (QDWH of jax), written anew from Nakatsukasa, Bai and
    Gygi, SIAM J. Matrix Anal. Appl. 31 (2010).
    """
    if A.ndim > 2:
        return torch.stack([published_qdwh(matrix, steps=steps) for matrix in A])
    if A.shape[0] < A.shape[1]:
        return published_qdwh(A.mH, steps=steps).mH
    eps = torch.finfo(A.dtype).eps
    size = A.abs()
    x = A / (size.sum(dim=0).amax().sqrt() * size.sum(dim=1).amax().sqrt())
    identity = torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
    lower, taken, change = eps, 0, 0.0
    while lower + 5.0 * eps < 1.0 and taken < steps:
        a, b, c, lower = _halley(lower)
        if c > 100.0:
            q, _ = torch.linalg.qr(torch.cat((math.sqrt(c) * x, identity)))
            q1, q2 = q[: A.shape[0]], q[A.shape[0] :]
            x = (b / c) * x + ((a - b / c) / math.sqrt(c)) * (q1 @ q2.mH)
        else:
            x, change = _cholesky_step(x, identity, a, b, c)
        taken += 1
    while change > (5.0 * eps) ** (1.0 / 3.0) and taken < steps:
        x, change = _cholesky_step(x, identity, 3.0, 1.0, 3.0)
        taken += 1
    return 1.5 * x - 0.5 * x @ (x.mH @ x)


def _halley(lower: float) -> tuple[float, float, float, float]:
    """The weights (a, b, c) that are best on [lower, 1], and the next lower bound."""
    square = lower**2
    d = (4.0 * (1.0 / square - 1.0) / square) ** (1.0 / 3.0)
    root = math.sqrt(1.0 + d)
    a = root + math.sqrt(2.0 - d + 2.0 * (2.0 - square) / (square * root))
    b = (a - 1.0) ** 2 / 4.0
    c = a + b - 1.0
    return a, b, c, min(lower * (a + b * square) / (1.0 + c * square), 1.0)


def _cholesky_step(
    x: Tensor, identity: Tensor, a: float, b: float, c: float
) -> tuple[Tensor, float]:
    """A step by a Cholesky factorization, and how far it moved x."""
    factor = torch.linalg.cholesky(identity + c * (x.mH @ x))
    moved = (b / c) * x + (a - b / c) * torch.cholesky_solve(x.mH, factor).mH
    return moved, torch.linalg.matrix_norm(moved - x).item()


def missing(label: str) -> str | None:
    """Why a peer with a process of its own can't run here, or None if it can."""
    package = FOREIGN[label]
    return None if importlib.util.find_spec(package) else f"{package} is not installed"


def run_foreign(
    label: str, A: Tensor, *, repetitions: int, budget: float, threads: int
) -> tuple[Tensor, list[float]]:
    """Measure a peer on the CPU in a process of its own; return its factor and the milliseconds.

    Raises:
        RuntimeError: if the process fails or does not end, with the last line of what it said.
    """
    numpy = require("numpy", extra="experiments")
    # Not -m: the process must not import torch, and with -P no file beside the script either.
    script = Path(__file__).with_name("foreign.py")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numpy.save(folder / "matrix.npy", A.cpu().numpy())
        task = {
            "peer": label,
            "folder": name,
            "repetitions": repetitions,
            "budget": budget,
            "threads": threads,
        }
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(script), json.dumps(task)],
                env={**os.environ, **_thread_variables(threads)},
                capture_output=True,
                text=True,
                timeout=budget + PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"did not end within {budget + PATIENCE:g} s") from None
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise RuntimeError(f"failed: {lines[-1]}")
        times: Any = json.loads(done.stdout.splitlines()[-1])
        return torch.from_numpy(numpy.load(folder / "factor.npy")), [float(t) for t in times]


def _thread_variables(threads: int) -> dict[str, str]:
    """What the thread pools of the peers' libraries read when they start."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, str(threads))
