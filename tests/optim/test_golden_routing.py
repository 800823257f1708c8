"""Routing of whole models: what each of their parameters is, whatever the user calls things."""

import pytest
import torch
from small_models import (
    Convolutions,
    ListedMixture,
    Mixture,
    encoder,
    gpt2,
    lora,
    mixtral,
    qwen2,
    resnet,
    vit,
)
from torch import nn

from polargrad.optim.routing import assign
from polargrad.optim.routing.views import (
    FLATTEN,
    WHOLE,
    experts,
    heads,
    split,
)

HIDDEN, FUSED, GATED, DOWN = "hidden matrix", "fused QKV", "gate/up", "down"
TURNED = {**WHOLE, "transpose": True}

# Role and rule of each parameter of two dimensions or more, with the view where it is not whole.
MATRIX, ADAMW = "matrix", "adamw"


def table(model, **options):
    """What is asserted of a model; parameters of fewer dimensions must be vectors and scalars."""
    found = {}
    for a in assign(model, **options):
        if a.parameter.ndim < 2:
            assert (a.role, a.rule) == ("scalar" if a.parameter.numel() == 1 else "vector", ADAMW)
        else:
            found[a.name] = (a.role, a.rule, *([] if a.view == WHOLE else [a.view]))
    return found


def convolution(*names):
    return {f"{name}.weight": ("convolution", MATRIX, FLATTEN) for name in names}


