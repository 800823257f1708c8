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
    optimizer = pg.PolarGrad(pg.param_groups(model, vector_lr=1e-3), lr=1.0)
    printed = str(pg.explain(optimizer))
    assert printed in README, f"paste this into README.md:\n{printed}"


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_links_in_the_readme_lead_somewhere(link):
    assert (ROOT / link).exists()
