"""The routing table in few lines: nothing is lost, and nothing that differs is joined."""

import dataclasses

from small_models import mixtral, qwen2
from torch import nn

import polargrad as pg
from polargrad.optim.routing.condense import condense


class Layers(nn.Module):
    """Twelve equal layers, of which one is wider inside, and one lacks its second part."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {"up": nn.Linear(4, 9 if i == 2 else 8), "down": nn.Linear(9 if i == 2 else 8, 4)}
                if i != 7
                else {"up": nn.Linear(4, 8)}
            )
            for i in range(12)
        )


def test_layers_that_are_equal_are_one_row():
    found = {row.name: row for row in condense(pg.explain(Layers())).rows}
    assert found["layers.{0–1, 3–11}.up.weight"].numel == 11 * 32
    assert found["layers.2.up.weight"].matrices == "9×4"
    assert found["layers.{0–1, 3–6, 8–11}.down.weight"].numel == 10 * 32
    assert len(found) == 7  # up and down, weight and bias; the bias of down is as wide everywhere


def test_no_number_is_lost_and_the_totals_stay():
    for model in (Layers(), qwen2(layers=3), mixtral(layers=3)):
        whole = pg.explain(model)
        short = condense(whole)
        assert len(short.rows) < len(whole.rows)
        assert sum(row.numel for row in short.rows) == sum(p.numel() for p in model.parameters())
        assert short.totals == whole.totals


def test_the_memory_of_an_optimizers_table_is_kept():
    optimizer = pg.PolarGrad(pg.param_groups(qwen2(), vector_lr=0.1), lr=0.1)
    assert condense(pg.explain(optimizer)).memory == pg.explain(optimizer).memory is not None


def test_rows_that_differ_in_one_column_stay_apart():
    whole = pg.explain(nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(4)))
    rows = list(whole.rows)
    rows[1] = dataclasses.replace(rows[1], lr=0.5)
    short = condense(dataclasses.replace(whole, rows=tuple(rows)))
    assert [row.name for row in short.rows] == ["{0, 2–3}.weight", "1.weight"]


def test_a_number_inside_a_word_is_none():
    model = nn.ModuleDict({f"layer{i}": nn.Linear(3, 3, bias=False) for i in range(3)})
    whole = pg.explain(model)
    assert condense(whole) == whole


def test_a_table_without_rows():
    whole = pg.explain(nn.Module())
    assert condense(whole) == whole


def test_a_grid_is_joined_along_one_side():
    grid = nn.ModuleList(
        nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(2)) for _ in range(5)
    )
    names = [row.name for row in condense(pg.explain(grid)).rows]
    assert names == ["{0–4}.0.weight", "{0–4}.1.weight"]
