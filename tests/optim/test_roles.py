"""Which role every parameter of a model gets: golden tables, and what must not change them."""

import collections

import pytest
import torch
from small_models import GPT, Block, Classifier, LayerScale, TwoHeads, gpt2, qwen2, resnet
from torch import nn
from torch.nn.utils import parametrizations

import polargrad as pg
from polargrad.optim.routing import assign
from polargrad.optim.routing.roles import ROLES
from polargrad.optim.routing.views import split

HIDDEN, HEAD, EMBEDDING, TIED = "hidden matrix", "head", "embedding", "tied embedding"
CONVOLUTION, VECTOR, OTHER = "convolution", "vector", "other"
FUSED, GATED, DOWN = "fused QKV", "gate/up", "down"
SPLIT_3 = {"kind": "split", "parts": 3}
SPLIT_4 = {"kind": "split", "parts": 4}
FLATTEN = {"kind": "flatten"}
TRANSPOSED = {"kind": "whole", "transpose": True}


def roles(model):
    """Role, and view where it is not the whole matrix, of each parameter of two dimensions or more.

    All others must be vectors and scalars.
    """
    table = {}
    for a in assign(model):
        if a.parameter.ndim < 2:
            assert a.role == ("scalar" if a.parameter.numel() == 1 else VECTOR)
        else:
            table[a.name] = a.role if a.view == {"kind": "whole"} else (a.role, a.view)
    return table


def block(prefix):
    parts = ("query", "key_value", "output", "up", "down")
    return {f"{prefix}.{part}.weight": HIDDEN for part in parts}


