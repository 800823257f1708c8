"""The checks of the theory: their mathematics, that they can fail, and what a folder holds."""

import dataclasses
import itertools
import json
import math

import pytest
import torch

from polargrad.errors import RunFolderError
from polargrad.experiments.claims import FAILS, HOLDS, HOLDS_IF
from polargrad.experiments.theory import checks_stability as theory_checks_stability
from polargrad.experiments.theory import run as theory
from polargrad.experiments.theory.check import Check, Finding, bounded, of, slope, thinned
from polargrad.experiments.theory.checks_descent import descent, one_step_limit, promised
from polargrad.experiments.theory.checks_noise import GAUSSIAN, NOISES, SKEWED, gaussian, runs
from polargrad.experiments.theory.checks_oracles import inexact_oracle
from polargrad.experiments.theory.checks_plateau import bound, sign_descent
from polargrad.experiments.theory.checks_rates import rates
from polargrad.experiments.theory.checks_stability import converges, run, stability_limit
from polargrad.experiments.theory.checks_updates import METHODS, scale_law
from polargrad.experiments.theory.form import QUICK, ErrorForm, Extent, Setting, instance
from polargrad.experiments.theory.oracles import EXACT, PUBLISHED
from polargrad.experiments.theory.run import markdown, read_checks, run_theory
from polargrad.experiments.theory.trajectories import conditioned_start, exact_trajectories
from polargrad.geometry import taxonomy
from polargrad.linalg import polar
from polargrad.problems import MatrixQuadraticRegression

TINY = Extent(
    version="tiny", sizes=(30, 8, 60, 20), small=(12, 4, 24, 10), share=0.03, oracles=3, halvings=7
)
SIZES = [(30, 8, 60, 20), (8, 30, 20, 60), (6, 6, 9, 9), (5, 3, 4, 3)]


def form_of(sizes, seed=0):
    return ErrorForm.of(*instance(sizes, seed))


def worst_direction(problem):
    """The isometry that pairs the leading right singular vectors of A with the left ones of B."""
    V = torch.linalg.svd(problem.A.double(), full_matrices=False).Vh.mT
    W = torch.linalg.svd(problem.B.double(), full_matrices=False).U
    paired = min(V.shape[1], W.shape[1])
    return V[:, :paired] @ W[:, :paired].mT


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_form_is_the_problem_in_the_error(sizes):
    problem, start = instance(sizes, 1)
    form = ErrorForm.of(problem, start)
    double = problem.to(torch.float64)
    gap = problem.gap(start)
    assert float(form.gap(form.start)) == pytest.approx(gap, rel=1e-12)
    expected = double.gradient(start.double())
    tolerance = 1e-11 * float(expected.norm())
    assert (form.gradient(form.start) - expected).norm() <= tolerance
    D = form.start / form.start.norm()
    curvature = (double.A @ D @ double.B).square().sum()
    assert float(form.curvature(D)) == pytest.approx(float(curvature), rel=1e-12)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_spectral_smoothness_is_a_maximum_that_is_attained(sizes):
    problem, start = instance(sizes, 2)
    form = ErrorForm.of(problem, start)
    generator = torch.Generator().manual_seed(3)
    draws = torch.randn(200, *start.shape, generator=generator, dtype=torch.float64)
    # The generalised power iteration climbs: its factors are nearly the worst ones.
    D = polar(draws).U
    for _ in range(20):
        D = polar(form.gradient(D)).U
    largest = form.curvature(D).max()
    assert 0.9 * form.spectral_smoothness <= largest
    assert largest <= form.spectral_smoothness * (1 + 1e-12)
    worst = form.curvature(worst_direction(problem))
    assert float(worst) == pytest.approx(form.spectral_smoothness, rel=1e-12)
    assert form.smoothness <= form.spectral_smoothness * (1 + 1e-12)
    assert form.spectral_smoothness <= form.rank * form.smoothness


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_in_the_worst_direction_the_limit_is_sharp(factor):
    """E = eD, D the worst isometry: ∇f has the polar factor D, and a step gives (1 - γL_op)E."""
    problem, start = instance(SIZES[0], 2)
    D = worst_direction(problem)
    form = dataclasses.replace(ErrorForm.of(problem, start), start=D)
    gaps = run(form, EXACT, factor * form.stability_limit, 6)
    growth = (1.0 - 2.0 * factor) ** 2
    for before, after in itertools.pairwise(gaps):
        # The oracle works in float32, and its errors grow away from the worst direction.
        assert after / before == pytest.approx(growth, rel=1e-3)
    assert converges(gaps, 6) == (factor < 1.0)


