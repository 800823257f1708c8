"""Policies: which rule steps which role, and with what."""

import copy
import json

import pytest
import torch
from matrices import polar_oracle
from small_models import GPT, Mixture, gpt2, mixtral, qwen2
from torch import nn

import polargrad as pg
from polargrad.geometry import geometry
from polargrad.optim.routing import POLICIES, ROLES, Policy, assign
from polargrad.optim.routing.views import heads, split

ADAMW_ROLES = {"vector", "scalar", "other"}
# What the matrix rule steps in each policy, beside the hidden matrices.
MORE = {
    "muon": set(),
    "paper": set(),
    "paper-embedding": {"embedding", "head", "tied embedding"},
    "symmetry": {"embedding", "head", "tied embedding", "router"},
    "symmetry-runs": {"embedding", "head", "tied embedding", "router"},
}


@pytest.mark.parametrize("name", POLICIES)
def test_each_role_has_one_rule(name):
    """Matrices of hidden features always take the matrix rule; vectors never do."""
    entries = POLICIES[name].entries
    never = {"router", "embedding", "head", "tied embedding"} - MORE[name]
    assert set(entries) == set(ROLES) - ADAMW_ROLES - never
    assert {entry["rule"] for entry in entries.values()} == {"matrix"}


@pytest.mark.parametrize("name", POLICIES)
def test_entries_are_plain_data_that_the_geometries_know(name):
    entries = {role: dict(entry) for role, entry in POLICIES[name].entries.items()}
    assert json.loads(json.dumps(entries)) == entries
    for entry in entries.values():
        if "geometry" in entry:
            geometry(entry["geometry"])


LRS = {"embedding": 0.1, "head": 0.2}


def rates(model, **options):
    return {a.role: (a.rule, a.options) for a in assign(model, **options) if a.parameter.ndim > 1}


def test_run_three_of_the_paper():
    """Embedding and head by PolarSGDM with QDWH and momentum 0.5, the rest as Muon has it."""
    groups = pg.param_groups(qwen2(), policy="paper-embedding", lrs=LRS, vector_lr=1e-3)
    assert [(g["rule"], set(g["roles"])) for g in groups] == [
        ("matrix", {"hidden matrix", "gate/up", "down"}),
        ("matrix", {"embedding"}),
        ("matrix", {"head"}),
        ("adamw", {"vector"}),
    ]
    for group, lr in zip(groups[1:3], LRS.values(), strict=True):
        assert (group["lr"], group["method"], group["momentum"]) == (lr, "qdwh", 0.5)
        assert (group["geometry"], group["magnitude"]) == ({"name": "spectral"}, "dual_norm")


def test_run_three_of_the_paper_steps():
    """A step of the embedding from the equation alone: −γ·tr(H)·U of half the gradient."""
    model = GPT(tied=False, layers=1)
    groups = pg.param_groups(model, policy="paper-embedding", lrs=LRS)
    optimizer = pg.Muon(groups, lr=0.01)
    before = {n: p.detach().double().clone() for n, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()
    for name, lr in (("tokens.weight", 0.1), ("head.weight", 0.2)):
        p = dict(model.named_parameters())[name]
        signal = 0.5 * p.grad.double()
        nuclear = torch.linalg.svdvals(signal).sum()
        decay = 1 - lr * optimizer.param_groups[1]["weight_decay"]
        wanted = decay * before[name] - lr * nuclear * polar_oracle(signal, 1e-12)
        torch.testing.assert_close(p.detach().double(), wanted, rtol=1e-5, atol=1e-4)


def test_the_follow_ups_map():
    found = rates(mixtral(), policy="symmetry")
    averages = [o for _, o in found.values() if "geometry" in o]
    assert all((o["momentum_form"], o["nesterov"]) == ("ema", False) for o in averages)
    forms = {role: (o.get("geometry"), o.get("magnitude")) for role, (_, o) in found.items()}
    right, left = ({"name": "spectral", "side": side} for side in ("right", "left"))
    assert forms == {
        "embedding": (right, "dual_norm"),
        "head": (
            {"name": "centred", "inner": {"name": "row_then_polar", "side": "right"}},
            "dual_norm",
        ),
        "router": ({"name": "centred", "inner": left}, "dual_norm"),
        "expert gate/up": ({"name": "largest_row"}, "unit"),
        "expert down": ({"name": "largest_column"}, "unit"),
        "attention heads": (None, None),
    }
    for role in ("embedding", "head", "router", "expert gate/up", "expert down"):
        assert (found[role][1]["weight_decay"], found[role][1]["decay_per_step"]) == (0.0, 0.0)


def test_attention_is_taken_apart_by_heads_in_the_follow_ups_map():
    found = {a.name: a for a in assign(gpt2(), policy="symmetry")}
    fused = found["transformer.h.0.attn.c_attn.weight"]
    assert (fused.role, fused.view) == (
        "attention heads",
        split(3, each=heads(2), transpose=True),
    )
    assert found["transformer.h.0.mlp.c_fc.weight"].role == "hidden matrix"


def test_the_users_word_comes_before_the_heads():
    roles = {"*.c_attn.weight": "fused QKV"}
    found = {a.name: a for a in assign(gpt2(), roles, policy="symmetry")}
    assert found["transformer.h.0.attn.c_attn.weight"].view == split(3, transpose=True)


def test_an_optimizer_takes_the_follow_ups_map_and_steps():
    model = mixtral()
    lrs = dict.fromkeys(("embedding", "head", "router", "expert gate/up", "expert down"), 0.01)
    optimizer = pg.PolarGrad(pg.param_groups(model, policy="symmetry", lrs=lrs), lr=0.1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()
    after = dict(model.named_parameters())
    assert all(not torch.equal(before[n], p) for n, p in after.items())
    # A step without a mean over the tokens, and rows of one length: what their names promise.
    head = before["lm_head.weight"] - after["lm_head.weight"]
    torch.testing.assert_close(head.sum(0), torch.zeros(8), rtol=0, atol=1e-4)
    gate_up = "model.layers.0.mlp.experts.gate_up_proj"
    lengths = (before[gate_up] - after[gate_up]).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.01), rtol=1e-3, atol=0)


