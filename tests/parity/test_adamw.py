"""What is not a matrix takes exactly the steps of torch.optim.AdamW."""

import pytest
import torch
from torch import nn

import polargrad as pg

HYPER = [
    {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    {"lr": 3e-3, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1},
    {"lr": 1e-2, "betas": (0.0, 0.0), "eps": 1e-3, "weight_decay": 0.5},
]


def model(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.LayerNorm(8), nn.Conv2d(2, 2, 3, groups=2), nn.Linear(8, 3)
    ).to(dtype)


@pytest.mark.parametrize("hyper", HYPER)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("given", ["to param_groups", "to the optimizer"])
def test_equals_adamw_to_the_bit(hyper, dtype, given):
    ours, theirs = model(dtype), model(dtype)
    vector = {f"vector_{key}": value for key, value in hyper.items()}
    if given == "to param_groups":
        optimizer = pg.PolarGrad(pg.param_groups(ours, **vector), lr=0.1, weight_decay=0.01)
    else:
        optimizer = pg.PolarGrad(pg.param_groups(ours), lr=0.1, weight_decay=0.01, **vector)
    names = optimizer.param_groups[1]["param_names"]
    # All but the hidden matrix: the layout of a grouped convolution is left alone, 3.weight a head.
    assert sorted(names) == sorted(n for n, _ in ours.named_parameters() if n != "0.weight")
    peer = torch.optim.AdamW([p for n, p in theirs.named_parameters() if n in names], **hyper)
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            q.grad = p.grad.clone()
        optimizer.step()
        peer.step()
    mine, wanted = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for name in names:
        assert torch.equal(mine[name], wanted[name]), name
        for key, value in peer.state[wanted[name]].items():
            assert torch.equal(optimizer.state[mine[name]][key], value), (name, key)


def test_its_learning_rate_is_never_that_of_the_matrices():
    """Whatever lr is, the vectors move as they do with any other."""
    results = []
    for lr in (0.0, 1e-8, 50.0):
        m = model()
        optimizer = pg.PolarGrad(pg.param_groups(m), lr=lr)
        for p in m.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        results.append(m[1].weight.detach())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    torch.testing.assert_close(results[0], torch.ones(8) - 1e-3)  # the documented default
