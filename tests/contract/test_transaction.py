"""A step happens whole or not at all."""

import pytest
import torch
from torch import nn

import polargrad as pg

BAD = [float("nan"), float("inf"), -float("inf")]


def poison(p, value=float("nan"), position=-1):
    p.grad.view(-1)[position] = value


@pytest.fixture(params=[False, True], ids=["host", "gated"])
def gated(request, monkeypatch):
    """The two ways a step is held back: by the host, or on the device, forced here on a CPU."""
    if request.param:
        monkeypatch.setattr(pg.MatrixOptimizer, "_gated", lambda self, finite: True)
    return request.param


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    "parameter", ["first.weight", "head.weight", "norm.bias", "gates.bias_ih_l0"]
)
def test_one_bad_entry_stops_every_group(
    routed, model, set_gradients, snapshot, equal, gated, bad, parameter
):
    """Parameters, momentum, moments and counters keep every bit; later steps know nothing of it."""
    ours, skipping = model(), model()
    optimizer, peer = routed(ours), routed(skipping)
    params = list(ours.parameters())
    for step in range(4):
        set_gradients(params, step)
        if step == 2:
            before = snapshot(optimizer)
            poison(dict(ours.named_parameters())[parameter], bad)
            optimizer.step()
            assert equal(snapshot(optimizer), before)
        else:
            optimizer.step()
            set_gradients(list(skipping.parameters()), step)
            peer.step()
    assert equal(snapshot(optimizer), snapshot(peer))
    assert optimizer.skipped_steps == 1
    assert peer.skipped_steps == 0


@pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
def test_even_the_sign_of_zero_stays(gated, snapshot, equal, order):
    p = nn.Parameter(-torch.zeros(3, 3))
    optimizer = pg.PolarGrad([p], lr=0.1, order=order)
    p.grad = -torch.eye(3)
    optimizer.step()
    with torch.no_grad():
        p.zero_().neg_()
        optimizer.state[p]["momentum_buffer"].mul_(-1.0)
    before = snapshot(optimizer)
    poison(p)
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert equal(snapshot(optimizer), before)


def test_a_bad_first_step_leaves_a_state_of_zeros_or_none(routed, model, set_gradients, gated):
    """Bad gradients before there is any state: the next step is the first."""
    ours, fresh = model(), model()
    optimizer, peer = routed(ours), routed(fresh)
    set_gradients(ours.parameters())
    poison(ours["first"].weight)
    optimizer.step()
    for module, one in ((ours, optimizer), (fresh, peer)):
        set_gradients(module.parameters(), step=1)
        one.step()
    assert optimizer.skipped_steps == 1
    for p, q in zip(ours.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_both_ways_take_the_same_finite_steps(routed, model, set_gradients, monkeypatch, dtype):
    """Matrices to the bit; AdamW's fused kernel rounds its own way."""
    results = []
    for forced in (False, True):
        monkeypatch.setattr(pg.MatrixOptimizer, "_gated", lambda self, finite, on=forced: on)
        module = model(dtype)
        optimizer = routed(module)
        for step in range(5):
            set_gradients(module.parameters(), step)
            optimizer.step()
        results.append((module, optimizer))
    (host, optimizer), (device, gated_optimizer) = results
    assert gated_optimizer.skipped_steps == 0
    matrices = {id(p) for p in optimizer.param_groups[0]["params"]}
    for p, q in zip(host.parameters(), device.parameters(), strict=True):
        if id(p) in matrices:
            assert torch.equal(p, q)
            for key, value in optimizer.state[p].items():
                assert torch.equal(value, gated_optimizer.state[q][key])
        else:
            # Five steps of 0.01, each by a quotient of a few roundings, of parameters near 1.
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(p, q, rtol=8 * eps, atol=eps)
            assert torch.equal(optimizer.state[p]["step"], gated_optimizer.state[q]["step"])


def test_the_gate_waits_for_nothing(model, set_gradients, monkeypatch):
    """Not one read of a tensor's value in a gated step: each would stall a GPU."""
    monkeypatch.setattr(pg.MatrixOptimizer, "_gated", lambda self, finite: True)
    reads = []
    for name in ("__bool__", "__float__", "__int__", "item", "tolist", "cpu", "nonzero"):
        original = getattr(torch.Tensor, name)

        def spy(self, *args, _name=name, _original=original, **kwargs):
            reads.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spy)
    for order in ("momentum-first", "polar-first"):
        module = model()
        groups = pg.param_groups(module, vector_lr=0.01)
        optimizer = pg.PolarGrad(groups, lr=0.05, order=order, weight_decay=0.1)
        for step in range(2):
            set_gradients(module.parameters(), step)
            reads.clear()
            optimizer.step()
            assert reads == []
    assert optimizer.skipped_steps == 0
    assert reads  # the spy does see the one read that is asked for