def test_a_role_in_a_unit_of_its_own_needs_a_learning_rate():
    model = qwen2()
    with pytest.raises(ValueError, match=r"embed_tokens.* embedding.*lrs=\{'embedding': …\}"):
        pg.param_groups(model, policy="paper-embedding")
    with pytest.raises(ValueError, match=r"lm_head.* head, stepped by spectral.*lrs=\{'head'"):
        pg.param_groups(model, policy="paper-embedding", lrs={"embedding": 0.1})
    with pytest.raises(ValueError, match=r"gate_proj.* stepped by unit in a unit.*lrs=\{'gate/up'"):
        pg.param_groups(model, roles={"*gate_proj*": {"magnitude": "unit"}})
    # The same word on the parameter itself is enough, and zero is a learning rate.
    roles = {"lm_head.weight": {"lr": 0.0}}
    groups = pg.param_groups(model, policy="paper-embedding", lrs={"embedding": 0.1}, roles=roles)
    assert [g["lr"] for g in groups if set(g["roles"]) & {"embedding", "head"}] == [0.1, 0.0]


def test_learning_rates_by_role_reach_every_rule():
    groups = pg.param_groups(qwen2(), vector_lr=1e-3, lrs={"head": 1e-4, "down": 0.5})
    assert [(g["rule"], g.get("lr"), set(g["roles"])) for g in groups] == [
        ("matrix", None, {"hidden matrix", "gate/up"}),
        ("matrix", 0.5, {"down"}),
        ("adamw", 1e-3, {"embedding", "vector"}),
        ("adamw", 1e-4, {"head"}),
    ]


def test_a_tensor_of_a_learning_rate_is_kept_itself():
    lr = torch.tensor(0.1)
    groups = pg.param_groups(qwen2(), policy="paper-embedding", lrs={"embedding": lr, "head": lr})
    assert groups[1]["lr"] is lr
    assert groups[1]["roles"] == ["embedding", "head"]


def test_an_own_policy():
    plain = rates(Mixture())
    own = rates(
        Mixture(), policy={"router": {"rule": "matrix"}, "stacked experts": {"rule": "adamw"}}
    )
    assert (plain["router"][0], plain["stacked experts"][0]) == ("adamw", "matrix")
    assert (own["router"][0], own["stacked experts"][0]) == ("matrix", "adamw")
    whole = Policy("mine", {"embedding": {"rule": "matrix"}})
    assert {r for r, (rule, _) in rates(Mixture(), policy=whole).items() if rule == "matrix"} == {
        "embedding"
    }


def test_policies_are_not_changed_by_use():
    before = copy.deepcopy(POLICIES)
    for group in pg.param_groups(qwen2(), policy="paper-embedding", lrs=LRS):
        if "geometry" in group:
            group["geometry"]["name"] = "frobenius"
    assert before == POLICIES


def test_a_table_of_places_is_one_matrix_where_tables_are():
    model = nn.Module()
    model.places = nn.Parameter(torch.zeros(1, 5, 4))
    (a,) = assign(model, policy="paper-embedding")
    assert (a.role, a.view) == ("embedding", {"kind": "experts"})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"policy": "adam"}, ValueError, "policy must be one of muon, paper, .* got 'adam'"),
        ({"policy": 3}, TypeError, "policy must be a name, a Policy or a mapping of roles"),
        ({"policy": {"heads": {"rule": "matrix"}}}, ValueError, "a role must be one of .*'heads'"),
        ({"policy": {"head": {}}}, ValueError, "'head': rule must be one of matrix, adamw"),
        ({"policy": {"head": {"rule": "matrix", "size": 1}}}, ValueError, "among .*, got size"),
        ({"lrs": {"heads": 0.1}}, ValueError, "lrs: a role must be one of .* got 'heads'"),
        ({"lrs": {"router": 0.1}}, ValueError, "lrs: no trainable parameter is a router"),
    ],
    ids=str,
)
def test_refuses(options, error, message):
    with pytest.raises(error, match=message):
        pg.param_groups(qwen2(), **options)
