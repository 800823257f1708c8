"""The benchmark of a step: its tables, sums and refusals; nothing here is timed."""

import csv
import itertools
import json

import pytest
import torch
from torch.nn import Parameter

from polargrad.experiments.bench import step_candidates as bench_step_candidates
from polargrad.experiments.bench import step_shapes as bench_step_shapes
from polargrad.experiments.bench.rounds import time_in_rounds
from polargrad.experiments.bench.step import (
    StepCase,
    StepSettings,
    bench_step,
    measure,
)
from polargrad.experiments.bench.step_candidates import (
    CANDIDATES,
    LR,
    MOMENTUM,
    REFERENCES,
    HandLoop,
    StepCandidate,
    beside_adamw,
    chosen,
)
from polargrad.experiments.bench.step_figure import bar, draw_panel
from polargrad.experiments.bench.step_results import stages_of, table
from polargrad.experiments.bench.step_shapes import (
    MODELS,
    SCOPES,
    Block,
    ModelShapes,
    one_a_shape,
    parts,
)

TOY = ModelShapes(
    "toy",
    (
        Block(((8, 4), (4, 8), (8, 4)), ((8,), (4,)), repeats=3),
        Block(((4, 4),), (), repeats=2),
        Block((), ((20, 4), (4,))),
    ),
)
ADAPTERS = ModelShapes("adapters", (Block(((2, 6), (6, 2)), (), repeats=2),))
FAST = ("polargrad", "muon", "muon-quintic", "adamw", "adamw-rule", "torch-muon", "torch-adamw")


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    for model in (TOY, ADAPTERS):
        monkeypatch.setitem(bench_step_shapes.MODELS, model.name, model)


def settings(**changes):
    small = {
        "models": ("toy", "adapters"),
        "candidates": FAST,
        "repetitions": 2,
        "budget": 5.0,
    }
    return StepSettings(**{**small, **changes})


def parameters(*shapes):
    generator = torch.Generator().manual_seed(0)
    made = [Parameter(torch.zeros(shape)) for shape in shapes]
    for p in made:
        p.grad = torch.randn(p.shape, generator=generator)
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "run"
    said = []
    with pytest.MonkeyPatch.context() as patch:
        for model in (TOY, ADAPTERS):
            patch.setitem(bench_step_shapes.MODELS, model.name, model)
        rows = bench_step(out, settings(layers=1), say=said.append)
    return out, rows, said


class TestShapes:
    """The tables are those of the models, and every way through them counts every parameter."""

    @pytest.mark.parametrize(
        ("name", "count"),
        [  # as torchvision and the models' cards have them; 4 · 2 · 16 · 768 numbers a layer
            ("gpt2-small", 124_439_808),
            ("qwen2-0.5b", 494_032_768),
            ("resnet-50", 25_557_032),
            ("lora-rank-16", 12 * 4 * 2 * 16 * 768),
        ],
    )
    def test_the_number_of_parameters(self, name, count):
        assert MODELS[name].parameters == count

    def test_the_convolutions_of_a_resnet(self):
        (part,) = parts(MODELS["resnet-50"], "matrices")
        assert len(part.matrices) == 53
        assert part.matrices.count((256, 64)) == 3 + 1  # the last of each block, and the shortcut
        assert (64, 147) in part.matrices

    @pytest.mark.parametrize("model", ["toy", *list(MODELS)])
    @pytest.mark.parametrize("layers", [None, 1, 2, 100])
    def test_parts_count_everything(self, model, layers):
        table_ = MODELS[model]
        counted = {}
        for scope in SCOPES:
            found = parts(table_, scope, layers)
            counted[scope] = sum(
                part.times * sum(torch.Size(s).numel() for s in (*part.matrices, *part.vectors))
                for part in found
            )
        assert counted["all"] == pytest.approx(table_.parameters)
        assert counted["matrices"] + counted["vectors"] == pytest.approx(table_.parameters)

    def test_without_layers_there_is_one_part(self):
        for model in MODELS.values():
            assert [part.times for part in parts(model, "all")] == [1.0]

    def test_layers_bound_every_kind_of_block(self):
        found = parts(TOY, "matrices", 2)
        assert [(len(part.matrices), part.times) for part in found] == [(6, 1.5), (2, 1.0)]

    def test_one_a_shape_counts_every_matrix(self):
        found = one_a_shape(TOY, "all")
        assert {p.matrices: p.times for p in found[:-1]} == {
            ((8, 4),): 6.0,
            ((4, 8),): 3.0,
            ((4, 4),): 2.0,
        }
        assert found[-1].matrices == ()
        assert len(found[-1].vectors) == 3 * 2 + 2
        assert one_a_shape(TOY, "vectors") == found[-1:]

    def test_a_scope_that_a_model_does_not_have_is_no_case(self):
        cases = [(str(case.model), case.scope) for case in settings().cases]
        assert ("adapters", "vectors") not in cases
        assert len(cases) == 5


