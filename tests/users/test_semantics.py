"""Defects 12 to 16 of the peers: what belongs to one matrix. See docs/peer_defects.md."""

import math

import pytest
import torch
from matrices import polar_oracle
from torch import nn

import polargrad as pg

PRESETS = {
    "polargrad": lambda ps: pg.PolarGrad(ps, lr=0.1, momentum=0.9),
    "polargrad, polar-first": lambda ps: pg.PolarGrad(
        ps, lr=0.1, momentum=0.9, order="polar-first", method="svd"
    ),
    "polargrad, qdwh": lambda ps: pg.PolarGrad(ps, lr=0.1, momentum=0.0, method="qdwh"),
    "muon": lambda ps: pg.Muon(ps, lr=0.1),
    "matrix sign": lambda ps: pg.MatrixOptimizer(ps, lr=0.1, magnitude="unit", momentum=0.9),
}
presets = pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))


@presets
def test_c12_a_batch_of_matrices_takes_the_steps_of_each_alone(run, randn, preset):
    """Norms from 1e-3 to 1e3 in one stack: a norm of the whole would be 1e6 times too large."""
    scales = [1e-3, 1.0, 1e3]
    starts = [randn((6, 4), 50 + i) for i in range(3)]
    rows = [[c * randn((6, 4), 10 * k + i) for i, c in enumerate(scales)] for k in range(3)]
    together, _ = run(preset, starts, rows)
    for index, p in enumerate(together):
        (alone,), _ = run(
            preset, starts[index : index + 1], [row[index : index + 1] for row in rows]
        )
        moved, expected = p - starts[index], alone - starts[index]
        scale = expected.abs().max().item()
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5 * scale + 1e-6)


def test_c12_the_nuclear_norm_is_that_of_each_matrix(randn):
    stack = torch.tensor([1e-3, 1.0, 1e3]).reshape(3, 1, 1) * randn((3, 6, 4))
    each = torch.linalg.svdvals(stack.double()).sum(-1)
    norm = pg.polar(stack).nuclear_norm
    torch.testing.assert_close(norm.double(), each, rtol=1e-5, atol=0)
    assert each.sum() > 1e3 * each[1]  # what a norm of the leaf would have put in its place


@presets
def test_c13_no_parameter_enters_the_step_of_another(run, randn, preset):
    """Other gradients for some, of the same shape and of others: not a bit changes elsewhere."""
    shapes = [(6, 4), (6, 4), (4, 6), (5, 5)]
    starts = [randn(s, 50 + i) for i, s in enumerate(shapes)]
    rows = [[randn(s, 10 * k + i) for i, s in enumerate(shapes)] for k in range(2)]
    changed = [[row[0], 7 * row[1], row[2], -row[3]] for row in rows]
    kept, _ = run(preset, starts, rows)
    other, _ = run(preset, starts, changed)
    assert torch.equal(kept[0], other[0])
    assert torch.equal(kept[2], other[2])
    assert not torch.equal(kept[3], other[3])
    # Flattened into one matrix of two, as the defect had it, the first would not be what it is.
    a, b = rows[0][0], changed[0][1]
    assert (polar_oracle(torch.cat([a, b], 1))[:, :4] - polar_oracle(a)).abs().max() > 0.1


def test_c13_a_convolution_is_flattened_by_itself(randn):
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    model = nn.Sequential(first, second)
    optimizer = pg.MatrixOptimizer(pg.param_groups(model), lr=1.0, magnitude="unit", method="svd")
    before = [layer.weight.detach().clone() for layer in model]
    for index, p in enumerate(model.parameters()):
        p.grad = randn(p.shape, index)
    optimizer.step()
    for layer, start in zip(model, before, strict=True):
        moved = (start - layer.weight.detach()).flatten(1).double()
        torch.testing.assert_close(
            moved, polar_oracle(layer.weight.grad.flatten(1)), atol=1e-5, rtol=0
        )


def test_c14_views_are_checked_against_what_they_cut():
    """A note "these are query, key and value" that outlives its layout is an error, no step."""
    fused = nn.MultiheadAttention(6, 2, bias=False)
    optimizer = pg.PolarGrad(pg.param_groups(fused), lr=0.1)
    for p in fused.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    # The same shapes, in which nothing is fused any more.
    plain = [nn.Parameter(torch.ones(18, 6)), nn.Parameter(torch.ones(6, 6))]
    names = optimizer.param_groups[0]["param_names"]
    other = pg.PolarGrad(list(zip(names, plain, strict=True)), lr=0.1)
    with pytest.raises(ValueError, match=r"in_proj_weight has the view .*split.*whole"):
        other.load_state_dict(optimizer.state_dict())
    # A shard of 18 rows in two: what is left does not fit its view, nor the momentum its shape.
    shard = nn.Parameter(torch.ones(10, 6))
    shard.grad = torch.ones(10, 6)
    optimizer.param_groups[0]["params"][0] = shard
    with pytest.raises((ValueError, RuntimeError), match="split"):
        optimizer.step()
    assert torch.equal(shard, torch.ones(10, 6))


def test_c15_some_of_the_experts_take_the_steps_that_they_take_among_all(run, randn):
    """A rank that holds whole experts needs no other rank; one that holds their rows would."""
    gradients = [randn((4, 6, 4), k) for k in range(2)]

    def stacked(params):
        return pg.PolarGrad(
            [{"params": params, "rule": "matrix", "views": [{"kind": "stack"}]}],
            lr=0.1,
            momentum=0.9,
            method="svd",
        )

    (every,), _ = run(stacked, [torch.zeros(4, 6, 4)], [[g] for g in gradients])
    (mine,), _ = run(stacked, [torch.zeros(2, 6, 4)], [[g[2:]] for g in gradients])
    torch.testing.assert_close(mine, every[2:], rtol=1e-6, atol=1e-6)
    rows, _ = run(stacked, [torch.zeros(4, 3, 4)], [[g[:, :3]] for g in gradients])
    assert (rows[0] - every[:, :3]).abs().max() > 0.05


@pytest.mark.parametrize(
    ("magnitude", "formula"),
    [
        ("original", lambda m, n: math.sqrt(max(1.0, m / n))),
        ("match_rms_adamw", lambda m, n: 0.2 * math.sqrt(max(m, n))),
    ],
)
@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (64, 2, 3, 3), (40, 1, 2, 2)], ids=str)
def test_c16_the_scale_of_a_convolution_is_that_of_its_logical_matrix(
    randn, magnitude, formula, shape
):
    """outputs × (inputs · taps), not taps × taps: a factor of 3 for nine taps of three inputs."""
    outputs, inputs, *taps = shape
    model = nn.Sequential(nn.Conv2d(inputs, outputs, taps, bias=False))
    optimizer = pg.MatrixOptimizer(
        pg.param_groups(model), lr=1.0, magnitude=magnitude, method="svd"
    )
    weight = model[0].weight
    before, weight.grad = weight.detach().clone(), randn(shape)
    optimizer.step()
    singular = torch.linalg.svdvals((before - weight.detach()).flatten(1).double())
    expected = formula(outputs, inputs * math.prod(taps))
    torch.testing.assert_close(singular, torch.full_like(singular, expected), rtol=1e-4, atol=0)
    if magnitude == "match_rms_adamw":
        assert expected > 1.3 * formula(*taps)
