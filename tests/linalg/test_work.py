"""No wasted work: products, factorizations, solves and looks at values are those of the plan."""

import pytest
import torch
from matrices import REAL, conditioned
from torch.utils._python_dispatch import TorchDispatchMode

import polargrad as pg
from polargrad.linalg import (
    METHODS,
    QDWH,
    SVD,
    GramEigh,
    GramPolynomial,
    GramZolotarev,
    NewtonSchulz,
    PolarExpress,
    RandomizedSVD,
    Zolotarev,
    method,
    plan,
)
from polargrad.linalg.methods.outcome import Work

PRODUCTS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)}
PRODUCTS |= {"addmm_": (1, 2), "baddbmm_": (1, 2)}
FACTORIZATIONS = ("linalg_cholesky_ex", "linalg_qr", "linalg_inv_ex", "_linalg_eigh", "_linalg_svd")
SOLVES = ("linalg_solve_triangular", "cholesky_solve", "cholesky_inverse")

FIXED = [
    SVD(),
    SVD(check=False),
    SVD(reduction="qr"),
    GramEigh(),
    GramEigh(polish=0),
    QDWH(steps=3),
    QDWH.reference(),
    Zolotarev(iterations=2),
    Zolotarev(iterations=1, polish=True),
    GramZolotarev(4),
    GramZolotarev(1, polynomial=9),
    GramZolotarev(2, polynomial=3),
    GramZolotarev(1, polynomial=5),
    NewtonSchulz(),
    NewtonSchulz("cubic", steps=7),
    PolarExpress(),
    PolarExpress(4, degree=(5, 9, 9, 9), bound="schatten4"),
    GramPolynomial(),
    GramPolynomial(restarts=()),
    RandomizedSVD(3),
    RandomizedSVD(3, power_iterations=0),
]
ADAPTIVE = [name for name in METHODS if name != "randomized_svd" and method(name).adaptive]


class Counter(TorchDispatchMode):
    """Counts what torch is asked to do; what has a single column is no product of matrices."""

    def __init__(self):
        super().__init__()
        self.counts = dict.fromkeys(Work._fields, 0)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in PRODUCTS:
            left, right = (args[i] for i in PRODUCTS[name])
            self.counts["products"] += min(left.shape[-2], right.shape[-1]) > 1
        self.counts["factorizations"] += name in FACTORIZATIONS
        if name in SOLVES:
            *_, right = (a for a in args if isinstance(a, torch.Tensor))
            self.counts["solves"] += right.shape[-1] > 1
        self.counts["synchronizations"] += name == "_local_scalar_dense"
        return function(*args, **(kwargs or {}))


def counted(a, monkeypatch, **options):
    counter = Counter()
    tolist = torch.Tensor.tolist

    def look(tensor):
        counter.counts["synchronizations"] += 1
        return tolist(tensor)

    with monkeypatch.context() as patch, counter:
        patch.setattr(torch.Tensor, "tolist", look)
        pg.polar_factor(a, **options)
    return Work(**counter.counts)


def frobenius_condition(a):
    """‖A‖_F ‖A⁺‖_F."""
    sigma = torch.linalg.svdvals(a.double())
    return float(sigma.square().sum().sqrt() * sigma.pow(-2).sum().sqrt())


@pytest.mark.parametrize("description", FIXED, ids=str)
@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (20, 20), (3, 30, 12)], ids=str)
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_a_fixed_method_does_what_it_says(description, shape, dtype, monkeypatch):
    columns, rows = sorted(shape[-2:])
    expected = description.work(rows, columns, dtype, 1e3).plus(Work(synchronizations=1))
    found = counted(conditioned(shape, 5.0, dtype), monkeypatch, method=description)
    assert found == expected


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("shape", [(40, 40), (30, 30), (60, 20)], ids=str)
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("condition", [3.0, 100.0, 3e3])
def test_an_adaptive_method_does_no_more_than_it_says(name, shape, dtype, condition, monkeypatch):
    columns, rows = sorted(shape[-2:])
    a = conditioned(shape, condition, dtype)
    # What the method knows of the condition number: a bound by norms, or an estimate.
    known = frobenius_condition(a) if name == "newton" else 1.5 * condition
    most = method(name).work(rows, columns, dtype, known).plus(Work(synchronizations=1))
    found = counted(a, monkeypatch, method=name)
    assert all(did <= planned for did, planned in zip(found, most, strict=True))
    # What it may save are the corrections of the last step, and a step of a better estimate.
    assert found.factorizations >= most.factorizations - 1
    assert found.products >= most.products - 6


@pytest.mark.parametrize(
    "shape", [(48, 48), (64, 64), (90, 30), (400, 100), (20, 20), (3, 40, 20)], ids=str
)
@pytest.mark.parametrize("tol", [None, 0.11, 0.08], ids=str)
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_the_default_does_what_the_plan_says(shape, tol, dtype, monkeypatch):
    chosen = plan(shape=shape, dtype=dtype, tol=tol)
    found = counted(conditioned(shape, 20.0, dtype), monkeypatch, tol=tol)
    if chosen.method.name == "newton":
        most = chosen.work(frobenius_condition(conditioned(shape, 20.0, dtype)))
        assert all(did <= planned for did, planned in zip(found, most, strict=True))
        assert found.factorizations == most.factorizations
    else:
        assert found == chosen.work(20.0)


@pytest.mark.parametrize("description", [d for d in FIXED if not getattr(d, "check", 0)], ids=str)
def test_fixed_methods_look_at_nothing_where_they_need_not(description, monkeypatch):
    a = conditioned((3, 30, 12), 5.0, torch.float32)
    found = counted(a, monkeypatch, method=description, nonfinite="propagate")
    assert found.synchronizations == 0
