"""Every entry of the table of methods against what the optimizer that it names does."""

import inspect
import math
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from polargrad import optim
from polargrad.geometry import GEOMETRIES, GivenHessian, taxonomy
from polargrad.geometry import geometry as geometry_of
from polargrad.geometry.preconditioner import Preconditioner
from polargrad.geometry.taxonomy import METHODS, Entry

PAGE = Path(__file__).parents[2] / "docs/methods.md"
BEGIN, END = "<!-- methods: begin -->\n", "<!-- methods: end -->"
SHAPE = (6, 4)
# The first eigenbases of SOAP are not unique where a gradient has a null space.
SQUARE = (5, 5)
STEPS = 5
ENTRIES = pytest.mark.parametrize("entry", METHODS, ids=lambda e: e.name)

# Of the groups of the table, which each one contains.
CONTAINS = {
    "orthogonal on entries": {
        "orthogonal on entries",
        "signed permutations of entries",
        "orthogonal × orthogonal",
        "permutation × orthogonal",
        "orthogonal × permutation",
    },
    "signed permutations of entries": {"signed permutations of entries"},
    "orthogonal × orthogonal": {
        "orthogonal × orthogonal",
        "permutation × orthogonal",
        "orthogonal × permutation",
    },
    "permutation × orthogonal": {"permutation × orthogonal"},
    "orthogonal × permutation": {"orthogonal × permutation"},
    "identity": set(),
}


def gaussian(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def shape_of(entry):
    return SQUARE if entry.geometry == "rotated_diagonal" else SHAPE


def history(entry, seed=0):
    """Gradients with nothing special about them: the scales of rows and columns differ."""
    m, n = shape_of(entry)
    rows, columns = torch.logspace(0, 0.6, m).double(), torch.logspace(0, -0.5, n).double()
    return [rows[:, None] * gaussian(m, n, seed=10 * seed + k) * columns for k in range(STEPS)]


def hessian(shape):
    """The Hessian AXB of a 6 × 4 parameter, on it or on the vector of its entries."""
    A, B = (r @ r.mT for r in (gaussian(n, n + 2, seed=90 + n) for n in SHAPE))
    factors = (A, B) if shape == SHAPE else (torch.kron(A, B), torch.eye(1))
    return GivenHessian(*factors)


# They need no polar factor, or have a method of their own.
WITHOUT_METHOD = {
    *("GradientDescent", "SignSGD", "RowNorm", "ColumnNorm", "Shampoo", "SOAP"),
    *("SSD", "OneSidedPolarGrad"),
}


def build(entry, parameter, eps=0.0):
    """The optimizer of an entry as theory has it: exact factors, no eps, no decay."""
    preset = getattr(optim, entry.preset)
    options = {**entry.options, "weight_decay": 0.0, "lr": 1.0}
    if entry.preset not in WITHOUT_METHOD:
        options["method"] = "svd"
    if entry.geometry == "given_hessian":
        options["geometry"] = hessian(tuple(parameter.shape))
    optimizer = preset([parameter], **options)
    for name, value in (("eps", eps), ("refresh", 1)):
        if name in optimizer.param_groups[0]["geometry"]:
            optimizer.param_groups[0]["geometry"][name] = value
    return optimizer


def steps(entry, gradients, eps=0.0):
    """What each step subtracts from the parameter, along a history that begins at zero state."""
    parameter = torch.nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = build(entry, parameter, eps)
    taken = []
    for gradient in gradients:
        before = parameter.detach().clone()
        parameter.grad = gradient.clone()
        optimizer.step()
        taken.append(before - parameter.detach())
    return taken


def same(x, y):
    """Equal to rounding, relative to the whole matrix."""
    return bool((x - y).norm() <= 1e-8 * y.norm())


def measured_degree(entry):
    """a with u(c·history) = cᵃ u(history) for both c; NaN where there is none."""
    unit = steps(entry, history(entry))[-1]
    degrees = set()
    for c in (1e-3, 1e3):
        step = steps(entry, [c * g for g in history(entry)])[-1]
        degree = round(math.log(step.norm() / unit.norm()) / math.log(c), 6)
        degrees.add(degree if same(step, c**degree * unit) else math.nan)
    return degrees.pop() + 0.0 if len(degrees) == 1 else math.nan


def measured_consistency(entry):
    """Whether gradients of almost nothing make steps of almost nothing."""
    tiny = steps(entry, [1e-8 * g for g in history(entry)])[-1].norm()
    return bool(tiny < 1e-3 * steps(entry, history(entry))[-1].norm())


def condition(x):
    """Largest over smallest nonzero singular value."""
    sigma = torch.linalg.svdvals(x)
    return (sigma[0] / sigma[sigma > 1e-9 * sigma[0]][-1]).item()


def measured_condition(entry):
    """1 if every step of two histories has it, else None: the only bound that a rule here has."""
    taken = [u for seed in (0, 1) for u in steps(entry, history(entry, seed)) if u.any()]
    worst = max(map(condition, taken))
    return 1.0 if worst <= 1 + 1e-8 else None


def orthogonal(n, seed):
    return torch.linalg.qr(gaussian(n, n, seed=seed)).Q


def signed_permutation(n, seed):
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (n, 1), generator=generator).double() * 2 - 1
    return signs * torch.eye(n, dtype=torch.float64)[torch.randperm(n, generator=generator)]


