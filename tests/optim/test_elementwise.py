"""Elementwise work on lists: the formulas, in every dtype, gated or not, as a list or in a loop."""

import pytest
import torch
from torch import nn

import polargrad as pg
from polargrad.optim import elementwise
from polargrad.optim.elementwise import average, batches, shrink, store, subtract, widened

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def randn(shape, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def some(seed, dtype=torch.float32, shapes=((3, 4), (5, 2), (0, 3), (1, 1))):
    return [randn(s, seed + i, dtype) for i, s in enumerate(shapes)]


class TestBatches:
    def test_in_order_and_complete(self, monkeypatch):
        monkeypatch.setattr(elementwise, "BATCH_BYTES", 64)
        first, second = some(0), some(10)
        found = list(batches(first, second))
        assert [x for xs, _ in found for x in map(id, xs)] == [id(x) for x in first]
        assert [y for _, ys in found for y in map(id, ys)] == [id(y) for y in second]

    @pytest.mark.parametrize("limit", [1, 48, 100, 10**9])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_no_batch_is_above_the_limit_unless_it_is_one_tensor(self, monkeypatch, limit, dtype):
        """Counted in the dtype of the copies that are made: at least float32."""
        monkeypatch.setattr(elementwise, "BATCH_BYTES", limit)
        tensors = [randn((n, 2), n, dtype) for n in (3, 1, 4, 1, 5, 9, 2, 6)]
        size = 8 if dtype == torch.float64 else 4
        for (batch,) in batches(tensors):
            assert batch
            assert len(batch) == 1 or sum(size * t.numel() for t in batch) <= limit

    def test_full_batches(self, monkeypatch):
        monkeypatch.setattr(elementwise, "BATCH_BYTES", 4 * 24)
        assert [len(b) for (b,) in batches([torch.zeros(3, 4) for _ in range(5)])] == [2, 2, 1]

    def test_nothing_gives_nothing(self):
        assert list(batches([])) == []

    def test_the_limit_is_64_mib(self):
        assert elementwise.BATCH_BYTES == 64 * 2**20


def test_widened_is_a_copy_only_where_it_must_be():
    wide, half = some(0), some(0, torch.bfloat16)
    assert all(w is x for w, x in zip(widened(wide), wide, strict=True))
    assert all(w.dtype == torch.float32 for w in widened(half))
    negated = widened([*wide, *half], negate=True)
    for w, x in zip(negated, [*wide, *half], strict=True):
        assert torch.equal(w, -x.float())
    assert torch.equal(wide[0], some(0)[0])
    assert widened([], negate=True) == []


@pytest.mark.parametrize("target_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("input_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", ["ema", "heavy-ball"])
class TestAverage:
    @pytest.mark.parametrize("negate", [False, True])
    @pytest.mark.parametrize("tensor", [False, True])
    def test_it_is_its_equation(self, target_dtype, input_dtype, form, negate, tensor):
        """In float32 at least, and rounded once to the dtype of the target."""
        targets, inputs = some(0, target_dtype), some(10, input_dtype)
        kept = [x.clone() for x in inputs]
        sign, new = (-1.0 if negate else 1.0), (0.25 if form == "ema" else 1.0)
        wanted = [
            0.75 * m.double() + sign * new * x.double()
            for m, x in zip(targets, inputs, strict=True)
        ]
        beta = torch.tensor(0.75) if tensor else 0.75
        average(targets, inputs, beta, form=form, gate=None, foreach=True, negate=negate)
        eps = max(torch.finfo(target_dtype).eps, torch.finfo(torch.float32).eps)
        if target_dtype == torch.float64:
            eps = torch.finfo(torch.float64).eps
        for m, w, x, k in zip(targets, wanted, inputs, kept, strict=True):
            assert m.dtype == target_dtype
            # Of float64 input a float32 average sees the nearest float32 number.
            torch.testing.assert_close(m.double(), w, rtol=4 * eps, atol=4 * eps)
            assert torch.equal(x, k)

    @pytest.mark.parametrize("negate", [False, True])
    def test_list_loop_and_open_gate_give_the_same_bits(
        self, target_dtype, input_dtype, form, negate
    ):
        results = []
        for foreach, gate in ((True, None), (False, None), (True, torch.tensor(True))):
            targets = some(0, target_dtype)
            average(
                targets,
                some(10, input_dtype),
                0.75,
                form=form,
                gate=gate,
                foreach=foreach,
                negate=negate,
            )
            results.append(targets)
        for other in results[1:]:
            assert all(map(torch.equal, results[0], other))

    @pytest.mark.parametrize("foreach", [False, True])
    def test_a_closed_gate_keeps_every_bit(self, target_dtype, input_dtype, form, foreach):
        targets = [*some(0, target_dtype), -torch.zeros(2, 2, dtype=target_dtype)]
        inputs = [torch.full_like(t, float("nan"), dtype=input_dtype) for t in targets]
        before = [t.clone() for t in targets]
        shut = torch.tensor(False)
        average(targets, inputs, 0.75, form=form, gate=shut, foreach=foreach)
        for t, b in zip(targets, before, strict=True):
            assert torch.equal(t, b)
            assert torch.equal(t.signbit(), b.signbit())


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shrink_and_subtract_work_in_place(foreach, dtype):
    for factor in (0.5, torch.tensor(0.5)):
        targets = some(0, dtype)
        pointers = [t.data_ptr() for t in targets]
        shrink(targets, factor, foreach)
        assert all(torch.equal(t, 0.5 * x) for t, x in zip(targets, some(0, dtype), strict=True))
        subtract(targets, some(10, dtype), foreach)
        for t, x, y in zip(targets, some(0, dtype), some(10, dtype), strict=True):
            assert torch.equal(t, 0.5 * x - y)
        assert [t.data_ptr() for t in targets] == pointers


@pytest.mark.parametrize("foreach", [False, True])
def test_nothing_is_no_error(foreach):
    shrink([], 0.5, foreach)
    subtract([], [], foreach)
    average([], [], 0.5, form="ema", gate=None, foreach=foreach)
    store([], [], None)


def test_store_writes_where_the_target_lies():
    """Strided targets: what lies between their entries stays."""
    memory = torch.zeros(4, 6)
    target = memory[::2, 1::2]
    store([target], [torch.ones(2, 3, dtype=torch.float64)], None)
    assert memory.sum() == 6
    store([target], [torch.full((2, 3), 5.0)], torch.tensor(False))
    assert memory.sum() == 6
    store([target], [torch.full((2, 3), 5.0)], torch.tensor(True))
    assert memory.sum() == 30
    assert (memory[1::2] == 0).all()


# In a step: lists or loops, numbers or tensors, and memory in any order.

PRESETS = {
    "PolarGrad": lambda ps, **more: pg.PolarGrad(ps, 0.05, weight_decay=0.1, **more),
    "PolarGrad, Nesterov, ascending": lambda ps, **more: pg.PolarGrad(
        ps, 0.05, nesterov=True, bias_correction=True, maximize=True, **more
    ),
    "PolarGrad, polar-first": lambda ps, **more: pg.PolarGrad(
        ps, 0.05, order="polar-first", nesterov=True, **more
    ),
    "PolarGrad, polyak": lambda ps, **more: pg.PolarGrad(
        ps, 0.05, order="polyak", decay_per_step=0.01, **more
    ),
    "Muon": lambda ps, **more: pg.Muon(ps, 0.05, momentum_form="heavy-ball", **more),
    "gradient descent": lambda ps, **more: pg.optim.GradientDescent(
        ps, 0.05, **{"momentum": 0.9, **more}
    ),
    "Adam on a matrix": lambda ps, **more: pg.MatrixOptimizer(
        ps, 0.05, geometry="diagonal", **{"momentum": 0.9, **more}
    ),
}
presets = pytest.mark.parametrize("make", PRESETS.values(), ids=list(PRESETS))
MATRICES = [(6, 4), (6, 4), (4, 6), (0, 3), (1, 1)]


def walk(make, dtype=torch.float32, steps=3, layout=lambda x: x, shapes=MATRICES, **options):
    params = [nn.Parameter(layout(randn(s, i, dtype))) for i, s in enumerate(shapes)]
    optimizer = make(params, **options)
    for step in range(steps):
        for i, p in enumerate(params):
            p.grad = randn(p.shape, 50 * step + i, dtype)
        optimizer.step()
    return [p.detach() for p in params]


@presets
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_foreach_changes_no_bit(make, dtype):
    loop = walk(make, dtype, foreach=False)
    for choice in (None, True):
        assert all(map(torch.equal, walk(make, dtype, foreach=choice), loop))


@presets
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("held", [torch.float32, torch.float64], ids=str)
def test_momentum_as_a_tensor_is_the_number_in_it(make, dtype, held):
    """0.75 and 0.25 have no rounding: to that of the products alone."""
    number = walk(make, dtype, momentum=0.75)
    for shape in ((), (1,)):
        tensor = walk(make, dtype, momentum=torch.full(shape, 0.75, dtype=held))
        for x, y in zip(number, tensor, strict=True):
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(y, x, rtol=8 * eps, atol=8 * eps)


@presets
def test_lr_as_a_tensor_of_any_dtype_and_shape(make):
    number = walk(lambda ps, **_: make(ps))
    for shape in ((), (1,)):
        for held in (torch.float32, torch.float64):

            def tensor(params, shape=shape, held=held):
                optimizer = make(params)
                optimizer.param_groups[0]["lr"] = torch.full(shape, 0.05, dtype=held)
                return optimizer

            for x, y in zip(number, walk(tensor), strict=True):
                torch.testing.assert_close(y, x, rtol=1e-6, atol=1e-6)


def transposed(x):
    return x.T.contiguous().T


def strided(x):
    """Every second entry of a memory twice as wide."""
    memory = torch.full((x.shape[0], 2 * x.shape[1]), 7.0, dtype=x.dtype)
    memory[:, ::2] = x
    return memory[:, ::2]


@presets
@pytest.mark.parametrize("layout", [transposed, strided])
@pytest.mark.parametrize("of", ["parameter", "gradient", "both"])
def test_the_layout_in_memory_does_not_matter(make, layout, of):
    """To rounding, raised a thousandfold by a polynomial: other layouts sum in another order."""
    params = [nn.Parameter(randn(s, i)) for i, s in enumerate(MATRICES)]
    laid = [nn.Parameter(p.detach() if of == "gradient" else layout(p.detach())) for p in params]
    optimizers = [make(params), make(laid)]
    for step in range(3):
        for i, (p, q) in enumerate(zip(params, laid, strict=True)):
            p.grad = randn(p.shape, 50 * step + i)
            q.grad = p.grad.clone() if of == "parameter" else layout(p.grad)
        kept = [q.grad.clone() for q in laid]
        for optimizer in optimizers:
            optimizer.step()
        assert all(torch.equal(q.grad, k) for q, k in zip(laid, kept, strict=True))
    for p, q in zip(params, laid, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-4, atol=1e-4)


def test_an_expanded_gradient_is_read():
    """One row for all: what ``expand`` makes in a backward pass of a sum."""
    results = []
    for layout in (lambda x: x, torch.clone):
        p = nn.Parameter(torch.zeros(4, 3))
        optimizer = pg.PolarGrad([p], 0.1, nesterov=True, vector_lr=0.1)
        p.grad = layout(torch.arange(3.0).expand(4, 3))
        optimizer.step()
        results.append(p.detach())
    assert torch.equal(*results)


def test_channels_last_is_the_same_convolution():
    results = []
    for form in (torch.contiguous_format, torch.channels_last):
        p = nn.Parameter(randn((5, 3, 2, 2), 0).contiguous(memory_format=form))
        groups = [{"params": [p], "rule": "matrix", "views": [{"kind": "flatten"}]}]
        optimizer = pg.PolarGrad(groups, 0.1, nesterov=True)
        for step in range(3):
            p.grad = randn(p.shape, step + 1).contiguous(memory_format=torch.contiguous_format)
            optimizer.step()
        assert p.is_contiguous(memory_format=form)
        results.append(p.detach())
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
def test_a_parameter_whose_entries_share_memory_is_refused_before_anything_changes(order):
    """It cannot be written in place: refused when it is given, or without a trace in a step."""
    good, bad = nn.Parameter(torch.zeros(4, 3)), nn.Parameter(torch.zeros(1, 3).expand(4, 3))
    good.grad, bad.grad = randn((4, 3), 0), randn((4, 3), 1)
    made = []

    def construct_and_step():
        made.append(pg.PolarGrad([good, bad], 0.1, order=order))
        made[0].step()

    with pytest.raises((ValueError, RuntimeError), match=r"number 1|memory"):
        construct_and_step()
    assert not good.any()
    states = [own for optimizer in made for own in optimizer.state.values()]
    assert not any(value.any() for own in states for value in own.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@presets
def test_half_precision_parameters_with_float32_gradients(make, dtype):
    """``grad_dtype``: the gradient is not rounded on its way into a float32 momentum."""
    p = nn.Parameter(torch.zeros(5, 4, dtype=dtype))
    p.grad_dtype = torch.float32
    q = nn.Parameter(torch.zeros(5, 4))
    optimizers = [make([p]), make([q])]
    for step in range(2):
        p.grad = randn((5, 4), step)
        q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            q.copy_(q.to(dtype))  # what a parameter of this dtype can hold
    assert torch.equal(p, q.to(dtype))
    assert p.grad.dtype == torch.float32


def test_momentum_in_bfloat16_is_stored_so_and_averaged_in_float32():
    """M ← round(βM + (1−β)G): one rounding a step, of float32 arithmetic."""
    p, m = nn.Parameter(torch.zeros(5, 4)), torch.zeros(5, 4, dtype=torch.bfloat16)
    optimizer = pg.PolarGrad([p], 1.0, momentum=0.9, state_dtype="bfloat16", method="svd")
    for step in range(4):
        before = p.detach().clone()
        p.grad = randn((5, 4), step)
        optimizer.step()
        m = torch.lerp(m.float(), p.grad, 1.0 - 0.9).bfloat16()
        buffer = optimizer.state[p]["momentum_buffer"]
        assert buffer.dtype == torch.bfloat16
        assert torch.equal(buffer, m)
        r = pg.polar(m.float(), method="svd")
        torch.testing.assert_close(before - p, r.nuclear_norm * r.U, rtol=1e-5, atol=1e-6)
