"""Defects 1 to 11 of the peers: who steps which parameter. See docs/peer_defects.md."""

import itertools

import pytest
import torch
from matrices import polar_oracle
from torch import nn
from torch.nn.utils import parametrizations

import polargrad as pg


class Language(nn.Module):
    """Embedding, hidden layer, head; the attributes may have any names and any order."""

    def __init__(self, names=("tokens", "hidden", "head"), order=(0, 1, 2)):
        super().__init__()
        layers = (nn.Embedding(10, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 10, bias=False))
        for index in order:
            self.add_module(names[index], layers[index])
        self.path = names

    def forward(self, x):
        for name in self.path:
            x = getattr(self, name)(x)
        return x


def rules(model, **options):
    """The rule of each parameter by its identity, from the groups that an optimizer gets."""
    groups = pg.param_groups(model, **options)
    return {id(p): group["rule"] for group in groups for _, p in group["params"]}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("names", [("tokens", "hidden", "head"), ("c", "a", "b")], ids=str)
def test_c01_embedding_and_head_never_take_the_matrix_rule(names, order):
    """Neither by a test of dimensions nor by names: AdamW's first step is its lr in every entry."""
    torch.manual_seed(0)
    model = Language(names, order)
    tokens, hidden, head = (getattr(model, name).weight for name in names)
    optimizer = pg.PolarGrad(pg.param_groups(model, vector_lr=0.01), lr=0.1, method="svd")
    before = {p: p.detach().clone() for p in (tokens, hidden, head)}
    model(torch.tensor([0, 3])).square().sum().backward()
    optimizer.step()
    for p in (tokens, head):
        moved = (p.detach() - before[p])[p.grad != 0].abs()
        torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=0)
    step = (hidden.detach() - before[hidden]).double()
    expected = -0.1 * 0.05 * torch.linalg.svdvals(hidden.grad.double()).sum()
    torch.testing.assert_close(step, expected * polar_oracle(hidden.grad, 1e-6), rtol=0, atol=1e-5)
    # The usual rule would have taken all three.
    assert [p.ndim for p in (tokens, hidden, head)] == [2, 2, 2]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("tie", ["embedding to head", "head to embedding", "storage"])
def test_c02_a_tied_weight_has_one_rule_and_one_state(order, tie):
    model = Language(order=order)
    if tie == "embedding to head":
        model.head.weight = model.tokens.weight
    elif tie == "head to embedding":
        model.tokens.weight = model.head.weight
    else:  # two parameters on one storage, as after materialising a model piece by piece
        model.head.weight = nn.Parameter(model.tokens.weight.data)
    found = rules(model)
    assert found[id(model.tokens.weight)] == found[id(model.head.weight)] == "adamw"
    assert found[id(model.hidden.weight)] == "matrix"
    assert {row.role for row in pg.explain(model).rows} == {"hidden matrix", "tied embedding"}
    optimizer = pg.PolarGrad(pg.param_groups(model), lr=0.1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    # No state of a parameter that nobody steps, none without its parameter.
    members = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in optimizer.state} == members == {id(p) for p in model.parameters()}


