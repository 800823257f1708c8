"""Provenance says what ran, and can be kept as JSON."""

import json
import platform
import subprocess

import torch

from polargrad.records import provenance


def test_versions_are_those_that_run():
    found = provenance()
    assert found["torch"] == torch.__version__
    assert found["python"] == platform.python_version()
    assert found["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(found)) == found


def test_without_git_it_says_so(monkeypatch):
    def missing(*arguments, **named):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert provenance()["commit"] == "not in a git checkout"