def test_bounded_counts_what_violates():
    finding = bounded("a", "b", [2.0, 0.5, math.nan])
    assert (finding.steps, finding.violations, finding.verdict) == (3, 2, FAILS)
    assert bounded("a", "b", [1.0 - 1e-12], slack=1e-9).verdict == HOLDS
    assert bounded("a", "b", []).verdict == FAILS  # nothing looked at is nothing shown


def test_slope_and_thinning():
    x = [1.0, 3.0, 10.0]
    assert slope(x, [7.0 * value**-1.5 for value in x]) == pytest.approx(-1.5)
    assert thinned(range(1000), 5) == [0, 250, 500, 749, 999]
    assert of([{"a": 1}, {"a": 2}], a=2) == [{"a": 2}]


def test_trajectories_hold_what_theory_says_of_them():
    setting = Setting(TINY, 5)
    records = exact_trajectories(setting)
    form = setting.form
    assert len({r["trajectory"] for r in records}) == 5
    for r in records:
        if "next_gap" in r:
            # The expansion is exact: f₊ = f - γν²(1 - γ/limit).
            first = r["gamma"] * r["nuclear_norm"] ** 2
            expected = r["gap"] - first * (1.0 - r["gamma"] / r["one_step_limit"])
            assert r["next_gap"] == pytest.approx(expected, rel=1e-9)
            assert r["rank"] == form.rank


def test_a_conditioned_start_has_a_conditioned_gradient():
    form = form_of(SIZES[0])
    values = torch.linalg.svdvals(form.gradient(conditioned_start(form)))
    assert float(values[0] / values[-1]) == pytest.approx(1.0, abs=1e-9)
    assert float(conditioned_start(form).norm()) == pytest.approx(float(form.start.norm()))


@pytest.mark.parametrize("check", [descent, one_step_limit, rates, inexact_oracle, scale_law])
def test_theorems_hold_on_another_problem(check):
    found = check(Setting(TINY, 7))
    assert found.verdict == HOLDS
    assert found.records
    # Adam belongs to nobody's theorem, and matters to no verdict.
    ours = [f for f in found.findings if not f.claim.startswith("Adam")]
    assert sum(f.violations for f in ours) == 0
    assert all(f.steps > 0 for f in found.findings)


def test_a_wrong_constant_is_found_out():
    """With half of L_op the descent inequality is violated, and the check sees it."""
    setting = Setting(TINY, 7)
    records = [r for r in exact_trajectories(setting) if "next_gap" in r]
    right = [promised(r, setting.form.spectral_smoothness) for r in records]
    wrong = [promised(r, 0.5 * setting.form.spectral_smoothness) for r in records]
    assert bounded("a", "b", right, slack=1e-9).verdict == HOLDS
    assert bounded("a", "b", wrong, slack=1e-9).verdict == FAILS


def test_the_stability_limit_is_found_by_bisection(monkeypatch):
    monkeypatch.setattr(theory_checks_stability, "LEARNING_RATES", ())
    found = stability_limit(Setting(TINY, 7))
    exact, published = found.records[:2]
    form = Setting(TINY, 7).form
    assert exact["observed"] == pytest.approx(form.stability_limit, rel=0.05)
    # The published oracle shrinks singular values: it is stable beyond the exact factor's limit.
    assert published["observed"] > 1.1 * exact["observed"]
    assert published["nuclear_ratio"] < 0.95
    assert published["size"] < 0.95


def test_oracles_are_what_they_are_called():
    G = form_of(SIZES[0]).start
    assert (EXACT(G) - polar(G).U).norm() <= 100 * torch.finfo(torch.float32).eps
    assert EXACT(1e-60 * G).isfinite().all()
    assert torch.linalg.svdvals(PUBLISHED(G)).max() < 1.0 + 1e-5
    assert torch.linalg.svdvals(PUBLISHED(G)).min() < 0.9