GPT_BLOCKS = {**block("blocks.0"), **block("blocks.1")}
QWEN2 = {
    "model.embed_tokens.weight": EMBEDDING,
    **{
        f"model.layers.0.{part}.weight": role
        for part, role in (
            *((f"self_attn.{x}_proj", HIDDEN) for x in "qkvo"),
            *((f"mlp.{x}_proj", GATED) for x in ("gate", "up")),
            ("mlp.down_proj", DOWN),
        )
    },
}
GOLDEN = {
    "GPT, untied": (
        lambda: GPT(tied=False),
        {"tokens.weight": EMBEDDING, "positions.weight": EMBEDDING, **GPT_BLOCKS}
        | {"head.weight": HEAD},
    ),
    "GPT, tied": (
        lambda: GPT(tied=True),
        {"tokens.weight": TIED, "positions.weight": EMBEDDING, **GPT_BLOCKS},
    ),
    "GPT, tied, head first": (
        lambda: GPT(tied=True, head_first=True),
        {"head.weight": TIED, "positions.weight": EMBEDDING, **GPT_BLOCKS},
    ),
    "GPT of one layer": (
        lambda: GPT(tied=False, layers=1),
        {"tokens.weight": EMBEDDING, "positions.weight": EMBEDDING, **block("blocks.0")}
        | {"head.weight": HEAD},
    ),
    "GPT whose vocabulary is its width": (
        lambda: GPT(tied=False, layers=1, vocabulary=16),
        {"tokens.weight": EMBEDDING, "positions.weight": EMBEDDING, **block("blocks.0")}
        | {"head.weight": HEAD},
    ),
    "two GPTs in a list": (
        lambda: nn.ModuleList([GPT(tied=False), GPT(tied=False)]),
        {
            f"{index}.{name}": role
            for index in (0, 1)
            for name, role in (
                {"tokens.weight": EMBEDDING, "positions.weight": EMBEDDING, **GPT_BLOCKS}
                | {"head.weight": HEAD}
            ).items()
        },
    ),
    "as many positions as the feed-forward part is wide": (
        Classifier,
        {"tokens.weight": EMBEDDING, "positions.weight": EMBEDDING, **GPT_BLOCKS}
        | {"head.weight": HEAD},
    ),
    "parametrized": (
        lambda: nn.Sequential(
            nn.Embedding(9, 4),
            parametrizations.weight_norm(nn.Linear(4, 6)),
            parametrizations.orthogonal(nn.Linear(6, 4)),
            parametrizations.weight_norm(nn.Conv1d(4, 4, 3)),
            parametrizations.weight_norm(nn.Linear(4, 9)),
        ),
        {
            "0.weight": EMBEDDING,
            "1.parametrizations.weight.original0": VECTOR,
            "1.parametrizations.weight.original1": HIDDEN,
            "2.parametrizations.weight.original": HIDDEN,
            "3.parametrizations.weight.original0": VECTOR,
            "3.parametrizations.weight.original1": (CONVOLUTION, FLATTEN),
            "4.parametrizations.weight.original0": HEAD,
            "4.parametrizations.weight.original1": HEAD,
        },
    ),
    "Qwen2": (qwen2, {**QWEN2, "lm_head.weight": HEAD}),
    "Qwen2, tied": (lambda: qwen2(tie=True), {**QWEN2, "model.embed_tokens.weight": TIED}),
    "Qwen2 in a wrapper": (
        lambda: nn.ModuleDict({"inner": qwen2()}),
        {f"inner.{name}": role for name, role in (QWEN2 | {"lm_head.weight": HEAD}).items()},
    ),
    "GPT-2": (
        gpt2,
        {
            "transformer.wte.weight": TIED,
            "transformer.wpe.weight": EMBEDDING,
            "transformer.h.0.attn.c_attn.weight": (FUSED, {**SPLIT_3, "transpose": True}),
            "transformer.h.0.attn.c_proj.weight": (HIDDEN, TRANSPOSED),
            "transformer.h.0.mlp.c_fc.weight": (HIDDEN, TRANSPOSED),
            "transformer.h.0.mlp.c_proj.weight": (HIDDEN, TRANSPOSED),
        },
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16), 1, enable_nested_tensor=False
        ),
        {
            "layers.0.self_attn.in_proj_weight": (FUSED, SPLIT_3),
            "layers.0.self_attn.out_proj.weight": HIDDEN,
            "layers.0.linear1.weight": HIDDEN,
            "layers.0.linear2.weight": HIDDEN,
        },
    ),
    "attention with its own widths": (
        lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=5, add_bias_kv=True),
        {
            "q_proj_weight": HIDDEN,
            "k_proj_weight": HIDDEN,
            "v_proj_weight": HIDDEN,
            "bias_k": VECTOR,
            "bias_v": VECTOR,
            "out_proj.weight": HIDDEN,
        },
    ),
    "LSTM": (
        lambda: nn.ModuleList([nn.LSTM(4, 8, proj_size=3), nn.LSTMCell(3, 8)]),
        {
            "0.weight_ih_l0": (HIDDEN, SPLIT_4),
            "0.weight_hh_l0": (HIDDEN, SPLIT_4),
            "0.weight_hr_l0": HIDDEN,
            "1.weight_ih": (HIDDEN, SPLIT_4),
            "1.weight_hh": (HIDDEN, SPLIT_4),
        },
    ),
    "GRU": (
        lambda: nn.Sequential(nn.Embedding(20, 4), nn.GRU(4, 8), nn.Linear(8, 20)),
        {
            "0.weight": EMBEDDING,
            "1.weight_ih_l0": (HIDDEN, SPLIT_3),
            "1.weight_hh_l0": (HIDDEN, SPLIT_3),
            "2.weight": HEAD,
        },
    ),
    "RNN": (
        lambda: nn.Sequential(nn.RNN(4, 8), nn.Linear(8, 5)),
        {"0.weight_ih_l0": HIDDEN, "0.weight_hh_l0": HIDDEN, "1.weight": HEAD},
    ),
    "CNN": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 16, 3),
            nn.BatchNorm2d(16),
            nn.Conv2d(16, 16, 3, groups=16),
            nn.Conv2d(16, 8, 1, groups=2),
            nn.Linear(8, 10),
        ),
        {
            "0.weight": (CONVOLUTION, FLATTEN),
            "2.weight": (CONVOLUTION, FLATTEN),
            "4.weight": OTHER,
            "5.weight": OTHER,
            "6.weight": HEAD,
        },
    ),
    "convolutions of one and three dimensions": (
        lambda: nn.ModuleList(
            [nn.Conv1d(2, 4, 3), nn.Conv3d(4, 5, 2), nn.ConvTranspose2d(5, 2, 3)]
        ),
        {
            "0.weight": (CONVOLUTION, FLATTEN),
            "1.weight": (CONVOLUTION, FLATTEN),
            "2.weight": (CONVOLUTION, {**FLATTEN, "transpose": True}),
        },
    ),
    "a convolution with one output": (
        lambda: nn.ModuleList([nn.Conv2d(4, 1, 3), nn.Conv1d(1, 4, 1), nn.Conv2d(4, 4, 3)]),
        {"0.weight": VECTOR, "1.weight": VECTOR, "2.weight": (CONVOLUTION, FLATTEN)},
    ),
    "LayerScale": (
        LayerScale,
        {"gamma": VECTOR, "convolution.weight": (CONVOLUTION, FLATTEN), "head.weight": HEAD},
    ),
    "classifier": (
        lambda: nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 8), nn.Linear(8, 3)),
        {"0.weight": HIDDEN, "1.weight": HIDDEN, "2.weight": HEAD},
    ),
    "classifier as wide as its last hidden layer": (
        lambda: nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 10)),
        {"0.weight": HIDDEN, "2.weight": HEAD},
    ),
    "one row, one column": (
        lambda: nn.Sequential(nn.Linear(1, 16), nn.Linear(16, 16), nn.Linear(16, 1)),
        {"0.weight": VECTOR, "1.weight": HIDDEN, "2.weight": VECTOR},
    ),
    "two heads": (
        TwoHeads,
        {"trunk.0.weight": HIDDEN, "trunk.2.weight": HIDDEN}
        | {"policy.weight": HEAD, "value.weight": HEAD},
    ),
    "heads in a ModuleDict": (
        lambda: nn.ModuleDict(
            {
                "trunk": nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16)),
                "heads": nn.ModuleDict({"policy": nn.Linear(16, 4), "value": nn.Linear(16, 1)}),
            }
        ),
        {"trunk.0.weight": HIDDEN, "trunk.2.weight": HIDDEN}
        | {"heads.policy.weight": HEAD, "heads.value.weight": HEAD},
    ),
    "heads in a ModuleList": (
        lambda: nn.ModuleDict(
            {
                "trunk": nn.ModuleList([nn.Linear(8, 16), nn.Linear(16, 16)]),
                "heads": nn.ModuleList([nn.Linear(16, 4), nn.Linear(16, 5)]),
            }
        ),
        {"trunk.0.weight": HIDDEN, "trunk.1.weight": HIDDEN}
        | {"heads.0.weight": HEAD, "heads.1.weight": HEAD},
    ),
    "blocks in a ModuleDict": (
        lambda: nn.ModuleDict(
            {
                "in": nn.Linear(3, 16),
                "layers": nn.ModuleDict({"0": Block(), "1": Block()}),
                "out": nn.Linear(16, 3 + 2),
            }
        ),
        {"in.weight": HIDDEN, **block("layers.0"), **block("layers.1"), "out.weight": HEAD},
    ),
    "blocks in a Sequential": (
        lambda: nn.Sequential(nn.Linear(3, 16), nn.Sequential(Block(), Block()), nn.Linear(16, 5)),
        {"0.weight": HIDDEN, **block("1.0"), **block("1.1"), "2.weight": HEAD},
    ),
    "layouts that are not known": (
        lambda: nn.ModuleList([nn.Bilinear(3, 4, 5), nn.Linear(5, 6), nn.Linear(6, 2)]),
        {"0.weight": OTHER, "1.weight": HIDDEN, "2.weight": HEAD},
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_roles(name):
    build, expected = GOLDEN[name]
    assert roles(build()) == expected


@pytest.mark.parametrize("name", GOLDEN)
def test_every_trainable_parameter_has_one_role(name):
    model = GOLDEN[name][0]()
    next(model.parameters()).requires_grad_(False)
    assigned = collections.Counter(id(a.parameter) for a in assign(model))
    assert assigned == collections.Counter(id(p) for p in model.parameters() if p.requires_grad)
    assert all(a.role in ROLES for a in assign(model))
    assert all(a.rule in ("matrix", "adamw") for a in assign(model))
    names = {id(p): n for n, p in model.named_parameters()}
    assert all(a.name == names[id(a.parameter)] for a in assign(model))


def renamed(module, counter):
    """A copy whose children carry meaningless names, in the reverse order of registration."""
    for child_name, child in reversed(list(module._modules.items())):
        del module._modules[child_name]
        counter[0] += 1
        module._modules[f"x{counter[0]}"] = renamed(child, counter)
    return module


# transformers declares a head, and torch a parametrization, by an attribute's name.
BY_NAME = ("Qwen2", "Qwen2, tied", "Qwen2 in a wrapper", "GPT-2", "parametrized")


@pytest.mark.parametrize("name", [name for name in GOLDEN if name not in BY_NAME])
def test_names_and_order_do_not_matter(name):
    model = GOLDEN[name][0]()
    before = {id(a.parameter): (a.role, a.view) for a in assign(model)}
    after = {id(a.parameter): (a.role, a.view) for a in assign(renamed(model, [0]))}
    assert after == before


def test_a_tie_is_a_tie_of_memory():
    """Two parameters on one storage are tied as much as one parameter in two places."""
    model = GPT(tied=False)
    model.head.weight = nn.Parameter(model.tokens.weight.detach())
    table = roles(model)
    assert table["tokens.weight"] == TIED
    assert table["head.weight"] == TIED


def test_equal_values_are_no_tie():
    model = GPT(tied=False)
    with torch.no_grad():
        model.head.weight.copy_(model.tokens.weight)
    assert roles(model)["head.weight"] == HEAD


def test_one_module_used_twice_is_listed_once():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(3, 4), shared, shared, nn.Linear(4, 2))
    assert [a.name for a in assign(model)] == [n for n, _ in model.named_parameters()]


