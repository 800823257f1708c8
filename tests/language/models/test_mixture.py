"""The mixture of experts: which parameters a token passes through, and what is refused."""

import pytest
import torch

from polargrad.language.models import MixturePreset
from polargrad.language.presets import PRESETS, build_model, meta_model

SIZES = {
    "vocabulary": 256,
    "layers": 1,
    "width": 16,
    "feed_forward": 32,
    "heads": 2,
    "experts": 5,
    "chosen": 2,
    "context": 16,
    "batch": 4,
}


def test_a_token_passes_through_the_chosen_number_of_experts():
    """One token reaches as many experts as are chosen: the others have no gradient."""
    model = build_model(MixturePreset("a", **SIZES), seed=0)
    model(input_ids=torch.tensor([[3]])).logits.square().sum().backward()
    (down,) = [p for name, p in model.named_parameters() if name.endswith("experts.down_proj")]
    reached = [bool(expert.any()) for expert in down.grad]
    assert len(reached) == 5
    assert sum(reached) == 2
    assert MixturePreset("a", **SIZES).active_experts == 2 / 5


def test_moe_is_tiny_with_four_times_the_experts_parameters():
    """As its comment says: a token is multiplied by as many of them as in tiny, routers apart."""
    tiny, moe = PRESETS["tiny"], PRESETS["moe"]
    assert moe.chosen * moe.feed_forward == tiny.feed_forward
    inside = [
        sum(p.numel() for name, p in meta_model(preset).named_parameters() if part in name)
        for preset, part in ((tiny, ".mlp."), (moe, ".experts."))
    ]
    assert inside[1] == 4 * inside[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": 6}, "chosen must be at most experts=5, got 6"),
        ({"chosen": 0}, "chosen must be at least 1, got 0"),
        ({"experts": 0}, "experts must be at least 1, got 0"),
        ({"width": 18}, "width must be an even multiple of heads=2, got 18"),
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MixturePreset("a", **{**SIZES, **change})
