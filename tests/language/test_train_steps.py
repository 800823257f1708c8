"""What a step is: micro-batches, clipping, precision; who is told of it."""

import importlib
import sys

import pytest
import torch
from light_language import LightPreset

from polargrad.errors import MissingExtraError
from polargrad.language import open_input, ranks, stepper, train
from polargrad.language.evaluation import language_model_loss
from polargrad.language.optimizers import build_optimizer
from polargrad.language.presets import build_model
from polargrad.records import read_records


def column(out, name):
    """The values of a record's field over the steps."""
    return [record[name] for record in read_records(out / "records.jsonl") if name in record]


@pytest.fixture
def in_float64(monkeypatch):
    """Models are made in double precision, in which the order of sums is seen at 1e-16."""
    build = stepper.build_model
    monkeypatch.setattr(stepper, "build_model", lambda preset, seed: build(preset, seed).double())


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "polargrad"])
def test_accumulation_is_the_big_batch(settings, tmp_path, optimizer):
    given = {"optimizer": optimizer, "lr": 0.01, "steps": 6, "clip": 0.7}
    train(settings(**given, batch=12, out=tmp_path / "big"))
    for batch, accumulate in ((6, 2), (4, 3), (1, 12)):
        out = tmp_path / f"{accumulate}"
        train(settings(**given, batch=batch, accumulate=accumulate, out=out))
        for name in ("loss", "gradient_norm", "validation_loss"):
            expected = column(tmp_path / "big", name)
            assert column(out, name) == pytest.approx(expected, rel=1e-10), name
        assert column(out, "tokens") == column(tmp_path / "big", "tokens")


@pytest.mark.usefixtures("in_float64")
def test_a_run_may_go_on_with_another_accumulation_of_the_same_batch(settings, tmp_path):
    train(settings(batch=8, out=tmp_path / "whole"))
    train(settings(batch=2, accumulate=4, stop_after=5))
    train(settings(batch=4, accumulate=2, resume=True))
    expected = column(tmp_path / "whole", "loss")
    assert column(tmp_path / "out", "loss") == pytest.approx(expected, rel=1e-10)


def test_clipping_is_that_of_torch_and_the_norm_is_that_before_it(settings, small):
    """Some steps are clipped, others are not."""
    run = settings(optimizer="polargrad", lr=0.05, vector_lr=0.01, clip=1.45, steps=12)
    data = open_input(small, run.data)
    model, batches = build_model(small, run.seed), data.batches(small, run.seed)
    optimizer = build_optimizer(
        model, "polargrad", lr=0.05, vector_lr=0.01, beta2=run.beta2, weight_decay=0.0
    )
    schedule = stepper.build_schedule(optimizer, run.schedule_factor)
    losses, norms = [], []
    for step in range(12):
        optimizer.zero_grad()
        loss = language_model_loss(model, batches[step])
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.45)))
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    train(run)
    assert min(norms) < 1.45 < max(norms)
    assert column(run.out, "loss") == losses
    assert column(run.out, "gradient_norm") == norms


def test_bf16_computes_products_in_bfloat16_and_keeps_float32_parameters(settings, tmp_path):
    train(settings(out=tmp_path / "float32"))
    seen = []
    forward = torch.nn.functional.cross_entropy

    def look(logits, *arguments, **named):
        seen.append(logits.dtype)
        return forward(logits, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polargrad.language.evaluation.cross_entropy", look)
        train(settings(precision="bf16"))
    half, single = (column(tmp_path / name, "loss") for name in ("out", "float32"))
    assert set(seen) == {torch.float32}  # what the loss is computed from
    assert half != single
    assert half == pytest.approx(single, rel=2e-2)
    (path,) = (tmp_path / "out" / "checkpoints").glob("step_00000008.pt")
    model = torch.load(path, weights_only=True)["model"]
    assert {value.dtype for value in model.values()} == {torch.float32}


def test_the_next_run_in_the_process_may_have_another_precision(settings, tmp_path):
    """accelerate keeps its state in the process; a run leaves none behind."""
    first = train(settings(out=tmp_path / "a"))
    train(settings(precision="bf16", accumulate=2, out=tmp_path / "b"))
    again = train(settings(out=tmp_path / "c"))
    assert column(first.out, "loss") == column(again.out, "loss")
    state = importlib.import_module("accelerate.state")
    for kind in (state.AcceleratorState, state.PartialState, state.GradientState):
        assert kind._shared_state == {}


def test_an_accelerator_of_another_precision_in_the_process_is_named(settings):
    importlib.import_module("accelerate").Accelerator(cpu=True)
    with pytest.raises(ValueError, match=r"precision must be 'no', .* got 'bf16'"):
        train(settings(precision="bf16"))


@pytest.mark.parametrize(
    ("available", "capability", "expected"),
    [(False, (9, 0), "no"), (True, (7, 5), "no"), (True, (8, 0), "bf16"), (True, (9, 0), "bf16")],
)
def test_auto_is_bf16_where_the_gpu_has_units_for_it(monkeypatch, available, capability, expected):
    """An older GPU, and a processor, say that they support it, and emulate it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert ranks.precision_here("auto") == expected
    assert ranks.precision_here("bf16") == "bf16"
    assert ranks.precision_here("no") == "no"


WRITERS = []


class Writer:
    """What TensorBoard's writer is, as far as accelerate calls it."""

    def __init__(self, folder):
        self.folder, self.scalars, self.settings, self.closed = folder, [], None, False
        WRITERS.append(self)

    def add_hparams(self, values, metric_dict):
        self.settings = values

    def add_scalar(self, name, value, global_step):
        self.scalars.append((name, global_step, value))

    def flush(self):
        pass

    def close(self):
        self.closed = True


def test_a_tracker_of_accelerate_is_told_what_the_records_say(settings, monkeypatch):
    """The real tracker of accelerate, over a writer in the place of TensorBoard's."""
    tracking = importlib.import_module("accelerate.tracking")
    monkeypatch.setattr(tracking, "_available_trackers", [tracking.LoggerType.TENSORBOARD])
    board = type(sys)("torch.utils.tensorboard")
    board.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setattr(torch.utils, "tensorboard", board, raising=False)
    monkeypatch.setattr(sys.modules[__name__], "WRITERS", [])
    run = settings(tracker="tensorboard")
    train(run)
    (writer,) = WRITERS
    assert writer.closed
    assert str(run.out) in writer.folder
    assert writer.settings["optimizer"] == "adamw"
    assert writer.settings["preset.layers"] == 2
    for name in ("loss", "validation_loss", "lr", "tokens_per_second"):
        told = [value for key, _, value in writer.scalars if key == name]
        assert told == column(run.out, name)
    assert [step for key, step, _ in writer.scalars if key == "loss"] == list(range(1, 9))


def test_a_tracker_that_is_missing_is_named_before_anything_is_written(settings, monkeypatch):
    tracking = importlib.import_module("accelerate.tracking")
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(MissingExtraError, match="the tracker 'wandb' needs its package"):
        train(settings(tracker="wandb"))
    with pytest.raises(ValueError, match="unknown tracker 'paper': choose from aim, clearml"):
        train(settings(tracker="paper"))
    assert not settings().out.exists()


def test_a_model_without_transformers_needs_none(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert train(settings(preset=LightPreset())).steps == 8