@pytest.mark.parametrize("name", NOISES)
def test_noise_has_mean_zero_and_variance_one(name):
    draws = NOISES[name]((20000, 12, 4), torch.Generator().manual_seed(0))
    sizes = draws.square().sum(dim=(-2, -1))
    assert float(sizes.mean()) == pytest.approx(1.0, abs=5 * float(sizes.std()) / 20000**0.5)
    assert draws.mean(dim=0).norm() <= 3 * 20000**-0.5


@pytest.mark.parametrize(("name", "biased"), [(GAUSSIAN, False), (SKEWED, True)])
def test_only_skewed_noise_moves_the_optimum(name, biased):
    """E[νU(Z)] is odd in Z: it vanishes for symmetric noise and not for skewed noise."""
    draws = NOISES[name]((20000, 12, 4), torch.Generator().manual_seed(0))
    factor = polar(draws)
    steps = factor.nuclear_norm[:, None, None] * factor.U
    error = float((steps.square().sum(dim=(-2, -1)).mean() / 20000).sqrt())
    mean = float(steps.mean(dim=0).norm())
    assert (mean > 10 * error) == biased
    assert biased or mean < 3 * error


def test_noisy_runs_are_homogeneous():
    """(E, σ) → (8E, 8σ) multiplies every gap by 64, to the bit."""
    form = Setting(TINY, 3).small
    gamma = 0.5 * form.certain_step
    cases = [(GAUSSIAN, gamma, 4.0)], [(GAUSSIAN, gamma, 256.0)]
    ones = runs(form, cases[0], 50, form.start, 1, "variance")
    eights = runs(form, cases[1], 50, 8.0 * form.start, 1, "variance")
    assert eights[0]["gaps"] == [64.0 * gap for gap in ones[0]["gaps"]]


def test_one_noisy_step_obeys_its_bound():
    form = Setting(TINY, 3).small
    gamma, sigma = 0.5 * form.certain_step, float(form.gradient(form.start).norm())
    G = form.gradient(form.start)
    noisy = G + sigma * gaussian((5000, *G.shape), torch.Generator().manual_seed(4))
    factor = polar(noisy)
    E = form.start - gamma * factor.nuclear_norm[:, None, None] * factor.U
    before = float(form.gap(form.start))
    allowed = (1 - 0.5 * gamma * form.strong_convexity) * before
    allowed += 0.5 * gamma * form.rank * sigma**2
    assert float(form.gap(E).mean()) < allowed


def test_sign_descent_is_homogeneous_and_below_its_bound():
    form = Setting(TINY, 3).small
    doubled = dataclasses.replace(form, start=2.0 * form.start)
    ones = sign_descent(form, "a", [0.5, 0.25], 400)
    twos = sign_descent(doubled, "a", [1.0, 0.5], 400)
    for one, two in zip(ones, twos, strict=True):
        assert two["gaps"] == [4.0 * gap for gap in one["gaps"]]
        assert one["violations"] == 0
        assert one["arrived"]
        assert 0.0 < one["plateau"] < bound(form, one["gamma"])


def test_the_methods_are_those_of_the_taxonomy():
    """What is expected of a method's steps is what the package's table of methods says of it."""
    table = {entry["name"]: entry["null_gradient_consistent"] for entry in taxonomy.to_data()}
    names = {
        "polargrad": "PolarGrad",
        "polargradm": "PolarGradM, momentum-first",
        "gradient-descent": "gradient descent",
        "sign-descent": "matrix sign descent",
        "muon": "Muon (Jordan)",
        "signsgd": "signSGD",
        "adam": "Adam",
    }
    expected = {m.name: m.consistent for m in METHODS if m.name in names}
    assert expected == {name: table[entry] for name, entry in names.items()}


@pytest.fixture
def few(monkeypatch):
    """Two checks in place of nine, and a count of their calls."""
    calls = []

    def counted(name, check):
        def call(setting):
            calls.append(name)
            return check(setting)

        return call

    chosen = {"descent": descent, "one-step-limit": one_step_limit}
    monkeypatch.setattr(theory, "CHECKS", {name: counted(name, c) for name, c in chosen.items()})
    return calls


