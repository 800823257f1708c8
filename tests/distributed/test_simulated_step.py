"""A step that is simulated takes what it takes: counted on four processes."""

import layouts
import pytest
import shared_cases
import torch

from polargrad.distributed import local
from polargrad.distributed.mesh_sizes import MeshSizes
from polargrad.optim.simulate import simulate

RANKS = 4
# Each layout of the tests, and the mesh that says the same.
MESHES = {
    "fully_shard": MeshSizes(fsdp=4),
    "hybrid": MeshSizes(dp=2, fsdp=2),
    "replicated": MeshSizes(dp=4),
    "tensor parallel": MeshSizes(tp=4),
    "fully_shard and tensor parallel": MeshSizes(fsdp=2, tp=2),
}
FEW = [("fully_shard", "Muon, quintic"), ("hybrid", "Muon, quintic")]
MORE = [
    *((layout, "Muon, quintic") for layout in MESHES if layout not in ("fully_shard", "hybrid")),
    *((layout, "PolarGrad, quintic, found") for layout in MESHES),
    *((layout, "PolarGrad, corrected") for layout in MESHES),
    *((layout, preset) for layout in MESHES for preset in ("RowNorm", "SOAP")),
]
# Those that are products alone, of which operations are counted.
PRODUCTS = ("Muon, quintic", "PolarGrad, quintic, found", "RowNorm")


def simulated(layout, preset, mesh=None):
    """What the simulation says of the model of the tests."""
    with torch.device("meta"):
        model = layouts.Model()
    optimizer = shared_cases.made(preset, layouts.groups_of(dict(model.named_parameters())))

    def cut_by(name):
        style = layouts.PLAN.get(name.split(".")[0])
        return None if style is None else int(type(style).__name__ == "RowwiseParallel")

    return simulate(optimizer, mesh or MESHES[layout], cut_by=cut_by, device="cpu")


def compare(run, cases):
    """Operations equal the counted ones, and so do bytes over each link, on every process."""
    given = [("step_counted", {"layout": layout, "preset": preset}) for layout, preset in cases]
    for (layout, preset), measured in zip(cases, run(RANKS, given), strict=True):
        found, mesh = simulated(layout, preset), MESHES[layout]
        for rank, (flops, to) in enumerate(measured):
            by_link = torch.zeros(3, dtype=torch.int64)
            by_link.index_add_(0, mesh.links(rank), torch.tensor(to))
            assert found.sent[rank].tolist() == by_link.tolist(), (layout, preset, rank)
            if preset in PRODUCTS:
                assert int(found.flops[rank]) == flops, (layout, preset, rank)


def test_operations_and_bytes_are_those_of_four_processes(run):
    compare(run, FEW)


def test_memory_is_what_processes_hold(run, monkeypatch):
    """In stacks of two small matrices; a few numbers of each are not counted.

    One stack more is simulated: a step that may not look at the norms holds it.
    """
    count, kinds = 32, ("fully_shard", "hybrid", "replicated")
    measured = run(RANKS, [("memory", {"layout": kind, "count": count}) for kind in kinds])
    unit = 2 * 4 * 32 * 32
    monkeypatch.setattr(local, "STACK_BYTES", unit)
    with torch.device("meta"):
        groups = layouts.groups_of(dict(layouts.Many(count).named_parameters()))
    optimizer = shared_cases.made("PolarGrad", groups)
    for kind, peaks in zip(kinds, measured, strict=True):
        held = simulate(optimizer, MESHES[kind], device="cpu").held / unit
        assert (held - 1.0).tolist() == pytest.approx(peaks, rel=0.01)


@pytest.mark.slow
def test_operations_and_bytes_are_those_of_other_layouts_and_presets(run):
    compare(run, MORE)


@pytest.mark.parametrize(
    "mesh", [MeshSizes(fsdp=n) for n in (2, 5, 64)] + [MeshSizes(dp=3), MeshSizes(dp=2, fsdp=7)]
)
def test_all_processes_together_do_the_work_of_one(mesh):
    """Also with more processes than any dimension has entries, and shards that are empty."""
    one = simulated(None, "Muon, quintic", MeshSizes())
    found = simulated(None, "Muon, quintic", mesh)
    assert int(found.flops.sum()) == int(one.flops.sum()) > 0
    assert found.flops.shape == found.held.shape == (mesh.ranks,)
    assert (found.matrices, found.kinds) == (one.matrices, one.kinds)
    assert one.sent.tolist() == [[0, 0, 0]]


def test_what_tensor_parallelism_does_not_cut_is_done_by_each_of_its_processes():
    one = simulated(None, "Muon, quintic", MeshSizes())
    found = simulated(None, "Muon, quintic", MeshSizes(tp=2))
    with torch.device("meta"):
        names = [name.split(".")[0] for name, p in layouts.Model().named_parameters() if p.ndim > 1]
    assert set(layouts.plan_of(layouts.Model())) < set(names)
    assert int(one.flops.sum()) < int(found.flops.sum()) < 2 * int(one.flops.sum())


def test_what_is_not_products_alone_is_estimated_and_named():
    assert simulated("fully_shard", "Muon, quintic").estimated == ()
    assert simulated("fully_shard", "PolarGrad, svd").estimated == ("svd",)
    assert simulated("fully_shard", "RowNorm").flops.tolist() == [0] * 4
    assert simulated("fully_shard", "OneSidedPolarGrad").estimated == ("spectral from one side",)


def test_tensor_parallelism_without_a_plan_is_refused():
    with torch.device("meta"):
        weight = torch.nn.Parameter(torch.empty(4, 4))
    optimizer = shared_cases.made("Muon", [weight])
    with pytest.raises(ValueError, match="tp must be 1 without a plan"):
        simulate(optimizer, MeshSizes(tp=2))


def test_shards_that_are_no_boxes_are_refused_by_name():
    with torch.device("meta"):
        weight = torch.nn.Parameter(torch.empty(13, 4))
    optimizer = shared_cases.made("Muon", [{"params": [("odd.weight", weight)]}])
    with pytest.raises(ValueError, match=r"mesh: parameter odd.weight of shape \(13, 4\)"):
        simulate(optimizer, MeshSizes(fsdp=3, tp=2), cut_by=lambda name: 0)