def test_c03_zero_is_a_value_and_not_a_missing_one(run, randn):
    """``value or default`` would put 1e-3, 0.1 and 0.95 in the place of each zero."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    before = [p.detach().clone() for p in model.parameters()]
    groups = pg.param_groups(model, vector_lr=0.0, vector_weight_decay=0.0)
    optimizer = pg.Muon(groups, lr=0.0, vector_lr=0.5, vector_weight_decay=0.5)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))

    # Muon's default decay is 0.1, its default momentum 0.95.
    start = [randn((3, 3))]
    (p,), _ = run(lambda ps: pg.Muon(ps, lr=0.5, weight_decay=0.0), start, [[torch.zeros(3, 3)]])
    assert torch.equal(p, start[0])
    rows = [[randn((3, 3), 1)], [randn((3, 3), 2)]]
    (p,), optimizer = run(lambda ps: pg.PolarGrad(ps, lr=0.5, momentum=0.0), start, rows)
    (alone,), _ = run(lambda ps: pg.PolarGrad(ps, lr=0.5, momentum=0.0), start, rows[1:])
    (first,), _ = run(lambda ps: pg.PolarGrad(ps, lr=0.5, momentum=0.0), start, rows[:1])
    torch.testing.assert_close(p - first, alone - start[0])
    assert not optimizer.state.get(p)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pg.PolarGrad([{"params": [], "rule": "matrix"}], lr=0.1), "no matrix among 0"),
        (
            lambda: pg.PolarGrad([nn.Parameter(torch.ones(12))], lr=0.1, vector_lr=0.1),
            "no matrix among 1",
        ),
        (lambda: pg.Muon(pg.param_groups(nn.LayerNorm(4))), "no hidden matrix among its 2"),
        (lambda: pg.param_groups(flattened(nn.Linear(3, 4))), "no hidden matrix among its 2"),
    ],
    ids=["empty group", "vector alone", "norm alone", "flattened"],
)
def test_c04_no_matrix_at_all_is_an_error(make, message):
    """A run in which the matrix rule steps nothing looks like any other run."""
    with pytest.raises(ValueError, match=message):
        make()
    torch.optim.Muon([{"params": []}])  # torch's takes it in silence


def flattened(layer):
    """A linear layer whose weight a sharding has made one-dimensional."""
    layer.weight = nn.Parameter(layer.weight.detach().flatten())
    return layer


@pytest.mark.parametrize(
    ("roles", "pattern"),
    [
        ({"block.*": "head"}, r"block\.\*"),
        ({"0.weight": "head", "0.wieght": "head"}, r"0\.wieght"),
        ({"*.weight": "hidden matrix", "0.weight": "head"}, r"0\.weight"),
    ],
    ids=["nothing", "a typing error", "taken by an earlier one"],
)
def test_c05_a_pattern_that_decides_nothing_is_an_error(roles, pattern):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    for call in (pg.param_groups, pg.explain):
        with pytest.raises(ValueError, match=f"'{pattern}' matches no trainable parameter"):
            call(model, roles=roles)


def test_c06_parameters_without_names(randn, through_a_file):
    """Steps, table, messages and checkpoints do without them."""
    params = [nn.Parameter(randn((4, 3))), nn.Parameter(randn((3,)))]
    optimizer = pg.PolarGrad(params, lr=0.1, vector_lr=0.1)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    rows = pg.explain(optimizer).rows
    assert [row.name for row in rows] == ["group 0, parameter 0", "group 1, parameter 0"]
    optimizer.load_state_dict(through_a_file(optimizer.state_dict()))
    with pytest.raises(ValueError, match=r"parameter number 1 of shape \(3,\)"):
        pg.PolarGrad(params, lr=0.1)

    class Bare(nn.Module):
        """Parameters that no layer holds: one of the model itself, two in a list."""

        def __init__(self):
            super().__init__()
            self.own = nn.Parameter(randn((4, 4)))
            self.listed = nn.ParameterList([randn((3, 3)), randn((3,))])

    with pytest.warns(UserWarning, match="taken as hidden matrices"):
        matrices, vectors = pg.param_groups(Bare())
    assert [name for name, _ in matrices["params"]] == ["own", "listed.0"]
    assert [name for name, _ in vectors["params"]] == ["listed.1"]


class Image(nn.Module):
    """Convolutions of one to three dimensions, a (C, 1, 1) scale, a row and a column."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv1d(3, 8, 5)
        self.two = nn.Conv2d(8, 6, 3)
        self.three = nn.Conv3d(6, 4, (2, 3, 1))
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.row = nn.Linear(4, 1)
        self.column = nn.Linear(1, 4)
        self.head = nn.Linear(4, 7)