def test_a_folder_holds_what_is_promised_and_is_not_done_twice(tmp_path, few, capsys):
    out = tmp_path / "theory"
    first = run_theory(out, extent=TINY, seed=3)
    assert {path.name for path in out.iterdir()} == {
        "settings.json",
        "provenance.json",
        "verdicts.md",
        *(f"{name}.{kind}" for name in theory.CHECKS for kind in ("json", "png")),
        *(f"records-{name}.jsonl" for name in theory.CHECKS),
    }
    assert (out / "descent.png").read_bytes().startswith(b"\x89PNG")
    assert "2/2 one-step-limit" in capsys.readouterr().err
    again = run_theory(out, extent=TINY, seed=3)
    assert few == first.done == ["descent", "one-step-limit"]
    assert again.done == []
    assert again.checks == read_checks(out)
    # As they were measured, but for tuples that JSON keeps as lists.
    assert [c.findings for c in again.checks] == [c.findings for c in first.checks]
    assert [c.records for c in again.checks] == [c.records for c in first.checks]


def test_what_is_missing_is_done_again(tmp_path, few):
    run_theory(tmp_path, extent=TINY, seed=3)
    kept = json.loads((tmp_path / "one-step-limit.json").read_text())
    (tmp_path / "one-step-limit.json").unlink()
    (tmp_path / "descent.png").unlink()
    assert run_theory(tmp_path, extent=TINY, seed=3).done == ["one-step-limit"]
    assert json.loads((tmp_path / "one-step-limit.json").read_text()) == kept
    assert (tmp_path / "descent.png").exists()


def test_another_run_is_refused_and_can_be_overwritten(tmp_path, few):
    run_theory(tmp_path, extent=TINY, seed=3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunFolderError, match="seed: 3 there, 4 here"):
        run_theory(tmp_path, extent=TINY, seed=4)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert len(run_theory(tmp_path, extent=TINY, seed=4, overwrite=True).done) == 2


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_bad_seeds_are_refused_before_anything_is_written(tmp_path, seed):
    with pytest.raises(ValueError, match=f"got {seed}"):
        run_theory(tmp_path / "run", extent=TINY, seed=seed)
    assert not (tmp_path / "run").exists()


def test_folders_without_checks_are_refused(tmp_path):
    with pytest.raises(RunFolderError, match="holds no check"):
        read_checks(tmp_path)


def test_markdown_keeps_bars_inside_their_cells():
    finding = Finding(
        claim="|a| ≤ 1", condition="b", steps=1, violations=0, margin=1.0, verdict=HOLDS
    )
    check = Check(
        name="name",
        statement="s",
        source="x",
        evidence="e",
        verdict=HOLDS_IF,
        condition="c",
        findings=(finding,),
        panels=(),
        records=(),
    )
    text = markdown([check])
    assert "## name: holds if c" in text
    assert "| \\|a\\| ≤ 1 | b | 1 | 0 | 1 | holds |" in text


def test_a_claim_says_which_command_shows_it():
    check = descent(Setting(TINY, 7))
    assert check.claim.command == "polargrad theory"
    assert check.claim.judgement == HOLDS


def test_the_published_form_is_the_published_problem():
    problem, start = MatrixQuadraticRegression.published(42)
    drawn, point = instance((500, 100, 1000, 250), 42)
    assert all(torch.equal(getattr(problem, k), getattr(drawn, k)) for k in "ABC")
    assert torch.equal(start, point)


@pytest.mark.slow
def test_the_quick_version_comes_to_the_verdicts_of_the_documentation(tmp_path):
    found = {check.name: check for check in run_theory(tmp_path, extent=QUICK).checks}
    verdicts = {name: check.verdict for name, check in found.items()}
    conditional = {"null-gradient", "noise-floor"}
    assert verdicts == {name: HOLDS_IF if name in conditional else HOLDS for name in theory.CHECKS}
    assert "Adam" in found["null-gradient"].condition
    assert "skewed" in found["noise-floor"].condition
