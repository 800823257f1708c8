"""What the world around an optimizer does with it: scalers, clipping, distributed checkpoints."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import state_dict as dcp

import polargrad as pg


@pytest.fixture
def scaler():
    return torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)


class TestGradScaler:
    """torch.amp.GradScaler finds infinities itself, for all groups at once."""

    def test_unscaled_steps_are_those_without_it(self, routed, model, set_gradients, scaler):
        module, reference = model(), model()
        optimizer, other = routed(module), routed(reference)
        for step in range(3):
            set_gradients(module.parameters(), step, scale=2.0**10)
            scaler.scale(torch.ones(()))  # makes its scale; the gradients above have it
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            set_gradients(reference.parameters(), step)
            nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
            other.step()
        for p, q in zip(module.parameters(), reference.parameters(), strict=True):
            assert torch.equal(p, q)

    def test_an_infinity_skips_everything(
        self, routed, model, set_gradients, snapshot, equal, scaler
    ):
        module = model()
        optimizer = routed(module)
        before = snapshot(optimizer)
        set_gradients(module.parameters())
        module["norm"].bias.grad[0] = float("inf")
        scaler.scale(torch.ones(()))
        scaler.step(optimizer)
        scaler.update()
        assert equal(snapshot(optimizer), before)
        assert scaler.get_scale() == 2.0**9
        assert optimizer.skipped_steps == 0  # it was never asked

    def test_polar_grad_needs_the_unscaling_and_muon_does_not(self, scaler):
        """A PolarGrad step has the unit of the gradient: scaled by 2¹⁰, it is 2¹⁰ times as far."""
        moved = {}
        for scale in (1.0, 2.0**10):
            for make in (pg.PolarGrad, pg.Muon):
                p = nn.Parameter(torch.zeros(3, 3))
                p.grad = scale * torch.eye(3)
                make([p], lr=0.5).step()
                moved[make, scale] = p.detach()
        assert torch.equal(moved[pg.PolarGrad, 2.0**10], 2.0**10 * moved[pg.PolarGrad, 1.0])
        assert torch.equal(moved[pg.Muon, 2.0**10], moved[pg.Muon, 1.0])


class TestDistributedCheckpoint:
    """torch.distributed.checkpoint.state_dict, in one process without a process group."""

    @pytest.mark.parametrize("flatten", [False, True], ids=["nested", "flat"])
    @pytest.mark.parametrize("steps", [0, 3])
    def test_round_trip(self, routed, model, set_gradients, snapshot, equal, flatten, steps):
        options = dcp.StateDictOptions(flatten_optimizer_state_dict=flatten)
        module = model()
        optimizer = routed(module)
        for step in range(steps):
            set_gradients(module.parameters(), step)
            optimizer.step()
        optimizer.zero_grad()
        before = [p.detach().clone() for p in module.parameters()]
        saved = copy.deepcopy(dcp.get_optimizer_state_dict(module, optimizer, options=options))
        assert all(torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))

        again = model()
        again.load_state_dict(copy.deepcopy(module.state_dict()))
        loaded = routed(again)
        dcp.set_optimizer_state_dict(again, loaded, saved, options=options)
        assert all(torch.equal(p, b) for p, b in zip(again.parameters(), before, strict=True))
        assert equal(snapshot(loaded), snapshot(optimizer))
        for one, stepper in ((module, optimizer), (again, loaded)):
            set_gradients(one.parameters(), steps)
            stepper.step()
        assert equal(snapshot(loaded), snapshot(optimizer))

    def test_names_are_those_of_the_model(self, routed, model, set_gradients):
        module = model()
        optimizer = routed(module)
        set_gradients(module.parameters())
        optimizer.step()
        optimizer.zero_grad()
        saved = dcp.get_optimizer_state_dict(module, optimizer)
        assert set(saved["state"]) <= {n for n, _ in module.named_parameters()}
        assert "first.weight" in saved["param_groups"][0]["params"]

    def test_making_a_state_moves_nothing(self, routed, model):
        """Zero gradients and lr 0, as dcp does it, with decay on: a state is made, no bit moves."""
        module = model()
        optimizer = routed(module)
        before = [p.detach().clone() for p in module.parameters()]
        dcp._init_optim_state(optimizer)
        assert optimizer.state
        assert all(torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))
        assert all(g["lr"] for g in optimizer.param_groups)


def test_it_is_an_optimizer_in_every_respect(preset):
    optimizer = preset([nn.Parameter(torch.eye(3))])
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert {"lr", "momentum"} <= set(optimizer.defaults)
    assert "Parameter Group 0" in repr(optimizer)


def test_clipping_changes_the_length_of_polar_grad_alone(model, set_gradients):
    """A clipped gradient is c times the gradient: the direction stays, the magnitude times c."""
    module = model()
    set_gradients(module.parameters())
    w = module["first"].weight
    g = w.grad.clone()
    total = nn.utils.clip_grad_norm_(module.parameters(), 0.5)
    clipped, whole = nn.Parameter(torch.zeros_like(w)), nn.Parameter(torch.zeros_like(w))
    clipped.grad, whole.grad = w.grad.clone(), g
    for p in (clipped, whole):
        pg.PolarGrad([p], lr=1.0, method="svd").step()
    torch.testing.assert_close(clipped.detach(), whole.detach() * (0.5 / total))