def element(group, shape, seed):
    """A random element of a group, as a function of a matrix."""
    (m, n), turn, permute = shape, orthogonal, signed_permutation
    if group in ("orthogonal on entries", "signed permutations of entries"):
        kind = turn if group.startswith("orthogonal") else permute
        P = kind(m * n, seed)
        return lambda x: (P @ x.reshape(-1)).reshape(x.shape)
    left, right = (turn if word == "orthogonal" else permute for word in group.split(" × "))
    P, Q = left(m, seed), right(n, seed + 1)
    return lambda x: P @ x @ Q.mT


def measured_equivariance(entry):
    """The group of the table of which exactly the contained ones commute with the last step."""
    plain = steps(entry, history(entry))[-1]
    commuting = set()
    for group in CONTAINS["orthogonal on entries"]:
        apply = [element(group, shape_of(entry), seed) for seed in (3, 5)]
        if all(same(steps(entry, [f(g) for g in history(entry)])[-1], f(plain)) for f in apply):
            commuting.add(group)
    return next((name for name, inside in CONTAINS.items() if inside == commuting), str(commuting))


def measured_view(entry):
    """Vector if the arrangement of the entries as a matrix makes no difference."""
    plain = steps(entry, history(entry))[-1]
    column = steps(entry, [g.reshape(-1, 1) for g in history(entry)])[-1].reshape(plain.shape)
    return "vector" if same(column, plain) else "matrix"


def group_of(entry):
    return build(entry, torch.nn.Parameter(torch.zeros(SHAPE, dtype=torch.float64))).param_groups[0]


def measured_preconditioner(entry):
    """Explicit if the geometry is one of a P that is inverted."""
    form = geometry_of(group_of(entry)["geometry"])
    if isinstance(form, Preconditioner):
        return "explicit"
    return "none" if form.name == "frobenius" else "implicit"


def measured_anisotropy(entry):
    """Of the gradient, if where that stays the same singular values, rows or columns are equal.

    SOAP needs its eps here: a constant gradient has entries in its eigenbases that are rounding.
    """
    last = steps(entry, history(entry)[:1] * 3, eps=1e-8)[-1]
    sizes = [torch.linalg.svdvals(last), last.norm(dim=0), last.norm(dim=1)]
    sizes[0] = sizes[0][sizes[0] > 1e-9 * sizes[0][0]]
    equal = any(x.max() <= x.min() * (1 + 1e-6) for x in sizes)
    gradient = measured_view(entry) == "matrix" and equal
    curvature = measured_preconditioner(entry) == "explicit"
    if gradient and curvature:
        return "both"
    return "gradient" if gradient else "curvature" if curvature else "none"


def measured_signal(entry):
    group = group_of(entry)
    if not group["momentum"]:
        return "gradient"
    after = {"polar-first": "momentum of directions", "polyak": "momentum of steps"}
    return after.get(group["order"], "Nesterov momentum" if group["nesterov"] else "momentum")


MEASURED = {
    "view": measured_view,
    "anisotropy": measured_anisotropy,
    "preconditioner": measured_preconditioner,
    "null_gradient_consistent": measured_consistency,
    "scale_degree": measured_degree,
    "equivariance": measured_equivariance,
    "condition_number": measured_condition,
    "geometry": lambda entry: group_of(entry)["geometry"]["name"],
    "magnitude": lambda entry: group_of(entry)["magnitude"],
    "signal": measured_signal,
}


def disagreements(entry):
    """What the code does otherwise than the entry says, by field."""
    measured = {name: measure(entry) for name, measure in MEASURED.items()}
    return {name: value for name, value in measured.items() if value != getattr(entry, name)}


