"""Matrices that go by their Gram matrices: the update, its rounding, what is sent and done."""

import layouts
import pytest
import shared_cases
import torch
from matrices import with_singular_values

import polargrad as pg
from polargrad.distributed.gram import LEAST_ENTRIES, goes_by_gram, packed, packed_bytes, unpacked
from polargrad.distributed.mesh_sizes import MeshSizes
from polargrad.distributed.patches import Strided
from polargrad.distributed.placement import Box
from polargrad.distributed.shared_matrix import SharedMatrix
from polargrad.linalg import (
    QDWH,
    GramEigh,
    GramPolynomial,
    GramZolotarev,
    NewtonSchulz,
    PolarExpress,
)
from polargrad.linalg.gram_side import gram_side, works_from_gram
from polargrad.optim.simulate import side_flops, simulate

RANKS = 4
EPS = torch.finfo(torch.float32).eps
# Up and same in one stack, odd and down in others; on the last dimension down, and odd, of which
# fully_shard cannot cut the columns evenly.
STACKS = {"tensor parallel": 3, "fully_shard": 2, "fully_shard, last dimension": 2}
PRESETS = ("PolarGrad", "PolarGrad, found", "PolarGrad, polar-first", "PolarGrad, polyak", "Muon")
UPDATES = [(layout, preset) for layout in STACKS for preset in PRESETS]
SOME = [(layout, preset) for layout, preset in UPDATES if "tensor" in layout or preset == "Muon"]
METHODS = (
    "auto",
    "newton_schulz",
    "polar_express",
    "gram_polynomial",
    {"name": "gram_eigh", "polish": 0},
    "gram_zolotarev",
)
CONDITIONS = (10.0, 1e3, 1e5)
ROUNDING = [(method, kappa) for method in METHODS for kappa in CONDITIONS]
MESHES = {"tensor parallel": MeshSizes(tp=4), "fully_shard": MeshSizes(fsdp=4)}


def updates(layout, preset, **more):
    return "updates", {"layout": layout, "preset": preset, **more}


def conditioned(method, kappa):
    arguments = {"layout": "tensor parallel", "method": method, "kappa": kappa, "seed": 3}
    return "conditioned", arguments


COUNTED = [("counted", {"layout": layout, "preset": "Muon, quintic"}) for layout in MESHES]
HELD = [("held", {"layout": layout}) for layout in MESHES]
HALF = updates("tensor parallel", "Muon", state_dtype="bfloat16")
GATHERED = [
    updates("tensor parallel", preset) for preset in ("PolarGrad, svd", "PolarGrad, corrected")
]
RECORDED = {"momentum": 0.0, "capturable": True, "method": {"name": "gram_eigh", "polish": 0}}
NONFINITE = [("nonfinite", {"layout": "tensor parallel", **more}) for more in ({}, RECORDED)]
EXTREME = ("extreme", {"layout": "tensor parallel"})
MANY = [updates(layout, preset, steps=20) for layout, preset in UPDATES]


@pytest.fixture(scope="module")
def found(run):
    cases = [
        *(updates(*case) for case in SOME),
        *(conditioned(*case) for case in ROUNDING),
        *COUNTED,
        *HELD,
        *GATHERED,
        HALF,
        *NONFINITE,
        EXTREME,
    ]
    return dict(zip(map(str, cases), run(RANKS, cases, module="gram_cases"), strict=True))


def checked(results, stacks, tolerance):
    for distances, grams in results:
        assert max(distances.values()) < tolerance, distances
        assert grams == stacks


@pytest.mark.parametrize(("layout", "preset"), SOME)
def test_the_update_is_that_of_one_device(found, layout, preset):
    """In double precision with the same method: what is left is the rounding of float32."""
    checked(found[str(updates(layout, preset))], STACKS[layout], 16 * EPS)


@pytest.mark.slow
def test_so_it_is_after_twenty_steps(run):
    """Rounding adds up, and sizes that are found feel it."""
    for (_, arguments), results in zip(MANY, run(RANKS, MANY, module="gram_cases"), strict=True):
        checked(results, STACKS[arguments["layout"]], 2000 * EPS)


@pytest.mark.parametrize(("method", "kappa"), ROUNDING, ids=str)
def test_the_condition_number_does_not_show_in_single_precision(found, method, kappa):
    """Squared it is still small beside 1/eps of double precision: 2 eps κ² at most, beside eps."""
    bound = 4 * EPS + 2 * torch.finfo(torch.float64).eps * kappa**2
    assert max(found[str(conditioned(method, kappa))]) < bound


