"""Geometries by name and as plain data."""

import copy
import dataclasses
import io

import pytest
import torch

from polargrad.geometry import (
    GEOMETRIES,
    Centred,
    Diagonal,
    Geometry,
    GivenHessian,
    Kronecker,
    LargestRow,
    PolarThenRow,
    RotatedDiagonal,
    RowThenPolar,
    Spectral,
    geometry,
    plain,
)
from polargrad.linalg import NewtonSchulz

NAMES = (
    "frobenius",
    "max_entry",
    "spectral",
    "largest_row",
    "largest_column",
    "centred",
    "row_then_polar",
    "polar_then_row",
    "diagonal",
    "kronecker",
    "one_sided_kronecker",
    "rotated_diagonal",
    "given_hessian",
)
CHANGED = [
    Spectral(side="left", damping=0.1),
    Spectral(correct=True),
    Centred(LargestRow()),
    Centred(PolarThenRow(side="right")),
    Centred(Centred(RowThenPolar(damping=1.0))),
    Diagonal(beta2=0.5, eps=0.0, bias_correction=False),
    Kronecker(beta=0.9, damping=0.0),
    RotatedDiagonal(refresh=3),
    GivenHessian([[2.0, 0.1], [0.1, 1.0]], [[1.0 / 3.0]]),
]
ALL = [geometry(name) for name in NAMES if name != "given_hessian"] + CHANGED


def test_these_are_the_geometries():
    assert tuple(GEOMETRIES) == NAMES


@pytest.mark.parametrize("description", ALL, ids=lambda d: d.name)
def test_plain_data_is_the_description_again(description):
    data = plain(description)
    assert geometry(data) == description
    assert geometry(copy.deepcopy(data)) == description
    assert geometry(description) is description
    # It survives a checkpoint that may hold data alone.
    file = io.BytesIO()
    torch.save(data, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == data


def assert_plain(data):
    if isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            assert_plain(value)
    else:
        assert data is None or type(data) in (bool, int, float, str)


@pytest.mark.parametrize("description", ALL, ids=lambda d: d.name)
def test_plain_data_is_plain(description):
    assert_plain(plain(description))
    assert next(iter(plain(description))) == "name"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "given_hessian"])
def test_a_name_stands_for_the_defaults(name):
    assert geometry(name) == geometry({"name": name}) == GEOMETRIES[name]()
    assert geometry(name).name == name


def test_the_method_of_the_factor_is_left_out():
    """The optimizer keeps it beside the geometry, and puts it in again."""
    chosen = Spectral(NewtonSchulz(), torch.bfloat16, correct=True)
    assert plain(chosen) == plain(Spectral(correct=True))
    again = geometry(plain(chosen)).with_polar(NewtonSchulz(), torch.bfloat16)
    assert again == chosen
    nested = Centred(Spectral(NewtonSchulz()))
    assert geometry(plain(nested)).with_polar(NewtonSchulz(), None) == nested


@pytest.mark.parametrize("description", ALL, ids=lambda d: d.name)
def test_a_description_is_frozen_and_can_be_copied(description):
    assert isinstance(description, Geometry)
    assert isinstance(description.accumulates, bool)
    assert copy.deepcopy(description) == description
    hash(description)
    name = next((f.name for f in dataclasses.fields(description)), "name")
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
        setattr(description, name, 1)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("euclid", ValueError, "geometry must be one of frobenius, .*given_hessian, got 'euclid'"),
        ({}, ValueError, "geometry must be one of frobenius, .* got None"),
        (3, TypeError, "a name, a description or its plain data, got int"),
        ({"name": "frobenius", "p": 2}, ValueError, "'frobenius' has no options, got 'p'"),
        (
            {"name": "spectral", "method": "qdwh"},
            ValueError,
            "geometry 'spectral' has the options side, damping, correct, got 'method'",
        ),
        ("given_hessian", ValueError, "geometry 'given_hessian' needs the options left, right"),
        ({"name": "spectral", "side": "up"}, ValueError, "side must be None, 'left' or 'right'"),
        ({"name": "centred", "inner": "euclid"}, ValueError, "one of frobenius, .* 'euclid'"),
        ({"name": "centred", "inner": "kronecker"}, ValueError, "must keep no state"),
    ],
)
def test_refuses(spec, error, message):
    with pytest.raises(error, match=message):
        geometry(spec)
