"""What one step does, and what it must leave alone."""

import math
import warnings

import pytest
import torch
from torch import nn

import polargrad as pg


def test_a_closure_is_run_once_with_gradients_enabled(preset):
    """By position, by keyword, under no_grad; its value is returned."""
    w = nn.Parameter(torch.eye(3))
    optimizer = preset([w])
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    for number, step in enumerate(
        (lambda: optimizer.step(closure), lambda: optimizer.step(closure=closure))
    ):
        before = w.detach().clone()
        with torch.no_grad():
            loss = step()
        assert torch.equal(loss, before.square().sum())
        assert calls == [True] * (number + 1)
        assert not torch.equal(w, before)


def test_without_a_closure_it_returns_none(preset):
    assert preset([nn.Parameter(torch.eye(3))]).step() is None


def test_a_closure_whose_gradient_is_bad_still_returns_its_loss(preset):
    w = nn.Parameter(torch.eye(3))
    optimizer = preset([w])

    def closure():
        optimizer.zero_grad()
        loss = (w / 0.0).sum()
        loss.backward()
        return loss

    assert not torch.isfinite(optimizer.step(closure))
    assert torch.equal(w, torch.eye(3))


def test_zero_grad(routed, model, set_gradients):
    module = model()
    optimizer = routed(module)
    set_gradients(module.parameters())
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in module.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in module.parameters())


def test_gradients_are_read_only(routed, model, set_gradients):
    """The same objects, the same bits: others may look at them after the step."""
    module = model()
    optimizer = routed(module)
    for step in range(2):
        set_gradients(module.parameters(), step)
        kept = [(p.grad, p.grad.clone()) for p in module.parameters()]
        optimizer.step()
        for p, (grad, copy) in zip(module.parameters(), kept, strict=True):
            assert p.grad is grad
            assert torch.equal(grad, copy)


def test_parameters_stay_the_same_objects_in_the_same_memory(routed, model, set_gradients):
    module = model()
    pointers = [p.data_ptr() for p in module.parameters()]
    optimizer = routed(module)
    set_gradients(module.parameters())
    optimizer.step()
    assert [p.data_ptr() for p in module.parameters()] == pointers


@pytest.mark.parametrize("earlier", [0, 2])
def test_missing_gradients_leave_their_parameters_alone(
    routed, model, set_gradients, snapshot, equal, earlier
):
    """Neither parameter nor state changes, new or old; all others move as they do without them."""
    module, reference = model(), model()
    optimizer, other = routed(module), routed(reference)
    for step in range(earlier):
        for one, stepper in ((module, optimizer), (reference, other)):
            set_gradients(one.parameters(), step)
            stepper.step()
    names = [n for group in optimizer.param_groups for n in group["param_names"]]
    before = dict(zip(names, snapshot(optimizer), strict=True))
    missing = {"first.weight", "head.weight", "norm.bias", "gates.weight_ih_l0"}
    set_gradients(module.parameters(), earlier)
    set_gradients(reference.parameters(), earlier)
    for name in missing:
        module.get_parameter(name).grad = None
    optimizer.step()
    other.step()
    after = dict(zip(names, snapshot(optimizer), strict=True))
    for name in names:
        assert equal([after[name]], [before[name]]) == (name in missing)
        if name not in missing:
            # The stack that second.weight is in has become smaller: the same number to rounding.
            torch.testing.assert_close(
                after[name][0], reference.get_parameter(name).detach(), rtol=1e-5, atol=1e-6
            )


def test_no_gradients_at_all(routed, model, snapshot, equal):
    optimizer = routed(model())
    before = snapshot(optimizer)
    optimizer.step()
    assert equal(snapshot(optimizer), before)
    assert not optimizer.state
    assert optimizer.skipped_steps == 0


def test_frozen_parameters_may_be_given(preset):
    w, frozen = nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(3), requires_grad=False)
    optimizer = preset([w, frozen])
    w.sum().backward()
    optimizer.step()
    assert torch.equal(frozen, torch.eye(3))
    assert not torch.equal(w, torch.eye(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["auto", "svd", "qdwh", "newton_schulz", "polar_express"])
@pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
def test_a_zero_gradient_at_zero_state_changes_nothing(dtype, method, order):
    module = nn.ParameterList(
        torch.full(s, 0.7, dtype=dtype) for s in ((4, 3), (3, 4), (2, 2), (3,))
    )
    before = [p.detach().clone() for p in module]
    tol = {"tol": 0.11} if method == "auto" else {}
    optimizer = pg.PolarGrad(
        module,
        lr=0.1,
        momentum=0.9,
        order=order,
        nesterov=True,
        method=method,
        vector_lr=0.1,
        vector_eps=1e-6,  # torch's 1e-8 is 0 in float16, and then AdamW divides 0 by 0
        **tol,
    )
    for _ in range(2):
        for p in module:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(module, before, strict=True))


