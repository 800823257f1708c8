"""roles=, the user's own word on what a parameter is."""

import copy

import pytest
import torch
from small_models import GPT, TwoHeads
from torch import nn

import polargrad as pg
from polargrad.optim.routing import assign
from polargrad.optim.routing.views import experts, heads


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


def of(model, roles, **options):
    """Role, rule and options of each parameter of two dimensions or more."""
    found = assign(model, roles, **options)
    return {a.name: (a.role, a.rule, a.options) for a in found if a.parameter.ndim > 1}


def test_a_class_stands_for_the_modules_that_hold_the_parameter():
    table = of(TwoHeads(), {nn.Linear: "other"})
    assert {role for role, _, _ in table.values()} == {"other"}


def test_a_function_is_asked_name_module_and_parameter():
    seen = []

    def square(name, module, parameter):
        seen.append((name, type(module), tuple(parameter.shape)))
        return parameter.ndim == 2 and parameter.shape[0] == parameter.shape[1]

    table = of(TwoHeads(), {square: "head"})
    assert table["trunk.2.weight"][:2] == ("head", "adamw")
    assert table["trunk.0.weight"][0] == "hidden matrix"
    assert ("policy.weight", nn.Linear, (4, 16)) in seen


def test_pairs_in_a_list_are_a_mapping_in_order():
    pairs = [("policy.weight", "hidden matrix"), ("*.weight", "other")]
    assert of(TwoHeads(), pairs) == of(TwoHeads(), dict(pairs))
    table = of(TwoHeads(), pairs)
    assert table["policy.weight"][0] == "hidden matrix"
    assert table["value.weight"][0] == "other"


def test_a_tied_parameter_is_reached_by_each_of_its_names():
    model = GPT(tied=True)
    for name in ("tokens.weight", "head.weight"):
        assert of(model, {name: "embedding"})["tokens.weight"][0] == "embedding"


def test_options_make_a_group_of_their_own():
    roles = {"trunk.0.weight": {"lr": 0.0, "weight_decay": 0.5}, "policy.weight": {"lr": 0.25}}
    groups = pg.param_groups(TwoHeads(), roles=roles, vector_lr=1e-3)
    assert [
        (g["rule"], g.get("lr"), [n for n, _ in g["params"] if "weight" in n]) for g in groups
    ] == [
        ("matrix", None, ["trunk.2.weight"]),
        ("matrix", 0.0, ["trunk.0.weight"]),
        ("adamw", 1e-3, ["value.weight"]),
        ("adamw", 0.25, ["policy.weight"]),
    ]
    assert groups[1]["weight_decay"] == 0.5
    assert groups[1]["roles"] == ["hidden matrix"]


def test_the_rule_itself_can_be_told():
    table = of(
        TwoHeads(), {"policy.weight": {"rule": "matrix"}, "trunk.0.weight": {"rule": "adamw"}}
    )
    assert table["policy.weight"][:2] == ("head", "matrix")
    assert table["trunk.0.weight"][:2] == ("hidden matrix", "adamw")


def test_a_view_can_be_told():
    word = {"role": "attention heads", "view": heads(4)}
    (a,) = (a for a in assign(TwoHeads(), {"trunk.2.weight": word}) if a.role == word["role"])
    assert (a.view, a.rule) == (heads(4), "matrix")


def test_stacked_experts_can_be_told():
    model = nn.ModuleDict({"own": nn.ParameterList([torch.ones(3, 4, 5)]), "a": nn.Linear(4, 4)})
    (a,) = (a for a in assign(model, {"own.0": "stacked experts"}) if a.name == "own.0")
    assert (a.view, a.rule) == (experts(), "matrix")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("head", TypeError, "roles must map patterns to roles, or be a list of such pairs"),
        ([("a", "head", 1)], TypeError, "roles must map patterns"),
        ({3: "head"}, TypeError, "a key must be a pattern on names, a module class or a function"),
        ({int: "head"}, TypeError, "a key must be a pattern on names"),
        ({nn.Conv2d: "other"}, ValueError, "pattern Conv2d matches no trainable"),
        ({"policy.weight": {"role": "heads"}}, ValueError, "must be one of hidden.*'heads'"),
        ({"policy.weight": {"rate": 0.1}}, ValueError, "options must be among .*, got rate"),
        ({"policy.weight": {"rule": "sgd"}}, ValueError, "rule must be one of .* got 'sgd'"),
        ({"policy.weight": {"momentum": 0.1}}, ValueError, "'adamw', which has no option momentum"),
        ({"trunk.0.weight": {"betas": (0, 0)}}, ValueError, "'matrix', which has no option betas"),
        (
            {"trunk.0.weight": {"view": {"kind": "split", "parts": 3}}},
            ValueError,
            r"makes trunk.0.weight of shape \(16, 8\) a hidden matrix.*16 rows cannot be split",
        ),
    ],
    ids=str,
)
def test_refuses_what_cannot_be_meant(given, error, message):
    with pytest.raises(error, match=message):
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
