"""Parameters of any shape: routing never crashes, never routes twice, and a step keeps shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import polargrad as pg
from polargrad.optim.routing import assign
from polargrad.optim.routing.views import regions

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


DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
SIZE = st.integers(1, 5)


@st.composite
def modules(draw):
    """A module of any kind that routing knows, of any sizes, or a parameter of any shape."""
    a, b, c = draw(SIZE), draw(SIZE), draw(SIZE)
    shape = draw(st.lists(st.integers(0, 5), max_size=6).map(tuple))
    taps = [draw(SIZE) for _ in range(3)]
    return draw(
        st.sampled_from(
            [
                lambda: Bare([shape]),
                lambda: nn.Linear(a, b),
                lambda: nn.Embedding(a, b),
                lambda: nn.Bilinear(a, b, c),
                lambda: nn.Conv1d(a, b, taps[0]),
                lambda: nn.Conv2d(a, b, taps[:2]),
                lambda: nn.Conv3d(a, b, taps),
                lambda: nn.ConvTranspose2d(a, b, taps[:2]),
                lambda: nn.Conv2d(a * c, b * c, taps[:2], groups=c),
                lambda: nn.GRU(a, b),
                lambda: nn.LSTM(a, b + 1, proj_size=1),
                lambda: nn.RNNCell(a, b),
                lambda: nn.MultiheadAttention(a * b, a),
                lambda: nn.MultiheadAttention(a * b, a, kdim=c, vdim=b, add_bias_kv=True),
            ]
        )
    )


def oracle(g):
    """tr(H)·U of a matrix by float64 SVD, and the largest over the smallest singular value."""
    u, sigma, vh = torch.linalg.svd(g.double(), full_matrices=False)
    if not sigma.numel() or not sigma[0]:
        return torch.zeros_like(g, dtype=torch.float64), 1.0
    kept = sigma > sigma[0] * 1e-12
    u, vh = u[:, kept], vh[kept]
    return sigma.sum() * (u @ vh), float(sigma[0] / sigma[kept][-1])


@pytest.mark.filterwarnings("ignore:.*taken as hidden:UserWarning")
@settings(deadline=None, derandomize=True, max_examples=250)
@given(modules(), DTYPES, st.booleans(), st.sampled_from(["muon", "paper-embedding"]))
def test_every_logical_matrix_takes_the_step_of_its_own_svd(build, dtype, per_head, policy):
    """From module to step: each parameter in one group, each matrix −tr(H)·U of its gradient."""
    model = nn.ModuleList([build(), nn.Linear(3, 4)]).to(dtype)
    roles = {"1.weight": "hidden matrix"}
    found = assign(model, roles, per_head=per_head, policy=policy)
    assert sorted(id(a.parameter) for a in found) == sorted(id(p) for p in model.parameters())
    lrs = {a.role: 1.0 for a in found if a.role in ("embedding", "head")}
    groups = pg.param_groups(model, roles=roles, per_head=per_head, policy=policy, lrs=lrs)
    for group in groups[:-1]:
        group["momentum"] = 0.0
    optimizer = pg.PolarGrad(groups, lr=1.0, momentum=0.0, method="svd", vector_lr=1.0)
    generator = torch.Generator().manual_seed(0)
    shapes = [p.shape for p in model.parameters()]
    for p in model.parameters():
        p.detach().zero_()
        p.grad = torch.randn(p.shape, generator=generator).to(dtype)
    optimizer.step()
    assert [p.shape for p in model.parameters()] == shapes
    eps = torch.finfo(dtype).eps
    working = min(eps, torch.finfo(torch.float32).eps)
    for a in found:
        p = a.parameter.detach()
        if a.rule == "adamw":
            # AdamW's first step is its learning rate in every entry.
            torch.testing.assert_close(p, -a.parameter.grad.sign(), rtol=1e-2, atol=0)
            continue
        for step, g in zip(regions(a.view, p), regions(a.view, a.parameter.grad), strict=True):
            wanted, condition = oracle(g.matrix())
            error = torch.linalg.matrix_norm(step.matrix().double() + wanted) if p.numel() else 0.0
            allowed = (eps + 30 * working * condition) * torch.linalg.vector_norm(wanted)
            assert error <= allowed


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