ATTENTION = "model.layers.0.self_attn"
GOLDEN = {
    "GPT-2, tied": (
        gpt2,
        {
            "transformer.wte.weight": ("tied embedding", ADAMW),
            "transformer.wpe.weight": ("embedding", ADAMW),
            "transformer.h.0.attn.c_attn.weight": (FUSED, MATRIX, split(3, transpose=True)),
            "transformer.h.0.attn.c_proj.weight": (HIDDEN, MATRIX, TURNED),
            "transformer.h.0.mlp.c_fc.weight": (HIDDEN, MATRIX, TURNED),
            "transformer.h.0.mlp.c_proj.weight": (HIDDEN, MATRIX, TURNED),
        },
    ),
    "Qwen2": (
        qwen2,
        {
            "model.embed_tokens.weight": ("embedding", ADAMW),
            **{f"{ATTENTION}.{x}_proj.weight": (HIDDEN, MATRIX) for x in "qkvo"},
            "model.layers.0.mlp.gate_proj.weight": (GATED, MATRIX),
            "model.layers.0.mlp.up_proj.weight": (GATED, MATRIX),
            "model.layers.0.mlp.down_proj.weight": (DOWN, MATRIX),
            "lm_head.weight": ("head", ADAMW),
        },
    ),
    "Mixtral": (
        mixtral,
        {
            "model.embed_tokens.weight": ("embedding", ADAMW),
            **{f"{ATTENTION}.{x}_proj.weight": (HIDDEN, MATRIX) for x in "qkvo"},
            "model.layers.0.mlp.gate.weight": ("router", ADAMW),
            "model.layers.0.mlp.experts.gate_up_proj": (
                *("expert gate/up", MATRIX),
                experts(split(2)),
            ),
            "model.layers.0.mlp.experts.down_proj": ("expert down", MATRIX, experts()),
            "lm_head.weight": ("head", ADAMW),
        },
    ),
    "ViT": (
        vit,
        {
            "vit.embeddings.cls_token": ("vector", ADAMW),
            "vit.embeddings.position_embeddings": ("embedding", ADAMW),
            **convolution("vit.embeddings.patch_embeddings.projection"),
            **{f"vit.layers.0.attention.{x}_proj.weight": (HIDDEN, MATRIX) for x in "qkvo"},
            "vit.layers.0.mlp.fc1.weight": (HIDDEN, MATRIX),
            "vit.layers.0.mlp.fc2.weight": (HIDDEN, MATRIX),
            "classifier.weight": ("head", ADAMW),
        },
    ),
    "ResNet": (
        resnet,
        {
            **convolution(
                "resnet.embedder.embedder.convolution",
                *(f"resnet.encoder.stages.0.layers.0.layer.{i}.convolution" for i in (0, 1)),
                "resnet.encoder.stages.1.layers.0.shortcut.convolution",
                *(f"resnet.encoder.stages.1.layers.0.layer.{i}.convolution" for i in (0, 1)),
            ),
            "classifier.1.weight": ("head", ADAMW),
        },
    ),
    "LoRA": (
        lora,
        {
            "base_model.model.model.embed_tokens.lora_embedding_A.default": ("embedding", ADAMW),
            "base_model.model.model.embed_tokens.lora_embedding_B.default": (
                *("low-rank adapter", MATRIX),
            ),
            **{
                f"base_model.model.{ATTENTION}.{x}_proj.lora_{factor}.default.weight": (
                    *("low-rank adapter", MATRIX),
                )
                for x in "qv"
                for factor in "AB"
            },
            "base_model.model.lm_head.modules_to_save.default.weight": ("head", ADAMW),
        },
    ),
    "encoder with fused query, key and value": (
        encoder,
        {
            "tokens.weight": ("embedding", ADAMW),
            "encoder.layers.0.self_attn.in_proj_weight": (FUSED, MATRIX, split(3)),
            "encoder.layers.0.self_attn.out_proj.weight": (HIDDEN, MATRIX),
            "encoder.layers.0.linear1.weight": (HIDDEN, MATRIX),
            "encoder.layers.0.linear2.weight": (HIDDEN, MATRIX),
            "head.weight": ("head", ADAMW),
        },
    ),
    "convolutions and (C, 1, 1) scales": (
        Convolutions,
        {
            "scale": ("vector", ADAMW),
            "places": ("embedding", ADAMW),
            **convolution("sound", "volume"),
            "head.weight": ("head", ADAMW),
        },
    ),
    "stacked experts in plain torch": (
        Mixture,
        {
            "tokens.weight": ("embedding", ADAMW),
            **{
                f"layers.{i}.{name}": role
                for i in (0, 1)
                for name, role in {
                    "choose.weight": ("router", ADAMW),
                    "experts.first": ("stacked experts", MATRIX, experts()),
                    "experts.second": ("stacked experts", MATRIX, experts()),
                    "experts.first_bias": ("vector", ADAMW),
                }.items()
            },
            "head.weight": ("head", ADAMW),
        },
    ),
    "experts in a list in plain torch": (
        ListedMixture,
        {
            **{
                f"layers.{i}.{name}": role
                for i in (0, 1)
                for name, role in {
                    "choose.weight": ("router", ADAMW),
                    **{
                        f"experts.{j}.{part}.weight": (role, MATRIX)
                        for j in range(3)
                        for part, role in (("a", GATED), ("b", DOWN), ("c", GATED))
                    },
                }.items()
            },
            "head.weight": ("head", ADAMW),
        },
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_table(name):
    build, expected = GOLDEN[name]
    assert table(build()) == expected


def by_parameter(model):
    return {id(a.parameter): (a.role, a.rule, a.view) for a in assign(model)}


def permuted(model):
    """The same model with everything registered in the reverse order."""
    for module in model.modules():
        for registered in (module._modules, module._parameters):
            for key in reversed(list(registered)):
                registered[key] = registered.pop(key)
    return model


@pytest.mark.parametrize("name", GOLDEN)
def test_the_users_names_and_the_order_of_registration_do_not_matter(name):
    """A model in the user's own modules, called anything, registered in any order."""
    model = GOLDEN[name][0]()
    before = by_parameter(model)
    assert by_parameter(permuted(model)) == before
    for word in ("lm_head", "embed_tokens", "norm", "bias"):
        holder = nn.Module()
        holder.add_module(word, model)
        assert by_parameter(holder) == before
    assert by_parameter(torch.compile(model, backend="eager")) == before


@pytest.mark.parametrize("name", ["convolutions and (C, 1, 1) scales"])
@pytest.mark.parametrize("words", [["embedding", "head", "bias", "norm"]])
def test_names_of_the_users_own_attributes_do_not_matter(name, words):
    """A convolution called "embedding" is a convolution, a table called "weight" a table."""
    model = GOLDEN[name][0]()
    before = by_parameter(model)
    for registered in (model._modules, model._parameters):
        for key, word in zip(list(registered), words, strict=False):
            registered[f"{word}{len(registered)}"] = registered.pop(key)
    assert by_parameter(model) == before


def test_a_feed_forward_part_three_times_as_wide_is_no_attention():
    """GPT-2's n_inner = 3·n_embd makes c_fc as large as query, key and value."""
    from transformers import GPT2Config, GPT2Model

    model = GPT2Model(GPT2Config(vocab_size=8, n_embd=16, n_layer=1, n_head=2, n_inner=48))
    found = table(model)
    assert found["h.0.mlp.c_fc.weight"] == (HIDDEN, MATRIX, TURNED)
    assert found["h.0.attn.c_attn.weight"] == (FUSED, MATRIX, split(3, transpose=True))


def test_key_and_value_of_cross_attention_are_two():
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=8, n_embd=16, n_layer=1, n_head=2, add_cross_attention=True)
    found = table(GPT2Model(config))
    assert found["h.0.crossattention.c_attn.weight"] == (FUSED, MATRIX, split(2, transpose=True))
    assert found["h.0.crossattention.q_attn.weight"] == (HIDDEN, MATRIX, TURNED)


def test_bert_and_t5():
    from transformers import BertConfig, BertForSequenceClassification, T5Config, T5Model

    sizes = {"num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    config = BertConfig(vocab_size=9, hidden_size=8, num_labels=8, **sizes)
    found = table(BertForSequenceClassification(config))
    tables = [name for name, what in found.items() if what == ("embedding", ADAMW)]
    assert [name.rpartition(".")[0].rpartition(".")[2] for name in tables] == [
        *("word_embeddings", "position_embeddings", "token_type_embeddings"),
    ]
    assert found["classifier.weight"] == ("head", ADAMW)
    assert found["bert.encoder.layer.0.output.dense.weight"] == (HIDDEN, MATRIX)
    found = table(
        T5Model(
            T5Config(
                vocab_size=9,
                d_model=8,
                d_kv=4,
                d_ff=16,
                num_layers=1,
                num_heads=2,
                feed_forward_proj="gated-gelu",
            )
        )
    )
    part = "encoder.block.0.layer"
    assert found["shared.weight"] == ("tied embedding", ADAMW)
    assert found[f"{part}.0.SelfAttention.relative_attention_bias.weight"] == ("embedding", ADAMW)
    assert found[f"{part}.0.SelfAttention.q.weight"] == (HIDDEN, MATRIX)
    assert found[f"{part}.1.DenseReluDense.wi_0.weight"] == (GATED, MATRIX)
    assert found[f"{part}.1.DenseReluDense.wo.weight"] == (DOWN, MATRIX)


def test_what_mamba_uses_entry_by_entry_is_no_matrix():
    from transformers import MambaConfig, MambaModel

    found = table(MambaModel(MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1)))
    assert found["layers.0.mixer.A_log"] == ("vector", ADAMW)


ADAPTED = {
    "convolution": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), ["1"], {}),
    "weight decomposed": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5)),
        ["0"],
        {"use_dora": True},
    ),
}


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_of_other_layers(name):
    from peft import LoraConfig, get_peft_model

    build, targets, options = ADAPTED[name]
    model = get_peft_model(build(), LoraConfig(r=2, target_modules=targets, **options))
    found = table(model)
    assert {what[:2] for what in found.values()} == {("low-rank adapter", MATRIX)}
    assert len(found) == 2


def test_per_head_is_opt_in():
    model = encoder()
    assert "attention heads" not in {a.role for a in assign(model)}
    found = {a.name.rpartition(".")[0]: a for a in assign(model, per_head=True) if a.rule == MATRIX}
    inside, outside = (
        found["encoder.layers.0.self_attn"],
        found["encoder.layers.0.self_attn.out_proj"],
    )
    assert inside.view == split(3, each=heads(2))
    assert outside.view == heads(2, dim=1)
    assert inside.role == outside.role == "attention heads"
