"""Every wrong argument: its type of error, and a message with name, value and what is allowed."""

import math

import pytest
import torch
from torch import nn

import polargrad as pg
from polargrad.linalg import QDWH


def matrix(**kwargs):
    return nn.Parameter(torch.eye(3, **kwargs))


def vector():
    return nn.Parameter(torch.ones(3))


# Options of PolarGrad, the error, and what its message must hold.
WRONG = [
    ({"lr": -0.5}, ValueError, "lr must be at least 0 and finite, got -0.5"),
    ({"lr": math.nan}, ValueError, "lr must be at least 0 and finite, got nan"),
    ({"lr": math.inf}, ValueError, "lr must be at least 0 and finite, got inf"),
    ({"lr": torch.tensor(-0.5)}, ValueError, "lr must be at least 0 and finite, got -0.5"),
    ({"lr": torch.tensor(math.nan)}, ValueError, "lr must be at least 0 and finite, got nan"),
    ({"lr": torch.ones(2)}, ValueError, r"lr as a tensor must hold one number, got shape \(2,\)"),
    ({"lr": True}, TypeError, "lr must be a number, got True"),
    ({"lr": "0.1"}, TypeError, "lr must be a number, got '0.1'"),
    ({"lr": 1j}, TypeError, "lr must be a number, got 1j"),
    ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\), got 1.0"),
    ({"momentum": -0.1}, ValueError, r"momentum must be in \[0, 1\), got -0.1"),
    ({"momentum": math.nan}, ValueError, r"momentum must be in \[0, 1\), got nan"),
    ({"momentum": True}, TypeError, "momentum must be a number, got True"),
    ({"weight_decay": -1.0}, ValueError, "weight_decay must be at least 0 and finite, got -1.0"),
    ({"weight_decay": 1.0}, ValueError, "lr=0.1 with weight_decay=1.0 .* below 0.1.*decay_per_ste"),
    ({"decay_per_step": 1.0}, ValueError, r"decay_per_step must be in \[0, 1\), got 1.0"),
    ({"decay_per_step": -0.1}, ValueError, r"decay_per_step must be in \[0, 1\), got -0.1"),
    ({"order": "first"}, ValueError, "order must be one of momentum-first, polar-f.*, got 'first'"),
    (
        {"nesterov": "yes"},
        ValueError,
        "nesterov must be one of True, False, or a share",
    ),
    ({"method": "qr"}, ValueError, "method must be one of auto, svd, .* got 'qr'"),
    ({"method": 3}, TypeError, "method must be a name, a description or its plain data, got int"),
    (
        {"method": {"name": "svd", "steps": 2}},
        ValueError,
        "'svd' has the options .* got 'steps'",
    ),
    ({"method": {"name": "qdwh", "step": 2}}, ValueError, "'qdwh' has .* steps, .* got 'step'"),
    ({"tol": -0.1}, ValueError, r"tol must be None or in \(0, 1\), got -0.1"),
    ({"tol": 1.0}, ValueError, r"tol must be None or in \(0, 1\), got 1.0"),
    ({"tol": -0.1, "method": "svd"}, ValueError, r"tol must be None or in \(0, 1\), got -0.1"),
    ({"compute_dtype": "float8"}, ValueError, "compute_dtype must be one of .* got 'float8'"),
    ({"compute_dtype": torch.int32}, ValueError, "compute_dtype must be one of .* got 'int32'"),
    (
        {"compute_dtype": torch.bfloat16, "method": QDWH()},
        ValueError,
        "compute_dtype must be None, float32 or float64 for method 'qdwh', got bfloat16",
    ),
    ({"nonfinite": "ignore"}, ValueError, "nonfinite must be one of skip, raise, got 'ignore'"),
    ({"vector_lr": -1.0}, ValueError, "vector_lr must be at least 0 and finite, got -1.0"),
    ({"vector_lr": True}, TypeError, "vector_lr must be a number, got True"),
    ({"vector_betas": (0.9, 1.0)}, ValueError, r"vector_betas must be in \[0, 1\), got 1.0"),
    ({"vector_betas": (-0.1, 0.9)}, ValueError, r"vector_betas must be in \[0, 1\), got -0.1"),
    ({"vector_betas": (0.9,)}, ValueError, r"vector_betas must be two .* got \(0.9,\)"),
    ({"vector_betas": 0.9}, ValueError, r"vector_betas must be two .* got 0.9"),
    ({"vector_eps": -1e-8}, ValueError, "vector_eps must be at least 0 and finite, got -1e-08"),
    ({"vector_weight_decay": -1.0}, ValueError, "vector_weight_decay must be .* got -1.0"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG, ids=str)
@pytest.mark.parametrize("with_vector", [True, False], ids=["vector", "matrix alone"])
def test_wrong_options(options, error, message, with_vector):
    params = [matrix(), vector()] if with_vector else [matrix()]
    with pytest.raises(error, match=message):
        pg.PolarGrad(params, **{"lr": 0.1, "vector_lr": 0.1, **options})


@pytest.mark.parametrize(("options", "error", "message"), WRONG, ids=str)
def test_wrong_options_of_a_group(options, error, message):
    """The same, given to a group that is added later; nothing changes."""
    if "nonfinite" in options or any(key.startswith("vector") for key in options):
        options = {key.removeprefix("vector_"): value for key, value in options.items()}
        if "nonfinite" in options:
            return
        options["rule"] = "adamw"
    optimizer = pg.PolarGrad([matrix()], lr=0.1)
    before = repr(optimizer)
    with pytest.raises(error, match=message):
        optimizer.add_param_group({"params": [matrix()], **options})
    assert repr(optimizer) == before
    assert not optimizer.state


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"adjust_lr_fn": "spectral"}, ValueError, "adjust_lr_fn must be .* got 'spectral'"),
        ({"ns_steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"eps": -1.0}, ValueError, "eps must be None or at least 0, got -1.0"),
        ({"ns_coefficients": (1.5, -0.5)}, ValueError, r"coefficients must be .* \(1.5, -0.5\)"),
        ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be at least 0 .* got -0.1"),
        ({"lr": -1e-3}, ValueError, "lr must be at least 0 and finite, got -0.001"),
    ],
    ids=str,
)
def test_wrong_options_of_muon(options, error, message):
    with pytest.raises(error, match=message):
        pg.Muon([matrix()], **options)