class TestDegrees:
    """The whole gradient sequence times c: PolarGrad's step times c, Muon's the same."""

    def steps(self, make, c):
        """The way of three steps from zero, one matrix of each orientation."""
        params = [nn.Parameter(torch.zeros(s)) for s in ((6, 4), (4, 6), (5, 5))]
        optimizer = make(params)
        for step in range(3):
            for index, p in enumerate(params):
                generator = torch.Generator().manual_seed(10 * step + index)
                # 1e30 times this is far from the largest float32, and so are its squares' sums
                # with 1e-30 from the smallest.
                p.grad = (
                    torch.randn(p.shape, generator=generator, dtype=torch.float64).mul(c).float()
                )
            optimizer.step()
        return [p.detach() for p in params]

    METHODS = ("auto", "svd", "qdwh", "newton_schulz", "polar_express")

    @pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("power", [-99, -40, -1, 3, 60, 99])
    def test_polar_grad_has_degree_one(self, power, method, order):
        """Exactly, for powers of two from 2⁻⁹⁹ to 2⁹⁹ (1e-30 to 6e29)."""

        def make(params):
            return pg.PolarGrad(params, lr=0.5, momentum=0.9, method=method, order=order)

        for one, scaled in zip(self.steps(make, 1.0), self.steps(make, 2.0**power), strict=True):
            assert torch.equal(scaled, one * 2.0**power)

    @pytest.mark.parametrize("power", [-99, -40, -1, 3, 60, 99])
    def test_muon_has_degree_zero(self, power):
        def make(params):
            return pg.Muon(params, lr=0.5, weight_decay=0.0)

        for one, scaled in zip(self.steps(make, 1.0), self.steps(make, 2.0**power), strict=True):
            assert torch.equal(scaled, one)

    @pytest.mark.parametrize("c", [1e-30, 1e-12, 3.0, 1e10, 1e30])
    def test_any_factor_to_rounding(self, c):
        def polar_grad(params):
            return pg.PolarGrad(params, lr=0.5, momentum=0.9)

        def muon(params):
            return pg.Muon(params, lr=0.5, weight_decay=0.0)

        for make, degree in ((polar_grad, 1), (muon, 0)):
            for one, scaled in zip(self.steps(make, 1.0), self.steps(make, c), strict=True):
                torch.testing.assert_close(
                    scaled.double() / c**degree, one.double(), rtol=1e-4, atol=1e-4
                )

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
    def test_in_every_dtype_that_a_gradient_may_have(self, dtype):
        """A gradient near the smallest or the largest number of its dtype is as good as another."""
        directions = []
        largest = 2.0 ** (math.frexp(torch.finfo(dtype).max)[1] - 7)
        for c in (torch.finfo(dtype).tiny, 1.0, largest):
            p = nn.Parameter(torch.zeros(4, 4, dtype=dtype))
            p.grad = torch.ones(4, 4, dtype=dtype).tril().mul(c)
            pg.MatrixOptimizer([p], lr=1.0, magnitude="unit", method="svd").step()
            directions.append(p.detach())
        assert torch.equal(directions[0], directions[1])
        assert torch.equal(directions[2], directions[1])


