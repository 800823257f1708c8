"""A matrix problem without a network: fill in the missing entries of a low-rank matrix."""

import torch

import polargrad as pg

generator = torch.Generator().manual_seed(0)
M = torch.randn(200, 4, generator=generator) @ torch.randn(4, 100, generator=generator)
seen = torch.rand(M.shape, generator=generator) < 0.3


def relative_error(optimizer_of, steps=200):
    """How far the filled-in entries are from the true ones, with two factors of rank four."""
    start = torch.Generator().manual_seed(1)
    X = torch.nn.Parameter(2 * torch.rand(200, 4, generator=start) - 1)
    Y = torch.nn.Parameter(2 * torch.rand(100, 4, generator=start) - 1)
    optimizer = optimizer_of([X, Y])
    for _ in range(steps):
        optimizer.zero_grad()
        ((X @ Y.mT - M)[seen].square().mean()).backward()
        optimizer.step()
    missing = (X @ Y.mT - M)[~seen].detach()
    return (missing.norm() / M[~seen].norm()).item()


runs = {
    # Each factor is a matrix of its own; the step is lr · nuclear norm · polar factor.
    "PolarGrad": lambda params: pg.PolarGrad(params, lr=10.0, momentum=0.0),
    "Muon": lambda params: pg.Muon(params, lr=0.1, weight_decay=0.0),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.05),
}
errors = {name: relative_error(optimizer_of) for name, optimizer_of in runs.items()}
for name, error in errors.items():
    print(f"{name:10s} relative error of the missing entries {error:.1e}")
assert errors["PolarGrad"] < 1e-3, "the true matrix is found"