@pytest.mark.parametrize("case", GATHERED, ids=str)
def test_what_needs_more_than_the_gram_matrix_is_brought_together(found, case):
    """The square one by products alone, which multiply rounding by the slopes of polynomials."""
    checked(found[str(case)], 0, 256 * EPS)


def test_a_momentum_in_half_precision_goes_by_gram_too(found):
    """The rounding of bfloat16 is that of the momentum."""
    checked(found[str(HALF)], STACKS["tensor parallel"], 2 * torch.finfo(torch.bfloat16).eps)


def test_nothing_is_sent_of_a_matrix_but_the_triangle_of_its_gram_matrix(found):
    """In double precision as many bytes as the whole Gram matrix has in float32, n² + n for n²."""
    for layout, case in zip(MESHES, COUNTED, strict=True):
        columns = [16, 16, 13] + [16] * (layout == "tensor parallel")
        for _, sent, _ in found[str(case)]:
            assert sent == sum(map(packed_bytes, columns))
    assert all(packed_bytes(n) <= 1.1 * 4 * n * n for n in range(31, 300))


def simulated(layout, preset):
    with torch.device("meta"):
        model = layouts.Strips()
    optimizer = shared_cases.made(preset, layouts.groups_of(dict(model.named_parameters())))

    def cut_by(name):
        style = layouts.PLAN[name.split(".")[0]]
        return int(type(style).__name__ == "RowwiseParallel")

    return simulate(optimizer, MESHES[layout], cut_by=cut_by, device="cpu")


@pytest.mark.parametrize("layout", MESHES)
def test_operations_and_bytes_are_those_that_are_simulated(found, layout):
    case = COUNTED[list(MESHES).index(layout)]
    expected = simulated(layout, "Muon, quintic")
    for rank, (flops, _, to) in enumerate(found[str(case)]):
        assert int(expected.flops[rank]) == flops
        assert int(expected.sent[rank].sum()) == sum(to)


@pytest.mark.parametrize("layout", MESHES)
def test_memory_is_no_more_than_is_simulated(found, layout):
    expected = simulated(layout, "PolarGrad").held
    for rank, held in enumerate(found[str(HELD[list(MESHES).index(layout)])]):
        assert held <= int(expected[rank]) + 2048  # a few numbers of each matrix


def test_the_products_with_matrices_are_done_once(found):
    """Those with strips add up to those with the whole; the Gram side is each process's own."""
    with torch.device("meta"):
        group = shared_cases.made("Muon, quintic", [layouts.Strips().up.weight]).param_groups[0]
    shapes = [(260, 16), (260, 16), (16, 260), (331, 13)]
    whole = sum(4 * m * n * min(m, n) for m, n in shapes)
    side = sum(side_flops(group, shape)[0] for shape in shapes)
    square = 2 * 5 * (2 * 64**3 + 64**3)  # five quintics of a matrix that is brought together
    tiny = 5 * (2 * 2 * 40 * 4 + 2 * 8)
    total = sum(flops for flops, _, _ in found[str(COUNTED[0])])
    assert total == whole + RANKS * side + square + tiny


@pytest.mark.parametrize("case", NONFINITE, ids=str)
def test_a_gradient_that_is_not_finite_changes_nothing(found, case):
    """Where the host sees it, and where a recorded step meets it."""
    assert found[str(case)] == [(True, 1)] * RANKS


def test_sizes_at_the_ends_of_the_range_make_no_difference(found):
    """Squares of either neither vanish nor overflow in double precision."""
    for small, large, none in found[str(EXTREME)]:
        assert small.abs().max() > 0
        torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-6)
        assert not none.any()


