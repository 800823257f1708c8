"""What a step costs, of models that no machine here could hold."""

import json

import pytest

from polargrad.distributed import schedule
from polargrad.distributed.mesh_sizes import MeshSizes
from polargrad.language.cost import Speeds, step_cost

SEVENTY_BILLION = {
    "model_type": "qwen2",
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
# Query and output; key and value; gate and up; down, of each layer.
MATRICES = [(8192, 8192)] * 2 + [(1024, 8192)] * 2 + [(28672, 8192)] * 2 + [(8192, 28672)]


@pytest.fixture
def seventy(tmp_path):
    """The folder of a configuration of 70 billion parameters."""
    (tmp_path / "config.json").write_text(json.dumps(SEVENTY_BILLION))
    return str(tmp_path)


def newton_schulz_flops(shape):
    """Of five quintic steps on the smaller side n: XᵀX, its square, and the product with X."""
    n, m = sorted(shape)
    return 5 * (4 * n * n * m + 2 * n**3)


def test_seventy_billion_on_a_thousand_processes(seventy, monkeypatch):
    """Each kind of matrix is counted once, each layout looked at once, whatever there are of it."""
    looked = []
    bytes_of = schedule.SharedSource.returned_bytes

    def counted(source, taker):
        looked.append(taker)
        return bytes_of(source, taker)

    monkeypatch.setattr(schedule.SharedSource, "returned_bytes", counted)
    mesh = MeshSizes(dp=8, fsdp=128)
    cost = step_cost(seventy, mesh, optimizer="muon", tokens=4096)
    kinds = len(set(MATRICES))
    assert (cost.step.matrices, cost.step.kinds) == (80 * len(MATRICES), kinds)
    assert len(looked) == kinds * mesh.ranks
    assert int(cost.step.flops.sum()) == 80 * sum(map(newton_schulz_flops, MATRICES))
    # Momentum and gradient come from the other shards of a replica; all others get their part.
    entries = 80 * sum(m * n for m, n in MATRICES)
    given = 2 * 4 * entries * (mesh.fsdp - 1) / mesh.fsdp
    back = 4 * entries * (mesh.dp - 1 / mesh.fsdp)
    assert int(cost.step.sent.sum()) == pytest.approx(given + back, rel=1e-4)
    between = 4 * entries * (mesh.dp - 1)
    assert cost.step.sent.sum(0).tolist() == pytest.approx(
        [between, given + back - between, 0], rel=1e-4
    )
    # N is 70 billion; all processes have their own tokens.
    assert cost.model_flops / 4096 == pytest.approx(6 * 70e9, rel=0.05)


def test_the_table_has_the_links_of_the_mesh():
    text = str(step_cost("qwen2.5", MeshSizes(dp=2, tp=2), optimizer="polargrad"))
    assert text.startswith(
        "qwen2.5 with polargrad on 4 processes (dp=2, fsdp=1, tp=2): 84 matrices"
    )
    assert "sent to other replicas (dp)" in text
    assert "sent within tp" in text
    assert "(fsdp)" not in text
    assert "speeds were not given, so there is no share of time" in text


def test_one_process_sends_nothing_and_has_all_the_work():
    cost = step_cost("tiny", MeshSizes(), optimizer="muon")
    assert cost.step.sent.sum() == 0
    assert cost.imbalance == 0.0
    assert "sent" not in str(cost)


def test_more_processes_than_matrices_leave_some_without_work():
    cost = step_cost("tiny", MeshSizes(fsdp=32), optimizer="muon")
    assert cost.step.matrices == 28
    assert "4 of 32 have no matrix to work on" in str(cost)
    flops = cost.step.flops.double()
    assert cost.imbalance == pytest.approx(float(flops.max() / flops.mean()) - 1.0)


def test_the_share_of_time_is_that_of_work_and_sending():
    speeds = Speeds(1e12, {"fsdp": 1e9})
    cost = step_cost("tiny", MeshSizes(fsdp=2), optimizer="muon", tokens=1000, speeds=speeds)
    own = int(cost.step.flops.max()) / 1e12 + int(cost.step.sent.max()) / 1e9
    share = own / (own + cost.model_flops / 1e12)
    assert f"at most {100 * share:.2f} %" in str(cost)
    assert cost.model_flops == 7274496 * 1000


def test_tokens_are_shared_by_the_processes_of_tensor_parallelism():
    one, four = (step_cost("tiny", MeshSizes(tp=tp), optimizer="muon", tokens=512) for tp in (1, 4))
    assert four.model_flops == one.model_flops / 4


def test_what_is_estimated_is_said():
    cost = step_cost("tiny", MeshSizes(fsdp=2), device="cpu")
    assert "FLOPs are estimated, not counted" in str(cost)
    assert "estimated" not in str(step_cost("tiny", MeshSizes(fsdp=2), device="cuda"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": "adamw"}, "optimizer must be one of polargrad, .*, got 'adamw'"),
        ({"device": "tpu"}, "device must be one of cuda, cpu, got 'tpu'"),
        ({"tokens": 0}, "tokens must be at least 1, got 0"),
        ({"speeds": Speeds(1.0, {"dp": 1.0})}, "link_bandwidths must be given for fsdp.* got dp"),
        ({"speeds": Speeds(1.0, {})}, "link_bandwidths must be given for fsdp.* got none"),
        ({"mesh": MeshSizes(tp=2), "model": "gpt2-small"}, "tp must be 1, for gpt2-small names"),
        ({"model": "huge"}, "unknown preset 'huge'"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    options = {"model": "tiny", "mesh": MeshSizes(fsdp=2), **given}
    with pytest.raises(ValueError, match=message):
        step_cost(options.pop("model"), options.pop("mesh"), **options)


def test_a_speed_must_be_above_0():
    with pytest.raises(ValueError, match=r"the speed fsdp must be above 0, got 0"):
        Speeds(1.0, {"fsdp": 0.0})
