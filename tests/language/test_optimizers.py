"""Each optimizer gets every parameter once, at the learning rate and schedule that were asked."""

import itertools

import pytest
import torch

from polargrad.language import DEFAULTS, build_optimizer
from polargrad.language.optimizers import WARMUP_STEPS, build_schedule, schedule_factor
from polargrad.language.presets import build_model


def build(model, name, **changes):
    given = {"lr": 0.5, "vector_lr": 0.25, "beta2": 0.9, "weight_decay": 0.0}
    if name == "adamw":
        given["vector_lr"] = None
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


@pytest.mark.parametrize("name", ["muon", "polargrad"])
def test_matrices_take_lr_and_the_rest_vector_lr(model, name):
    found = rates(build(model, name))
    for parameter_name, parameter in model.named_parameters():
        hidden = ".layers." in parameter_name and parameter.ndim == 2
        assert found[id(parameter)] == (0.5 if hidden else 0.25), parameter_name


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_first_group_has_lr(model, name):
    """Records take the learning rate from there."""
    assert build(model, name).param_groups[0]["lr"] == 0.5


def one_step(model, optimizer):
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    return [p.detach() - old for p, old in zip(model.parameters(), before, strict=True)]


@pytest.mark.parametrize("name", ["muon", "polargrad"])
def test_vectors_step_as_with_adamw(small, name):
    """Embeddings, head, biases and norms take torch's AdamW step at vector_lr and beta2."""
    models = [build_model(small, seed=0) for _ in range(2)]
    ours = build(models[0], name, vector_lr=1e-2)
    theirs = torch.optim.AdamW(models[1].parameters(), lr=1e-2, betas=(0.9, 0.9), weight_decay=0)
    steps = one_step(models[0], ours), one_step(models[1], theirs)
    for (parameter_name, _), a, b in zip(models[0].named_parameters(), *steps, strict=True):
        if ".layers." not in parameter_name or a.ndim == 1:
            torch.testing.assert_close(a, b, msg=parameter_name)


def test_muon_steps_have_equal_singular_values_and_polargrads_are_multiples_of_them(small):
    """For one matrix: Muon's step is nearly orthogonal; PolarGrad's is its exact form, scaled."""
    spectra = {}
    for name in ("muon", "polargrad"):
        model = build_model(small, seed=0)
        steps = one_step(model, build(model, name, lr=1e-3))
        (step,) = (
            s
            for (n, _), s in zip(model.named_parameters(), steps, strict=True)
            if n.endswith("layers.0.mlp.up_proj.weight")
        )
        spectra[name] = torch.linalg.svdvals(step)
    for spectrum in spectra.values():
        assert spectrum.max() / spectrum.min() < 2
    assert spectra["polargrad"].mean() > 2 * spectra["muon"].mean()


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


@pytest.mark.parametrize("steps", [1, 5, 20, 100, 400])
def test_the_schedule_rises_stays_and_falls_to_zero(steps):
    factors = [schedule_factor(step, steps) for step in range(steps + 1)]
    assert all(0 < factor <= 1 for factor in factors[:-1])
    assert factors[-1] == 0
    changes = [b - a for a, b in itertools.pairwise(factors)]
    signs = [(change > 1e-12) - (change < -1e-12) for change in changes]
    assert signs == sorted(signs, reverse=True)  # up, level, down
    if steps >= 100:
        assert factors.index(1.0) == WARMUP_STEPS - 1
        assert sum(factor < 1 for factor in factors[WARMUP_STEPS:steps]) == 0.4 * steps - 1


@pytest.mark.parametrize("name", DEFAULTS)
def test_all_groups_follow_the_schedule(model, name):
    optimizer = build(model, name)
    initial = [group["lr"] for group in optimizer.param_groups]
    schedule = build_schedule(optimizer, 30)
    for step in range(30):
        expected = [lr * schedule_factor(step, 30) for lr in initial]
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)
        optimizer.step()
        schedule.step()