def test_an_embedding_bag_is_an_embedding():
    model = nn.Sequential(nn.EmbeddingBag(30, 4), nn.Linear(4, 8), nn.Linear(8, 2))
    assert roles(model) == {"0.weight": EMBEDDING, "1.weight": HIDDEN, "2.weight": HEAD}


def test_the_reason_of_a_head_is_the_true_one():
    def reason(model, name):
        return {a.name: a.reason for a in assign(model)}[name]

    assert reason(GPT(tied=False), "head.weight") == "its 64 outputs are an embedding's vocabulary"
    assert reason(TwoHeads(), "policy.weight") == "its 4 outputs feed no other module"
    assert reason(qwen2(), "lm_head.weight") == "the model's output embeddings"
    wrapped = nn.ModuleDict({"inner": qwen2()})
    assert reason(wrapped, "inner.lm_head.weight") == "the model's output embeddings"


TAKERS = {
    "Linear": lambda: nn.Linear(7, 2),
    "Bilinear, first": lambda: nn.Bilinear(7, 2, 2),
    "Bilinear, second": lambda: nn.Bilinear(2, 7, 2),
    "LayerNorm": lambda: nn.LayerNorm(7),
    "RMSNorm": lambda: nn.RMSNorm(7),
    "BatchNorm": lambda: nn.BatchNorm1d(7),
    "InstanceNorm": lambda: nn.InstanceNorm1d(7),
    "GroupNorm": lambda: nn.GroupNorm(1, 7),
    "Conv1d": lambda: nn.Conv1d(7, 2, 3),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(7, 2, 3),
    "LSTM": lambda: nn.LSTM(7, 2),
    "GRUCell": lambda: nn.GRUCell(7, 2),
    "attention": lambda: nn.MultiheadAttention(7, 1),
    "attention, keys": lambda: nn.MultiheadAttention(4, 1, kdim=7),
    "attention, values": lambda: nn.MultiheadAttention(4, 1, vdim=7),
}


