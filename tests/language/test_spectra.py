"""Spectra in training: against singular values, of the logical matrices, at the steps asked for."""

import pytest
import torch

from polargrad.language import train
from polargrad.language.spectra import Spectra
from polargrad.records import read_records


def singular_values(matrix):
    sigma = torch.linalg.svdvals(matrix.double())
    return sigma[sigma > sigma[0] * min(matrix.shape) ** 0.5 * torch.finfo(torch.float32).eps]


def assert_measured(found, matrix):
    sigma = singular_values(matrix)
    assert found["condition_number"] == pytest.approx(float(sigma[0] / sigma[-1]), rel=1e-6)
    assert found["nuclear_norm"] == pytest.approx(float(sigma.sum()), rel=1e-5)


@pytest.mark.parametrize("name", ["exp_avg", "momentum_buffer"])
def test_they_are_those_of_gradients_and_momenta(name):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(9, 4), torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 9)
    )
    model(torch.arange(9)).square().sum().backward()
    momenta = {p: {name: torch.randn_like(p)} for p in model.parameters()}
    found = {r["parameter"]: r for r in Spectra(model).matrices(momenta)}
    assert [(r["role"], r["matrix"]) for r in found.values()] == [
        ("embedding", 0),
        ("hidden matrix", 0),
        ("head", 0),
    ]
    for parameter in found:
        tensor = model.get_parameter(parameter)
        assert_measured(found[parameter]["gradient"], tensor.grad)
        if parameter == "1.weight":
            assert_measured(found[parameter]["momentum"], momenta[tensor][name])
        else:
            assert "momentum" not in found[parameter]


def test_a_fused_parameter_is_looked_at_matrix_by_matrix():
    attention = torch.nn.MultiheadAttention(4, 2)
    model = torch.nn.ModuleDict({"attention": attention, "head": torch.nn.Linear(4, 9)})
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    found = [r for r in Spectra(model).matrices({}) if r["parameter"].endswith("in_proj_weight")]
    assert [r["matrix"] for r in found] == [0, 1, 2]
    for record, part in zip(found, attention.in_proj_weight.grad.split(4), strict=True):
        assert_measured(record["gradient"], part)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "polargrad"])
def test_a_run_looks_at_them_now_and_then_and_is_not_changed_by_it(settings, tmp_path, optimizer):
    given = {"optimizer": optimizer, "lr": 0.01}
    plain = train(settings(**given, out=tmp_path / "plain"))
    watched = train(settings(**given, watch_every=3))
    losses = [
        [r.get("loss") for r in read_records(run.out / "records.jsonl")] for run in (plain, watched)
    ]
    assert losses[0] == losses[1]
    found = list(read_records(watched.out / "spectra.jsonl"))
    assert [record["step"] for record in found] == [3, 6]
    for record in found:
        hidden = [m for m in record["matrices"] if m["role"] not in ("embedding", "head")]
        assert len(hidden) == 14  # two layers of seven
        assert all("momentum" in m for m in hidden)
        assert {m["role"] for m in record["matrices"]} >= {"embedding", "head"}
    assert (watched.out / "spectra.png").exists()
    assert not (plain.out / "spectra.jsonl").exists()