def test_wrong_magnitude():
    with pytest.raises(
        ValueError, match=r"magnitude must be one of dual_norm, unit, .* got 'trace'"
    ):
        pg.MatrixOptimizer([matrix()], lr=0.1, magnitude="trace")


# A later step is not the place to find out: these are refused when they are given.
WRONG_PARAMETERS = [
    (lambda: [vector()], ValueError, r"shape \(3,\) is not a matrix.*vector_lr.*param_groups"),
    (
        lambda: [matrix(), vector()],
        ValueError,
        r"number 1 of shape \(3,\).*vector_lr.*param_groups",
    ),
    (lambda: [nn.Parameter(torch.ones(2, 3, 4))], ValueError, r"\(2, 3, 4\).*param_groups"),
    (lambda: [nn.Parameter(torch.ones(2, 3, 4, 5))], ValueError, r"\(2, 3, 4, 5\).*param_groups"),
    (lambda: [matrix(dtype=torch.complex64)], TypeError, "number 0 is of torch.complex64; allowed"),
    (lambda: [torch.ones(2, 2, dtype=torch.int64)], TypeError, "is of torch.int64; allowed are"),
    (lambda: {matrix(), matrix()}, TypeError, "params must be ordered.*got a set"),
    (lambda: frozenset([matrix()]), TypeError, "params must be ordered.*got a set"),
    (lambda: [{"params": {matrix()}}], TypeError, "params must be ordered.*got a set"),
    (list, ValueError, "empty parameter list"),
    (lambda: matrix(), TypeError, "iterable of Tensors"),
    (lambda: [matrix() * 2], ValueError, "number 0 must be a leaf"),
    (lambda: ["weight"], TypeError, "tensors or .name, tensor. pairs, got str"),
    (lambda: nn.Sequential(nn.Linear(2, 2)), TypeError, "tensors or .name, tensor. pairs, got Lin"),
    (lambda: [{"lr": 0.5, "rule": "matrix"}], ValueError, "must have params, got lr, rule"),
    (lambda: [{"params": [matrix()], "rule": "sgd"}], ValueError, "matrix, adamw, got 'sgd'"),
    (lambda: [{"params": [vector()], "rule": "matrix"}], ValueError, r"number 0: .* shape \(3,\)"),
    (
        lambda: [{"params": [matrix()], "rule": "matrix", "views": []}],
        ValueError,
        "views must have one entry for each of the 1 parameters, got 0",
    ),
    (
        lambda: [{"params": [matrix()], "rule": "matrix", "views": [{"kind": "heads"}]}],
        ValueError,
        "parameter number 0: view .* heads must be at least 1, got None",
    ),
    (
        lambda: [
            {"params": [matrix()], "rule": "matrix", "views": [{"kind": "split", "parts": 2}]}
        ],
        ValueError,
        r"parameter number 0: view .* shape \(3, 3\): 3 rows cannot be split into 2 equal parts",
    ),
]


@pytest.mark.parametrize(("params", "error", "message"), WRONG_PARAMETERS)
def test_wrong_parameters(params, error, message):
    with pytest.raises(error, match=message):
        pg.PolarGrad(params(), lr=0.1)


def test_names_are_used_where_there_are_names():
    model = nn.Linear(3, 3, dtype=torch.complex64)
    with pytest.raises(TypeError, match=r"parameter weight is of torch\.complex64"):
        pg.PolarGrad(model.named_parameters(), lr=0.1, vector_lr=0.1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Linear(4, 2), r"no hidden matrix among its 2 .*weight \(2, 4\) \(head\)"),
        (lambda: nn.LayerNorm(4), r"no hidden matrix among its 2 .*weight \(4,\) \(vector\)"),
        (lambda: nn.ReLU(), "no hidden matrix among its 0 trainable parameters .none.: use torch"),
        (lambda: nn.Linear(4, 2).requires_grad_(False), "among its 0 trainable parameters"),
    ],
)
def test_a_model_without_a_matrix(model, message):
    with pytest.raises(ValueError, match=message):
        pg.param_groups(model())


def test_no_matrix_among_the_parameters():
    with pytest.raises(ValueError, match=r"params hold no matrix among 1 parameters.*torch\.optim"):
        pg.PolarGrad([vector()], lr=0.1, vector_lr=0.1)


@pytest.mark.parametrize("wrong", ["gpt", None, [nn.Linear(2, 2)]])
def test_what_is_no_model(wrong):
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got"):
        pg.param_groups(wrong)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got"):
        pg.explain(wrong)


def test_zero_is_a_number():
    """0.0 is given, not missing, wherever a number can be given."""
    optimizer = pg.PolarGrad(
        pg.param_groups(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3)), vector_lr=0.0),
        lr=0.0,
        momentum=0.0,
        vector_lr=0.1,
        vector_eps=0.0,
        vector_betas=(0.0, 0.0),
    )
    matrices, vectors = optimizer.param_groups
    assert (matrices["lr"], matrices["momentum"]) == (0.0, 0.0)
    assert (vectors["lr"], vectors["eps"], vectors["betas"]) == (0.0, 0.0, (0.0, 0.0))
