"""What of a model is cut up, and by whom: decided without any other process."""

from types import SimpleNamespace

import pytest
import torch
from layout_runs import LLAMA
from light_language import BlockModel, BlockPreset
from torch import nn

from polargrad.distributed.mesh_sizes import MeshSizes
from polargrad.language.layout import Shards, blocks
from polargrad.language.models import ConfigPreset
from polargrad.language.presets import meta_model, preset_of
from polargrad.language.ranks import Ranks
from polargrad.language.tensor_plan import cut_by, cut_modules


def llama(**changes):
    return meta_model(ConfigPreset({**LLAMA, **changes}, context=16, batch=2))


def ranks(index, count, mesh):
    """What a process knows of the others."""
    accelerator = SimpleNamespace(
        process_index=index, num_processes=count, device=torch.device("cpu")
    )
    return Ranks(accelerator, mesh)


def test_blocks_of_a_transformer_are_its_layers():
    model = llama()
    assert blocks(model) == list(model.model.layers)


def test_tables_in_a_list_are_blocks_and_lists_in_blocks_are_not():
    model = meta_model(preset_of("gpt2-small"))
    assert blocks(model) == [*model.value_embeddings, *model.blocks]
    inner = nn.Sequential(nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)])]))
    assert blocks(inner) == list(inner[0])


def test_what_shares_a_parameter_is_no_block():
    model = BlockModel(width=4, dropout=0.0)
    model.blocks[0].up.weight = model.blocks[1].up.weight
    assert blocks(model) == []


def test_attention_and_feed_forward_are_cut_as_the_plan_says():
    found = cut_modules(llama(), "llama", 2)
    assert found["model.layers.1.self_attn.o_proj"] == "rowwise"
    assert found["model.embed_tokens"] == "embedding_rowwise"
    assert found["lm_head"] == "colwise_gather_output"
    assert len(found) == 2 * 7 + 2


def test_a_head_that_is_the_embedding_is_left_whole():
    found = cut_modules(llama(tie_word_embeddings=True), "llama", 2)
    assert not {"model.embed_tokens", "lm_head"} & found.keys()
    assert len(found) == 2 * 7


@pytest.mark.parametrize(
    ("tp", "changes", "message"),
    [
        (4, {}, r"tp must divide the num_key_value_heads of llama, 2, got 4"),
        (2, {"intermediate_size": 33}, r"gate_proj, \(33, 16\), in dimension 0.*got 2"),
        (2, {"vocab_size": 257}, r"embed_tokens, \(257, 16\), in dimension 0.*got 2"),
    ],
)
def test_what_processes_cannot_share_evenly_is_refused(tp, changes, message):
    with pytest.raises(ValueError, match=message):
        cut_modules(llama(**changes), "llama", tp)


def test_a_plan_for_another_kind_of_module_is_refused():
    model = BlockModel(width=4, dropout=0.0)
    model.tp_plan = {"blocks.*.norm": "colwise"}
    with pytest.raises(ValueError, match=r"'colwise' for blocks.0.norm, which is a LayerNorm"):
        cut_modules(model, "mine", 2)
    model.tp_plan = {"blocks.*.up": "sideways"}
    with pytest.raises(
        ValueError, match=r"'sideways' for blocks.0.up.weight, and colwise, .* known"
    ):
        cut_by(model, "mine")("blocks.0.up.weight")


def test_a_number_alone_cannot_be_cut_up():
    model = BlockPreset().module()
    model.scale = nn.Parameter(torch.ones(()))
    here = ranks(0, 2, MeshSizes(fsdp=2))
    with pytest.raises(ValueError, match="fsdp and tp must be 1, for scale of mine has no dim"):
        Shards(model, "mine", here, accumulate=1, precision="no")


def test_processes_of_tensor_parallelism_are_one_part():
    places = [(r.part, r.parts) for r in (ranks(i, 4, MeshSizes(dp=2, tp=2)) for i in range(4))]
    assert places == [(0, 2), (0, 2), (1, 2), (1, 2)]
    places = [(r.part, r.parts) for r in (ranks(i, 4, None) for i in range(4))]
    assert places == [(0, 4), (1, 4), (2, 4), (3, 4)]


@pytest.mark.parametrize("mesh", [MeshSizes(fsdp=4), MeshSizes(dp=4), None])
def test_items_are_shared_out_once_and_evenly_where_ranks_go_together(mesh):
    shared = [list(ranks(i, 4, mesh).share(iter(range(6)))) for i in range(4)]
    assert sorted(item for own in shared for item, counts in own if counts) == list(range(6))
    lengths = [len(own) for own in shared]
    assert lengths == ([2, 2, 2, 2] if mesh and mesh.fsdp > 1 else [2, 2, 1, 1])
