"""roles=, the user's own word on what a parameter is."""

import copy

import pytest
import torch
from small_models import TwoHeads
from torch import nn

import polargrad as pg
from polargrad.optim.routing import assign


def test_the_first_match_wins():
    found = assign(TwoHeads(), {"policy.weight": "hidden matrix", "*.weight": "other"})
    table = {a.name: a.role for a in found if a.name.endswith("weight")}
    assert table.pop("policy.weight") == "hidden matrix"
    assert set(table.values()) == {"other"}


def test_it_says_so():
    found = {a.name: a.reason for a in assign(TwoHeads(), {"policy.*": "other"})}
    assert found["policy.weight"] == "roles['policy.*']"


def test_a_grouped_convolution_as_one_matrix():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Linear(4, 2))
    (a,) = (a for a in assign(model, {"0.weight": "convolution"}) if a.name == "0.weight")
    assert (a.role, a.view, a.rule) == ("convolution", {"kind": "flatten"}, "matrix")


def test_a_fused_matrix_keeps_its_parts():
    model = nn.MultiheadAttention(8, 2)
    (a,) = (
        a for a in assign(model, {"in_proj*ght": "hidden matrix"}) if a.name == "in_proj_weight"
    )
    assert a.view == {"kind": "split", "parts": 3}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"polic.weight": "head"}, "'polic.weight' matches no trainable parameter"),
        ({"*": "other", "policy.*": "head"}, "'policy.*' matches no .* earlier"),
        ({"policy.weight": "heads"}, "'policy.weight' must be one of hidden.*got 'heads'"),
        ({"policy.bias": "hidden matrix"}, r"policy.bias of shape \(4,\) a hidden matrix"),
        ({"policy.bias": "convolution"}, r"policy.bias of shape \(4,\) a convolution"),
    ],
    ids=str,
)
def test_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        pg.param_groups(TwoHeads(), roles=given)


@pytest.mark.parametrize("given", ["head", [("policy.*", "head")]], ids=str)
def test_refuses_what_is_no_mapping(given):
    with pytest.raises(TypeError, match="roles must map patterns to roles, got"):
        pg.param_groups(TwoHeads(), roles=given)


def test_a_frozen_parameter_is_no_match():
    model = TwoHeads()
    model.policy.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="matches no trainable parameter"):
        pg.param_groups(model, roles={"policy.weight": "head"})


def test_the_model_is_not_changed():
    model = TwoHeads()
    before = copy.deepcopy(model.state_dict())
    pg.param_groups(model, roles={"policy.*": "other"})
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
