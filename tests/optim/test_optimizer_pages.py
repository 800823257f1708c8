"""The pages of the optimizers: complete, their examples run, their tables are recomputed."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import polargrad as pg
from polargrad.optim.gaussian_size import momentum_rms
from polargrad.optim.translate import translate_lr
from polargrad.optim.update_size import Rule, update_rms

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted((DOCS / "optimizers").glob("*.md"))
RATES = (DOCS / "learning_rates.md").read_text(encoding="utf-8")
SHAPES = [(768, 768), (3072, 768), (768, 3072), (50257, 768)]
RULES = {
    "AdamW": Rule("adamw"),
    "SignSGD": Rule("sign_sgd"),
    "Muon, original": Rule("muon", adjust="original"),
    "Muon, match_rms_adamw": Rule("muon", adjust="match_rms_adamw"),
    "Muon, spectral_unclamped": Rule("muon", adjust="spectral_unclamped"),
    "MatrixSignDescent": Rule("muon", adjust="unit"),
    "RowNorm": Rule("row_norm"),
    "ColumnNorm": Rule("column_norm"),
    "PolarGrad": Rule("polargrad", momentum=0.0),
    "GradientDescent": Rule("gradient_descent", momentum=0.0),
}
PRESETS = {
    getattr(pg.optim, name)
    for name in pg.optim.__all__
    if isinstance(getattr(pg.optim, name), type)
    and issubclass(getattr(pg.optim, name), torch.optim.Optimizer)
}


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


def run_blocks(text, name):
    namespace = {"pg": pg, "torch": torch, "model": model()}
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks, name
    for block in blocks:
        exec(compile(block, name, "exec"), namespace)
    return namespace


def table(name):
    """The lines of a table of docs/learning_rates.md, without its head."""
    lines = RATES.split(f"<!-- {name} -->\n")[1].split("<!-- end -->")[0].splitlines()
    return lines[2:]


def test_the_table_of_sizes_is_what_the_code_predicts():
    expected = [
        f"| {name} | "
        + " | ".join(
            f"{update_rms(replace(rule, lr=1.0), shape, gradient_rms=1e-3):.3g}" for shape in SHAPES
        )
        + " |"
        for name, rule in RULES.items()
    ]
    assert table("sizes") == expected


def test_the_table_of_rates_is_what_the_code_translates():
    expected = []
    for name, rule in RULES.items():
        found = [
            translate_lr("adamw", rule, shape, lr=3e-4, gradient_rms=1e-3).lr for shape in SHAPES
        ]
        expected.append(f"| {name} | " + " | ".join(f"{lr:.3g}" for lr in found) + " |")
    assert table("rates") == expected


def test_every_optimizer_has_a_page_and_every_page_an_entry():
    titles = {page.read_text(encoding="utf-8").splitlines()[0][2:] for page in PAGES}
    assert {preset.__name__ for preset in PRESETS} <= titles
    index = (DOCS / "optimizers/README.md").read_text(encoding="utf-8")
    assert all(f"]({page.name})" in index for page in PAGES if page.name != "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "README.md"], ids=lambda page: page.stem
)
def test_a_page_is_whole_and_its_example_steps(page):
    text = page.read_text(encoding="utf-8")
    for part in ("\n    ", "## When to use it", "## Cost", "## Learning rate", "\nSource: "):
        assert part in text, part
    namespace = run_blocks(text, page.name)
    optimizer, module = namespace["optimizer"], namespace["model"]
    title = text.splitlines()[0][2:]
    assert type(optimizer).__name__ == ("PolarGrad" if title == "AdamW" else title)
    before = [p.detach().clone() for p in module.parameters()]
    for _ in range(2):  # SOAP takes the first gradient for its bases
        optimizer.zero_grad()
        module(torch.randn(5, 6)).square().sum().backward()
        optimizer.step()
    moved = [not torch.equal(b, p) for b, p in zip(before, module.parameters(), strict=True)]
    assert all(moved)


def test_the_code_about_learning_rates_runs():
    namespace = run_blocks(RATES, "learning_rates.md")
    assert isinstance(namespace["optimizer"], pg.PolarGrad)


# --- The formulas of the first table that no Rule holds ----------------------------------------

G = torch.randn(20, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ROWS = G / G.norm(dim=1, keepdim=True)
FACTOR_RMS = math.sqrt(12 / (20 * 12))


def nuclear(x):
    return torch.linalg.matrix_norm(x, "nuc").item()


def first_update(preset, **options):
    p = nn.Parameter(torch.zeros(20, 12, dtype=torch.float64))
    p.grad = G.clone()
    preset([p], lr=1.0, **options).step()
    return p.detach().square().mean().sqrt().item()


@pytest.mark.parametrize(
    ("preset", "options", "expected"),
    [
        ("Shampoo", {}, FACTOR_RMS),
        ("SignSGD", {"scaled": True}, G.abs().sum().item()),
        ("RowNorm", {"momentum": 0.0, "scaled": True}, G.norm(dim=1).sum().item() / 12**0.5),
        ("ColumnNorm", {"momentum": 0.0, "scaled": True}, G.norm(dim=0).sum().item() / 20**0.5),
        ("OneSidedPolarGrad", {"momentum": 0.0, "exponent": 0.0}, FACTOR_RMS),
        (
            "OneSidedPolarGrad",
            {"momentum": 0.0, "exponent": 0.5},
            math.sqrt(nuclear(G)) * FACTOR_RMS,
        ),
        (
            "HybridPolarGrad",
            {"momentum": 0.0, "tol": None, "exponent": 0.5},
            math.sqrt(nuclear(ROWS)) * FACTOR_RMS,
        ),
        (
            "HybridPolarGrad",
            {"momentum": 0.0, "tol": None, "hybrid": "polar_then_row"},
            nuclear(G) / 12**0.5,
        ),
        (
            "SSD",
            {"rank": 12},
            nuclear(G) * FACTOR_RMS,
        ),
        (
            "SSD",
            {"rank": 3, "power_iterations": 40},
            torch.linalg.svdvals(G)[:3].sum().item() * math.sqrt(3 / 240),
        ),
    ],
)
def test_the_formulas_of_sizes_are_those_of_the_optimizers(preset, options, expected):
    actual = first_update(getattr(pg.optim, preset), **options)
    assert math.isclose(actual, expected, rel_tol=1e-6)


def test_soap_moves_as_far_as_adam_with_its_momentum():
    """Turned bases keep the Frobenius norm; pure noise, after the first fifty gradients."""
    p = nn.Parameter(torch.zeros(20, 12))
    optimizer = pg.optim.SOAP([p], lr=1.0, weight_decay=0.0)
    squares = []
    for step in range(100):
        before = p.detach().clone()
        p.grad = torch.randn(20, 12, generator=torch.Generator().manual_seed(step))
        optimizer.step()
        squares.append((p.detach() - before).square().mean().item())
    assert math.isclose(math.sqrt(sum(squares[50:]) / 50), momentum_rms(0.95), rel_tol=0.15)


def test_polar_grad_goes_farther_than_gradient_descent_by_the_nuclear_rank():
    rho, r = (nuclear(G) / G.norm().item()) ** 2, 12
    ratio = first_update(pg.PolarGrad, momentum=0.0, tol=None) / first_update(
        pg.optim.GradientDescent
    )
    assert math.isclose(ratio, math.sqrt(rho * r), rel_tol=1e-9)
