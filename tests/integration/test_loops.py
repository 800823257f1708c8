"""Loops that users copy: nanoGPT's, and a container of optimizers as torchtitan has it."""

import contextlib
import math

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import polargrad as pg

LR, VECTOR_LR = 0.05, 0.01


class TestNanoGPT:
    """One number written into every group, micro-batches, a scaler, clipping, a checkpoint."""

    @staticmethod
    def schedule(step):
        return LR * (step + 1) / 2 if step < 2 else LR * 0.5 * (1 + math.cos(step / 3))

    @staticmethod
    def optimizer(module):
        groups = pg.param_groups(module, vector_lr=VECTOR_LR, vector_weight_decay=0.1)
        return pg.PolarGrad(groups, lr=LR, shared_lr=True)

    def run(self, module, optimizer, steps, loss_of):
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        losses = []
        for step in steps:
            for group in optimizer.param_groups:
                group["lr"] = self.schedule(step)
            for _ in range(3):
                with contextlib.nullcontext():
                    loss = loss_of(module) / 3
                scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(module.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
        return losses

    def test_the_ratio_of_the_learning_rates_survives(self, model, loss_of):
        """The same steps as with a schedule of factors, on groups with lrs of their own."""
        module, plain = model(), model()
        optimizer = self.optimizer(module)
        groups = pg.param_groups(plain, vector_lr=VECTOR_LR, vector_weight_decay=0.1)
        other = pg.PolarGrad(groups, lr=LR)
        factors = LambdaLR(other, lambda step: self.schedule(step) / LR)
        self.run(module, optimizer, range(4), loss_of)
        for _ in range(4):
            for _ in range(3):
                (loss_of(plain) / 3).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            other.step()
            factors.step()
            other.zero_grad()
        for p, q in zip(module.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)

    def test_a_resumed_run_is_the_whole_run(self, model, loss_of, same, tmp_path):
        module, again = model(), model(seed=1)
        optimizer, other = self.optimizer(module), self.optimizer(again)
        self.run(module, optimizer, range(2), loss_of)
        saved = {"model": module.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(saved, tmp_path / "ckpt.pt")
        expected = self.run(module, optimizer, range(2, 5), loss_of)
        loaded = torch.load(tmp_path / "ckpt.pt", weights_only=True)
        again.load_state_dict(loaded["model"])
        other.load_state_dict(loaded["optimizer"])
        assert self.run(again, other, range(2, 5), loss_of) == expected
        assert same(again, module)


class Container(Optimizer):
    """An optimizer a model part, one flat state by name, and keys of its own in every group."""

    flat = StateDictOptions(flatten_optimizer_state_dict=True)

    def __init__(self, parts, make, roles=None):
        self.parts = parts
        self.optimizers = []
        for index, part in enumerate(parts):
            given = None if roles is None else roles[index]
            groups = pg.param_groups(part, vector_lr=VECTOR_LR, roles=given)
            for group in groups:
                names, params = zip(*group["params"], strict=True)
                group |= {"params": list(params), "param_names": list(names)}
                group |= {"fused": False, "foreach": True}
            self.optimizers.append(make(groups))
        members = [p for part in parts for p in part.parameters()]
        super().__init__(members, {"lr": LR})

    def step(self, closure=None):
        assert closure is None
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none=True):
        super().zero_grad(set_to_none=set_to_none)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self):
        merged = {}
        for part, optimizer in zip(self.parts, self.optimizers, strict=True):
            merged |= get_optimizer_state_dict(part, optimizer, options=self.flat)
        return merged

    def load_state_dict(self, state_dict):
        for part, optimizer in zip(self.parts, self.optimizers, strict=True):
            set_optimizer_state_dict(part, optimizer, state_dict, options=self.flat)


class Stage(nn.Module):
    """Some layers of a model, under the names that they have in the whole."""

    def __init__(self, module, names):
        super().__init__()
        for name in names:
            self.add_module(name, module[int(name)])


class TestTorchtitan:
    """The container, over one model and over the stages of a pipeline."""

    @staticmethod
    def make(groups):
        return pg.PolarGrad(groups, lr=LR)

    def test_the_container_takes_the_steps_of_its_optimizer(self, model, train):
        """To the rounding of AdamW's other form, for which ``foreach`` asks."""
        module, plain = model(), model()
        container = Container([module], self.make)
        schedules = [LambdaLR(o, lambda step: 1 / (1 + step)) for o in container.optimizers]
        other = self.make(pg.param_groups(plain, vector_lr=VECTOR_LR))
        shrink = LambdaLR(other, lambda step: 1 / (1 + step))
        for _ in range(3):
            train(module, container, 1)
            schedules[0].step()
        train(plain, other, 3, shrink)
        for p, q in zip(module.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)

    def test_the_keys_of_others_stay(self, model, train):
        module = model()
        container = Container([module], self.make)
        train(module, container, 1)
        for optimizer in container.optimizers:
            for group in optimizer.param_groups:
                assert (group["fused"], group["foreach"]) == (False, True)

    def test_the_flat_states_of_stages_load_together(self, model, train, same):
        """One state under the names of the whole; each stage finds its own in it."""
        module, again = model(), model()

        def staged(whole):
            # A stage does not show which of its outputs another one takes.
            roles = [{f"{name}.weight": "hidden matrix"} for name in ("1", "3")]
            stages = [Stage(whole, names) for names in (("0", "1"), ("3", "4", "5"))]
            return Container(stages, self.make, roles)

        container, other = staged(module), staged(again)
        train(module, container, 2)
        container.zero_grad()
        again.load_state_dict(module.state_dict())
        other.load_state_dict(container.state_dict())
        assert train(again, other, 2) == train(module, container, 2)
        assert same(again, module)