class TestDecay:
    """Decoupled, in closed form where the gradient is zero."""

    @staticmethod
    def after(optimizer, params, steps, scheduler=None):
        for _ in range(steps):
            for p in params:
                p.grad = torch.zeros_like(p)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        return [p.detach() for p in params]

    def params(self):
        return [nn.Parameter(torch.full(s, 2.0, dtype=torch.float64)) for s in ((3, 4), (3,))]

    def test_weight_decay(self):
        """(1 − γλ)ᵏ, with each rule's own γ and λ."""
        params = self.params()
        optimizer = pg.PolarGrad(
            params, lr=0.25, weight_decay=0.375, vector_lr=0.5, vector_weight_decay=0.25
        )
        matrix, vector = self.after(optimizer, params, 7)
        torch.testing.assert_close(matrix, torch.full_like(matrix, 2 * (1 - 0.25 * 0.375) ** 7))
        torch.testing.assert_close(vector, torch.full_like(vector, 2 * (1 - 0.5 * 0.25) ** 7))

    def test_muon_decays_by_the_unadjusted_lr(self):
        params = self.params()[:1]
        optimizer = pg.Muon(params, lr=0.25, weight_decay=0.5, adjust_lr_fn="match_rms_adamw")
        (matrix,) = self.after(optimizer, params, 5)
        torch.testing.assert_close(matrix, torch.full_like(matrix, 2 * (1 - 0.125) ** 5))

    @pytest.mark.parametrize("lr", [1e-8, 0.25, 50.0])
    def test_decay_per_step_does_not_know_the_unit_of_lr(self, lr):
        params = self.params()
        optimizer = pg.PolarGrad(params, lr=lr, decay_per_step=0.125, vector_lr=0.5)
        matrix, vector = self.after(optimizer, params, 6)
        torch.testing.assert_close(matrix, torch.full_like(matrix, 2 * (1 - 0.125) ** 6))
        assert torch.equal(vector, torch.full_like(vector, 2.0))  # for matrices alone

    def test_decay_per_step_never_turns_a_sign(self):
        """A schedule that raises lr too far is refused before any group changes."""
        first, second = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
        optimizer = pg.PolarGrad([{"params": [first]}], lr=1.0, momentum=0.5)
        optimizer.add_param_group({"params": [second], "decay_per_step": 0.25})
        first.grad, second.grad = torch.eye(2), torch.eye(2)
        optimizer.param_groups[1]["lr"] = 4.0
        with pytest.raises(ValueError, match=r"decay_per_step=0.25 with lr=4.0, raised from 1.0"):
            optimizer.step()
        assert torch.equal(first, torch.ones(2, 2))
        assert torch.equal(second, torch.ones(2, 2))
        assert not optimizer.state
        optimizer.param_groups[1]["lr"] = 2.0
        optimizer.step()
        assert optimizer.state

    def test_decay_per_step_needs_an_initial_lr(self):
        with pytest.raises(ValueError, match=r"decay_per_step=0.1 .* above 0 then, got lr=0.0"):
            pg.PolarGrad([torch.nn.Parameter(torch.eye(2))], lr=0.0, decay_per_step=0.1)

    def test_decay_per_step_follows_the_schedule(self):
        """With warmup too: the initial lr is that of the constructor, not the scheduler's first."""
        params = self.params()
        optimizer = pg.PolarGrad(params, lr=8.0, decay_per_step=0.125, vector_lr=0.5)
        shares = [0.25, 0.5, 0.75, 1.0, 0.5, 0.0]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: shares[min(k, 5)])
        matrix, _ = self.after(optimizer, params, 6, scheduler)
        expected = 2.0
        for share in shares:
            expected *= 1 - 0.125 * share
        torch.testing.assert_close(matrix, torch.full_like(matrix, expected))

    def test_both_decays_multiply(self):
        params = self.params()[:1]
        optimizer = pg.PolarGrad(params, lr=0.25, weight_decay=0.25, decay_per_step=0.125)
        (matrix,) = self.after(optimizer, params, 1)
        torch.testing.assert_close(matrix, torch.full_like(matrix, 2 * (1 - 0.0625) * (1 - 0.125)))

    def test_lr_zero_changes_nothing(self, routed, model, set_gradients):
        """Bit for bit, as torch.distributed.checkpoint needs it to make a state."""
        module = model()
        optimizer = routed(module)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        before = [p.detach().clone() for p in module.parameters()]
        set_gradients(module.parameters())
        optimizer.step()
        assert all(torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_lr_as_a_tensor(routed, model, set_gradients, shape):
    """The steps of the same number, read at each step from the tensor itself."""
    module, reference = model(), model()
    optimizer, other = routed(module), routed(reference)
    for group in optimizer.param_groups:
        group["lr"] = torch.full(shape, group["lr"])
    for step in range(3):
        for group in (*optimizer.param_groups, *other.param_groups):
            group["lr"] *= 0.5
        for one, optimizer_ in ((module, optimizer), (reference, other)):
            set_gradients(one.parameters(), step)
            optimizer_.step()
    for p, q in zip(module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_lr_as_a_tensor_may_be_given_to_the_constructor():
    params = [nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(3))]
    lr, vector_lr = torch.tensor(0.25), torch.tensor(0.5)
    optimizer = pg.PolarGrad(params, lr=lr, vector_lr=vector_lr, momentum=0.0, method="svd")
    assert optimizer.param_groups[0]["lr"] is lr
    assert optimizer.param_groups[1]["lr"] is vector_lr
    for p in params:
        p.grad = torch.ones_like(p)
    lr.fill_(1.0)
    optimizer.step()
    # All ones: nuclear norm 3, factor 1/3 everywhere. AdamW's first step is its lr.
    torch.testing.assert_close(params[0].detach(), torch.eye(3) - 1.0)
    torch.testing.assert_close(params[1].detach(), torch.full((3,), 0.5))


def test_step_hooks(preset):
    """Before and after, of one optimizer and of all."""
    w = nn.Parameter(torch.eye(3))
    optimizer = preset([w])
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(("before", w.detach().clone())))
    optimizer.register_step_post_hook(lambda *_: seen.append(("after", w.detach().clone())))
    w.grad = torch.ones(3, 3)
    optimizer.step()
    (first, before), (last, after) = seen
    assert (first, last) == ("before", "after")
    assert torch.equal(before, torch.eye(3))
    assert torch.equal(after, w)


def test_no_warning_and_no_noise(routed, model, set_gradients, capfd):
    module = model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = routed(module)
        set_gradients(module.parameters())
        optimizer.step()
    assert capfd.readouterr() == ("", "")


def test_number_of_matrices_does_not_change_a_matrix(preset, set_gradients):
    """Alone or among nine of its shape: the same step, to the rounding of a batched product."""
    shape = (6, 4)
    alone, first = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    others = [nn.Parameter(torch.ones(shape)) for _ in range(8)]
    for params in ([alone], [first, *others]):
        optimizer = preset(params)
        for step in range(3):
            set_gradients(params, step)
            optimizer.step()
    torch.testing.assert_close(alone, first, rtol=0, atol=1e-6)
