"""Defects 53 to 57 of the peers: what frameworks do to an optimizer. See docs/peer_defects.md."""

import inspect

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import state_dict as dcp
from torch.optim import Optimizer

import polargrad as pg

PRESETS = {
    "polargrad": lambda groups: pg.PolarGrad(groups, lr=0.05),
    "muon": lambda groups: pg.Muon(groups, lr=0.05),
    "engine": lambda groups: pg.MatrixOptimizer(groups, lr=0.05, momentum=0.9),
}
presets = pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))


def model(tied=False):
    torch.manual_seed(0)
    layers = [nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False)]
    if tied:
        layers[3].weight = layers[0].weight
    return nn.Sequential(*layers)


def loss_of(module):
    return module(torch.arange(9)).square().mean()


@presets
def test_c53_a_closure_is_accepted_by_keyword_and_run_once(preset):
    """Under no_grad too, with gradients enabled inside, before anything is read or changed."""
    module, plain = model(), model()
    optimizer, other = (preset(pg.param_groups(m)) for m in (module, plain))
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = loss_of(module)
        loss.backward()
        return loss

    with torch.no_grad():
        value = optimizer.step(closure=closure)
    loss = loss_of(plain)
    loss.backward()
    assert other.step() is None
    assert calls == [True]
    assert torch.equal(value, loss)
    assert all(
        torch.equal(p, q) for p, q in zip(module.parameters(), plain.parameters(), strict=True)
    )


@presets
@pytest.mark.parametrize("method", ["step", "zero_grad", "state_dict", "load_state_dict"])
def test_c54_signatures_are_those_of_the_base_class(preset, method):
    """Frameworks look at them, and pass what the base class takes by keyword."""
    optimizer = preset([nn.Parameter(torch.eye(3))])
    ours = inspect.signature(getattr(type(optimizer), method)).parameters
    base = inspect.signature(getattr(Optimizer, method)).parameters
    assert [(n, p.kind, p.default) for n, p in ours.items()] == [
        (n, p.kind, p.default) for n, p in base.items()
    ]


@presets
@pytest.mark.parametrize("tied", [False, True])
def test_c55_parameters_may_be_swapped_in_the_groups(preset, tied):
    """As sharding at preparation does it: placeholders first, then the new ones by address."""
    module, replaced, plain = model(tied), model(tied), model(tied)
    optimizer, reference = (preset(pg.param_groups(m)) for m in (module, plain))
    mapping = {}
    for p, q in zip(module.parameters(), replaced.parameters(), strict=True):
        mapping[p.data_ptr()] = q
    for group in optimizer.param_groups:
        for index, p in enumerate(group["params"]):
            address = p.data_ptr()
            group["params"][index] = torch.empty(1, dtype=p.dtype)
            group["params"][index].data_ptr = address
    for group in optimizer.param_groups:
        group["params"] = [mapping[placeholder.data_ptr] for placeholder in group["params"]]
    kept = [p.detach().clone() for p in module.parameters()]
    for _ in range(2):
        for one, stepper in ((replaced, optimizer), (plain, reference)):
            stepper.zero_grad()
            loss_of(one).backward()
            stepper.step()
    for p, q, old, before in zip(
        replaced.parameters(), plain.parameters(), module.parameters(), kept, strict=True
    ):
        assert torch.equal(p, q)
        assert torch.equal(old, before)
    assert {id(p) for p in optimizer.state} == {id(p) for p in replaced.parameters()}
    assert len(pg.explain(optimizer).rows) == len(list(replaced.parameters()))


@presets
def test_c55_preparation_by_state_dict_before_the_first_step(preset, through_a_file):
    """A state without any state goes through a file and back."""
    optimizer, plain = preset(pg.param_groups(model())), preset(pg.param_groups(model()))
    optimizer.load_state_dict(through_a_file(optimizer.state_dict()))
    for one in (optimizer, plain):
        for group in one.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        one.step()
    for mine, theirs in zip(optimizer.param_groups, plain.param_groups, strict=True):
        for p, q in zip(mine["params"], theirs["params"], strict=True):
            assert torch.equal(p, q)


@presets
def test_c56_one_overflow_holds_back_matrices_and_vectors_alike(preset):
    """Of two optimizers a scaler holds back the one that saw it, and steps the other."""
    module = model()
    optimizer = preset(pg.param_groups(module))
    before = [p.detach().clone() for p in module.parameters()]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def overflow(one):
        for p in one.parameters():
            p.grad = torch.ones_like(p)
        one[1].bias.grad[0] = float("inf")
        scaler.scale(torch.ones(()))

    overflow(module)
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))
    assert not optimizer.state

    pair = model()
    matrices, vectors = pg.param_groups(pair)
    muon = torch.optim.Muon([p for _, p in matrices["params"]])
    adamw = torch.optim.AdamW([p for _, p in vectors["params"]])
    overflow(pair)
    scaler.step(muon)
    scaler.step(adamw)
    assert muon.state
    assert not adamw.state


@presets
def test_c57_each_parameter_has_its_own_state_under_its_own_name(preset):
    """Stacks of equal shapes are made for a step and forgotten: none is kept under its first."""
    module = model()
    optimizer = preset(pg.param_groups(module))
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.zero_grad()
    state = dcp.get_optimizer_state_dict(module, optimizer)["state"]
    named = dict(module.named_parameters())
    assert set(state) == set(named)
    storages = []
    for name, entry in state.items():
        for value in entry.values():
            if isinstance(value, torch.Tensor) and value.ndim:
                assert value.shape == named[name].shape
                storages.append(value.untyped_storage().data_ptr())
                assert value.untyped_storage().nbytes() == value.numel() * value.element_size()
    assert len(set(storages)) == len(storages)


@presets
def test_c57_shapes_may_be_mixed_in_a_group(preset, randn):
    params = [nn.Parameter(randn(s, i)) for i, s in enumerate([(4, 3), (3, 4), (4, 3), (5, 5)])]
    optimizer = preset(params)
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = randn(p.shape, 7)
    optimizer.step()
    assert not any(torch.equal(p, b) for p, b in zip(params, before, strict=True))
