"""Matrix quadratics with a Hessian that is a Kronecker product, in float64."""

import math

import torch

# What docs/step_size.md recommends for matrix problems.
OF_DIRECTIONS = {"momentum": 0.932, "order": "polar-first", "nesterov": 0.035}
# Momenta under which step sizes are found.
WAYS = {
    "no momentum": {"momentum": 0.0},
    "momentum-first": {"momentum": 0.9},
    "of directions": OF_DIRECTIONS,
}


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Quadratic:
    """½⟨X − X*, H₁ (X − X*) H₂⟩."""

    def __init__(self, m=7, n=4, seed=0, condition=30.0, scale=1.0):
        left, right = (torch.logspace(0, -0.5 * math.log10(condition), k).double() for k in (m, n))
        q, r = (torch.linalg.qr(randn(k, k, seed=seed + k))[0] for k in (m, n))
        self.left, self.right = scale * (q * left) @ q.T, (r * right) @ r.T
        self.solution = randn(m, n, seed=seed + 100)

    def gradient(self, x, k=0):
        return self.left @ (x - self.solution) @ self.right

    def gap(self, x):
        return 0.5 * float(((x - self.solution) * self.gradient(x)).sum())
