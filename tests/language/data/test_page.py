"""The page on data: its example runs as it stands."""

import json
from pathlib import Path

import torch

PAGE = Path(__file__).parents[3] / "docs/data.md"


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    (block,) = PAGE.read_text(encoding="utf-8").split("```python\n")[1:]
    lines = [json.dumps({"text": f"{n * n * 7919} and {n} " * 30}) for n in range(300)]
    (tmp_path / "pages.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    names = {}
    exec(block.split("```")[0], names)
    assert names["rows"].shape == (64, 1025)
    assert names["rows"].dtype == torch.int64
    assert next(names["held_out"]).shape[1] == 1025
    assert (tmp_path / "caches/polargrad/tokens").is_dir()
