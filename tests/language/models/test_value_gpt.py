"""The sizes of the models with value embeddings."""

import pytest

from polargrad.language.models import ValueGPTPreset
from polargrad.language.presets import PRESETS, meta_model

SIZES = {
    "vocabulary": 50,
    "outputs": 64,
    "layers": 6,
    "width": 16,
    "feed_forward": 24,
    "heads": 2,
    "value_embeddings": 2,
    "layer_without_attention": 3,
    "scalars_for_all": False,
    "context": 8,
    "batch": 1,
}


def test_what_the_published_models_are_made_of():
    """The list of their parts: tables, matrices, and 52 or 80 scalars."""
    for name, tables, vocabulary, scalars in (
        ("gpt2-small", 4, 50_304, 24 + 22 + 6),
        ("gpt2-medium", 4, 50_257, 5 * 16),
    ):
        preset, parameters = PRESETS[name], dict(meta_model(PRESETS[name]).named_parameters())
        shapes = [tuple(p.shape) for p in parameters.values()]
        width = preset.width
        assert sum(p.numel() for p in parameters.values() if p.ndim == 1) == scalars
        assert all(p.ndim <= 2 for p in parameters.values())
        embeddings = [n for n in parameters if "embedding" in n]
        assert len(embeddings) == tables
        assert all(parameters[n].shape == (vocabulary, width) for n in embeddings)
        assert parameters["head.weight"].shape == (50_304, width)
        assert shapes.count((3 * width, width)) == preset.layers - 1
        assert shapes.count((4 * width, width)) == shapes.count((width, 4 * width)) == preset.layers
        assert not any(n.startswith("blocks.7.attention") for n in parameters)


@pytest.mark.parametrize("name", ["gpt2-small", "gpt2-medium"])
def test_their_heads_are_of_128_features(name):
    assert PRESETS[name].width == 128 * PRESETS[name].heads


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"width": 10}, "width must be an even multiple of heads=2, got 10"),
        ({"outputs": 49}, "outputs must be at least vocabulary=50, got 49"),
        ({"layer_without_attention": 1}, "must be at least 2 and less than 4.*got 1"),
        ({"layer_without_attention": 4}, "must be at least 2 and less than 4.*got 4"),
        ({"value_embeddings": 3}, "must be at least 3 and less than 3.*got 3"),
        ({"value_embeddings": 0}, "value_embeddings must be at least 1, got 0"),
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ValueGPTPreset("a", **{**SIZES, **change})
