"""The models of the presets: sizes, seeds, loss."""

import json
import math
import re
import socket
from pathlib import Path

import pytest
import torch

from polargrad.language import PRESETS, Preset
from polargrad.language.evaluation import language_model_loss
from polargrad.language.presets import build_model, meta_model, preset_of


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_the_number_of_parameters_of_tiny():
    """Embedding and head; per block four square matrices, q k v biases, gate, up, down, norms."""
    preset = PRESETS["tiny"]
    w, f = preset.width, preset.feed_forward
    expected = 2 * 256 * w + preset.layers * (4 * w * w + 3 * w + 3 * w * f + 2 * w) + w
    model = build_model(preset, seed=0)
    assert count(model) == expected
    assert model.lm_head.weight is not model.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("name", "expected"),
    [("qwen2.5", 540_865_536), ("gpt2-small", 275_742_772), ("gpt2-medium", 454_496_336)],
)
def test_the_papers_models_have_the_papers_number_of_parameters(name, expected):
    assert count(meta_model(PRESETS[name])) == expected


def test_small_has_about_ten_million_parameters():
    assert 9e6 < count(meta_model(PRESETS["small"])) < 11e6


def test_the_page_of_the_models_says_what_they_are():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for name, preset in PRESETS.items():
        (row,) = re.findall(rf"^\| `{re.escape(name)}` \|.*$", page, flags=re.MULTILINE)
        assert f"{preset.layers} layers, width {preset.width}" in row
        assert f"| {count(meta_model(preset)):,} | {preset.vocabulary:,}" in row
        assert f"| {preset.context:,} × {preset.batch} |" in row


def test_the_data_of_tiny_are_those_that_runs_have_kept():
    """A run of it that was begun before there were other kinds of models can be resumed."""
    assert PRESETS["tiny"].as_data() == {
        "name": "tiny",
        "layers": 4,
        "width": 128,
        "feed_forward": 512,
        "heads": 4,
        "context": 128,
        "batch": 16,
        "initial_deviation": 0.02,
        "rotary_base": 10_000.0,
    }


def test_presets_are_named_as_they_are_found_and_tell_themselves_apart():
    assert all(preset.name == name for name, preset in PRESETS.items())
    every = [json.dumps({**preset.as_data(), "name": ""}) for preset in PRESETS.values()]
    assert len(set(every)) == len(every)


def test_the_data_of_a_preset_outlast_a_file(kind):
    assert json.loads(json.dumps(kind.as_data())) == kind.as_data()


@pytest.mark.parametrize("name", PRESETS)
def test_the_model_on_the_meta_device_holds_no_numbers(name):
    model = meta_model(PRESETS[name])
    assert all(p.is_meta and p.dtype == torch.float32 for p in model.parameters())


def tokens(preset, *shape):
    return torch.randint(preset.vocabulary, shape, generator=torch.Generator().manual_seed(0))


def awake(preset):
    """The model with every parameter away from where it began: no zero hides a mistake."""
    model = build_model(preset, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.3)
    return model


def test_a_later_token_changes_no_earlier_logit(kind):
    model, before = awake(kind), tokens(kind, 2, 12)
    after = before.clone()
    after[:, 7] = (after[:, 7] + 1) % kind.vocabulary
    with torch.no_grad():
        one, other = model(input_ids=before).logits, model(input_ids=after).logits
    torch.testing.assert_close(one[:, :7], other[:, :7], rtol=1e-4, atol=1e-4)
    for place in range(7, 12):  # each later token sees it
        assert (one[:, place] - other[:, place]).abs().max() > 1e-2


def test_the_windows_of_a_batch_do_not_see_each_other(kind):
    model, windows = awake(kind), tokens(kind, 3, 9)
    with torch.no_grad():
        together = model(input_ids=windows).logits
        apart = torch.cat([model(input_ids=window[None]).logits for window in windows])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


def test_there_is_a_logit_for_every_token(kind):
    logits = build_model(kind, seed=0)(input_ids=tokens(kind, 2, 5)).logits
    assert logits.shape[:2] == (2, 5)
    assert logits.shape[2] >= kind.vocabulary


def test_a_few_steps_lower_the_loss(kind):
    model, windows = build_model(kind, seed=0), tokens(kind, 4, 17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = language_model_loss(model, windows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(model(input_ids=windows).logits.shape[2]), abs=0.1)
    assert losses[-1] < losses[0] - 0.5


def test_the_same_seed_draws_the_same_model_of_each_kind(kind):
    states = []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        states.append(build_model(kind, seed).state_dict())
        assert torch.equal(before, torch.get_rng_state())
    first, same, other = states
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


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