class TestCandidates:
    """Everyone steps what they are given, by the rule that they are called after."""

    @pytest.mark.parametrize("key", [k for k, c in CANDIDATES.items() if c.module is None])
    def test_everything_is_stepped(self, key):
        candidate = CANDIDATES[key]
        for scope in candidate.scopes:
            matrices = parameters((6, 4), (4, 6)) if scope != "vectors" else []
            vectors = parameters((5,), (7, 3)) if scope != "matrices" else []
            candidate.build(matrices, vectors)()
            assert all(p.detach().abs().max() > 0 for p in (*matrices, *vectors))

    def test_the_loop_is_the_quintic_of_the_momentum(self):
        (x,) = parameters((6, 4))
        loop = HandLoop([x])
        loop()
        loop()
        m = ((1 - MOMENTUM) * (1 + MOMENTUM)) * x.grad.double()  # after two equal gradients
        expected = torch.zeros(6, 4, dtype=torch.float64)
        for signal in ((1 - MOMENTUM) * x.grad.double(), m):
            y = signal.mT / torch.linalg.matrix_norm(signal)
            for _ in range(5):
                g = y @ y.mT
                y = 3.4445 * y + (-4.7750 * g + 2.0315 * g @ g) @ y
            expected -= LR * y.mT
        torch.testing.assert_close(x.detach().double(), expected, rtol=1e-4, atol=0.01 * LR)

    def test_ours_agree_with_the_peers_they_are_compared_with(self):
        mine, theirs = parameters((7, 3)), parameters((7, 3))
        CANDIDATES["adamw"].build([], mine)()
        CANDIDATES["torch-adamw-foreach"].build([], theirs)()
        torch.testing.assert_close(mine[0], theirs[0], rtol=1e-5, atol=0)
        alone = parameters((7, 3))
        CANDIDATES["adamw-rule"].build([], alone)()
        torch.testing.assert_close(mine[0], alone[0], rtol=0, atol=0)
        mine, theirs = parameters((6, 4)), parameters((6, 4))
        CANDIDATES["muon-quintic"].build(mine, [])()
        CANDIDATES["torch-muon"].build(theirs, [])()
        # The peer computes in bfloat16, of which eps is 2⁻⁷.
        torch.testing.assert_close(mine[0], theirs[0], rtol=0, atol=8 * 2**-7 * LR)

    def test_the_reference_of_a_scope_is_always_there(self):
        for scope, reference in REFERENCES.items():
            assert reference in chosen(("torch-adamw",), scope)
            assert scope in reference.scopes

    def test_a_package_that_fails_is_left_out_with_its_reason(self, monkeypatch):
        def broken(params):
            raise AssertionError("needs a\n  process group")

        def add(key, **options):
            peer = StepCandidate(
                key, f"label of {key}", "peer", ("matrices",), beside_adamw(broken), **options
            )
            monkeypatch.setitem(bench_step_candidates.CANDIDATES, key, peer)

        add("fails", module="json")
        add("absent", module="no_such_package_of_anyone")
        found = settings(candidates=("fails", "absent"))
        rows = measure(StepCase(TOY, "matrices"), found)
        reasons = {row["key"]: row["skipped"] for row in rows}
        assert reasons == {
            "hand-loop": None,
            "fails": "AssertionError: needs a process group",
            "absent": "no_such_package_of_anyone is not installed",
        }
        assert "left out: label of absent: no_such_package" in table(rows)

    def test_what_is_ours_may_not_fail(self, monkeypatch):
        def broken(params):
            raise RuntimeError("a defect")

        peer = StepCandidate("own", "own", "ours", ("matrices",), beside_adamw(broken))
        monkeypatch.setitem(bench_step_candidates.CANDIDATES, "own", peer)
        with pytest.raises(RuntimeError, match="a defect"):
            measure(StepCase(TOY, "matrices"), settings(candidates=("own",)))


