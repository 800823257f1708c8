"""accelerate: prepared, accumulated, clipped, saved, loaded, and skipped on an overflow."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

import polargrad as pg

BATCHES = 4


@pytest.fixture(autouse=True)
def _fresh():
    """accelerate keeps its state in the process."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def batches():
    tokens = torch.arange(2 * BATCHES)
    return DataLoader(TensorDataset(tokens), batch_size=2)


def prepared(model, optimizer_of, accumulate=2):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    module = model()
    optimizer = optimizer_of(module)
    scheduler = StepLR(optimizer, 1, 0.5)
    return accelerator, *accelerator.prepare(module, optimizer, batches(), scheduler)


def epoch(accelerator, module, optimizer, data, scheduler, loss_of):
    losses = []
    for (tokens,) in data:
        with accelerator.accumulate(module):
            loss = loss_of(module, tokens)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(module.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_it_takes_the_steps_of_a_plain_loop(model, optimizer_of, loss_of, same):
    accelerator, module, optimizer, data, scheduler = prepared(model, optimizer_of)
    plain = model()
    other = optimizer_of(plain)
    shrink = StepLR(other, 1, 0.5)
    for _ in range(2):
        epoch(accelerator, module, optimizer, data, scheduler, loss_of)
        for index, (tokens,) in enumerate(batches()):
            (loss_of(plain, tokens) / 2).backward()
            if index % 2:
                torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
                other.step()
                shrink.step()
                other.zero_grad()
    assert same(module, plain)
    assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in other.param_groups]


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_loaded_state_goes_on_as_before(model, optimizer_of, loss_of, same, tmp_path, epochs):
    """Before the first step too, when there is no state."""
    accelerator, *parts = prepared(model, optimizer_of)
    for _ in range(epochs):
        epoch(accelerator, *parts, loss_of)
    accelerator.save_state(str(tmp_path))
    expected = epoch(accelerator, *parts, loss_of)
    other, *loaded = prepared(lambda: model(seed=1), optimizer_of)
    other.load_state(str(tmp_path))
    assert epoch(other, *loaded, loss_of) == expected
    assert same(loaded[0], parts[0])


def test_several_prepared_models_have_their_own_files(model, optimizer_of, loss_of, tmp_path):
    """``optimizer.bin`` and ``optimizer_1.bin``: each holds one object, matrices and vectors."""
    accelerator = Accelerator(cpu=True)
    modules = [model(seed) for seed in range(2)]
    optimizers = [optimizer_of(module) for module in modules]
    accelerator.prepare(*modules, *optimizers)
    for module, optimizer in zip(modules, optimizers, strict=True):
        loss_of(module).backward()
        optimizer.step()
    accelerator.save_state(str(tmp_path))
    for name, optimizer in zip(("optimizer.bin", "optimizer_1.bin"), optimizers, strict=True):
        saved = torch.load(tmp_path / name, weights_only=True)
        assert saved["param_groups"] == optimizer.state_dict()["param_groups"]


def test_an_overflow_is_seen_as_a_skipped_step(model, optimizer_of, loss_of, same):
    """accelerate puts a function of its own in the place of ``step``, to see if it is called."""
    Accelerator(cpu=True)
    module, plain = model(), model()
    inner, other = optimizer_of(module), optimizer_of(plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = AcceleratedOptimizer(inner, scaler=scaler)
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(loss_of(module)).backward()
        if step == 1:
            module[1].bias.grad[0] = float("inf")
        optimizer.step()
        assert optimizer.step_was_skipped == (step == 1)
        if step != 1:
            other.zero_grad()
            loss_of(plain).backward()
            other.step()
    assert same(module, plain)
    assert isinstance(inner, pg.MatrixOptimizer)
    assert inner.skipped_steps == 0
