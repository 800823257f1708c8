"""The count of operations against torch's own counter of what a model really multiplies."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from polargrad.language.flops import Flops, flops_per_token
from polargrad.language.models import ConfigPreset, MixturePreset
from polargrad.language.presets import PRESETS, build_model, meta_model


def counted(model, preset):
    """Operations for a token, in a forward of one window and in its backward, by torch.

    Attention as products of matrices: those inside torch's fused attention are not counted on CPU.
    """
    device = next(model.parameters()).device
    windows = torch.zeros(1, preset.context, dtype=torch.int64, device=device)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            logits = model(input_ids=windows).logits
        with FlopCounterMode(display=False) as backward:
            logits.sum().backward()
    return [each.get_total_flops() / preset.context for each in (forward, backward)]


@pytest.mark.parametrize("name", ["gpt2-small", "gpt2-medium"])
def test_the_operations_of_our_own_models_are_what_torch_counts(name):
    """To the last one; the backward is twice the forward."""
    preset, model = PRESETS[name], meta_model(PRESETS[name])
    found = flops_per_token(preset, model)
    assert counted(model, preset) == [found.forward, 2 * found.forward]


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_the_operations_of_transformers_models_are_what_torch_counts(name):
    preset, model = PRESETS[name], build_model(PRESETS[name], seed=0)
    found = flops_per_token(preset, model)
    # The angles of the positions are a product there: size of a head / 2, twice, for a token.
    angles = preset.width // preset.heads
    forward, backward = counted(model, preset)
    assert found.forward <= forward <= found.forward + angles
    assert backward == 2 * found.forward


def test_of_experts_the_chosen_share_counts():
    """More experts of which as many are chosen cost the router alone more."""
    sizes = {"vocabulary": 256, "layers": 3, "width": 16, "feed_forward": 32, "heads": 2}
    few, many = (
        MixturePreset("a", **sizes, experts=count, chosen=2, context=16, batch=4)
        for count in (4, 12)
    )
    costs = [flops_per_token(preset, meta_model(preset)).parameters for preset in (few, many)]
    assert costs[1] - costs[0] == 3 * 8 * 16
    dense = 3 * (4 * 16 * 16 + 2 * 3 * 16 * 32 + 4 * 16) + 256 * 16
    assert costs[0] == dense


def test_an_embedding_that_is_the_head_is_multiplied():
    sizes = {
        "model_type": "llama",
        "vocab_size": 300,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    tied, untied = (
        ConfigPreset({**sizes, "tie_word_embeddings": tie}, context=16, batch=1)
        for tie in (True, False)
    )
    one, other = (flops_per_token(preset, build_model(preset, 0)) for preset in (tied, untied))
    assert one == other


def test_training_is_three_forwards():
    assert Flops(parameters=7, attention=10).forward == 24
    assert Flops(parameters=7, attention=10).training == 72