def test_c07_convolutions_scales_rows_and_columns(randn):
    """Each convolution takes the polar factor of outputs × (inputs · taps), the rest AdamW."""
    model = Image()
    optimizer = pg.PolarGrad(
        pg.param_groups(model, vector_lr=0.01), lr=1.0, momentum=0.0, method="svd"
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for index, p in enumerate(model.parameters()):
        p.grad = randn(p.shape, index)
    optimizer.step()
    for name, p in model.named_parameters():
        moved = before[name] - p.detach()
        assert moved.shape == p.shape
        if name in ("one.weight", "two.weight", "three.weight"):
            flat = p.grad.flatten(1).double()
            expected = torch.linalg.svdvals(flat).sum() * polar_oracle(flat)
            torch.testing.assert_close(moved.flatten(1).double(), expected, rtol=1e-5, atol=1e-4)
        else:
            torch.testing.assert_close(moved.abs(), torch.full_like(p, 0.01), rtol=1e-3, atol=0)
    with pytest.raises(ValueError, match="2D"):
        torch.optim.Muon([model.one.weight])


class Experts(nn.Module):
    """A mixture of experts that keeps them stacked, with biases that are stacked too."""

    def __init__(self, experts=3, inputs=4, outputs=6):
        super().__init__()
        self.up = nn.Parameter(torch.zeros(experts, outputs, inputs))
        self.up_bias = nn.Parameter(torch.zeros(experts, outputs))


@pytest.mark.parametrize("kind", ["stack", "experts"])
@pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
def test_c08_stacked_experts_take_the_steps_of_separate_matrices(run, randn, kind, order):
    """The wrong axis, or the norm of the whole, is another step altogether."""
    scales = torch.tensor([1.0, 100.0, 0.0]).reshape(3, 1, 1)  # the last has seen no token
    rows = [scales * randn((3, 6, 4), step) for step in range(3)]
    options = {"lr": 0.1, "momentum": 0.9, "order": order, "method": "svd"}

    def stacked(params):
        group = {"params": params, "rule": "matrix", "views": [{"kind": kind}]}
        return pg.PolarGrad([group], **options)

    (one,), _ = run(stacked, [torch.ones(3, 6, 4)], [[g] for g in rows])
    apart, _ = run(
        lambda ps: pg.PolarGrad(ps, **options),
        [torch.ones(6, 4)] * 3,
        [list(g.unbind(0)) for g in rows],
    )
    torch.testing.assert_close(one, torch.stack(apart), rtol=1e-6, atol=1e-6)
    assert torch.equal(one[2], torch.ones(6, 4))
    joint, _ = run(  # the same entries, taken as one matrix
        lambda ps: pg.PolarGrad(ps, **options),
        [torch.ones(18, 4)],
        [[g.reshape(18, 4)] for g in rows],
    )
    assert (joint[0].reshape(3, 6, 4) - one)[0].abs().max() > 0.3 * (one[0] - 1).abs().max()


def test_c08_stacked_biases_are_vectors():
    """(experts, outputs) looks like a matrix; its rows are the biases of different matrices."""
    model = nn.ModuleDict({"experts": Experts(), "trunk": nn.Linear(6, 4), "out": nn.Linear(4, 4)})
    assert rules(model)[id(model["experts"].up_bias)] == "adamw"


def test_c09_every_trainable_parameter_is_in_exactly_one_group():
    model = nn.ModuleDict(
        {
            "language": Language(),
            "image": Image(),
            "attention": nn.MultiheadAttention(4, 2),
            "recurrent": nn.LSTM(4, 6, num_layers=2, proj_size=3),
            "normed": parametrizations.weight_norm(nn.Linear(4, 6)),
            "frozen": nn.Linear(4, 4).requires_grad_(False),
            "bilinear": nn.Bilinear(4, 4, 4),
            "list": nn.ParameterList([torch.ones(()), torch.ones(2)]),
        }
    )
    model["language"].head.weight = model["language"].tokens.weight
    groups = pg.param_groups(model)
    grouped = [id(p) for group in groups for _, p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}
    optimizer = pg.PolarGrad(groups, lr=0.1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != p.requires_grad, name


@pytest.mark.parametrize("shape", [(2, 3, 4), (3,), ()], ids=str)
def test_c10_a_late_group_is_checked_when_it_is_added(shape):
    first, late = nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(shape))
    optimizer = pg.PolarGrad([first], lr=0.1)
    with pytest.raises(ValueError, match=r"parameter number 0 of shape \(.*is not a matrix"):
        optimizer.add_param_group({"params": [late]})
    assert len(optimizer.param_groups) == 1
    peer = torch.optim.Muon([first])
    peer.add_param_group({"params": [late]})  # only a step would find out
    late.grad = torch.ones_like(late)
    with pytest.raises((ValueError, IndexError, RuntimeError)):
        peer.step()


@pytest.mark.parametrize("foreach", [False, None])
def test_c11_the_fallback_is_adamw_to_the_bit(randn, foreach):
    """Embedding and head follow torch's AdamW with the options given, and no other.

    To the bit where both loop over parameters; by default to the rounding of another kernel.
    """
    torch.manual_seed(0)
    ours, theirs = Language(), Language()
    theirs.load_state_dict(ours.state_dict())
    betas, eps, decay = (0.8, 0.95), 1e-6, 0.25
    groups = pg.param_groups(
        ours, vector_lr=0.02, vector_betas=betas, vector_eps=eps, vector_weight_decay=decay
    )
    optimizer = pg.Muon(groups, lr=0.5, foreach=foreach)
    others = [theirs.tokens.weight, theirs.head.weight]
    peer = torch.optim.AdamW(
        others, lr=0.02, betas=betas, eps=eps, weight_decay=decay, foreach=False
    )
    for step in range(4):
        for one in (ours, theirs):
            for index, p in enumerate(one.parameters()):
                p.grad = randn(p.shape, 10 * step + index)
        optimizer.step()
        peer.step()
    for p, q in (
        (ours.tokens.weight, theirs.tokens.weight),
        (ours.head.weight, theirs.head.weight),
    ):
        if foreach is False:
            assert torch.equal(p, q)
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert [group["rule"] for group in optimizer.param_groups] == ["matrix", "adamw"]
