"""A small classifier of tokens, its optimizers, and the plain loop that libraries must equal."""

import pytest
import torch
from torch import nn

import polargrad as pg

TOKENS = torch.arange(9)


def _model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Embedding(9, 4),
        nn.Linear(4, 6),
        nn.Tanh(),
        nn.Linear(6, 4),
        nn.LayerNorm(4),
        nn.Linear(4, 9, bias=False),
    )


def _loss_of(module, tokens=TOKENS):
    return nn.functional.cross_entropy(module(tokens), tokens.roll(1))


def _train(module, optimizer, steps, scheduler=None, loss_of=_loss_of):
    """The losses of a plain loop."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(module)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if scheduler is not None:
            scheduler.step()
    return losses


def _same(first, second):
    """Whether two modules agree in every bit of every parameter."""
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


PRESETS = {
    "polargrad": lambda groups: pg.PolarGrad(groups, lr=0.05, weight_decay=0.1, nesterov=True),
    "muon": lambda groups: pg.Muon(groups, lr=0.02),
}


@pytest.fixture
def model():
    """A function that returns the same small model at every call."""
    return _model


@pytest.fixture
def loss_of():
    return _loss_of


@pytest.fixture
def train():
    return _train


@pytest.fixture
def same():
    return _same


@pytest.fixture(params=PRESETS.values(), ids=list(PRESETS))
def optimizer_of(request):
    """Each preset on the routed groups of a model, AdamW beside it."""

    def make(module):
        return request.param(pg.param_groups(module, vector_lr=0.01, vector_weight_decay=0.1))

    return make
