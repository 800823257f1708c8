"""Each optimizer gets every parameter once, at the learning rate and schedule that were asked."""

import pytest
import torch

from polargrad.language import DEFAULTS, RECIPES, build_optimizer
from polargrad.language.presets import build_model
from polargrad.language.schedules import build_schedule, linear, schedule_of


def build(model, name, **changes):
    given = {"lr": 0.5, "vector_lr": 0.25, "beta2": 0.9, "weight_decay": 0.0}
    if RECIPES[name].second_rate == "embedding_lr":
        given["embedding_lr"] = 0.125
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
def test_each_kind_of_parameter_has_its_rate(model, name):
    found = rates(build(model, name))
    second = 0.125 if RECIPES[name].second_rate == "embedding_lr" else 0.25
    for parameter_name, parameter in model.named_parameters():
        hidden = ".layers." in parameter_name and parameter.ndim == 2
        expected = 0.5 if hidden else second if parameter.ndim == 2 else 0.25
        assert found[id(parameter)] == expected, parameter_name


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_first_group_has_lr(model, name):
    """Records take the learning rate from there."""
    assert build(model, name).param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("name", DEFAULTS)
def test_weight_decay_shrinks_every_parameter(small, name):
    """With zero gradients a step is decay alone: X - lr times decay times X."""
    model = build_model(small, seed=0)
    optimizer = build(model, name, lr=0.1, weight_decay=0.5)
    exempt = {"model.embed_tokens.weight", "lm_head.weight"} if name == "symmetric" else set()
    expected = {
        n: p.detach() * (1 if n in exempt else 1 - rates(optimizer)[id(p)] * 0.5)
        for n, p in model.named_parameters()
    }
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter_name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[parameter_name])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("adamw", {"lr": None}, "lr of adamw must be a number, got None"),
        ("adamw", {"method": "qdwh"}, "'qdwh' has no effect: adamw takes no polar factor"),
        ("muon", {"embedding_lr": 0.1}, "embedding_lr=0.1 has no effect: muon steps embedding"),
        ("muon", {"method": "qr"}, "method must be one of auto, svd, .* got 'qr'"),
        ("muon-polarsgdm", {"embedding_lr": None}, "embedding_lr of muon-polarsgdm must be a num"),
        ("polarmuon", {"weight_decay": 0.5}, "must stay below 0.1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(model, name, changes, message):
    with pytest.raises(ValueError, match=message):
        build(model, name, **changes)


def test_an_unknown_optimizer_is_refused_with_the_choices(model):
    with pytest.raises(ValueError, match="unknown optimizer 'sgd': choose from polargrad, muon"):
        build_optimizer(model, "sgd", lr=0.5, vector_lr=None, beta2=0.9, weight_decay=0.0)


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