def test_raise_names_the_parameters_and_changes_nothing(model, set_gradients, snapshot, equal):
    module = model()
    groups = pg.param_groups(module, vector_lr=0.01)
    optimizer = pg.PolarGrad(groups, lr=0.05, nonfinite="raise")
    set_gradients(module.parameters())
    optimizer.step()
    before = snapshot(optimizer)
    poison(module["second"].weight)
    poison(module["norm"].bias, float("inf"))
    with pytest.raises(pg.PolarGradError, match=r"second\.weight, norm\.bias is not finite .2 in"):
        optimizer.step()
    assert equal(snapshot(optimizer), before)
    assert optimizer.skipped_steps == 0
    set_gradients(module.parameters(), 1)
    optimizer.step()
    assert not equal(snapshot(optimizer), before)


@pytest.mark.parametrize("position", [0, 5, 11])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_bad_entry_is_seen_anywhere(dtype, position):
    """Among large entries, in every dtype, in transposed memory."""
    p = nn.Parameter(torch.zeros(4, 3, dtype=dtype))
    optimizer = pg.PolarGrad([p], lr=0.1, momentum=0.0)
    for memory in (torch.zeros(4, 3, dtype=dtype), torch.zeros(3, 4, dtype=dtype).T):
        p.grad = memory.fill_(torch.finfo(dtype).max / 16)
        p.grad[position // 3, position % 3] = float("nan")
        optimizer.step()
    assert optimizer.skipped_steps == 2
    assert not p.any()


def test_what_float64_holds_is_finite():
    """1e200 is no number of float32, in which nothing here is counted."""
    p, v = (nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in ((2, 2), (2,)))
    optimizer = pg.PolarGrad([p, v], lr=1e-200, momentum=0.0, method="svd", vector_lr=0.1)
    p.grad = 1e200 * torch.eye(2, dtype=torch.float64)
    v.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    assert optimizer.skipped_steps == 0
    torch.testing.assert_close(p.detach(), -2.0 * torch.eye(2, dtype=torch.float64))


def test_gradients_of_mixed_dtypes_are_judged_together():
    params = [
        nn.Parameter(torch.eye(3, dtype=d)) for d in (torch.float32, torch.float64, torch.bfloat16)
    ]
    optimizer = pg.PolarGrad(params, lr=0.1)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.skipped_steps == 0
    moved = [p.detach().clone() for p in params]
    poison(params[2])
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert all(torch.equal(p, m) for p, m in zip(params, moved, strict=True))


def test_a_sparse_gradient_is_refused_before_anything_changes(snapshot, equal):
    embedding, w = nn.Embedding(5, 3, sparse=True), nn.Parameter(torch.eye(3))
    groups = [{"params": [("w", w)]}, {"params": [("table", embedding.weight)], "rule": "adamw"}]
    optimizer = pg.PolarGrad(groups, lr=0.1)
    w.grad = torch.eye(3)
    embedding(torch.tensor([1])).sum().backward()
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=r"parameter table has a sparse gradient.*sparse=False"):
        optimizer.step()
    assert equal(snapshot(optimizer), before)
