"""Runs of four processes, each in its own layout, and the same of one process."""

from light_language import BlockPreset

from polargrad.distributed.mesh_sizes import MeshSizes
from polargrad.language import Preset, TrainSettings
from polargrad.language.models import ConfigPreset, MixturePreset, ValueGPTPreset

MESHES = ("dp=4", "fsdp=4", "dp=2,fsdp=2", "fsdp=2,tp=2", "dp=2,tp=2", "tp=4")
RATES = {"polargrad": 0.05, "muon": 0.02, "adamw": 1e-3}
SIZES = {"width": 16, "feed_forward": 32, "heads": 4, "context": 16, "batch": 2}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
}


def models():
    """A model of each kind; transformers takes seconds to import."""
    value_gpt = {"vocabulary": 256, "outputs": 272, "layers": 6, "value_embeddings": 2}
    return {
        "dense": Preset(name="dense", layers=2, **SIZES),
        "llama": ConfigPreset(LLAMA, context=16, batch=2),
        "tied": ConfigPreset({**LLAMA, "tie_word_embeddings": True}, context=16, batch=2),
        "mixture": MixturePreset(
            name="mixture", layers=2, vocabulary=256, experts=4, chosen=2, **SIZES
        ),
        "value gpt": ValueGPTPreset(
            name="value gpt", scalars_for_all=False, layer_without_attention=3, **value_gpt, **SIZES
        ),
    }


def fast():
    """Every recipe of the three in a layout, one of them in several."""
    runs = [("polargrad", mesh, 1) for mesh in ("dp=4", "fsdp=4", "fsdp=2,tp=2")]
    runs += [("muon", "dp=2,fsdp=2", 2), ("adamw", "dp=2,tp=2", 1)]
    return {
        f"{name} {mesh}": (mesh, {"optimizer": name, "lr": RATES[name], "accumulate": accumulate})
        for name, mesh, accumulate in runs
    }


def slow():
    """The three in all layouts; every kind of model, and the other recipes, in the main ones."""
    runs = {
        f"{name} {mesh}": (mesh, {"optimizer": name, "lr": rate, "accumulate": 2})
        for name, rate in RATES.items()
        for mesh in MESHES
    }
    for name, preset in models().items():
        for mesh in ("fsdp=4", "dp=2,fsdp=2", "fsdp=2,tp=2"):
            if "tp" not in mesh or name not in ("mixture", "value gpt"):
                runs[f"{name} {mesh}"] = (mesh, {"preset": preset})
    for name in ("polarmuon", "muon-polarsgdm", "symmetric"):
        for mesh in ("dp=4", "fsdp=2,tp=2"):
            given = {"optimizer": name, "lr": None, "preset": models()["dense"]}
            runs[f"{name} {mesh}"] = (mesh, given)
    return runs


RUNS = {"fast": fast, "slow": slow}


def settings(folder, out, **changes):
    """A run of four steps, whose gradients are clipped."""
    given = {
        "preset": BlockPreset(),
        "optimizer": "polargrad",
        "lr": 0.05,
        "steps": 4,
        "clip": 0.5,
        "data": folder / "text.txt",
        "eval_every": 4,
        "eval_windows": 23,
        "checkpoint_every": 2,
        "watch_every": 4,
        "out": folder / out,
        "cache": folder / "cache",
    }
    return TrainSettings(**{**given, **changes})


def parts(mesh):
    """How many of the processes see windows of their own."""
    sizes = MeshSizes.parse(mesh)
    return sizes.dp * sizes.fsdp


def alone(folder, out, mesh, changes):
    """The settings with which one process takes the steps of a mesh."""
    accumulate = changes.get("accumulate", 1) * parts(mesh)
    return settings(folder, out, **{**changes, "accumulate": accumulate})
