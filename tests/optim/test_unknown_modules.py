"""Matrices of module types that routing does not know: stepped, and said so."""

import warnings

import pytest
import torch
from torch import nn

import polargrad as pg

KNOWN = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))


class Own(nn.Module):
    """A linear map written by hand, as research code has it."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 4))
        self.bias = nn.Parameter(torch.zeros(6))


def test_are_taken_as_hidden_matrices_with_a_warning_that_names_them():
    model = nn.ModuleDict({"own": Own(), "known": KNOWN})
    with pytest.warns(UserWarning, match=r"own\.w: .*\(1 of 2\).*roles=\{'own\.w'"):
        groups = pg.param_groups(model)
    assert dict(zip(groups[0]["roles"], groups[0]["params"], strict=True))["unknown matrix"][0] == (
        "own.w"
    )
    assert "a type not known here" in str(pg.explain(model))


def test_say_nothing_once_the_user_has_said_what_they_are():
    model = nn.ModuleDict({"own": Own(), "known": KNOWN})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups = pg.param_groups(model, roles={"own.w": "embedding"})
    assert [name for name, _ in groups[0]["params"]] == ["known.0.weight"]
