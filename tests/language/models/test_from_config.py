"""Configurations of transformers: what is read, what a run keeps of them, what is refused."""

import json

import pytest
import torch
import transformers

from polargrad.language.models import ConfigPreset
from polargrad.language.models.from_config import read_configuration
from polargrad.language.presets import build_model, meta_model, preset_of

LLAMA = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture
def folder(tmp_path):
    """A folder that transformers has written, with a configuration in bfloat16."""
    transformers.LlamaConfig(**LLAMA, dtype="bfloat16").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_folder_and_the_file_are_the_same_preset(folder):
    preset = preset_of(str(folder))
    assert preset == preset_of(str(folder / "config.json"))
    assert (preset.name, preset.vocabulary, preset.context) == ("llama", 300, 64)


def test_the_model_is_the_one_of_the_configuration(folder):
    """As transformers itself makes it, but for the type of the numbers."""
    made = build_model(preset_of(str(folder)), seed=3)
    torch.manual_seed(3)
    oracle = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    assert type(made) is type(oracle)
    assert all(
        torch.equal(p, q) and p.dtype == torch.float32
        for p, q in zip(made.parameters(), oracle.parameters(), strict=True)
    )


def test_a_run_keeps_the_contents_and_not_the_place(folder, tmp_path):
    moved = folder.rename(tmp_path / "elsewhere")
    data = preset_of(str(moved)).as_data()
    assert data["configuration"] == json.loads((moved / "config.json").read_text())
    assert str(tmp_path) not in json.dumps(data)


def test_windows_are_of_at_most_512_tokens(tmp_path):
    transformers.LlamaConfig(**{**LLAMA, "max_position_embeddings": 4096}).save_pretrained(tmp_path)
    assert read_configuration(tmp_path).context == 512


@pytest.mark.parametrize(
    ("kind", "sizes", "width"),
    [
        (transformers.LlamaConfig, LLAMA, 3 * 32),
        (transformers.LlamaConfig, {**LLAMA, "head_dim": 16}, 3 * 64),
        (transformers.GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4}, 2 * 32),
        (transformers.MambaConfig, {"hidden_size": 32, "num_hidden_layers": 2}, None),
    ],
    ids=["llama", "llama with wider heads", "gpt2", "mamba"],
)
def test_the_width_of_attention(kind, sizes, width):
    preset = ConfigPreset(kind(**sizes).to_dict(), context=8, batch=1)
    assert preset.attention_width == width


def test_the_share_of_the_experts():
    sizes = {**LLAMA, "num_local_experts": 8, "num_experts_per_tok": 3}
    preset = ConfigPreset(transformers.MixtralConfig(**sizes).to_dict(), context=8, batch=1)
    assert preset.active_experts == 3 / 8
    dense = ConfigPreset(transformers.LlamaConfig(**LLAMA).to_dict(), context=8, batch=1)
    assert dense.active_experts == 1


def test_an_encoder_is_refused_and_as_a_decoder_accepted():
    sizes = {"model_type": "bert", **LLAMA}
    del sizes["num_key_value_heads"]
    with pytest.raises(ValueError, match="bert: a token's logits depend on later tokens"):
        build_model(ConfigPreset(sizes, context=8, batch=1), seed=0)
    build_model(ConfigPreset({**sizes, "is_decoder": True}, context=8, batch=1), seed=0)


def test_sizes_that_do_not_fit_are_refused():
    wrong = {"model_type": "qwen2_moe", **LLAMA, "num_key_value_heads": 3}
    with pytest.raises(ValueError, match="configuration of qwen2_moe makes a model that fails"):
        build_model(ConfigPreset(wrong, context=8, batch=1), seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "no_such"}, "the model_type 'no_such', which this transformers"),
        ({"model_type": "t5"}, "'t5': transformers has no causal language model of this kind"),
        ({"vocab_size": 0}, "vocab_size of at least 1, got 0"),
        ({"max_position_embeddings": 7}, "context must be at most the model's 7 positions, got 8"),
    ],
    ids=str,
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ConfigPreset({"model_type": "llama", **LLAMA, **change}, context=8, batch=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "which is not JSON"),
        ("[]", "no configuration of transformers: it has no model_type"),
        ('{"vocab_size": 3}', "no configuration of transformers: it has no model_type"),
        (b"\xff\xfe\x00", "which is not JSON"),
    ],
    ids=str,
)
def test_files_that_are_no_configuration_are_refused(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        preset_of(str(path))


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*config\.json"):
        preset_of(str(tmp_path))
    with pytest.raises(ValueError, match="there is no file 'no/such/folder'"):
        preset_of("no/such/folder")


def test_code_beside_a_configuration_is_not_run(tmp_path):
    """What a configuration names as its own code is left alone: the known kind is built."""
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    configuration = {
        "model_type": "llama",
        **LLAMA,
        "auto_map": {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"},
    }
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    model = meta_model(preset_of(str(tmp_path)))
    assert type(model) is transformers.LlamaForCausalLM
