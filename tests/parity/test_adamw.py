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
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
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
    peer = torch.optim.AdamW(
        [p for n, p in theirs.named_parameters() if n in names], fused=True, **hyper
    )
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


@pytest.mark.parametrize("hyper", HYPER)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_are_stepped_in_float32(hyper, dtype):
    """Every step is that of float32 parameters, rounded once; the moments never are."""
    ours, theirs = model(dtype), model(dtype).float()
    vector = {f"vector_{key}": value for key, value in hyper.items()}
    optimizer = pg.PolarGrad(pg.param_groups(ours, **vector), lr=0.1)
    names = optimizer.param_groups[1]["param_names"]
    mine, wanted = dict(ours.named_parameters()), dict(theirs.named_parameters())
    peer = torch.optim.AdamW([wanted[n] for n in names], fused=True, **hyper)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        with torch.no_grad():
            for name in names:
                wanted[name].copy_(mine[name])
        for name in names:
            mine[name].grad = (1e-4 * torch.randn(mine[name].shape, generator=generator)).to(dtype)
            wanted[name].grad = mine[name].grad.float()
        optimizer.step()
        peer.step()
        for name in names:
            assert torch.equal(mine[name], wanted[name].to(dtype)), name
            for key in ("exp_avg", "exp_avg_sq"):
                moment = optimizer.state[mine[name]][key]
                assert moment.dtype == torch.float32
                assert torch.equal(moment, peer.state[wanted[name]][key]), (name, key)


LAYOUTS = {
    "transposed": lambda: torch.randn(6, 4).t(),
    "channels last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "with gaps": lambda: torch.randn(8, 6)[::2, 1:4],
    "empty": lambda: torch.zeros(0, 3),
    "a number": lambda: torch.randn(()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gradient", ["of the same layout", "contiguous"])
@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("capturable", [False, True])
def test_any_layout(layout, gradient, foreach, capturable):
    """torch's fused kernel pairs the wrong entries where strides differ or leave gaps."""
    torch.manual_seed(0)
    example = LAYOUTS[layout]()
    p = torch.nn.Parameter(torch.empty_strided(example.shape, example.stride()).copy_(example))
    q = torch.nn.Parameter(example.contiguous().clone())
    groups = [
        {"params": [torch.nn.Parameter(torch.eye(2))]},
        {"params": [p], "rule": "adamw", "weight_decay": 0.1},
    ]
    ours = pg.PolarGrad(groups, lr=0.1, vector_lr=0.05, foreach=foreach, capturable=capturable)
    peer = torch.optim.AdamW([q], lr=0.05, weight_decay=0.1)
    for _ in range(3):
        q.grad = torch.randn(example.shape)
        p.grad = q.grad.clone()
        if gradient == "of the same layout":
            p.grad = torch.empty_strided(example.shape, example.stride()).copy_(q.grad)
        ours.step()
        peer.step()
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-6, atol=1e-6)


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