@pytest.mark.slow
class TestRun:
    """A whole benchmark in small: its files, rows and sums."""

    def test_files(self, run):
        out, rows, said = run
        names = {path.name for path in out.iterdir()}
        assert names == {
            "settings.json",
            "provenance.json",
            "results.jsonl",
            "results.csv",
            "step_time.png",
        }
        assert (out / "step_time.png").read_bytes().startswith(b"\x89PNG")
        assert len(said) == 5
        assert json.loads((out / "settings.json").read_text())["layers"] == 1
        lines = (out / "results.jsonl").read_text().splitlines()
        assert [json.loads(line)["label"] for line in lines] == [row["label"] for row in rows]
        with (out / "results.csv").open() as file:
            read = list(csv.DictReader(file))
        assert [row["key"] for row in read] == [row["key"] for row in rows]
        assert {"over_reference", "peak_mebibytes", "direction_milliseconds"} <= set(read[0])

    def test_every_candidate_is_in_every_case_of_its_scopes(self, run):
        _, rows, _ = run
        for model, scope in itertools.product(("toy", "adapters"), SCOPES):
            found = {r["key"] for r in rows if (r["model"], r["scope"]) == (model, scope)}
            expected = {candidate.key for candidate in chosen(FAST, scope)}
            assert found == (set() if (model, scope) == ("adapters", "vectors") else expected)

    def test_what_was_stepped_is_said(self, run):
        _, rows, _ = run
        for row in rows:
            if row["key"] == "torch-muon":
                assert row["stepped"] == "a matrix of each shape"
            else:
                assert row["stepped"] == "some equal blocks"
        text = table(rows, layers=1)
        assert "torch.optim.Muon **" in text
        assert "PolarGrad *" in text
        assert "at most 1 of a kind" in text
        assert "counted as often as the model has it" in text

    def test_ratios_are_those_of_the_rounds(self, run):
        _, rows, _ = run
        for row in rows:
            reference = next(
                r
                for r in rows
                if (r["model"], r["scope"], r["label"])
                == (row["model"], row["scope"], row["reference"])
            )
            pairs = zip(row["rounds"], reference["rounds"], strict=False)
            expected = sorted(a / b for a, b in pairs)
            middle = expected[len(expected) // 2], expected[(len(expected) - 1) // 2]
            assert row["over_reference"] == pytest.approx(sum(middle) / 2)
            if row["label"] == row["reference"]:
                assert row["over_reference"] == 1.0
            measured_muon = row["scope"] != "vectors"
            assert (row["over_torch_muon"] is not None) == measured_muon

    def test_a_bar_is_as_long_as_the_median(self, run):
        _, rows, _ = run
        for row in rows:
            assert sum(bar(row).values()) == pytest.approx(row["milliseconds"])
            assert set(bar(row)) == set(stages_of(row))

    def test_adamw_is_one_stage(self, run):
        _, rows, _ = run
        for row in rows:
            if row["key"] in ("torch-adamw", "torch-adamw-foreach", "adamw-rule"):
                assert set(stages_of(row)) == {"adamw", "other"}

    def test_peers_are_split_into_their_rule_and_adamw(self, run):
        _, rows, _ = run
        for row in rows:
            if row["key"] in ("hand-loop", "torch-muon") and row["scope"] == "all":
                expected = {"matrices", "adamw"} if row["model"] == "toy" else {"matrices"}
                assert set(stages_of(row)) == {*expected, "other"}


def test_a_much_slower_peer_is_cut():
    """Its bar ends within the panel; what is written beside it is the whole time."""
    figure = pytest.importorskip("matplotlib.figure")
    axis = figure.Figure().subplots()
    row = {"origin": "peer", "reference": "loop", "over_reference": 1.0, "skipped": None}
    ours = {**row, "origin": "ours", "label": "ours", "milliseconds": 50.0}
    loop = {**row, "label": "loop", "milliseconds": 100.0}
    slow = {**row, "label": "slow", "milliseconds": 9000.0, "over_reference": 90.0}
    halves = {"matrices_milliseconds": 1.0, "other_milliseconds": 1.0}
    draw_panel(axis, [{**r, **halves} for r in (ours, loop, slow)])
    ends = [patch.get_x() + patch.get_width() for patch in axis.patches if patch.get_width()]
    assert 100.0 < max(ends) < axis.get_xlim()[1]
    assert any("9000 ms (90.00) →" in text.get_text() for text in axis.texts)


@pytest.mark.slow
def test_times_of_parts_are_multiplied_and_added(monkeypatch):
    """One block of three and one of two, each a second a step: 3 s + 2 s, and 1 s for the rest."""

    def constant(calls, *, repetitions, budget):
        return {label: [1000.0] * repetitions for label in calls}

    monkeypatch.setattr("polargrad.experiments.bench.step.time_in_rounds", constant)
    for layers, expected in ((1, 6000.0), (2, 1500.0 + 1000.0), (None, 1000.0)):
        found = settings(layers=layers, candidates=("polargrad", "torch-muon"))
        rows = {row["key"]: row for row in measure(StepCase(TOY, "all"), found)}
        assert rows["polargrad"]["milliseconds"] == expected
        # 6 + 3 + 2 matrices of three shapes, and the vectors.
        assert rows["torch-muon"]["milliseconds"] == 12000.0
        stepped = "all" if layers is None else "some equal blocks"
        assert rows["polargrad"]["stepped"] == stepped


def test_all_parts_of_all_candidates_take_turns(monkeypatch):
    seen = []

    def spied(calls, **options):
        logged = {label: (lambda label=label: seen.append(label)) for label in calls}
        ticks = itertools.count()
        return time_in_rounds(logged, **options, clock=lambda: float(next(ticks)))

    monkeypatch.setattr("polargrad.experiments.bench.step.time_in_rounds", spied)
    measure(
        StepCase(TOY, "matrices"),
        settings(layers=1, repetitions=3, budget=1e9, candidates=("polargrad",)),
    )
    labels = {f"{key} {number}" for key in ("polargrad", "hand-loop") for number in range(2)}
    for turn in range(3):
        assert set(seen[len(seen) - 12 :][4 * turn : 4 * turn + 4]) == labels


def test_a_call_slower_than_its_share_is_warmed_up_only_once():
    called = []
    ticks = itertools.count(step=100)
    times = time_in_rounds(
        {"slow": lambda: called.append(1)}, repetitions=5, budget=50.0, clock=lambda: next(ticks)
    )
    assert len(times["slow"]) == 1
    assert len(called) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ("gpt5",)}, "models must be among gpt2-small, .* got 'gpt5'"),
        ({"models": ()}, "models must name at least one"),
        ({"scopes": ("rows",)}, "scopes must be among matrices, vectors, all, got 'rows'"),
        ({"candidates": ("adam",)}, "candidates must be among polargrad, .* got 'adam'"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"repetitions": 0}, "repetitions must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"budget": -1.0}, "budget must be a positive number"),
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)
