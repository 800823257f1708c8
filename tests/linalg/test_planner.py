"""The planner: what it promises, and that it depends on nothing but its arguments."""

import json

import pytest
import torch
from matrices import REAL, conditioned

from polargrad.errors import ToleranceError
from polargrad.linalg import (
    QDWH,
    SVD,
    GramEigh,
    GramZolotarev,
    MixedQDWH,
    Newton,
    PolarExpress,
    load_plan_table,
    plain,
    plan,
    polar_factor,
)

SHAPES = [(1, 1), (7, 3), (64, 64), (100, 500), (300, 300), (256, 256), (600, 600), (3072, 768)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [*REAL, torch.complex64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tol", [0.05, 0.07, 0.11, 0.2, 0.9])
def test_training_tolerances_are_kept_by_promise(shape, dtype, tol):
    chosen = plan(shape=shape, dtype=dtype, tol=tol)
    assert chosen.promised <= tol
    assert chosen.method.promise(max(shape), min(shape), chosen.dtype).deviation <= tol
    assert chosen.down_to <= 1e-3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [*REAL, torch.complex64, torch.complex128, torch.half], ids=str)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("tol", [None, 1e-3, 0.049])
def test_finer_tolerances_are_converged(shape, dtype, device, tol):
    chosen = plan(shape=shape, dtype=dtype, device=device, tol=tol)
    assert chosen.method.converged
    assert chosen.promised <= 1e-4


def small(*degrees):
    """Products alone, within the training tolerance."""
    return PolarExpress(len(degrees), degree=degrees, bound="schatten4", cushion=0.0)


@pytest.mark.parametrize(
    ("shape", "dtype", "tol", "method"),
    [
        ((20000, 64), torch.float32, None, GramEigh(polish=None)),
        ((64, 20000), torch.float32, None, GramEigh(polish=None)),
        ((64, 64), torch.float32, None, Newton()),
        ((97, 97), torch.float32, None, GramEigh(polish=None)),
        ((223, 223), torch.float32, None, GramEigh(polish=None)),
        ((224, 224), torch.float32, None, Newton()),
        ((1024, 1024), torch.float32, None, Newton()),
        ((1025, 1025), torch.float32, None, MixedQDWH()),
        ((300, 301), torch.float32, None, GramEigh(polish=None)),
        ((500, 501), torch.float32, None, MixedQDWH()),
        ((256, 256), torch.float64, None, Newton()),
        ((1024, 1024), torch.float64, None, SVD()),
        ((400, 400), torch.float64, None, SVD()),
        ((4000, 100), torch.float64, None, SVD(reduction="qr")),
        ((3072, 768), torch.float32, 0.11, GramZolotarev(1, polynomial=9)),
        ((768, 3072), torch.float32, 0.08, GramZolotarev(2, polynomial=3)),
        ((64, 64), torch.float32, 0.06, GramZolotarev(2, polynomial=5)),
        ((500, 100), torch.float32, 0.11, GramZolotarev(1, polynomial=9)),
        ((9, 9), torch.float64, 0.11, small(3, 5, 5, 5, 9)),
        ((225, 225), torch.float32, 0.11, small(3, 5, 5, 5, 9)),
        ((64, 256), torch.float32, 0.08, small(5, 9, 9, 9)),
        ((226, 226), torch.float32, 0.11, GramZolotarev(1, polynomial=9)),
        ((64, 257), torch.float32, 0.11, GramZolotarev(1, polynomial=9)),
        ((500, 8), torch.float32, 0.11, GramEigh(polish=0)),
        ((250, 5), torch.float64, 0.05, GramEigh(polish=0)),
    ],
    ids=str,
)
def test_decisions(shape, dtype, tol, method):
    assert plan(shape=shape, dtype=dtype, tol=tol).method == method
    assert plan(
        torch.zeros(2, *shape, dtype=dtype, device="meta"), tol=tol, device="cpu"
    ).method == (method)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tol", [0.05, 0.11, 0.5])
def test_half_precision_by_name_is_planned_without_its_rounding(dtype, tol):
    chosen = plan(shape=(64, 64), dtype=torch.float32, compute_dtype=dtype, tol=tol)
    assert isinstance(chosen.method, PolarExpress)
    assert chosen.method.degree == 5
    assert chosen.promised == chosen.method.deviation <= tol
    a = conditioned((64, 64), 10.0, torch.float32)
    out = torch.linalg.svdvals(polar_factor(a, tol=tol, compute_dtype=dtype).double())
    assert (out - 1).abs().max() <= tol + 0.1


def test_elsewhere_than_on_a_cpu():
    assert plan(shape=(9, 9), dtype=torch.float32, device="cuda").method == QDWH()
    training = plan(shape=(900, 900), dtype=torch.float32, device="cuda", tol=0.11).method
    assert isinstance(training, PolarExpress)


def test_the_number_of_matrices_does_not_matter():
    for shape in SHAPES:
        for tol in (None, 0.11):
            one = plan(torch.empty(shape), tol=tol)
            assert plan(torch.empty(5, *shape, device="meta"), tol=tol, device="cpu") == one


@pytest.mark.parametrize("tol", [0.0, -0.1, 1.0, 2.0, float("nan")])
def test_tolerances_outside_the_unit_interval_are_refused(tol):
    with pytest.raises(ValueError, match=rf"tol must be None or in \(0, 1\), got {tol}"):
        plan(shape=(3, 3), tol=tol, dtype=torch.float32)


def test_tolerances_below_the_dtype_are_refused():
    with pytest.raises(ToleranceError, match=r"tol must be at least .*float32, got 1e-09"):
        plan(shape=(3, 3), tol=1e-9, dtype=torch.float32)
    assert plan(shape=(3, 3), tol=1e-9, dtype=torch.float64).promised <= 1e-9


@pytest.mark.parametrize("missing", [{"shape": (3, 3)}, {"dtype": torch.float32}, {}])
def test_a_matrix_or_its_description_is_needed(missing):
    with pytest.raises(ValueError, match="plan needs A, or shape"):
        plan(**missing)


def test_every_choice_explains_itself():
    for shape in SHAPES:
        for tol in (None, 0.11):
            text = plan(shape=shape, dtype=torch.float32, tol=tol).explain()
            assert f"{max(shape)} × {min(shape)}" in text
            assert len(text.splitlines()) == 4


def test_a_calibrated_table_goes_first(tmp_path):
    entry = {"dtype": "float32", "rows": 600, "columns": 600, "tol": None, "method": plain(QDWH())}
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"format": 1, "provenance": {"cpu": "?"}, "entries": [entry]}))
    table = load_plan_table(path)
    assert plan(shape=(500, 700), dtype=torch.float32, table=table).method == QDWH()
    # Too far away, another tolerance, another dtype: the built-in choice.
    for other in ({"shape": (100, 600)}, {"tol": 0.11}, {"dtype": torch.float64}):
        case = {"shape": (600, 600), "dtype": torch.float32} | other
        assert plan(**case, table=table) == plan(**case)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "entries": [{}]}'])
def test_a_broken_table_is_named(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"table of format 1, got .*table\.json"):
        load_plan_table(path)