@pytest.mark.parametrize("name", TAKERS)
def test_what_another_module_takes_is_no_head(name):
    """Seven outputs are hidden where a module of that many inputs stands beside them."""
    assert roles(nn.ModuleList([nn.Linear(3, 7), TAKERS[name]()]))["0.weight"] == HIDDEN
    assert roles(nn.ModuleList([nn.Linear(3, 8), TAKERS[name]()]))["0.weight"] == HEAD


def test_fsdp1_is_refused_with_the_remedy():
    class FlatParameter(nn.Parameter):
        """Named as the one of torch.distributed.fsdp, which needs a process group."""

    model = nn.Linear(3, 3)
    model.weight = FlatParameter(torch.zeros(9))
    with pytest.raises(ValueError, match=r"weight is a FlatParameter.*fully_shard"):
        pg.param_groups(model)


def test_a_weight_that_was_flattened_is_refused_with_the_remedy():
    """Beside matrices that are still there it would go to AdamW in silence."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2))
    model[0].weight = nn.Parameter(model[0].weight.detach().flatten())
    with pytest.raises(ValueError, match=r"0\.weight of shape \(20,\) .* fully_shard"):
        pg.param_groups(model)
    assert "flattened" in {a.name: a.reason for a in assign(model)}["0.weight"]
    pg.param_groups(model, roles={"0.weight": "vector"})


def test_a_scale_without_a_matrix_behind_it_is_no_flattened_weight():
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 6), dim=None), nn.Linear(6, 6), nn.LayerNorm(6)
    )
    scales = [a for a in assign(model) if a.parameter.ndim < 2]
    assert {a.role for a in scales} == {"vector", "scalar"}
    pg.param_groups(model)


def test_a_module_between_a_layer_and_its_place_changes_nothing():
    """Compiled, checkpointed and adapted layers stay what they are in their attention."""
    model = qwen2()
    attention = model.model.layers[0].self_attn
    attention.q_proj = torch.compile(attention.q_proj, backend="eager")
    reasons = {a.name: a.reason for a in assign(model)}
    assert reasons["model.layers.0.self_attn.q_proj._orig_mod.weight"] == "Qwen2Attention: q_proj"


def test_classifiers_of_transformers_declare_their_labels():
    """Three labels are no input of the convolution that takes three colours."""
    found = {a.name: a for a in assign(resnet())}
    assert found["classifier.1.weight"].reason == "its 3 outputs are the model's labels"


class TestFusedByHand:
    """A fused projection in a plain linear map, as nanoGPT and timm have it."""

    def model(self, rows=48):
        layers = {"qkv": nn.Linear(16, rows), "norm": nn.LayerNorm(rows), "out": nn.Linear(16, 16)}
        return nn.ModuleDict({**layers, "last": nn.Linear(16, 5)})

    def test_is_asked_about(self):
        found = {a.name: a.reason for a in assign(self.model()) if a.parameter.ndim > 1}
        assert found["qkv.weight"] == (
            "Linear; query, key and value in one? then roles: 'fused QKV'"
        )
        assert found["out.weight"] == "Linear"

    def test_is_taken_apart_when_told(self):
        (fused,) = (
            a for a in assign(self.model(), {"qkv.weight": "fused QKV"}) if a.name == "qkv.weight"
        )
        assert (fused.role, fused.view) == ("fused QKV", split(3))

    def test_and_not_taken_for_one_matrix_where_it_cannot_be(self):
        with pytest.raises(ValueError, match=r"does not say where query, key and value lie"):
            assign(self.model(rows=24), {"qkv.weight": "fused QKV"})
        whole = {"qkv.weight": {"role": "fused QKV", "view": {"kind": "whole"}}}
        (one,) = (a for a in assign(self.model(), whole) if a.name == "qkv.weight")
        assert one.view == {"kind": "whole"}
        told = {"qkv.weight": {"role": "fused QKV", "view": split([16, 4, 4])}}
        (fused,) = (a for a in assign(self.model(rows=24), told) if a.name == "qkv.weight")
        assert fused.view == split([16, 4, 4])


def test_a_router_beside_experts_at_the_root_is_no_head():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.w1 = nn.Parameter(torch.zeros(4, 16, 8))
            self.w2 = nn.Parameter(torch.zeros(4, 8, 16))
            self.gate = nn.Linear(8, 4)

    found = {a.name: a.role for a in assign(Root())}
    assert found["gate.weight"] == "router"