@ENTRIES
def test_the_code_does_what_the_entry_says(entry):
    assert disagreements(entry) == {}


def named(name):
    return next(entry for entry in METHODS if entry.name == name)


WRONG = {
    "view": "vector",
    "anisotropy": "both",
    "preconditioner": "explicit",
    "null_gradient_consistent": False,
    "scale_degree": 0.0,
    "equivariance": "permutation × orthogonal",
    "condition_number": None,
    "geometry": "largest_row",
    "magnitude": "unit",
    "signal": "Nesterov momentum",
}


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_claim_is_found(field):
    """The table of errors above covers every field that is measured, and each is caught alone."""
    right = named("PolarGradM, momentum-first")
    wrong = replace(right, **{field: WRONG[field]})
    assert disagreements(wrong) == {field: getattr(right, field)}


def test_every_field_is_measured_or_text():
    text = {"name", "rule", "source", "preset", "options"}
    assert set(MEASURED) | text == {field.name for field in fields(Entry)}
    assert set(WRONG) == set(MEASURED)


def test_a_wrong_preset_is_found():
    """PolarGrad's entry with the optimizer that leaves the nuclear norm out."""
    wrong = replace(named("PolarGrad"), preset="MatrixSignDescent", options={})
    assert set(disagreements(wrong)) == {"null_gradient_consistent", "scale_degree", "magnitude"}


def test_adam_is_not_null_gradient_consistent_and_may_raise_the_condition_number():
    """The paper's remark on Adam; a gradient of condition number 1 has an update far from it."""
    entry = named("Adam")
    U = orthogonal(6, 1)[:, :4]
    assert not entry.null_gradient_consistent
    assert condition(U) < 1 + 1e-12 < 2 < condition(steps(entry, [U])[0])


def test_polar_grad_of_a_singular_gradient_steps_in_its_range_alone():
    """κ over the *nonzero* singular values: the convention of the column."""
    G = gaussian(6, 2, seed=1) @ gaussian(2, 4, seed=2)
    step = steps(named("PolarGrad"), [G])[0]
    assert torch.linalg.matrix_rank(step) == 2
    assert condition(step) < 1 + 1e-8


class TestTable:
    """The data and its renderings."""

    def test_every_preset_and_every_geometry_is_in_it(self):
        presets = {
            name
            for name in optim.__all__
            if inspect.isclass(getattr(optim, name))
            and issubclass(getattr(optim, name), optim.MatrixOptimizer)
        }
        assert presets == {entry.preset for entry in METHODS}
        # A centred geometry is an option of others.
        assert set(GEOMETRIES) - {"centred"} == {entry.geometry for entry in METHODS}

    def test_explicit_are_those_with_a_preconditioner(self):
        kinds = {name for name, kind in GEOMETRIES.items() if issubclass(kind, Preconditioner)}
        assert kinds == set(taxonomy.EXPLICIT)
        for entry in METHODS:
            assert (entry.preconditioner == "explicit") == (entry.geometry in taxonomy.EXPLICIT)

    def test_names_are_unique_and_groups_are_known(self):
        assert len({entry.name for entry in METHODS}) == len(METHODS)
        assert set(CONTAINS) == set(taxonomy.GROUPS)
        assert {entry.equivariance for entry in METHODS} == set(taxonomy.GROUPS)

    @ENTRIES
    def test_no_consistent_method_has_degree_zero(self, entry):
        assert entry.null_gradient_consistent == (entry.scale_degree > 0)

    @ENTRIES
    def test_the_call_is_code(self, entry):
        assert re.fullmatch(rf"{entry.preset}\(.*\)", entry.call)
        arguments = eval(f"dict{entry.call.removeprefix(entry.preset)}")
        assert arguments == entry.options

    def test_the_page_holds_it(self):
        text = PAGE.read_text(encoding="utf-8")
        held = text.partition(BEGIN)[2].partition(END)[0]
        current = taxonomy.as_markdown()
        assert held == f"\n{current}\n\n", f"put this between the markers:\n\n{current}\n"

    def test_a_bar_in_a_cell_does_not_end_it(self):
        odd = replace(METHODS[0], rule="X ← X − γ |G|")
        header, _, row = taxonomy.as_markdown([odd]).split("\n\n")[1].splitlines()
        assert "\\|G\\|" in row
        assert len(re.split(r"(?<!\\)\|", row)) == len(header.split("|"))