class TestLayouts:
    """Which matrices go by their Gram matrices."""

    def matrix(self, m, n, boxes, strides=None):
        return SharedMatrix(Strided((m, n), strides or (n, 1), 0, 1), (m, n), boxes)

    def rows(self, m, n, ranks):
        length = -(-m // ranks)
        starts = [min(rank * length, m) for rank in range(ranks)]
        return self.matrix(m, n, [Box((s, 0), (min(length, m - s), n)) for s in starts])

    def columns(self, m, n, ranks):
        length = -(-n // ranks)
        starts = [min(rank * length, n) for rank in range(ranks)]
        return self.matrix(m, n, [Box((0, s), (m, min(length, n - s))) for s in starts])

    @pytest.mark.parametrize("ranks", [2, 3, 8])
    def test_the_gram_matrix_is_no_larger_than_a_strip(self, ranks):
        assert goes_by_gram(self.rows(64 * ranks, 64, ranks), ranks)
        assert goes_by_gram(self.columns(64, 64 * ranks, ranks), ranks)
        assert not goes_by_gram(self.rows(64 * ranks - 1, 64, ranks), ranks)

    def test_the_long_side_has_to_be_the_one_that_is_cut(self):
        assert not goes_by_gram(self.columns(512, 32, 2), 2)
        assert not goes_by_gram(self.rows(32, 512, 2), 2)

    def test_small_ones_travel_beside_others(self):
        assert goes_by_gram(self.rows(LEAST_ENTRIES, 1, 4), 4)
        assert not goes_by_gram(self.rows(LEAST_ENTRIES - 1, 1, 4), 4)

    def test_no_entry_may_be_held_twice(self):
        half = [Box((0, 0), (256, 32)), Box((256, 0), (256, 32))]
        assert goes_by_gram(self.matrix(512, 32, half), 2)
        assert not goes_by_gram(self.matrix(512, 32, [*half, *half]), 4)
        assert not goes_by_gram(self.matrix(512, 32, [Box((0, 0), (512, 32))] * 2), 2)

    def test_what_one_process_holds_is_its_own(self):
        boxes = [Box((0, 0), (512, 32)), Box((512, 0), (0, 32))]
        assert not goes_by_gram(self.matrix(512, 32, boxes), 2)

    def test_pieces_in_both_dimensions_are_brought_together(self):
        boxes = [Box((i * 256, j * 16), (256, 16)) for i in range(2) for j in range(2)]
        assert not goes_by_gram(self.matrix(512, 32, boxes), 4)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 65])
def test_a_packed_matrix_is_unpacked_to_the_bit(n):
    x = torch.randn(3, n, n, dtype=torch.float64)
    x = x + x.mT
    assert torch.equal(unpacked(packed(x), n), x)
    assert packed(x).nbytes == 3 * packed_bytes(n)


WORKING = [
    GramEigh(polish=0),
    GramZolotarev(),
    GramZolotarev(1, polynomial=9),
    NewtonSchulz(),
    NewtonSchulz("cubic", steps=9),
    PolarExpress(),
    PolarExpress(steps=4, degree=(5, 9, 9, 9), bound="schatten4", cushion=0.0),
    GramPolynomial(restarts=(2, 4)),
]


@pytest.mark.parametrize("method", WORKING, ids=str)
@pytest.mark.parametrize("spread", [0.0, 2.0, 5.0])
def test_the_factor_from_the_gram_matrix_is_that_of_the_method(method, spread):
    a = with_singular_values((2, 90, 12), torch.logspace(0, -spread, 12, dtype=torch.float64))
    factor = pg.polar_factor(a, method=method)
    weights, inner = gram_side(method, a.mT @ a)
    bound = 1e-8 if isinstance(method, PolarExpress | GramPolynomial) else 1e-10
    torch.testing.assert_close(a @ weights, factor, rtol=0, atol=bound * 10 ** max(0, spread - 3))
    torch.testing.assert_close(inner, (a * factor).sum((1, 2)), rtol=1e-9, atol=0)


@pytest.mark.parametrize("method", WORKING, ids=str)
def test_the_factor_of_a_zero_matrix_is_zero(method):
    weights, inner = gram_side(method, torch.zeros(1, 4, 4, dtype=torch.float64))
    assert weights.isfinite().all()
    assert inner.tolist() == [0.0]


@pytest.mark.parametrize("method", [QDWH(), GramEigh(), GramEigh(polish=2), NewtonSchulz(eps=1e-7)])
def test_other_methods_are_refused(method):
    assert not works_from_gram(method)
    with pytest.raises(TypeError, match="method must work from the Gram matrix alone"):
        gram_side(method, torch.eye(2, dtype=torch.float64)[None])


def test_a_gram_matrix_in_single_precision_is_refused():
    with pytest.raises(TypeError, match=r"c must be float64, got torch\.float32"):
        gram_side(NewtonSchulz(), torch.eye(2)[None])
