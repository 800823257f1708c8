"""The table of what happens to each parameter."""

import json
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import polargrad as pg
from polargrad.linalg import QDWH
from polargrad.optim.routing.views import experts, split


def model():
    return nn.Sequential(
        nn.Embedding(20, 8),
        nn.GRU(8, 16),
        nn.Conv1d(16, 16, 3),
        nn.Linear(16, 16),
        nn.Linear(16, 20),
    )


def by_name(explanation):
    return {row.name: row for row in explanation.rows}


def test_one_row_a_trainable_parameter_in_order():
    m = model()
    m[1].weight_hh_l0.requires_grad_(False)
    names = [name for name, p in m.named_parameters() if p.requires_grad]
    assert [row.name for row in pg.explain(m).rows] == names


def test_what_a_row_says():
    rows = by_name(pg.explain(model()))
    assert rows["1.weight_ih_l0"].matrices == "3 × 16×8"
    assert rows["2.weight"].matrices == "16×48"
    assert rows["0.weight"].matrices == "20×8"
    assert rows["0.weight"].rule == "AdamW"
    assert rows["3.weight"].rule == "matrix"
    assert rows["3.weight"].lr is None
    assert rows["4.weight"].reason == "its 20 outputs feed no other module"


def test_the_text_has_every_row_and_ends_with_the_share():
    explanation = pg.explain(model())
    lines = str(explanation).splitlines()
    assert len(lines) == 2 + len(explanation.rows) + 1
    for row, line in zip(explanation.rows, lines[2:], strict=False):
        assert line.startswith(row.name)
        assert row.role in line
        assert line.endswith(row.reason)
    assert lines[-1] == explanation.total


def test_the_share_is_counted_in_numbers_not_in_tensors():
    m = nn.Sequential(nn.Linear(10, 30), nn.Linear(30, 20), nn.Linear(20, 5))
    # 10·30 + 30·20 of these and 30 + 20 + 5 biases and 20·5 of the head.
    assert pg.explain(m).total == "matrix rule: 900 of 1.1 k parameters, 85%"


def test_it_is_plain_data():
    rows = pg.explain(model()).to_dict()
    assert json.loads(json.dumps(rows)) == rows
    assert set(rows[0]) == {
        *("name", "role", "matrices", "rule", "lr", "weight_decay", "update", "reason", "numel")
    }


def test_it_needs_no_step_and_changes_nothing():
    m = model()
    optimizer = pg.PolarGrad(pg.param_groups(m), lr=0.1)
    before = [p.detach().clone() for p in m.parameters()]
    str(pg.explain(optimizer))
    assert not optimizer.state
    assert all(torch.equal(p, b) for p, b in zip(m.parameters(), before, strict=True))


def test_of_an_optimizer_it_says_what_is_done():
    """Names, roles and reasons as of the model; learning rates, decays and methods beside them."""
    m = model()
    optimizer = pg.PolarGrad(
        pg.param_groups(m, vector_lr=3e-4, vector_weight_decay=0.25),
        lr=0.5,
        weight_decay=0.125,
        method=QDWH(steps=2),
    )
    of_model, of_optimizer = by_name(pg.explain(m)), by_name(pg.explain(optimizer))
    assert of_model.keys() == of_optimizer.keys()
    for name, row in of_optimizer.items():
        assert (row.role, row.matrices, row.reason) == (
            of_model[name].role,
            of_model[name].matrices,
            of_model[name].reason,
        )
        if of_model[name].rule == "matrix":
            assert (row.lr, row.weight_decay) == (0.5, 0.125)
            assert row.rule == "nuclear × qdwh(steps=2)"
        else:
            assert (row.lr, row.weight_decay, row.rule) == (3e-4, 0.25, "AdamW")


def test_the_method_that_auto_has_chosen_is_shown():
    converged = pg.explain(pg.PolarGrad([nn.Parameter(torch.eye(3))], lr=0.1, tol=None))
    assert converged.rows[0].rule == "nuclear × gram_eigh"
    training = pg.explain(pg.PolarGrad([nn.Parameter(torch.eye(9))], lr=0.1))
    assert training.rows[0].rule == "nuclear × polar_express"
    asked = pg.PolarGrad([nn.Parameter(torch.eye(3))], lr=0.1, method=pg.linalg.QDWH(steps=2))
    assert pg.explain(asked).rows[0].rule == "nuclear × qdwh(steps=2)"


def test_the_decay_that_is_done_is_shown():
    """decay_per_step is for matrices alone."""
    params = [nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(3))]
    optimizer = pg.PolarGrad(params, lr=0.1, vector_lr=0.1, decay_per_step=0.01)
    matrix, vector = pg.explain(optimizer).rows
    assert matrix.weight_decay == 0.01
    assert vector.weight_decay == 0.0


def test_a_nameless_parameter_is_called_by_its_place():
    params = [nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(2))]
    optimizer = pg.Muon([{"params": params[:1]}, {"params": params[1:], "lr": 0.5}])
    assert [r.name for r in pg.explain(optimizer).rows] == [
        "group 0, parameter 0",
        "group 1, parameter 0",
    ]


def test_the_scheduled_lr_is_shown():
    optimizer = pg.Muon([nn.Parameter(torch.eye(3))], lr=0.5)
    optimizer.param_groups[0]["lr"] = 0.25
    assert pg.explain(optimizer).rows[0].lr == 0.25


def test_roles_are_taken_into_account():
    assert by_name(pg.explain(model(), roles={"3.weight": "head"}))["3.weight"].rule == "AdamW"


