"""torch around a training step: loss scaling, averaged models, hooks, compilation."""

import pytest
import torch
import torch._dynamo
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import polargrad as pg


class TestGradScaler:
    """A loss scaled by powers of two, and gradients unscaled before they are read."""

    @staticmethod
    def run(module, optimizer, scaler, steps, loss_of, overflow=(), unscale=True):
        losses = []
        for step in range(steps):
            optimizer.zero_grad()
            loss = loss_of(module)
            factor = torch.finfo(torch.float32).max if step in overflow else 1.0
            scaler.scale(loss * factor).backward()
            if unscale:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(module.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        return losses

    @pytest.mark.parametrize("unscale", [True, False], ids=["clipped", "plain"])
    def test_scaled_steps_are_the_steps(self, model, optimizer_of, loss_of, same, unscale):
        """To the bit, through a growth of the scale: powers of two round nothing."""
        module, plain = model(), model()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
        self.run(module, optimizer_of(module), scaler, 5, loss_of, unscale=unscale)
        assert scaler.get_scale() == 2.0**10
        off = torch.amp.GradScaler("cpu", enabled=False)
        self.run(plain, optimizer_of(plain), off, 5, loss_of, unscale=unscale)
        assert same(module, plain)

    def test_an_overflow_leaves_out_one_step_of_all_groups(
        self, model, optimizer_of, loss_of, same
    ):
        module, plain = model(), model()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        losses = self.run(module, optimizer_of(module), scaler, 4, loss_of, overflow=(1,))
        assert losses[1] == losses[2]
        assert scaler.get_scale() == 2.0**7
        off = torch.amp.GradScaler("cpu", enabled=False)
        self.run(plain, optimizer_of(plain), off, 3, loss_of)
        assert same(module, plain)


class TestAveragedModel:
    """It copies the model; the optimizer keeps to the parameters that it was given, in place."""

    def test_the_average_is_that_of_the_steps(self, model, optimizer_of, train):
        module = model()
        optimizer = optimizer_of(module)
        addresses = [p.data_ptr() for p in module.parameters()]
        averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        expected = None
        for _ in range(3):
            train(module, optimizer, 1)
            averaged.update_parameters(module)
            now = [p.detach().double() for p in module.parameters()]
            if expected is None:
                expected = [p.clone() for p in now]
            else:
                expected = [0.5 * (e + p) for e, p in zip(expected, now, strict=True)]
        assert [p.data_ptr() for p in module.parameters()] == addresses
        for p, e in zip(averaged.module.parameters(), expected, strict=True):
            torch.testing.assert_close(p.double(), e, rtol=1e-6, atol=1e-7)

    def test_averaging_changes_no_step(self, model, optimizer_of, train, same):
        module, plain = model(), model()
        optimizer = optimizer_of(module)
        averaged = AveragedModel(module)
        optimizer.register_step_post_hook(lambda *_: averaged.update_parameters(module))
        assert train(module, optimizer, 3) == train(plain, optimizer_of(plain), 3)
        assert same(module, plain)
        assert averaged.n_averaged == 3


class TestHooks:
    """A step of each parameter as soon as its gradient is complete."""

    def test_steps_within_the_backward_pass(self, model, optimizer_of, loss_of, train):
        module, plain = model(), model()
        optimizer = optimizer_of(module)

        def step(parameter):
            optimizer.step_parameter(parameter)
            parameter.grad = None

        handles = [p.register_post_accumulate_grad_hook(step) for p in module.parameters()]
        for _ in range(3):
            loss_of(module).backward()
            assert all(p.grad is None for p in module.parameters())
        train(plain, optimizer_of(plain), 3)
        for p, q in zip(module.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        assert len(handles) == len(list(module.parameters()))

    def test_a_tied_parameter_steps_once_with_all_of_its_gradient(self, model, loss_of):
        """The hook runs when both uses have added theirs."""
        module = model()
        module[5].weight = module[0].weight
        optimizer = pg.PolarGrad(pg.param_groups(module, vector_lr=0.01), lr=0.05)
        steps = []

        def step(parameter):
            steps.append(parameter)
            optimizer.step_parameter(parameter)

        for p in module.parameters():
            p.register_post_accumulate_grad_hook(step)
        loss_of(module).backward()
        assert len({id(p) for p in steps}) == len(steps) == len(list(module.parameters()))


class TestCompile:
    """torch.compile of the model, and of what surrounds the step."""

    @pytest.fixture(autouse=True)
    def _fresh(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def test_a_compiled_model_with_the_optimizer_as_it_is(
        self, model, optimizer_of, loss_of, train, same
    ):
        """Groups made before and after compilation have the same roles, and steps."""
        before, after, plain = model(), model(), model()
        expected = train(plain, optimizer_of(plain), 3)
        early = optimizer_of(before)
        compiled = torch.compile(before, backend="aot_eager")
        assert train(compiled, early, 3) == expected
        compiled = torch.compile(after, backend="aot_eager")
        late = optimizer_of(compiled)
        roles = [[row.role for row in pg.explain(o).rows] for o in (early, late)]
        assert roles[0] == roles[1]
        assert train(compiled, late, 3) == expected
        assert same(before, plain)
        assert same(after, plain)

    @pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
    def test_a_schedule_of_a_tensor_compiles_no_second_graph(self, model, loss_of):
        """Nor do gradients that are freed and made anew at every step of matrices."""
        module = model()
        for p in module.parameters():
            p.requires_grad_(p.ndim == 2)
        matrices = [p for p in module.parameters() if p.ndim == 2]
        optimizer = pg.PolarGrad(matrices, lr=torch.tensor(0.05))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        loss_of(module).backward()
        optimizer.step()  # makes the state, and chooses the methods
        torch._dynamo.utils.counters.clear()
        step = torch.compile(optimizer.step, backend="eager")
        for _ in range(4):
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            loss_of(module).backward()
            step()
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
    def test_a_whole_compiled_training_step(self, model, loss_of, train):
        """Forward, backward, step and zero_grad in one function; lr in a tensor, scheduled."""

        def optimizer_of(module):
            groups = pg.param_groups(module, vector_lr=torch.tensor(0.01))
            optimizer = pg.PolarGrad(groups, lr=torch.tensor(0.05))
            return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

        module, plain = model(), model()
        optimizer, schedule = optimizer_of(module)

        @torch.compile(backend="eager")
        def step():
            loss = loss_of(module)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        losses = []
        for _ in range(3):
            losses.append(step().item())
            schedule.step()
        other, reference = optimizer_of(plain)
        expected = train(plain, other, 3, reference)
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
        for p, q in zip(module.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
