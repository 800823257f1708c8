"""Layouts of transformers: the parts that routing finds are those that the models compute with."""

import pytest
import torch
from small_models import mixtral

from polargrad.optim.routing import assign
from polargrad.optim.routing.views import WHOLE, experts, interleaved, regions, split

TURNED = {**WHOLE, "transpose": True}


def told(model):
    """Role, rule and view of every parameter, by name."""
    return {a.name: (a.role, a.rule, a.view) for a in assign(model)}


def fused(kind, **options):
    """A model of transformers of one layer, whose attention has one fused projection."""
    import transformers

    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 16}
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **options})
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}Model")(config)


BY_HEAD = interleaved(groups=4, sizes=[4, 4, 4])
# A model, its fused projection and its output projection, the view of the parts, and which of these
# is the value.
FUSED_LAYOUTS = {
    "GPT-2": (lambda: fused("GPT2"), "c_attn", "c_proj", split(3, transpose=True), 2),
    "GPT-NeoX": (
        lambda: fused("GPTNeoX", intermediate_size=8),
        *("query_key_value", "dense", BY_HEAD, 2),
    ),
    "Bloom": (lambda: fused("Bloom"), "query_key_value", "dense", BY_HEAD, 2),
    "Falcon, grouped": (
        lambda: fused("Falcon", new_decoder_architecture=True, num_kv_heads=2),
        *("query_key_value", "dense", interleaved(groups=2, sizes=[8, 4, 4]), 2),
    ),
    "Falcon, one key head": (
        lambda: fused("Falcon", multi_query=True),
        *("query_key_value", "dense", split([16, 4, 4]), 2),
    ),
    "Falcon, as many key heads": (
        lambda: fused("Falcon", multi_query=False),
        *("query_key_value", "dense", BY_HEAD, 2),
    ),
    "Phi-3": (
        lambda: fused("Phi3", num_key_value_heads=2, intermediate_size=8, pad_token_id=0),
        *("qkv_proj", "o_proj", split([16, 8, 8]), 2),
    ),
    "CodeGen": (
        lambda: fused("CodeGen", rotary_dim=4),
        *("qkv_proj", "out_proj", BY_HEAD, 1),
    ),
    "GPT-BigCode": (
        lambda: fused("GPTBigCode", multi_query=True),
        *("c_attn", "c_proj", split([16, 4, 4]), 2),
    ),
    "GPT-BigCode, as many key heads": (
        lambda: fused("GPTBigCode", multi_query=False),
        *("c_attn", "c_proj", BY_HEAD, 2),
    ),
    "MPT": (
        lambda: fused("Mpt", d_model=16, n_heads=4, n_layers=1),
        *("Wqkv", "out_proj", split(3), 2),
    ),
    "DBRX": (
        lambda: fused(
            "Dbrx",
            d_model=16,
            max_seq_len=8,
            attn_config={"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
            ffn_config={
                "ffn_hidden_size": 8,
                "moe_num_experts": 2,
                "moe_top_k": 1,
            },
        ),
        *("Wqkv", "out_proj", split([16, 8, 8]), 2),
    ),
    "ModernBERT": (
        lambda: fused("ModernBert", intermediate_size=8, pad_token_id=0),
        *("Wqkv", "Wo", split(3), 2),
    ),
}


@pytest.mark.parametrize("name", FUSED_LAYOUTS)
def test_the_parts_and_heads_of_a_fused_projection_are_those_that_the_model_uses(name):
    """With the values of all key heads but one set to zero, only its own heads give an output."""
    build, projection, output, view, value = FUSED_LAYOUTS[name]
    model = build().eval()
    attention = next(m for m in model.modules() if hasattr(m, projection) and hasattr(m, output))
    inside, outside = getattr(attention, projection), getattr(attention, output)
    found = {id(a.parameter): a for a in assign(model)}
    assert (found[id(inside.weight)].role, found[id(inside.weight)].view) == ("fused QKV", view)
    apart = {id(a.parameter): a for a in assign(model, per_head=True)}
    ins, outs = apart[id(inside.weight)], apart[id(outside.weight)]
    assert ins.role == outs.role == "attention heads"

    weight = inside.weight.detach()
    if inside.bias is not None:
        inside.bias.detach().zero_()
    per_part = [len(regions(WHOLE, r.matrix())) for r in regions(view, weight)]
    assert len(per_part) == 3
    queries = len(regions(outs.view, outside.weight.detach()))
    keys = (len(regions(ins.view, weight)) - queries) // 2
    first = {1: queries, 2: queries + keys}[value]
    seen = []
    outside.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    original = weight.clone()
    for kept in range(keys):
        weight.copy_(original)
        for head, region in enumerate(regions(ins.view, weight)[first : first + keys]):
            if head != kept:
                region.tensor.zero_()
        with torch.no_grad():
            model(input_ids=torch.tensor([[1, 2, 3]]))
        features = seen[-1].reshape(3, -1)
        size = features.shape[1] // queries
        alive = [bool(features[:, i * size : (i + 1) * size].any()) for i in range(queries)]
        assert alive == [i // (queries // keys) == kept for i in range(queries)]


def gpt_oss():
    from transformers import GptOssConfig, GptOssModel

    return GptOssModel(
        GptOssConfig(
            vocab_size=16,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
            num_local_experts=4,
            num_experts_per_tok=2,
        )
    )


def olmoe():
    from transformers import OlmoeConfig, OlmoeModel

    return OlmoeModel(
        OlmoeConfig(
            vocab_size=16,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_experts=4,
            num_experts_per_tok=2,
            pad_token_id=0,
        )
    )


EXPERTS = {
    "Mixtral": (lambda: mixtral().model, experts(split(2)), experts()),
    "OLMoE": (olmoe, experts(split(2)), experts()),
    "gpt-oss": (gpt_oss, experts(interleaved(2, transpose=True)), experts(TURNED)),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_gate_and_up_of_stacked_experts_are_those_that_the_model_uses(name):
    """With all gates set to zero the experts give nothing; their matrices are (outputs, inputs)."""
    build, gate_up, down = EXPERTS[name]
    model = build().eval()
    found = {a.name.rpartition(".")[2]: a for a in assign(model)}
    gates, last = found["gate_up_proj"], found["down_proj"]
    assert (gates.role, gates.view) == ("expert gate/up", gate_up)
    assert (last.role, last.view) == ("expert down", down)
    assert found["weight"].parameter.ndim < 3
    (holder,) = (m for m in model.modules() if hasattr(m, "gate_up_proj"))
    for p in holder.parameters():
        torch.nn.init.normal_(p)
        if p.ndim == 2:
            p.detach().zero_()
    inner, width = regions(down, last.parameter)[0].shape[::-1]
    assert {r.shape for r in regions(gate_up, gates.parameter)} == {(inner, width)}
    x, weights = torch.randn(3, width), torch.ones(3, 2)
    chosen = torch.tensor([[0, 1], [2, 3], [1, 2]])
    with torch.no_grad():
        assert holder(x, chosen, weights).any()
        for gate in regions(gate_up, gates.parameter.detach())[::2]:
            gate.tensor.zero_()
        assert not holder(x, chosen, weights).any()


def test_a_router_of_transformers_is_one_wherever_it_stands():
    for model in (mixtral(), olmoe(), gpt_oss()):
        routers = [a for a in assign(model) if a.role == "router"]
        assert [a.parameter.shape[0] for a in routers] == [4]


def test_experts_stacked_along_the_rows():
    """DBRX stores w2 as (inputs, outputs), and its router inside a module of its own."""
    found = told(FUSED_LAYOUTS["DBRX"][0]())
    assert found["blocks.0.ffn.experts.mlp.w1"] == ("expert gate/up", "matrix", split(2))
    assert found["blocks.0.ffn.experts.mlp.w2"] == ("expert down", "matrix", split(2, each=TURNED))
    assert found["blocks.0.ffn.router.layer.weight"] == ("router", "adamw", WHOLE)


def test_gate_and_up_in_one_linear_map():
    found = told(fused("Phi3", num_key_value_heads=2, intermediate_size=8, pad_token_id=0))
    assert found["layers.0.mlp.gate_up_proj.weight"] == ("gate/up", "matrix", split(2))
    assert found["layers.0.mlp.down_proj.weight"] == ("down", "matrix", WHOLE)