def test_matrices_of_unequal_shapes_are_all_shown():
    groups = [
        {
            "params": [nn.Parameter(torch.ones(8, 3)), nn.Parameter(torch.ones(2, 0, 5, 4))],
            "rule": "matrix",
            "views": [split([4, 2, 2]), experts()],
        }
    ]
    rows = pg.explain(pg.PolarGrad(groups, lr=0.1, method="svd")).rows
    assert [row.matrices for row in rows] == ["4×3 + 2 × 2×3", "none"]


def test_each_method_that_the_shapes_of_one_parameter_choose_is_shown():
    group = {"params": [nn.Parameter(torch.ones(66, 64))], "rule": "matrix"}
    parts = [{**group, "views": [view]} for view in (split([64, 2]), split([64]), split([2]))]
    parts[1]["params"], parts[2]["params"] = ([nn.Parameter(torch.ones(n, 64))] for n in (64, 2))
    both, large, small = (
        pg.explain(pg.PolarGrad([part], lr=0.1, tol=None)).rows[0].rule.removeprefix("nuclear × ")
        for part in parts
    )
    assert both == (large if large == small else f"{large} / {small}")


def test_a_group_of_its_own_is_shown_with_what_is_its_own():
    lrs = {"embedding": 0.25, "head": 0.5}
    m = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20))
    groups = pg.param_groups(m, policy="symmetry-runs", lrs=lrs)
    explanation = pg.explain(pg.PolarGrad(groups, lr=2.0, method="svd", weight_decay=0.01))
    assert {row.name: (row.rule, row.lr, row.weight_decay) for row in explanation.rows} == {
        "0.weight": ("unit × largest_row", 0.25, 0.0),
        "1.weight": ("nuclear × svd", 2.0, 0.01),
        "2.weight": ("unit × centred(largest_row)", 0.5, 0.0),
        "1.bias": ("AdamW", 1e-3, 0.0),
        "2.bias": ("AdamW", 1e-3, 0.0),
    }
    # 160 + 64 + 160 of 412 numbers, and 28 in biases.
    assert explanation.totals == (
        "nuclear × svd: 64 of 412 parameters, 16%",
        "unit × largest_row: 160 of 412 parameters, 39%",
        "unit × centred(largest_row): 160 of 412 parameters, 39%",
        "AdamW: 28 of 412 parameters, 7%",
        "matrix rule: 384 of 412 parameters, 93%",
        "memory of a step beside the state: at most 11 stacks, 4 KiB",
    )
    assert str(explanation).endswith("\n".join(explanation.totals))


def test_options_of_a_model_are_those_of_param_groups():
    m = nn.ModuleList([nn.MultiheadAttention(8, 2)])
    rows = by_name(pg.explain(m, per_head=True, policy={"attention heads": {"rule": "matrix"}}))
    assert rows["0.in_proj_weight"].matrices == "6 × 4×8"
    assert rows["0.out_proj.weight"].matrices == "2 × 8×4"


def test_a_notebook_gets_a_table_that_no_name_can_break():
    m = nn.ModuleDict({"<b>&": nn.Linear(3, 3), "out": nn.Linear(3, 2)})
    explanation = pg.explain(m)
    page = explanation._repr_html_()
    root = ElementTree.fromstring(f"<div>{page}</div>")
    cells = [[cell.text or "" for cell in row] for row in root.iter("tr")]
    assert cells[0][:3] == ["parameter", "role", "matrices"]
    assert [row[0] for row in cells[1:]] == [row.name for row in explanation.rows]
    assert "<b>&.weight" in [row[0] for row in cells]
    assert root.find("p").text == explanation.total


def test_the_factor_of_a_shared_learning_rate_is_counted_in():
    """``lr_scale`` multiplies what a loop writes into every group."""
    optimizer = pg.PolarGrad([nn.Parameter(torch.eye(3))], lr=0.5, method="svd")
    optimizer.param_groups[0]["lr_scale"] = 0.25
    assert pg.explain(optimizer).rows[0].lr == 0.125


def test_refuses_what_it_cannot_explain():
    w = nn.Parameter(torch.eye(3))
    with pytest.raises(TypeError, match="explain knows polargrad's optimizers, got SGD"):
        pg.explain(torch.optim.SGD([w], lr=0.1))
    for option in ({"roles": {"*": "head"}}, {"policy": "muon"}, {"per_head": True}):
        with pytest.raises(TypeError, match=f"{next(iter(option))} are given to param_groups"):
            pg.explain(pg.Muon([w]), **option)


def test_the_predicted_update_is_that_of_a_step():
    """Muon's does not depend on the gradient; PolarGrad's is so many times its size."""
    torch.manual_seed(0)
    for make, scale in (
        (lambda groups: pg.Muon(groups, lr=0.02, momentum=0.0, weight_decay=0.0), 1.0),
        (lambda groups: pg.PolarGrad(groups, lr=0.02, momentum=0.0, method="svd"), 0.5),
    ):
        m = nn.Sequential(nn.Linear(64, 96, bias=False), nn.Linear(96, 48), nn.Linear(48, 96))
        optimizer = make(pg.param_groups(m))
        row = pg.explain(optimizer).rows[0]
        p = m[0].weight
        p.grad = 0.5 * torch.randn_like(p)
        before = p.detach().clone()
        optimizer.step()
        moved = (p.detach() - before).square().mean().sqrt().item()
        predicted, _, unit = row.update.partition(" ")
        assert unit == ("g" if scale != 1.0 else "")
        assert moved == pytest.approx(scale * float(predicted), rel=0.05)
