"""The dense transformer's sizes."""

import pytest

from polargrad.language.models import Preset, TokenPreset
from polargrad.language.presets import meta_model

SIZES = {"layers": 3, "width": 8, "feed_forward": 12, "heads": 2, "context": 8, "batch": 1}


def test_a_preset_over_bytes_is_one_over_256_tokens():
    one, other = Preset("a", **SIZES), TokenPreset("a", **SIZES, vocabulary=256)
    shapes = [[tuple(p.shape) for p in meta_model(preset).parameters()] for preset in (one, other)]
    assert shapes[0] == shapes[1]
    assert one.vocabulary == 256


def test_the_vocabulary_is_that_of_embedding_and_head():
    model = meta_model(TokenPreset("a", **SIZES, vocabulary=1000))
    assert model.get_input_embeddings().weight.shape == (1000, 8)
    assert model.get_output_embeddings().weight.shape == (1000, 8)


def test_the_width_of_attention_is_that_of_its_heads():
    model = meta_model(Preset("a", **SIZES))
    heads = sum(layer.self_attn.q_proj.out_features for layer in model.model.layers)
    assert Preset("a", **SIZES).attention_width == heads


def test_an_empty_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocabulary must be at least 1, got 0"):
        TokenPreset("a", **SIZES, vocabulary=0)
