"""Each optimizer gets every parameter once, at the learning rate and schedule that were asked."""

import pytest
import torch

from polargrad.language import DEFAULTS, build_optimizer
from polargrad.language.presets import build_model
from polargrad.language.schedules import build_schedule, linear, schedule_of


def build(model, name, **changes):
    given = {"lr": 0.5, "vector_lr": 0.25, "beta2": 0.9, "weight_decay": 0.0}
    return build_optimizer(model, name, **{**given, **changes})


@pytest.fixture
def model(small):
    return build_model(small, seed=0)


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_parameter_is_in_exactly_one_group(model, name):
    found = [p for group in build(model, name).param_groups for p in group["params"]]
    assert sorted(map(id, found)) == sorted(map(id, model.parameters()))


def rates(optimizer):
    return {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}


def test_adamw_has_one_rate_unless_it_is_given_two(model):
    assert set(rates(build(model, "adamw", vector_lr=None)).values()) == {0.5}


@pytest.mark.parametrize("name", DEFAULTS)
def test_matrices_take_lr_and_the_rest_vector_lr(model, name):
    found = rates(build(model, name))
    for parameter_name, parameter in model.named_parameters():
        hidden = ".layers." in parameter_name and parameter.ndim == 2
        assert found[id(parameter)] == (0.5 if hidden else 0.25), parameter_name


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_first_group_has_lr(model, name):
    """Records take the learning rate from there."""
    assert build(model, name).param_groups[0]["lr"] == 0.5


def take_steps(model, optimizer, steps=3):
    """Steps with random gradients: what the last one changed, and all gradients, by name."""
    generator = torch.Generator().manual_seed(0)
    gradients = {name: [] for name, _ in model.named_parameters()}
    for _ in range(steps):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            gradients[name].append(parameter.grad.double())
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.step()
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}, gradients


@pytest.mark.parametrize("name", ["muon", "polargrad"])
def test_vectors_step_as_with_adamw(small, name):
    """Embeddings, head, biases and norms take torch's AdamW step at vector_lr and beta2."""
    models = [build_model(small, seed=0) for _ in range(2)]
    ours = build(models[0], name, vector_lr=1e-2)
    theirs = torch.optim.AdamW(models[1].parameters(), lr=1e-2, betas=(0.9, 0.9), weight_decay=0)
    (found, _), (expected, _) = take_steps(models[0], ours), take_steps(models[1], theirs)
    for parameter_name, step in found.items():
        if ".layers." not in parameter_name or step.ndim == 1:
            torch.testing.assert_close(step, expected[parameter_name], msg=parameter_name)


@pytest.mark.parametrize("name", ["muon", "polargrad"])
def test_matrices_step_along_the_polar_factor_of_nesterovs_momentum(small, name):
    """Against an SVD in float64; the angle leaves room for the accuracy of training, no more.

    PolarGrad's step is as long as the nuclear norm says, Muon's as the root of the rank (within
    what its five Newton-Schulz steps leave: singular values from 0.7 to 1.2).
    """
    model = build_model(small, seed=0)
    found, gradients = take_steps(model, build(model, name, lr=1e-3))
    parameter_name = "model.layers.1.mlp.down_proj.weight"  # wide: no factor of the shape
    momentum = torch.zeros(16, 32, dtype=torch.float64)
    for gradient in gradients[parameter_name]:
        momentum = 0.95 * momentum + 0.05 * gradient
    u, sigma, vh = torch.linalg.svd(0.95 * momentum + 0.05 * gradient, full_matrices=False)
    step, direction = found[parameter_name].double(), -u @ vh
    cosine = (step * direction).sum() / step.norm() / direction.norm()
    assert cosine > 0.97
    magnitude = sigma.sum().item() if name == "polargrad" else 1.0
    assert step.norm().item() == pytest.approx(1e-3 * magnitude * 4, rel=0.2)


@pytest.mark.parametrize("name", DEFAULTS)
def test_weight_decay_shrinks_every_parameter(small, name):
    """With zero gradients a step is decay alone: X - lr times decay times X."""
    model = build_model(small, seed=0)
    optimizer = build(model, name, lr=0.1, weight_decay=0.5)
    expected = {
        n: p.detach() * (1 - rates(optimizer)[id(p)] * 0.5) for n, p in model.named_parameters()
    }
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter_name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[parameter_name])


def test_an_unknown_optimizer_is_refused_with_the_choices(model):
    with pytest.raises(ValueError, match="unknown optimizer 'sgd': choose from polargrad, muon"):
        build(model, "sgd")


@pytest.mark.parametrize("name", DEFAULTS)
def test_all_groups_follow_the_schedule(model, name):
    optimizer = build(model, name)
    initial = [group["lr"] for group in optimizer.param_groups]
    schedule = build_schedule(optimizer, schedule_of("linear", 30))
    for step in range(30):
        expected = [lr * linear(step, 30) for lr in initial]
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)
        optimizer.step()
        schedule.step()
