"""A whole step under torch.compile: the same bits as without, state and skipped steps included.

``backend="eager"`` runs what was traced by torch's own kernels: what is tested is the tracing.
"""

import pytest
import torch
import torch._dynamo
from torch import nn

import polargrad as pg

SHAPES = [(5, 4), (5, 4)]


def randn(shape, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


CASES = {
    "PolarGrad with vectors, an lr in a tensor": (
        lambda ps: pg.PolarGrad(ps, torch.tensor(0.05), weight_decay=0.1, vector_lr=0.01),
        torch.float32,
        True,
    ),
    "PolarGrad, polar-first, bfloat16": (
        lambda ps: pg.PolarGrad(ps, 0.05, order="polar-first", nesterov=True),
        torch.bfloat16,
        False,
    ),
}


def set_gradients(params, step):
    for i, p in enumerate(params):
        p.grad = randn(p.shape, 100 * step + i, p.dtype)


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def started(make, dtype=torch.float32, vectors=False):
    shapes = [*SHAPES, (3,)] if vectors else SHAPES
    params = [nn.Parameter(randn(s, i, dtype)) for i, s in enumerate(shapes)]
    return params, make(params)


@pytest.mark.filterwarnings("ignore")  # torch's own, about what it does not trace
@pytest.mark.parametrize("name", CASES)
def test_a_compiled_step_is_the_step(name):
    """Four steps, the third with a gradient that is not finite."""
    make, dtype, vectors = CASES[name]
    params, optimizer = started(make, dtype, vectors)
    traced, other = started(make, dtype, vectors)
    compiled = torch.compile(other.step, backend="eager")
    for step in range(4):
        for held, take in ((params, optimizer.step), (traced, compiled)):
            set_gradients(held, step)
            if step == 2:
                held[1].grad[0, 0] = float("nan")
            take()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert optimizer.skipped_steps == other.skipped_steps == 1
    for p, q in zip(params[: len(SHAPES)], traced, strict=False):
        assert torch.equal(p, q)
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, other.state[q][key])
    for p, q in zip(params[len(SHAPES) :], traced[len(SHAPES) :], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore")
def test_a_step_of_matrices_is_one_graph():
    """No break: what a geometry and a method are is known before the step is traced."""
    params, optimizer = started(lambda ps: pg.Muon(ps, 0.05))
    set_gradients(params, 0)
    optimizer.step()  # makes the state, and chooses the methods
    compiled = torch.compile(optimizer.step, backend="eager")
    for step in range(1, 3):
        set_gradients(params, step)
        compiled()
    counters = torch._dynamo.utils.counters
    assert dict(counters["graph_break"]) == {}
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("vectors", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("eager_first", [pytest.param(False, marks=pytest.mark.slow), True])
def test_it_is_compiled_once_whatever_becomes_of_the_gradients(vectors, eager_first):
    """A training loop frees its gradients: that must not make torch.compile begin anew."""
    params, optimizer = started(
        lambda ps: pg.PolarGrad(ps, torch.tensor(0.01), vector_lr=torch.tensor(1e-3)),
        vectors=vectors,
    )
    graphs = []
    compiled = torch.compile(optimizer.step, backend=lambda module, _: graphs.append(1) or module)
    counts = []
    for step in range(6):
        optimizer.zero_grad()
        sum((p * randn(p.shape, step)).sum() for p in params).backward()
        (optimizer.step if eager_first and step == 0 else compiled)()
        counts.append(len(graphs))
    assert counts[-1] == counts[2] <= 2
    assert dict(torch._dynamo.utils.counters["graph_break"]) == {}
