"""The page on training runs: its example runs as it stands, and it names every file and field."""

import re
from pathlib import Path

from polargrad.distributed.mesh_sizes import MeshSizes
from polargrad.language.presets import preset_of
from polargrad.language.schedules import SCHEDULES
from polargrad.language.tensor_plan import require_plan
from polargrad.records import read_records

PAGE = Path(__file__).parents[2] / "docs/training.md"


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    """In two steps instead of twenty, with 8 windows to validate."""
    text = PAGE.read_text(encoding="utf-8")
    (block,) = text.split("```python\n")[1:]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block.split("```")[0].replace("steps=20", "steps=2, eval_windows=8"), names)
    assert (names["result"].steps, names["result"].unit) == (2, "byte")
    *_, record = read_records(tmp_path / "runs/a/records.jsonl")
    for name in [*record, *SCHEDULES]:
        assert f"`{name}`" in text, name
    for path in (tmp_path / "runs/a").iterdir():
        assert path.name in text


def test_the_meshes_of_the_page_have_as_many_processes_as_are_started_and_fit_their_models():
    commands = re.findall(
        r"--nproc-per-node (\d+) .*--preset (\S+) .*--mesh ([\w=,]+)", PAGE.read_text("utf-8")
    )
    kinds = set()
    for count, preset, words in commands:
        mesh = MeshSizes.parse(words)
        assert mesh.ranks == int(count)
        require_plan(preset_of(preset), mesh)
        kinds.add(tuple(size > 1 for size in mesh.sizes))
    assert len(kinds) == 6
