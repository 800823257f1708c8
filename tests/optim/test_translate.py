"""Translated learning rates: sizes as predicted, decay as before, and back again."""

import itertools
import math

import pytest
import torch
from torch import nn

import polargrad as pg
from polargrad.optim.gaussian_size import expected_nuclear_norm, momentum_rms, newton_schulz_rms
from polargrad.optim.translate import translate_lr
from polargrad.optim.update_size import ADAMW_RMS, ADJUSTMENTS, KINDS, Rule, update_rms

SHAPES = [(32, 32), (64, 32), (32, 128), (512, 32), (96, 96), (256, 512)]
KNOWN = {"nuclear_norm": 37.0, "gradient_rms": 0.3}


def gaussian(shape, seed, rms=1.0):
    return rms * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def measured_rms(make, shape, *, gradient_rms=1.0, burn=20, steps=60):
    """RMS of the updates under independent Gaussian gradients, after the averages have settled."""
    p = nn.Parameter(torch.zeros(shape))
    optimizer = make([p])
    squares = []
    for step in range(burn + steps):
        before = p.detach().clone()
        p.grad = gaussian(shape, step, gradient_rms)
        optimizer.step()
        squares.append((p.detach() - before).double().square().mean().item())
    return math.sqrt(sum(squares[burn:]) / steps)


def few(shape):
    """A stack of Gaussian matrices, more of them where one says little."""
    count = 100 if math.prod(shape) < 20_000 else 4
    g = torch.Generator().manual_seed(1)
    return torch.randn(count, *shape, generator=g, dtype=torch.float64)


def random_rules(count=60):
    """Rules of every kind with their options, and a shape for each; the same ones every time."""
    g = torch.Generator().manual_seed(0)

    def pick(values):
        return values[int(torch.randint(len(values), (), generator=g))]

    def uniform(low, high):
        return low + (high - low) * float(torch.rand((), generator=g, dtype=torch.float64))

    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        lr = 10.0 ** uniform(-8, 1)
        options = {"momentum": uniform(0, 0.99), "weight_decay": uniform(0, 0.09) / lr}
        if kind == "muon":
            options["adjust"] = pick(ADJUSTMENTS)
        if kind != "adamw":
            options["momentum_form"] = pick(("ema", "heavy-ball"))
            options["nesterov"] = pick((True, False))
        if kind in ("muon", "polargrad"):
            options["factor_rms"] = uniform(0.8, 1.0)
        shape = tuple(int(2 ** uniform(0, 12)) for _ in range(2))
        yield Rule(kind, lr=lr, **options), shape


def close(a, b, rel=1e-12):
    return math.isclose(a, b, rel_tol=rel, abs_tol=1e-300)


# --- What is expected of Gaussian matrices ---------------------------------------------------


def test_the_nuclear_norm_of_a_square_has_its_closed_form():
    for n in (1, 7, 300):
        expected = 8 / (3 * math.pi) * n**1.5 * 0.4
        assert math.isclose(expected_nuclear_norm((n, n), 0.4), expected, rel_tol=1e-6)


