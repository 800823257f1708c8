"""The benchmark of polar factors: what it makes, measures and refuses; nothing here is timed."""

import csv
import json
import math

import pytest
import torch

from polargrad.errors import RunFolderError
from polargrad.experiments.bench.candidates import candidates, parse_method
from polargrad.experiments.bench.cases import SPECTRA, Case, Shape, Spectrum
from polargrad.experiments.bench.errors import ERRORS, Oracle
from polargrad.experiments.bench.peers import muon_quintic, peers, published_qdwh, svd_factor
from polargrad.experiments.bench.polar import BenchSettings, bench_polar
from polargrad.experiments.bench.results import calibration, pareto_front, points
from polargrad.experiments.bench.rounds import quartiles, ratio, time_in_rounds
from polargrad.linalg import METHODS, QDWH, NewtonSchulz, load_plan_table, plan, polar_factor


def settings(**changes):
    small = {
        "shapes": ("12x8", "2x6x6"),
        "spectra": ("gaussian", "geometric:100"),
        "tolerances": (0.2,),
        "methods": ("auto", "svd", '{"name": "qdwh", "steps": 3}'),
        "repetitions": 2,
        "budget": 5.0,
    }
    return BenchSettings(**{**small, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "run"
    said = []
    with pytest.MonkeyPatch.context() as patch:  # peers in processes of their own take seconds
        patch.setattr("polargrad.experiments.bench.polar.missing", lambda label: "is away")
        rows = bench_polar(out, settings(), calibrate=True, say=said.append)
    return out, rows, said


def test_files(run):
    out, rows, said = run
    names = {path.name for path in out.iterdir()}
    assert {"results.csv", "results.jsonl", "provenance.json", "accuracy_time.png"} <= names
    assert {"calibration.json", "settings.json"} <= names
    assert len(said) == 4
    where = json.loads((out / "provenance.json").read_text())
    assert where["device"] == "cpu"
    assert "torch" in json.dumps(where)
    lines = (out / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == [row["label"] for row in rows]


def test_the_table_has_every_candidate_and_error(run):
    out, rows, _ = run
    with (out / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows)
    assert set(ERRORS) <= set(table[0])
    case = [r for r in rows if r["shape"] == "12x8" and r["spectrum"] == "gaussian"]
    labels = {row["label"] for row in case if not row["skipped"]}
    assert {"torch.linalg.svd", "svd", "qdwh(steps=3)"} <= labels
    assert any(label.startswith("auto(") for label in labels)
    assert any("quintic" in label for label in labels)
    for row in case:
        if row["label"] == "svd":
            assert max(row[name] for name in ERRORS) < 1e-5


def test_ratios_are_those_of_the_rounds(run):
    _, rows, _ = run
    for row in rows:
        if row["skipped"] or row["process"] != "same":
            continue
        same = [
            r
            for r in rows
            if (r["shape"], r["spectrum"], r["is_svd"]) == (row["shape"], row["spectrum"], True)
        ]
        reference = same[0]["rounds"]
        expected = sorted(a / b for a, b in zip(row["rounds"], reference, strict=False))
        middle = expected[len(expected) // 2], expected[(len(expected) - 1) // 2]
        assert row["over_svd"] == pytest.approx(sum(middle) / 2)
        assert row["over_svd_better_quartile"] <= row["over_svd"] * (1 + 1e-12)


def test_the_calibration_is_a_table_that_the_planner_reads(run):
    out, _, _ = run
    table = load_plan_table(out / "calibration.json")
    assert {entry.tol for entry in table.entries} == {None, 0.2}
    assert plan(shape=(12, 8), dtype=torch.float32, table=table).method in {
        entry.method for entry in table.entries
    }
    # What misses the tolerance is not in it: three steps of QDWH are not converged in float64.
    assert all(e.method.converged for e in table.entries if e.tol is None) or QDWH(steps=3) in [
        e.method for e in table.entries
    ]


def test_calibration_takes_the_fastest_that_keeps_the_tolerance():
    def row(label, milliseconds, error, spectrum):
        return {
            "dtype": "float32",
            "shape": "9x9",
            "rows": 9,
            "columns": 9,
            "batch": 1,
            "spectrum": spectrum,
            "label": label,
            "origin": "ours",
            "process": "same",
            "is_svd": False,
            "skipped": None,
            "method": {"name": label},
            "milliseconds": milliseconds,
            **dict.fromkeys(ERRORS, error),
        }

    rows = []
    for spectrum, loose in (("flat", 0.05), ("spiked", 0.5)):
        rows += [row("fast", 1.0, loose, spectrum), row("slow", 3.0, 1e-7, spectrum)]
        rows.append({**row("svd of torch", 9.0, 1e-7, spectrum), "is_svd": True, "origin": "peer"})
    (entry,) = [e for e in calibration(rows, (0.1,), {})["entries"] if e["tol"] == 0.1]
    assert entry["method"] == {"name": "slow"}
    assert entry["svd_milliseconds"] == 9.0


def test_a_missing_peer_is_skipped_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("polargrad.experiments.bench.polar.missing", lambda label: "is away")
    rows = bench_polar(tmp_path / "run", settings(shapes=("4x3",), spectra=("flat",)))
    away = [row for row in rows if row["skipped"] == "is away"]
    assert {row["process"] for row in away} == {"separate"}
    assert len(away) == 2


def test_its_folder_must_be_free_or_its_own(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(RunFolderError):
        bench_polar(tmp_path, settings(), overwrite=True)
    assert (tmp_path / "mine").read_text() == "precious"


class TestCases:
    """Shapes and spectra are what they say."""

    @pytest.mark.parametrize("name", [name for name in SPECTRA if name != "gaussian"])
    @pytest.mark.parametrize("shape", ["20x12", "12x20", "3x10x10"])
    def test_spectra_have_their_singular_values(self, name, shape):
        spectrum = Spectrum.parse(name)
        parsed = Shape.parse(shape)
        matrix = Case("float64", parsed, spectrum).matrix(0)
        assert tuple(matrix.shape) == parsed.size
        sigma = spectrum.sigma(min(parsed.rows, parsed.columns))
        expected = sigma.sort(descending=True).values.expand(*parsed.size[:-2], -1)
        torch.testing.assert_close(torch.linalg.svdvals(matrix), expected, rtol=0, atol=1e-13)

    def test_a_condition_number_is_kept(self):
        sigma = Spectrum.parse("geometric:1e4").sigma(9)
        assert float(sigma.max() / sigma.min()) == pytest.approx(1e4)

    @pytest.mark.parametrize("text", ["", "5", "5x", "0x3", "ax3", "1x2x3x4", "-1x3"])
    def test_malformed_shapes(self, text):
        with pytest.raises(ValueError, match="shape"):
            settings(shapes=(text,))

    @pytest.mark.parametrize("text", ["round", "gaussian:5", "geometric:0.5", "geometric:x"])
    def test_unknown_spectra(self, text):
        with pytest.raises(ValueError, match=r"spectrum|condition"):
            settings(spectra=(text,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("qr",)}, "a method must be one of auto, .* got 'qr'"),
        ({"methods": ('{"name": ',)}, "is not JSON"),
        ({"methods": ('{"name": "svd", "steps": 2}',)}, "has the options"),
        ({"tolerances": (1.5,)}, r"a tolerance must lie in \(0, 1\), got 1.5"),
        ({"dtypes": ("int8",)}, "a dtype must be one of .* got 'int8'"),
        ({"repetitions": 0}, "repetitions must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"budget": 0.0}, "budget must be a positive number"),
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
        ({"shapes": ()}, "shapes must name at least one"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_every_registered_method_is_measured_or_says_why_not():
    own, skipped = candidates(torch.randn(8, 6), (), (0.1,))
    measured = {candidate.method.name for candidate in own}
    assert measured | set(skipped) >= set(METHODS)
    assert list(skipped) == ["randomized_svd"]
    assert "rank" in skipped["randomized_svd"]
    assert parse_method('{"name": "randomized_svd", "rank": 2}').rank == 2


def test_peers_are_what_they_are_called():
    a = torch.randn(30, 12, generator=torch.Generator().manual_seed(0))
    exact = polar_factor(a.double())
    assert (svd_factor(a).double() - exact).abs().max() < 1e-5
    assert (published_qdwh(a, steps=5).double() - exact).abs().max() < 1e-5
    two = polar_factor(a, method=QDWH.reference())
    assert (published_qdwh(a, steps=2) - two).abs().max() < 1e-5
    muon = polar_factor(a, method=NewtonSchulz(eps=1e-7))
    assert (muon_quintic(a, dtype=torch.float32) - muon).abs().max() < 1e-5
    assert any("bfloat16" in label for label in peers(bfloat16=True)[0])


def test_errors_are_those_of_their_definition():
    a = torch.diag(torch.tensor([3.0, 1.0, 1e-5]))
    found = Oracle.of(a).errors(torch.diag(torch.tensor([1.0, 0.5, 0.0])))
    assert found["deviation"] == pytest.approx(0.5)  # the third one is below a thousandth
    assert found["nuclear_norm_error"] == pytest.approx((0.5 + 1e-5) / (4.0 + 1e-5))
    assert found["orthogonality"] == pytest.approx(math.sqrt((0.75**2 + 1) / 3))
    flipped = Oracle.of(a).errors(torch.diag(torch.tensor([1.0, -1.0, 1.0])))
    assert flipped["orthogonality"] < 1e-12
    assert flipped["deviation"] == pytest.approx(2.0)


def test_the_pareto_front():
    cloud = {"a": (1.0, 5.0), "b": (2.0, 6.0), "c": (2.0, 1.0), "d": (3.0, 1.0), "e": (4.0, 0.5)}
    assert pareto_front(cloud) == ["a", "c", "e"]


def test_points_are_median_time_and_worst_error():
    rows = [
        {"label": "x", "over_svd": t, "deviation": e, "skipped": None, "spectrum": str(t)}
        for t, e in ((1.0, 0.1), (3.0, 0.3), (2.0, 0.2))
    ]
    assert points(rows) == {"x": (2.0, 0.3)}


def test_rounds_take_turns():
    order = []
    clock = iter(range(10_000))
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = time_in_rounds(calls, repetitions=3, budget=1e9, clock=lambda: float(next(clock)))
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3, "c": 3}
    for turn in range(3):
        assert sorted(order[-9:][3 * turn : 3 * turn + 3]) == ["a", "b", "c"]


def test_quartiles_and_ratios():
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
    median, better = ratio([2.0, 4.0, 6.0], [1.0, 1.0, 2.0])
    assert median == 3.0
    assert better == 2.5
