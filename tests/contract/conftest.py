"""A model with every kind of parameter, and gradients for it from a seed."""

import pytest
import torch
from torch import nn

import polargrad as pg


def _model(dtype=torch.float32, seed=0):
    """Hidden matrices of one shape, fused gates, a convolution, an embedding, a head, vectors."""
    torch.manual_seed(seed)
    return nn.ModuleDict(
        {
            "embedding": nn.Embedding(7, 4),
            "gates": nn.GRU(4, 3),
            "first": nn.Linear(3, 5),
            "second": nn.Linear(3, 5),
            "convolution": nn.Conv1d(5, 4, 3),
            "norm": nn.LayerNorm(4),
            "head": nn.Linear(4, 7),
        }
    ).to(dtype)


def _set_gradients(params, step=0, scale=1.0):
    """Gradients that depend on the step alone; a parameter's own seed is its position."""
    for index, p in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * step + index)
        p.grad = (scale * torch.randn(p.shape, generator=generator)).to(p.dtype)


def _snapshot(optimizer):
    """Copies of all parameters and of their state, in order."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [
        (p.detach().clone(), {k: v.clone() for k, v in optimizer.state.get(p, {}).items()})
        for p in params
    ]


def _same(x, y):
    """Whether two tensors agree in every bit, the sign of zero included."""
    return torch.equal(x, y) and torch.equal(torch.signbit(x), torch.signbit(y))


def _equal(a, b):
    """Whether two snapshots agree in every bit."""
    return all(
        _same(x, y) and s.keys() == t.keys() and all(_same(s[k], t[k]) for k in s)
        for (x, s), (y, t) in zip(a, b, strict=True)
    )


PRESETS = {
    "polargrad": lambda groups, **more: pg.PolarGrad(groups, lr=0.05, weight_decay=0.1, **more),
    "polargrad, polar-first": lambda groups, **more: pg.PolarGrad(
        groups, lr=0.05, order="polar-first", nesterov=True, method="svd", **more
    ),
    "polargrad, no momentum": lambda groups, **more: pg.PolarGrad(
        groups, lr=0.05, momentum=0.0, decay_per_step=0.01, method="qdwh", **more
    ),
    "muon": lambda groups, **more: pg.Muon(groups, lr=0.02, **more),
}


@pytest.fixture
def model():
    return _model


@pytest.fixture
def set_gradients():
    return _set_gradients


@pytest.fixture
def snapshot():
    return _snapshot


@pytest.fixture
def equal():
    return _equal


@pytest.fixture(params=PRESETS.values(), ids=list(PRESETS))
def preset(request):
    """Each preset in turn: a function of parameter groups."""
    return request.param


@pytest.fixture
def routed(preset):
    """The preset on the routed groups of a model, AdamW with decay for the rest."""

    def make(module, **more):
        groups = pg.param_groups(module, vector_lr=0.01, vector_weight_decay=0.1)
        return preset(groups, **more)

    return make
