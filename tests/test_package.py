"""The package as a whole: what it imports, what it exports, that its README is true."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import polargrad as pg

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_import_needs_torch_alone():
    """In a fresh process: no extra (but for tqdm, which torch imports), no process group."""
    code = (
        "import sys, polargrad as pg, torch\n"
        "x = torch.nn.Parameter(torch.eye(3)); x.grad = torch.eye(3)\n"
        "pg.PolarGrad([x], lr=0.1).step()\n"
        "extras = {'matplotlib', 'transformers', 'tyro', 'datasets', 'accelerate'}\n"
        "print(sorted(extras & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_only_hard_dependency_is_torch():
    required = [r for r in metadata.requires("polargrad") or [] if "extra ==" not in r]
    assert [re.split(r"[<>=!~\[ ]", r)[0] for r in required] == ["torch"]


def test_public_names_exist_and_are_documented():
    for name in pg.__all__:
        assert getattr(pg, name).__doc__, name


def test_every_module_says_what_it_is():
    empty = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "src").rglob("*.py")
        if not path.read_text(encoding="utf-8").lstrip().startswith(('"""', 'r"""'))
    ]
    assert empty == []


def test_the_code_in_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 2
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    optimizer = namespace["optimizer"]
    assert isinstance(optimizer, pg.PolarGrad)


def test_the_table_in_the_readme_is_what_explain_prints():
    model = torch.nn.Sequential(torch.nn.Linear(32, 128), torch.nn.Tanh(), torch.nn.Linear(128, 4))
    optimizer = pg.PolarGrad(pg.param_groups(model, vector_lr=1e-3), nesterov=True)
    printed = str(pg.explain(optimizer))
    assert printed in README, f"paste this into README.md:\n{printed}"


PAGES = [
    "README.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))),
]
# The pages of the optimizers have a test of their own.
WITH_CODE = [
    f"docs/{name}.md" for name in ("choosing", "certificate", "estimators", "routing", "step")
]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert ((ROOT / page).parent / link).exists(), link


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_in_the_pages_runs(page):
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
    assert blocks
    generator = torch.Generator().manual_seed(0)
    namespace: dict[str, object] = {"pg": pg, "A": torch.randn(40, 20, generator=generator)}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)


def _rest_of(text, piece):
    """The cell of a table after the bar that is in this piece of a line."""
    line = next(line for line in text.splitlines() if piece in line)
    return (piece + line.partition(piece)[2]).partition("|")[2]


def test_the_planner_does_what_its_table_says():
    """Each line of the table in docs/choosing.md, at one shape that it is about."""
    text = (ROOT / "docs/choosing.md").read_text(encoding="utf-8")
    for shape, dtype, tol, line in (
        ((400, 200), torch.float32, None, "m ≥ 2n, or n ≤ 32 | `GramEigh(polish=None)`"),
        ((96, 96), torch.float32, None, "square, 33 … 96 and 224 … 1024 | `Newton()`"),
        ((224, 224), torch.float32, None, "square, 33 … 96 and 224 … 1024 | `Newton()`"),
        ((448, 449), torch.float32, None, "n ≤ 448 | `GramEigh(polish=None)`"),
        ((449, 450), torch.float32, None, "larger | `MixedQDWH()`"),
        ((400, 100), torch.float64, None, 'm ≥ 4n | `SVD(reduction="qr")`'),
        ((320, 320), torch.float64, None, "square, 96 … 320 | `Newton()`"),
        ((321, 321), torch.float64, None, "otherwise | `SVD()`"),
        ((500, 8), torch.float32, 0.11, "n ≤ 8 | `GramEigh(polish=0)`"),
        ((225, 225), torch.float32, 0.103, "51,000, or m ≤ 4n, m·n ≤ 16,384, tol ≥ 0.103 | `Pol"),
        ((256, 64), torch.float32, 0.065, "the same, tol ≥ 0.065 | `PolarExpress(4, degree=(5, 9"),
        ((257, 64), torch.float32, 0.11, "tol ≥ 0.093 | `GramZolotarev(1, polynomial=9)`"),
        ((900, 9), torch.float32, 0.08, "tol ≥ 0.078 | `GramZolotarev(2, polynomial=3)`"),
        ((900, 9), torch.float32, 0.06, "tol ≥ 0.052 | `GramZolotarev(2, polynomial=5)`"),
        ((319, 319), torch.float32, 0.05, "tighter | `PolarExpress` with the degrees"),
    ):
        assert line in text
        method = pg.linalg.plan(shape=shape, dtype=dtype, tol=tol).method
        named = re.search(r"`(\w+)(?:\(.*?polynomial=(\d))?", _rest_of(text, line))
        assert named is not None
        assert type(method).__name__ == named.group(1)
        assert named.group(2) in (None, str(getattr(method, "polynomial", None)))
