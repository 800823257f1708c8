"""One parameter at a time, from hooks that run when its gradient is complete."""

import pytest
import torch
from optimizer_infos import cases
from torch import nn

import polargrad as pg

SHAPES = [(5, 4), (5, 4), (4, 5), (3,)]


def randn(shape, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def parameters(dtype=torch.float32):
    return [nn.Parameter(randn(s, i, dtype)) for i, s in enumerate(SHAPES)]


def set_gradients(params, step):
    for i, p in enumerate(params):
        p.grad = randn(p.shape, 100 * step + i, p.dtype)


def states(optimizer, params):
    return [sorted(optimizer.state[p].items()) for p in params]


def agree(first, second, rtol=0.0, atol=0.0):
    for one, two in zip(first, second, strict=True):
        assert [key for key, _ in one] == [key for key, _ in two]
        for (_, x), (_, y) in zip(one, two, strict=True):
            torch.testing.assert_close(x, y, rtol=rtol, atol=atol)


@cases
def test_one_by_one_is_the_step_of_all(info, given):
    """In any order; to the rounding of a batched product, raised by a polynomial."""
    whole, single = parameters(), parameters()
    optimizer, other = (info.make(ps, **given.kwargs) for ps in (whole, single))
    for step in range(3):
        set_gradients(whole, step)
        set_gradients(single, step)
        optimizer.step()
        for index in (2, 3, 0, 1):
            other.step_parameter(single[index])
    coarse = "bfloat16" in str(given.kwargs)
    for p, q in zip(whole, single, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-4, atol=0.02 if coarse else 2e-5)
    if not coarse:
        agree(states(optimizer, whole), states(other, single), rtol=1e-4, atol=1e-4)


def test_of_a_shape_that_only_one_parameter_has_every_bit_agrees():
    """Nothing is batched then: the same arithmetic, momentum and counters included."""
    shapes = [(5, 4), (4, 5), (6, 6), (3,)]
    ends = []
    for one_by_one in (False, True):
        params = [nn.Parameter(randn(s, i)) for i, s in enumerate(shapes)]
        optimizer = pg.PolarGrad(
            params, 0.05, nesterov=True, bias_correction=True, weight_decay=0.1, vector_lr=0.1
        )
        for step in range(3):
            set_gradients(params, step)
            if one_by_one:
                for p in reversed(params):
                    optimizer.step_parameter(p)
            else:
                optimizer.step()
        ends.append((params, states(optimizer, params)))
    assert all(map(torch.equal, ends[0][0], ends[1][0]))
    agree(ends[0][1], ends[1][1])


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def groups(module):
    return pg.param_groups(module, vector_lr=0.01)


@pytest.mark.parametrize("order", ["momentum-first", "polar-first", "polyak"])
def test_in_hooks_it_is_the_step_after_the_backward_pass(order):
    """And no gradient is left, nor are there ever more than one at a time."""
    plain, hooked = model(), model()
    optimizer = pg.PolarGrad(groups(plain), 0.05, order=order)
    inside = pg.PolarGrad(groups(hooked), 0.05, order=order)
    alive = []

    def hook(p):
        alive.append(sum(q.grad is not None for q in hooked.parameters()))
        inside.step_parameter(p)
        p.grad = None

    for p in hooked.parameters():
        p.register_post_accumulate_grad_hook(hook)
    for step in range(3):
        x = randn((7, 4), step)
        optimizer.zero_grad()
        plain(x).square().mean().backward()
        optimizer.step()
        hooked(x).square().mean().backward()
        assert all(p.grad is None for p in hooked.parameters())
    assert set(alive) == {1}
    assert len(alive) == 3 * len(list(hooked.parameters()))
    for p, q in zip(plain.parameters(), hooked.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("capturable", [False, True])
def test_a_gradient_that_is_not_finite_skips_its_parameter_alone(capturable):
    params, alone = parameters(), parameters()
    optimizer = pg.PolarGrad(params, 0.05, vector_lr=0.01, capturable=capturable)
    peer = pg.PolarGrad(alone, 0.05, vector_lr=0.01, capturable=capturable)
    set_gradients(params, 0)
    set_gradients(alone, 0)
    params[1].grad[0, 0] = float("nan")
    params[3].grad[0] = float("inf")
    for index, (p, q) in enumerate(zip(params, alone, strict=True)):
        optimizer.step_parameter(p)
        if index not in (1, 3):
            peer.step_parameter(q)
    assert optimizer.skipped_steps == 2
    assert all(map(torch.equal, params, alone))
    for index in (1, 3):
        assert not any(v.any() for v in optimizer.state[params[index]].values())


def test_raise_names_the_parameter():
    params = [(f"w{i}", p) for i, p in enumerate(parameters())]
    optimizer = pg.PolarGrad(params, 0.05, vector_lr=0.01, nonfinite="raise")
    bare = [p for _, p in params]
    set_gradients(bare, 0)
    bare[2].grad[0, 0] = float("nan")
    optimizer.step_parameter(bare[0])
    before = bare[2].detach().clone()
    with pytest.raises(pg.PolarGradError, match=r"gradient of w2 is not finite .1 in all"):
        optimizer.step_parameter(bare[2])
    assert torch.equal(bare[2], before)
    assert optimizer.skipped_steps == 0


def test_raise_speaks_of_the_parameter_that_it_was_asked_for():
    """What is wrong with another is not its business, nor that of its message."""
    params = [(f"w{i}", p) for i, p in enumerate(parameters())]
    optimizer = pg.PolarGrad(params, 0.05, vector_lr=0.01, nonfinite="raise")
    bare = [p for _, p in params]
    set_gradients(bare, 0)
    bare[0].grad[0, 0] = bare[2].grad[0, 0] = float("nan")
    with pytest.raises(pg.PolarGradError) as caught:
        optimizer.step_parameter(bare[2])
    assert "w2" in str(caught.value)
    assert "w0" not in str(caught.value)


def test_another_parameter_is_refused():
    params = parameters()
    optimizer = pg.PolarGrad(params, 0.05, vector_lr=0.01)
    set_gradients(params, 0)
    stranger = nn.Parameter(params[0].detach().clone())  # equal, and not the same
    stranger.grad = torch.ones(5, 4)
    with pytest.raises(ValueError, match=r"parameter of shape \(5, 4\) must be one of the optimiz"):
        optimizer.step_parameter(stranger)
    assert not optimizer.state
    assert all(map(torch.equal, params, parameters()))


def test_without_a_gradient_nothing_happens():
    params = parameters()
    optimizer = pg.PolarGrad(params, 0.05, weight_decay=0.1, vector_lr=0.01)
    for p in params:
        optimizer.step_parameter(p)
    assert all(map(torch.equal, params, parameters()))
    assert not optimizer.state


def test_a_sparse_gradient_is_refused_by_name():
    table, w = nn.Embedding(5, 3, sparse=True), nn.Parameter(torch.eye(3))
    held = [{"params": [("w", w)]}, {"params": [("table", table.weight)], "rule": "adamw"}]
    optimizer = pg.PolarGrad(held, 0.1)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="parameter table has a sparse gradient"):
        optimizer.step_parameter(table.weight)


def test_a_scheduler_knows_that_there_was_a_step():
    """Warnings are errors here: torch's about a schedule before the first step would be false."""
    params = parameters()
    optimizer = pg.PolarGrad(params, 0.05, vector_lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    set_gradients(params, 0)
    for p in params:
        optimizer.step_parameter(p)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.025


def test_a_resumed_run_with_stochastic_rounding_is_the_same_to_the_bit():
    """Each parameter's step has bits of its own, and the count of them is saved."""
    ends = []
    for resumed in (False, True):
        params = parameters(torch.bfloat16)[:3]
        optimizer = pg.PolarGrad(params, 0.05, rounding="stochastic")
        for step in range(4):
            if resumed and step == 2:
                saved = optimizer.state_dict()
                optimizer = pg.PolarGrad(params, 0.05, rounding="stochastic")
                optimizer.load_state_dict(saved)
            set_gradients(params, step)
            for p in params:
                optimizer.step_parameter(p)
        ends.append(params)
    assert all(map(torch.equal, *ends))
