"""Parameters of any shape: routing never crashes, never routes twice, and a step keeps shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import polargrad as pg
from polargrad.optim.routing import assign

SHAPES = st.lists(st.lists(st.integers(0, 5), max_size=6).map(tuple), max_size=4)
any_shapes = settings(deadline=None, derandomize=True, max_examples=60)


class Bare(nn.Module):
    """Parameters of its own beside one hidden layer."""

    def __init__(self, shapes):
        super().__init__()
        self.hidden = nn.Linear(3, 4)
        for index, shape in enumerate(shapes):
            self.register_parameter(f"bare{index}", nn.Parameter(torch.ones(shape)))


@any_shapes
@given(SHAPES)
def test_each_parameter_has_exactly_one_role(shapes):
    model = Bare(shapes)
    # Its width of 4 feeds no other module, so it must be told that this is no head.
    found = assign(model, {"hidden.weight": "hidden matrix"})
    assert [a.name for a in found] == [name for name, _ in model.named_parameters()]
    for a in found:
        rows_and_columns = a.parameter.ndim == 2 and min(a.parameter.shape) >= 2
        assert (a.rule == "matrix") == rows_and_columns


@pytest.mark.filterwarnings("ignore:.*taken as hidden:UserWarning")
@any_shapes
@given(SHAPES, st.sampled_from(["momentum-first", "polar-first"]))
def test_a_step_keeps_shapes_and_moves_what_has_entries(shapes, order):
    model = Bare(shapes)
    optimizer = pg.PolarGrad(
        pg.param_groups(model, vector_lr=0.1, roles={"hidden.weight": "hidden matrix"}),
        lr=0.1,
        order=order,
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        assert p.shape == before[name].shape
        assert (p < before[name]).all()


@any_shapes
@given(st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_a_bare_matrix_of_any_size(shape):
    """Given as a plain list, each matrix takes the matrix rule, an empty one too."""
    p = nn.Parameter(torch.zeros(shape))
    optimizer = pg.PolarGrad([p], lr=1.0, momentum=0.0, method="svd")
    p.grad = torch.ones(shape)
    optimizer.step()
    # Ones have one singular value √(mn), and the factor of all entries 1/√(mn).
    torch.testing.assert_close(p.detach(), -torch.ones(shape))


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 7), (3, 5000), (33, 5), (64, 64), (320, 320)], ids=str
)
@pytest.mark.parametrize("compute_dtype", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tol", [0.05, 0.11], ids=str)
def test_the_planned_method_steps_every_shape(shape, compute_dtype, tol):
    """What the planner chooses exists for every shape and precision that a group may name."""
    p = nn.Parameter(torch.zeros(shape))
    p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pg.PolarGrad([p], lr=1.0, tol=tol, compute_dtype=compute_dtype).step()
    assert p.isfinite().all()
    assert (p * p.grad).sum() < 0
