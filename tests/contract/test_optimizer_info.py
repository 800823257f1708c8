"""What torch demands of a step of its own optimizers, of ours: every input times every test.

The demands are those of torch's own test_optim.py, as we understand them; the list of inputs is in
``optimizer_infos``.
"""

import pytest
import torch
from optimizer_infos import Problem, cases, infos, same, through_a_file
from torch import nn
from torch.optim import lr_scheduler


@cases
@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "strided"])
def test_goes_in_the_right_direction(info, given, contiguous):
    problem = Problem(contiguous)
    between = [x.clone() for x in problem.between]
    optimizer = info.make(problem.params, **given.kwargs)
    chained = (
        lr_scheduler.StepLR(optimizer, 10, 0.9),
        lr_scheduler.LinearLR(optimizer, 0.5, total_iters=4),
    )
    losses = problem.run(optimizer, 20, lr_scheduler.ChainedScheduler(list(chained)))
    assert problem.loss().item() < losses[0]
    assert problem.weight.is_contiguous() == contiguous
    assert same(problem.between, between)


@cases
def test_maximize_is_the_step_of_the_negated_gradient(info, given):
    up, down = Problem(), Problem()
    options = given.kwargs
    maximizing = info.make(up.params, **options, maximize=True)
    minimizing = info.make(down.params, **options)
    for step in range(3):
        for index, (p, q) in enumerate(zip(up.params, down.params, strict=True)):
            generator = torch.Generator().manual_seed(10 * step + index)
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = -p.grad
        kept = [p.grad.clone() for p in up.params]
        maximizing.step()
        minimizing.step()
        assert same([p.grad for p in up.params], kept)
    assert same(up.values(), down.values())


@infos
def test_a_group_that_maximizes_maximizes_all_that_is_in_it(info):
    """Its matrices and its vectors, which become two groups; those of other groups descend."""
    up, down = Problem(), Problem()
    optimizer = info.make([{"params": up.params, "maximize": True}, {"params": down.params}])
    before = up.values() + down.values()
    for _ in range(2):  # SOAP's first step makes its basis and moves nothing
        for p in (*up.params, *down.params):
            p.grad = torch.ones_like(p) if p.ndim == 1 else torch.eye(10)[:, :5].clone()
        optimizer.step()
    ways = [
        ((p.detach() - b) * p.grad).sum().sign().item()
        for p, b in zip((*up.params, *down.params), before, strict=True)
    ]
    assert ways == [1.0, 1.0, -1.0, -1.0]


@infos
def test_a_step_of_each_parameter_in_backward_is_the_step(info):
    """From hooks on accumulated gradients, which free each as soon as it is used."""
    whole, apart = Problem(), Problem()
    reference, optimizer = info.make(whole.params), info.make(apart.params)

    def step_and_free(p):
        optimizer.step_parameter(p)
        p.grad = None

    for p in apart.params:
        p.register_post_accumulate_grad_hook(step_and_free)
    for _ in range(3):
        apart.loss().backward()
        assert all(p.grad is None for p in apart.params)
        reference.zero_grad()
        whole.loss().backward()
        reference.step()
    for p, q in zip(apart.params, whole.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="must be one of the optimizer's"):
        optimizer.step_parameter(whole.weight)


@cases
@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "strided"])
def test_foreach_matches_the_loop(info, given, contiguous):
    looped, fused, default = (Problem(contiguous) for _ in range(3))
    for problem, choice in ((looped, False), (fused, True), (default, None)):
        problem.run(info.make(problem.params, **given.kwargs, foreach=choice), 4)
    for problem in (fused, default):
        for p, q in zip(problem.params, looped.params, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


@cases
def test_a_tensor_lr_is_the_number_in_it(info, given):
    """Also under a schedule, and after a file."""
    number, tensor = Problem(), Problem()
    by_number = info.make(number.params, **{**given.kwargs, "lr": 0.01})
    lr = torch.tensor(0.01)
    by_tensor = info.make(tensor.params, **{**given.kwargs, "lr": lr})
    for problem, optimizer in ((number, by_number), (tensor, by_tensor)):
        problem.run(optimizer, 4, lr_scheduler.ExponentialLR(optimizer, 0.9))
    for p, q in zip(number.params, tensor.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert by_tensor.param_groups[0]["lr"].item() == pytest.approx(0.01 * 0.9**4)
    again = info.make(tensor.params, **given.kwargs)
    again.load_state_dict(through_a_file(by_tensor.state_dict()))
    assert torch.equal(again.param_groups[0]["lr"], by_tensor.param_groups[0]["lr"])


@infos
@pytest.mark.parametrize("lr", [0.0, 1e-4])
def test_a_group_has_its_own_lr(info, lr):
    """The weight moves as in a run of its own, the other group as if it were alone."""
    problem, other, alone = Problem(), nn.Parameter(torch.ones(3, 3)), Problem()
    start = problem.weight.detach().clone()
    optimizer = info.make(
        [{"params": [problem.weight], "lr": lr}, {"params": [other]}], weight_decay=0.0
    )
    reference = info.make([alone.weight], lr=lr, weight_decay=0.0)
    for one, stepper in ((problem, optimizer), (alone, reference)):
        one.loss().backward()
        other.grad = torch.eye(3)
        stepper.step()
        stepper.step()  # SOAP's first step makes its basis and moves nothing
    assert torch.equal(problem.weight, alone.weight)
    assert torch.equal(problem.weight, start) == (lr == 0.0)
    assert not torch.equal(other, torch.ones(3, 3))


@cases
def test_without_gradients_nothing_happens(info, given):
    problem = Problem()
    optimizer = info.make(problem.params, **given.kwargs)
    before = problem.values()
    assert optimizer.step() is None
    problem.weight.grad = None
    problem.bias.grad = torch.ones_like(problem.bias)
    optimizer.step()
    assert torch.equal(problem.weight, before[0])
    assert not torch.equal(problem.bias, before[1])
    assert list(optimizer.state) == [problem.bias]


@cases
def test_zero_gradients_leave_what_decay_leaves(info, given):
    problem = Problem()
    optimizer = info.make(problem.params, **given.kwargs)
    before = problem.values()
    for p in problem.params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    matrix, vector = optimizer.param_groups
    kept = (1 - matrix["lr"] * matrix["weight_decay"]) * (1 - matrix["decay_per_step"])
    torch.testing.assert_close(problem.weight.detach(), before[0] * kept, rtol=1e-6, atol=0)
    kept = 1 - vector["lr"] * vector["weight_decay"]
    torch.testing.assert_close(problem.bias.detach(), before[1] * kept, rtol=1e-6, atol=0)


@cases
def test_it_can_be_printed(info, given):
    optimizer = info.make(Problem().params, **given.kwargs)
    text = repr(optimizer)
    assert text.startswith(f"{info.cls.__name__} (")
    assert "Parameter Group 0" in text
    assert all(f"{key}: " in text for key in optimizer.defaults)


@cases
def test_defaults_are_what_was_given_and_reach_every_matrix_group(info, given):
    problem = Problem()
    optimizer = info.make(problem.params, **given.kwargs)
    plain = {k: v for k, v in given.kwargs.items() if k in optimizer.defaults and k != "method"}
    assert {k: optimizer.defaults[k] for k in plain} == plain
    assert {"lr", "momentum", "weight_decay"} <= set(optimizer.defaults)
    assert set(optimizer.defaults) <= set(optimizer.param_groups[0])
    optimizer.add_param_group({"params": [nn.Parameter(torch.eye(2))]})
    late = optimizer.param_groups[-1]
    assert all(late[key] == optimizer.param_groups[0][key] for key in plain)