def test_the_nuclear_norm_of_a_flat_matrix_is_that_of_equal_singular_values():
    assert math.isclose(expected_nuclear_norm((4, 4_000_000)), 4 * 2000.0, rel_tol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_nuclear_norm_is_the_mean_of_a_simulation(shape):
    """A finite square has some 0.16/n less than the limit; the Frobenius norm takes scatter out."""
    stack = few(shape)
    norms = torch.linalg.matrix_norm(stack) / math.sqrt(math.prod(shape))
    simulated = (torch.linalg.svdvals(stack).sum(-1) / norms).mean().item()
    assert math.isclose(expected_nuclear_norm(shape), simulated, rel_tol=0.25 / min(shape) + 1e-3)
    assert expected_nuclear_norm(shape[::-1]) == expected_nuclear_norm(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_quintic_steps_leave_is_as_simulated(shape):
    factor = pg.polar_factor(few(shape), method="newton_schulz")
    rms = math.sqrt(factor.square().sum().item() / (len(factor) * min(shape)))
    assert math.isclose(newton_schulz_rms(shape), rms, rel_tol=5e-3)


def test_steps_that_converge_leave_ones():
    method = pg.linalg.NewtonSchulz("cubic", steps=40)
    assert math.isclose(newton_schulz_rms((40, 20), method), 1.0, rel_tol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.95])
def test_the_average_of_independent_gradients_is_the_sum_of_its_weights(beta, nesterov):
    weights = torch.zeros(2000, dtype=torch.float64)
    average = torch.zeros_like(weights)
    for k in range(len(weights)):  # the weight of gradient k in the signal after the last
        average.mul_(beta)
        average[k] += 1 - beta
    weights = beta * average if nesterov else average.clone()
    if nesterov:
        weights[-1] += 1 - beta
    assert close(momentum_rms(beta, nesterov=nesterov), weights.square().sum().sqrt().item())


# --- Predicted sizes against the optimizers ----------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("nesterov", [False, True])
def test_polar_grad_moves_as_far_as_predicted(shape, nesterov):
    options = {"lr": 1e-3, "momentum": 0.6, "nesterov": nesterov}
    rule = Rule("polargrad", **options)
    actual = measured_rms(
        lambda p: pg.PolarGrad(p, tol=None, **options), shape, gradient_rms=0.01, steps=40
    )
    assert math.isclose(update_rms(rule, shape, gradient_rms=0.01), actual, rel_tol=1e-2)


def test_polar_first_has_the_same_predicted_size():
    options = {"lr": 1e-3, "momentum": 0.6}
    actual = measured_rms(
        lambda p: pg.PolarGrad(p, tol=None, order="polar-first", **options), (64, 96)
    )
    predicted = update_rms(Rule("polargrad", **options), (64, 96), gradient_rms=1.0)
    assert math.isclose(predicted, actual, rel_tol=1e-2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw", "spectral_unclamped"])
def test_muon_moves_as_far_as_predicted(shape, adjust):
    rule = Rule("muon", lr=0.02, adjust=adjust, factor_rms=newton_schulz_rms(shape))
    actual = measured_rms(
        lambda p: pg.Muon(p, lr=0.02, weight_decay=0.0, adjust_lr_fn=adjust), shape, steps=20
    )
    assert math.isclose(update_rms(rule, shape), actual, rel_tol=1e-2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_was_translated_moves_as_far_as_before(shape):
    """AdamW → Muon → PolarGrad, each run as translated, AdamW's own RMS measured."""
    lr, g = 1e-3, 0.05
    first = measured_rms(lambda p: torch.optim.AdamW(p, lr=lr, weight_decay=0.0), shape)
    muon_rule = Rule("muon", factor_rms=newton_schulz_rms(shape), nesterov=True)
    muon = translate_lr("adamw", muon_rule, shape, lr=lr, adamw_rms=first / lr)
    second = measured_rms(
        lambda p: pg.Muon(p, lr=muon.lr, momentum=muon.momentum, weight_decay=0.0), shape, steps=20
    )
    assert math.isclose(first, second, rel_tol=1e-2)
    polar = translate_lr(muon.target, Rule("polargrad", momentum=0.5), shape, gradient_rms=g)
    third = measured_rms(
        lambda p: pg.PolarGrad(p, lr=polar.lr, momentum=polar.momentum, tol=None),
        shape,
        gradient_rms=g,
        steps=40,
    )
    assert math.isclose(first, third, rel_tol=1e-2)


def test_the_convention_is_what_an_average_over_ten_steps_has():
    """β₁ = 0.9 and pure noise: √(0.1/1.9) = 0.23, which Moonlight rounds to 0.2."""
    actual = measured_rms(
        lambda p: torch.optim.AdamW(p, lr=1.0, weight_decay=0.0), (64, 64), burn=100, steps=50
    )
    assert math.isclose(actual, momentum_rms(0.9), rel_tol=2e-2)
    assert ADAMW_RMS <= actual <= 2 * ADAMW_RMS


PLAIN = {
    "gradient_descent": pg.optim.GradientDescent,
    "sign_sgd": pg.optim.SignSGD,
    "row_norm": pg.optim.RowNorm,
    "column_norm": pg.optim.ColumnNorm,
}


@pytest.mark.parametrize("kind", PLAIN)
def test_the_plain_rules_move_as_far_as_predicted(kind):
    """All but gradient descent whatever the gradients are."""
    options = {"lr": 0.5, "momentum": 0.6}
    actual = measured_rms(lambda p: PLAIN[kind](p, **options), (30, 50), gradient_rms=0.1)
    predicted = update_rms(Rule(kind, **options), (30, 50), gradient_rms=0.1)
    rel = 1e-2 if kind == "gradient_descent" else 1e-5
    assert math.isclose(actual, predicted, rel_tol=rel)


@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (30, 30)], ids=str)
@pytest.mark.parametrize("rank", [1, 7, 20])
def test_a_polar_factor_of_some_rank_has_its_size(shape, rank):
    g = gaussian((shape[0], rank), 0).double() @ gaussian((rank, shape[1]), 1).double()
    left, sigma, right = torch.linalg.svd(g)
    u, s, vh = left[:, :rank], sigma[:rank], right[:rank]
    for rule, update in (
        (Rule("muon", lr=0.1, adjust="unit"), 0.1 * (u @ vh)),
        (Rule("polargrad", lr=0.1), 0.1 * s.sum() * (u @ vh)),
    ):
        predicted = update_rms(rule, shape, rank=rank, nuclear_norm=s.sum().item())
        assert close(predicted, update.square().mean().sqrt().item(), rel=1e-11)


# --- Theorems of the translation -----------------------------------------------------------------


def test_there_and_back_is_the_identity():
    """All options of all kinds, to 1e-12."""
    rules = list(random_rules())
    for (rule, shape), (other, _) in itertools.product(rules, rules[:21]):
        there = translate_lr(rule, Rule(other.kind, adjust=other.adjust), shape, **KNOWN)
        back = translate_lr(
            there.target,
            Rule(
                rule.kind,
                adjust=rule.adjust,
                momentum_form=rule.momentum_form,
                nesterov=rule.nesterov,
                factor_rms=rule.factor_rms,
            ),
            shape,
            **KNOWN,
        )
        assert close(back.lr, rule.lr)
        assert back.momentum == rule.momentum
        assert close(back.weight_decay, rule.weight_decay)
        assert close(there.source_rms, there.target_rms)


def test_a_translation_to_itself_changes_nothing():
    for rule, shape in random_rules():
        form = Rule(rule.kind, adjust=rule.adjust, nesterov=rule.nesterov, momentum=rule.momentum)
        plain = translate_lr(rule, form, shape, **KNOWN)
        again = translate_lr(plain.target, form, shape, **KNOWN)
        assert close(again.lr, plain.lr)


def test_decay_takes_away_the_same_part():
    for rule, shape in random_rules():
        for kind in KINDS:
            new = translate_lr(rule, kind, shape, **KNOWN)
            assert close(new.lr * new.weight_decay, rule.lr * rule.weight_decay)


def test_heavy_ball_moves_polar_grad_farther_and_muon_not():
    """The nuclear norm of M = Σ βᵏ G is 1/(1 − β) times that of the average."""
    source = Rule("polargrad", lr=0.1, momentum=0.95)
    found = translate_lr(source, Rule("polargrad", momentum_form="heavy-ball"), (8, 8), **KNOWN)
    assert close(found.lr, 0.1 * (1 - 0.95))
    muon = Rule("muon", lr=0.1, momentum=0.95)
    assert translate_lr(muon, Rule("muon", momentum_form="heavy-ball"), (8, 8)).lr == 0.1


def test_moonlights_factor_keeps_the_lr_of_adamw_for_every_shape():
    for shape in SHAPES:
        found = translate_lr("adamw", Rule("muon", adjust="match_rms_adamw"), shape, lr=3e-4)
        assert close(found.lr, 3e-4)
        assert found.momentum == 0.9


@pytest.mark.parametrize("adjust", ["original", "spectral_unclamped", "largest_dimension", "unit"])
def test_the_scalings_differ_by_their_factors(adjust):
    m, n = 96, 24
    tall = {"original": 2.0, "spectral_unclamped": 2.0, "largest_dimension": math.sqrt(m)}
    wide = {"spectral_unclamped": 0.5, "largest_dimension": math.sqrt(m)}
    factor = tall.get(adjust, 1.0)
    found = translate_lr("adamw", Rule("muon", adjust=adjust), (m, n), lr=1e-3)
    assert close(found.lr, 1e-3 * 0.2 * math.sqrt(m) / factor)
    found = translate_lr("adamw", Rule("muon", adjust=adjust), (n, m), lr=1e-3)
    factor = wide.get(adjust, 1.0)
    assert close(found.lr, 1e-3 * 0.2 * math.sqrt(m) / factor)


def test_a_decay_that_polar_grad_refuses_becomes_one_per_step():
    found = translate_lr("adamw", "polargrad", (8, 8), lr=1.0, weight_decay=0.3, **KNOWN)
    assert (found.weight_decay, found.decay_per_step) == (0.0, 0.3)
    assert "decay_per_step" in str(found).splitlines()[-1]
    p = nn.Parameter(torch.eye(8))
    p.grad = torch.zeros(8, 8)
    options = {"lr": found.lr, "weight_decay": found.weight_decay}
    pg.PolarGrad([p], decay_per_step=found.decay_per_step, **options).step()
    torch.testing.assert_close(p.detach(), 0.7 * torch.eye(8))
    with pytest.raises(ValueError, match="decay_per_step"):
        pg.PolarGrad([nn.Parameter(torch.eye(8))], lr=found.lr, weight_decay=0.3 / found.lr)
    back = translate_lr(found.target, "adamw", (8, 8), **KNOWN)
    assert close(back.weight_decay, 0.3)


def test_what_the_target_gives_is_kept():
    target = Rule("muon", momentum=0.95, weight_decay=0.1)
    found = translate_lr("adamw", target, (8, 8), lr=1e-3, weight_decay=0.5)
    assert (found.momentum, found.weight_decay) == (0.95, 0.1)


def test_the_explanation_says_the_numbers():
    text = str(translate_lr("adamw", "polargrad", (64, 64), lr=3e-4, gradient_rms=1e-3))
    assert text.startswith("adamw → polargrad, a 64 × 64 matrix")
    assert "update RMS      6e-05 → 6e-05" in text
    assert "while gradients keep the size" in text


# --- What is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("adam", "muon", (4, 4)), {"lr": 1.0}, "kind must be one of adamw, muon"),
        (("adamw", "muon", (4, 4)), {}, "lr of 'adamw' must be given"),
        (("adamw", Rule("muon", lr=1.0), (4, 4)), {"lr": 1.0}, "to must leave lr"),
        ((Rule("adamw", lr=1.0), "muon", (4, 4)), {"lr": 1.0}, "has its own lr"),
        (("adamw", "muon", (4, 4, 3, 3)), {"lr": 1.0}, r"shape must be two.*\(4, 4, 3, 3\)"),
        (("adamw", "muon", (4, 0)), {"lr": 1.0}, "two positive integers"),
        (("adamw", "muon", (4, 4)), {"lr": 0.0}, "lr must be above 0"),
        (("adamw", "muon", (4, 4)), {"lr": math.inf}, "lr must be above 0 and finite"),
        (("adamw", "muon", (4, 4)), {"lr": 1.0, "momentum": 1.0}, r"momentum must be .* below 1"),
        (("adamw", "muon", (4, 4)), {"lr": 1.0, "weight_decay": 1.0}, "everything in one step"),
        (("adamw", "muon", (4, 4)), {"lr": 1.0, "rank": 5}, "rank must be None or between 1 and 4"),
        (("adamw", "muon", (4, 4)), {"lr": 1.0, "adamw_rms": 0.0}, "adamw_rms must be above 0"),
        (("adamw", "polargrad", (4, 4)), {"lr": 1.0}, "nuclear_norm or gradient_rms must be given"),
        (("adamw", "gradient_descent", (4, 4)), {"lr": 1.0}, "gradient_rms must be given"),
        (
            ("adamw", "polargrad", (4, 4)),
            {"lr": 1.0, "rank": 2, "gradient_rms": 1.0},
            "nuclear_norm must be given with rank=2",
        ),
        (
            ("adamw", Rule("polargrad", weight_decay=1e6), (4, 4)),
            {"lr": 1.0, "nuclear_norm": 1.0},
            "PolarGrad allows less than 0.1",
        ),
    ],
)
def test_refused_with_the_argument_and_the_value(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        translate_lr(*arguments, **options)


@pytest.mark.parametrize(
    "options",
    [{"adjust": "unit"}, {"momentum_form": "heavy-ball"}, {"nesterov": True}, {"factor_rms": 0.9}],
    ids=str,
)
def test_options_that_adamw_does_not_have_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} belongs to"):
        Rule("adamw", lr=1.0, **options)


@pytest.mark.parametrize("lr", ["1e-3", True, 1 + 2j])
def test_what_is_not_a_number_is_a_type_error(lr):
    with pytest.raises(TypeError, match="lr must be a number"):
        Rule("muon", lr=lr)


def test_what_is_neither_name_nor_rule_is_a_type_error():
    with pytest.raises(TypeError, match="to must be a name or a Rule, got int"):
        translate_lr("adamw", 3, (4, 4), lr=1.0)
