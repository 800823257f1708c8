"""The module with value embeddings: each part does what its equation says."""

import dataclasses
import math

import pytest
import torch

import polargrad as pg
from polargrad.language.models import ValueGPTPreset
from polargrad.language.models.value_gpt_module import (
    LOGIT_CAP,
    SelfAttention,
    ValueGPT,
    rotary_angles,
    rotate,
)
from polargrad.language.presets import PRESETS, build_model, meta_model

PRESET = ValueGPTPreset(
    name="a",
    vocabulary=50,
    outputs=64,
    layers=7,
    width=16,
    feed_forward=24,
    heads=2,
    value_embeddings=2,
    layer_without_attention=3,
    scalars_for_all=False,
    context=8,
    batch=1,
)
TOKENS = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0))


def awake(preset=PRESET):
    """The model in float64, with random numbers in place of the zeros it begins with."""
    model = build_model(preset, seed=0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype), alpha=0.2)
    return model


def norm(x):
    return x / x.square().mean(-1, keepdim=True).add(torch.finfo(x.dtype).eps).sqrt()


def slow_attention(layer, x, embedded, mix):
    """Attention token by token and head by head, in complex numbers where positions turn."""
    q, k, v = (part @ x for part in layer.qkv.weight.chunk(3))
    v = mix[0] * v if embedded is None else mix[0] * v + mix[1] * embedded
    size, tokens = layer.head_dim, x.shape[1]
    angles = 10_000.0 ** (-2 * torch.arange(size // 2, dtype=torch.float64) / size)
    turn = torch.polar(torch.ones(()).double(), angles[:, None] * torch.arange(tokens))
    outputs = []
    for head in range(layer.num_heads):
        rows = slice(head * size, (head + 1) * size)
        qc, kc = (torch.complex(*norm(t[rows].T).T.chunk(2)) * turn for t in (q, k))
        scores = (qc.conj()[:, :, None] * kc[:, None, :]).sum(0).real / math.sqrt(size)
        for t in range(tokens):
            weights = scores[t, : t + 1].exp()
            outputs.append(v[rows, : t + 1] @ weights / weights.sum())
    heads = torch.stack(outputs, 1).view(size, layer.num_heads, tokens).transpose(0, 1)
    return layer.out_proj.weight @ heads.reshape(-1, tokens)


def slow_forward(model, tokens):
    """The equations of the docstrings for one window, column by column."""
    start = norm(model.embedding.weight[tokens]).T
    states, layers = [start], len(model.blocks)
    tables = {0: 0, 1: 1, layers - 2: 0, layers - 1: 1}
    value = iter(model.value_mix.view(-1, 2))
    for i, block in enumerate(model.blocks):
        x = states[-1]
        if i >= layers - layers // 2:
            weight = model.skip_weights[i - (layers - layers // 2)]
            x = x + weight * states[layers - i]
        x = model.residual_mix[2 * i] * x + model.residual_mix[2 * i + 1] * start
        if block.attention is not None:
            e = None
            if i in tables:
                e = model.value_embeddings[tables[i]].weight[tokens].T
            x = x + slow_attention(block.attention, norm(x.T).T, e, next(value))
        inside = (block.feed_forward.up.weight @ norm(x.T).T).clamp(min=0) ** 2
        states.append(x + block.feed_forward.down.weight @ inside)
    logits = norm(states[-1].T) @ model.head.weight.T
    return LOGIT_CAP * torch.tanh(logits / LOGIT_CAP)


@pytest.mark.parametrize("layers", [6, 7])
def test_the_forward_is_that_of_the_equations(layers):
    model = awake(dataclasses.replace(PRESET, layers=layers))
    with torch.no_grad():
        found = model(input_ids=TOKENS).logits
        expected = torch.stack([slow_forward(model, window) for window in TOKENS])
    # The model's angles are float32: positions up to 9 are turned to 1e-7 of a radian.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_it_begins_knowing_nothing():
    """The head is zero: all outputs are equally likely, to the bit."""
    logits = build_model(PRESET, seed=0)(input_ids=TOKENS).logits
    assert not logits.any()


def test_the_initial_matrices_have_the_stated_deviation():
    model = build_model(dataclasses.replace(PRESET, width=256, feed_forward=512), seed=0)
    for name, p in model.named_parameters():
        if "qkv" in name or "up" in name:
            assert p.std().item() == pytest.approx(0.5 / math.sqrt(256), rel=0.02)
        elif "embedding" in name:
            assert p.std().item() == pytest.approx(1.0, rel=0.05)
        elif p.ndim == 2:  # the last of each part, and the head
            assert not p.any(), name


def test_each_block_begins_by_passing_on_what_it_is_given():
    model, x = build_model(PRESET, seed=0), torch.randn(1, 5, 16)
    rotation = rotary_angles(5, 8, 10_000.0, x)
    for block in model.blocks:
        assert torch.equal(block(x, torch.ones_like(x), torch.ones(2), rotation), x)


def test_logits_stay_within_the_cap():
    model = awake()
    with torch.no_grad():
        model.head.weight.mul_(1e4)
        assert model(input_ids=TOKENS).logits.abs().max() <= LOGIT_CAP


@pytest.mark.parametrize("spread", [False, True])
def test_the_scalars_without_a_use_are_those_that_are_stated(spread):
    """Layers without a value embedding have no second weight, the silent layer has neither, and
    the first half takes no skip; all else has a gradient.
    """
    model = awake(dataclasses.replace(PRESET, scalars_for_all=spread))
    model(input_ids=TOKENS).logits.square().sum().backward()
    assert model.residual_mix.grad.all()
    layers = [0, 1, 2, 3, 4, 5, 6] if spread else [0, 1, 2, 4, 5, 6]
    used = model.value_mix.grad.view(-1, 2) != 0
    assert used[:, 0].tolist() == [i != 3 for i in layers]
    assert used[:, 1].tolist() == [i in (0, 1, 5, 6) for i in layers]
    skips = (model.skip_weights.grad != 0).tolist()
    assert skips == ([False] * 4 + [True] * 3 if spread else [True] * 3)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    assert all(p.grad.any() for p in matrices)


def test_turning_by_position_keeps_lengths_and_knows_distances_alone():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    rotation = rotary_angles(20, 8, 100.0, q)
    turned_q, turned_k = (rotate(t.expand(20, 8), rotation) for t in (q, k))
    torch.testing.assert_close(turned_q.norm(dim=1), q.norm().expand(20), rtol=1e-6, atol=0)
    scores = turned_q @ turned_k.T
    for distance in range(1, 20):
        along = scores.diagonal(-distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=0, atol=1e-5)
    assert scores[:, 0].unique().numel() == 20


def test_attention_does_not_depend_on_the_size_of_queries_and_keys():
    layer = SelfAttention(16, 2).double()
    x = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotation, mix = rotary_angles(5, 8, 100.0, x), torch.tensor([1.0, 0.0])
    with torch.no_grad():
        before = layer(x, None, mix, rotation)
        layer.qkv.weight[:32] *= 1000
        after = layer(x, None, mix, rotation)
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2-small", "gpt2-medium"])
def test_every_parameter_is_routed_as_what_it_is(name):
    preset = PRESETS[name]
    for row in pg.explain(meta_model(preset)).rows:
        if row.name.endswith("qkv.weight"):
            assert (row.role, row.rule) == ("fused QKV", "matrix")
            assert row.matrices == f"3 × {preset.width}×{preset.width}"
        elif row.name.startswith("blocks."):
            assert (row.role, row.rule) == ("hidden matrix", "matrix")
        else:
            kind = "embedding" if "embedding" in row.name else "vector"
            expected = "head" if row.name == "head.weight" else kind
            assert (row.role, row.rule) == (expected, "AdamW")


def test_its_heads_can_be_taken_apart():
    rows = {row.name: row for row in pg.explain(ValueGPT(PRESET), per_head=True).rows}
    assert rows["blocks.0.attention.qkv.weight"].matrices == "6 × 8×16"
    assert rows["blocks.0.attention.out_proj.weight"].matrices == "2 × 16×8"


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)], ids=str)
def test_other_inputs_are_refused(shape):
    with pytest.raises(ValueError, match=r"input_ids must be of shape \(batch, tokens\), got"):
        ValueGPT(PRESET)(input_ids=torch.zeros(shape, dtype=torch.int64))


def test_a_single_token_and_none_at_all():
    model = awake()
    assert model(input_ids=TOKENS[:, :1]).logits.shape == (2, 1, 64)
    assert model(input_ids=TOKENS[:, :0]).logits.shape == (2, 0, 64)
