"""The models of the presets: sizes, seeds, loss."""

import math
import socket

import pytest
import torch

from polargrad.language import PRESETS, Preset
from polargrad.language.presets import build_model, preset_of
from polargrad.language.train import language_model_loss


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_the_number_of_parameters(preset):
    """Embedding and head; per block four square matrices, q k v biases, gate, up, down, norms."""
    w, f = preset.width, preset.feed_forward
    expected = 2 * 256 * w + preset.layers * (4 * w * w + 3 * w + 3 * w * f + 2 * w) + w
    model = build_model(preset, seed=0)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model.lm_head.weight is not model.model.embed_tokens.weight


def test_the_initial_parameters_depend_on_the_seed_alone(small):
    states = []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(noise)
        states.append(build_model(small, seed).state_dict())
    first, same, other = states
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_building_a_model_leaves_torch_and_the_network_alone(small, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    before = torch.get_rng_state()
    model = build_model(small, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_initial_matrices_have_the_stated_deviation():
    model = build_model(PRESETS["tiny"], seed=0)
    matrices = torch.cat([p.detach().flatten() for p in model.parameters() if p.ndim == 2])
    assert matrices.std().item() == pytest.approx(0.02, rel=0.01)


def test_an_untrained_model_knows_nothing(small):
    """All bytes are about equally likely to it: the loss is that of guessing, log 256."""
    windows = torch.randint(256, (8, 17), generator=torch.Generator().manual_seed(0))
    loss = language_model_loss(build_model(small, seed=0), windows)
    assert loss.item() == pytest.approx(math.log(256), abs=0.02)


def test_the_loss_is_of_the_next_token(small):
    """transformers' own loss on the same windows, which shifts the labels itself, is the oracle."""
    model = build_model(small, seed=0)
    with torch.no_grad():
        for p in model.parameters():  # far from uniform, so that a wrong shift would show
            p.mul_(20)
    windows = torch.randint(256, (3, 17), generator=torch.Generator().manual_seed(0))
    mean, total = (language_model_loss(model, windows, how) for how in ("mean", "sum"))
    torch.testing.assert_close(mean, model(input_ids=windows, labels=windows).loss)
    torch.testing.assert_close(total, mean * 3 * 16)


def test_an_unknown_preset_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"unknown preset 'huge': choose from tiny"):
        preset_of("huge")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"context": -1}, "context must be at least 1, got -1"),
        ({"width": 10}, "width must be an even multiple of heads=4, got 10"),
        ({"width": 12}, "width must be an even multiple of heads=4, got 12"),
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(change, message):
    sizes = {"layers": 1, "width": 8, "feed_forward": 8, "heads": 4, "context": 8, "batch": 1}
    with pytest.raises(ValueError, match=message):
        Preset(name="wrong", **{**sizes, **change})
