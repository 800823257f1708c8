"""The local executor: a function of stacks, as if each matrix had been alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import polargrad as pg
from polargrad.distributed import LocalExecutor, Source, local

SHAPES = [(3, 2), (2, 3), (3, 2), (4, 4), (3, 2), (1, 1), (4, 4)]


def matrices(shapes=SHAPES, dtype=torch.float64):
    return [
        torch.randn(shape, generator=torch.Generator().manual_seed(k)).to(dtype)
        for k, shape in enumerate(shapes)
    ]


class Counted:
    """A function of stacks that records the shape of every stack it is given."""

    def __init__(self):
        self.shapes = []

    def __call__(self, positions, stack):
        self.shapes.append(tuple(stack.shape))
        assert stack.ndim == 3
        assert len(positions) == len(stack)
        return 2 * stack.mT, stack.sum(dim=(-2, -1))


def mapped(function, given):
    """The results of each matrix, in the order in which the matrices were given."""
    results = [None] * len(given)

    def deliver(positions, outputs):
        for place, position in enumerate(positions):
            assert results[position] is None
            results[position] = tuple(output[place] for output in outputs)

    LocalExecutor().map(function, [Source.of(matrix) for matrix in given], deliver)
    return results


def check(results, given):
    """Each matrix has its own two results, in the order in which they were given."""
    assert len(results) == len(given)
    for (doubled, total), matrix in zip(results, given, strict=True):
        assert torch.equal(doubled, 2 * matrix.mT)
        torch.testing.assert_close(total, matrix.sum())


def test_equals_a_loop_in_order():
    check(mapped(Counted(), matrices()), matrices())


def test_one_call_for_each_shape():
    function = Counted()
    mapped(function, matrices())
    assert sorted(function.shapes) == [(1, 1, 1), (1, 2, 3), (2, 4, 4), (3, 3, 2)]


def test_one_call_for_each_dtype():
    given = matrices([(2, 2)] * 3) + matrices([(2, 2)] * 2, torch.float32)
    function = Counted()
    results = mapped(function, given)
    assert function.shapes == [(3, 2, 2), (2, 2, 2)]
    assert [r[0].dtype for r in results] == [torch.float64] * 3 + [torch.float32] * 2
    check(results, given)


@pytest.mark.parametrize(
    ("limit", "stacks"),
    [(1, [1] * 5), (64, [2, 2, 1]), (95, [2, 2, 1]), (96, [3, 2]), (10**9, [5])],
)
def test_a_stack_stays_below_its_limit(monkeypatch, limit, stacks):
    """2 × 2 matrices of float64 take 32 bytes; a matrix larger than the limit goes alone."""
    monkeypatch.setattr(local, "STACK_BYTES", limit)
    given, function = matrices([(2, 2)] * 5), Counted()
    check(mapped(function, given), given)
    assert [shape[0] for shape in function.shapes] == stacks


def test_the_limit_is_64_mib():
    assert local.STACK_BYTES == 64 * 1024 * 1024


def test_a_single_matrix_is_not_copied():
    given, seen = matrices([(3, 2)]), []
    mapped(lambda _, stack: (seen.append(stack.data_ptr()), (stack,))[1], given)
    assert seen == [given[0].data_ptr()]


def test_its_input_is_not_changed():
    given = matrices()
    mapped(Counted(), given)
    assert all(torch.equal(a, b) for a, b in zip(given, matrices(), strict=True))


def test_a_stack_is_delivered_before_the_next_is_read(monkeypatch):
    """What bounds the memory of a step: no more than one stack at a time."""
    monkeypatch.setattr(local, "STACK_BYTES", 64)
    events = []

    def source(number):
        def read():
            events.append("read")
            return (torch.eye(2, dtype=torch.float64),)

        return Source("all", 32, read)

    LocalExecutor().map(
        lambda positions, stack: (stack,),
        [source(number) for number in range(5)],
        lambda positions, outputs: events.append(f"delivered {len(positions)}"),
    )
    assert events == [*("read", "read", "delivered 2") * 2, "read", "delivered 1"]


def test_matrices_beside_the_first_share_its_stack():
    x, y = matrices([(2, 3), (2, 3)]), matrices([(3, 2), (3, 2)])
    seen = []
    LocalExecutor().map(
        lambda positions, a, b: (a @ b,),
        [Source.of(*pair) for pair in zip(x, y, strict=True)],
        lambda positions, outputs: seen.extend(outputs[0]),
    )
    for product, a, b in zip(seen, x, y, strict=True):
        assert torch.equal(product, a @ b)


def test_nothing_gives_nothing():
    function = Counted()
    assert mapped(function, []) == []
    assert function.shapes == []


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12), st.integers(1, 200))
def test_any_shapes_at_any_limit(shapes, limit):
    given, function = matrices(shapes), Counted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "STACK_BYTES", limit)
        check(mapped(function, given), given)
    assert sum(shape[0] for shape in function.shapes) == len(shapes)


class TestInTheOptimizer:
    """What users see of it: the number of decompositions, and that chunks change nothing."""

    @pytest.fixture
    def calls(self, monkeypatch):
        """The stacks that go to the polar decomposition."""
        from polargrad.geometry import spectral

        seen, original = [], spectral.factor_and_norm

        def spy(stack, *options, **more):
            found = original(stack, *options, **more)
            assert found is not None  # or it would go on to polar
            seen.append(tuple(stack.shape))
            return found

        monkeypatch.setattr(spectral, "factor_and_norm", spy)
        return seen

    def model(self):
        torch.manual_seed(0)
        layers = [nn.Linear(4, 6) for _ in range(5)] + [
            nn.GRU(6, 4),
            nn.Linear(6, 4),
            nn.Linear(4, 3),
        ]
        model = nn.ModuleList(layers)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        return model

    @pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
    def test_one_decomposition_for_each_logical_shape(self, calls, order):
        """Five layers; three gates twice; one layer. The head and all biases take none."""
        optimizer = pg.PolarGrad(pg.param_groups(self.model()), lr=0.1, order=order)
        optimizer.step()
        # The GRU's gates are 4 × 6 and 4 × 4, and the layer from 6 to 4 shares their stack.
        assert sorted(calls) == [(3, 4, 4), (4, 4, 6), (5, 6, 4)]

    def test_a_missing_gradient_makes_a_stack_smaller(self, calls):
        model = self.model()
        model[2].weight.grad = None
        pg.PolarGrad(pg.param_groups(model), lr=0.1).step()
        assert (4, 6, 4) in calls

    @pytest.mark.parametrize("method", ["svd", "newton_schulz", "auto"])
    def test_chunks_change_nothing_but_rounding(self, monkeypatch, method):
        results = []
        for limit in (1, 200, 10**9):
            monkeypatch.setattr(local, "STACK_BYTES", limit)
            model = self.model().double()
            for p in model.parameters():
                p.grad = torch.ones_like(p).cumsum(0).cos()
            pg.PolarGrad(pg.param_groups(model), lr=0.1, method=method).step()
            results.append([p.detach() for p in model.parameters()])
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_works_without_a_process_group():
    assert not torch.distributed.is_initialized()
    w = nn.Parameter(torch.eye(3))
    w.grad = torch.eye(3)
    pg.PolarGrad([w], lr=0.1).step()
    assert not torch.distributed.is_initialized()
