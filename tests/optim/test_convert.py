"""States of one optimizer in another: nothing lost, nothing changed, nothing guessed."""

import copy
import io

import pytest
import torch
from torch import nn

import polargrad as pg
from polargrad.optim.convert import convert_state

SHAPES = [(6, 4), (4, 6), (5, 5)]


def matrices(dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=g).to(dtype)) for shape in SHAPES]


def advance(optimizer, steps=3, start=0):
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(start, start + steps):
        for k, p in enumerate(params):
            g = torch.Generator().manual_seed(100 * step + k)
            p.grad = torch.randn(p.shape, generator=g).to(p.dtype)
        optimizer.step()
    return optimizer


def named(params):
    return [(f"layer{k}", p) for k, p in enumerate(params)]


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def load(source, target, **options):
    """Convert, through a file, and load."""
    target.load_state_dict(through_a_file(convert_state(source, target, **options)))
    return target


def buffers(optimizer, key="momentum_buffer"):
    return [optimizer.state[p][key] for g in optimizer.param_groups for p in g["params"]]


def same(a, b):
    assert len(a) == len(b) > 0
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


MUONS = {
    "ours": lambda p: pg.Muon(p, lr=0.02),
    "torch": lambda p: torch.optim.Muon(p, lr=0.02),
}


@pytest.mark.parametrize("muon", MUONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_muon_to_polar_grad_and_back_is_the_identity_to_the_bit(muon, dtype):
    before = advance(MUONS[muon](matrices(dtype)))
    between = load(before, pg.PolarGrad(matrices(dtype), lr=0.1))
    assert all(b.dtype == torch.float32 for b in buffers(between))
    after = load(between, MUONS[muon](matrices(dtype)))
    assert same(buffers(after), buffers(before))
    assert after.state_dict()["state"].keys() == before.state_dict()["state"].keys()


def test_the_next_step_is_that_of_a_run_which_had_always_been_the_target():
    """Momentum and gradient are all that a step of PolarGrad knows."""
    always = advance(pg.PolarGrad(matrices(), lr=1e-9, momentum=0.95))
    late = load(advance(torch.optim.Muon(matrices(), lr=1e-9)), pg.PolarGrad(matrices(), lr=1e-9))
    # Two ways to write a lerp may differ in the last bit.
    for a, b in zip(buffers(always), buffers(late), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=4 * torch.finfo(torch.float32).eps)
    for optimizer in (always, late):
        for group in optimizer.param_groups:
            group["lr"] = 0.5
    starts = [[p.detach().clone() for p in o.param_groups[0]["params"]] for o in (always, late)]
    for optimizer in (always, late):
        advance(optimizer, 1, start=3)
    updates = [
        [p.detach() - s for p, s in zip(o.param_groups[0]["params"], start, strict=True)]
        for o, start in zip((always, late), starts, strict=True)
    ]
    for a, b in zip(*updates, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_heavy_ball_is_the_average_over_one_minus_beta(beta):
    """Converted after three steps, or run as the other from the start: the same to rounding."""

    def make(form):
        return pg.PolarGrad(matrices(torch.float64), lr=1e-9, momentum=beta, momentum_form=form)

    for here, there in (("ema", "heavy-ball"), ("heavy-ball", "ema")):
        converted = load(advance(make(here)), make(there))
        straight = advance(make(there))
        for a, b in zip(buffers(converted), buffers(straight), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_a_heavy_ball_of_another_package_says_its_form():
    """torch.optim.SGD's buffer is Σ βᵏ G."""
    sgd = advance(torch.optim.SGD(matrices(), lr=1e-9, momentum=0.9))
    target = pg.PolarGrad(matrices(), lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match="momentum_form must be given"):
        convert_state(sgd, target)
    load(sgd, target, momentum_form="heavy-ball")
    straight = advance(pg.PolarGrad(matrices(), lr=1e-9, momentum=0.9))
    for a, b in zip(buffers(target), buffers(straight), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_first_moment_of_adamw_is_a_momentum_where_asked():
    adamw = advance(torch.optim.AdamW(matrices(), lr=1e-3, betas=(0.95, 0.999)))
    target = pg.PolarGrad(matrices(), lr=0.1)
    with pytest.raises(ValueError, match=r"parameter number 0 comes from AdamW.*warm_start=True"):
        convert_state(adamw, target)
    load(adamw, target, warm_start=True)
    assert same(buffers(target), buffers(adamw, "exp_avg"))
    straight = advance(pg.PolarGrad(matrices(), lr=1e-9, momentum=0.95))
    for a, b in zip(buffers(target), buffers(straight), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_warm_start_takes_a_bounded_first_step():
    """No longer than γ‖M‖_* in spectral norm, M the average that was loaded with one gradient."""
    target = pg.PolarGrad(matrices(), lr=0.1, tol=None)
    load(advance(torch.optim.AdamW(matrices(), lr=1e-3)), target, warm_start=True)
    before = [p.detach().clone() for p in target.param_groups[0]["params"]]
    advance(target, 1, start=3)
    for p, start, m in zip(target.param_groups[0]["params"], before, buffers(target), strict=True):
        length = torch.linalg.matrix_norm(p.detach() - start, ord=2)
        assert 0 < length <= 0.1 * torch.linalg.matrix_norm(m, "nuc") * (1 + 1e-5)


def test_a_warm_start_of_a_corrected_average_takes_the_count_along():
    """With β₁ = β the corrected momentum is AdamW's corrected first moment."""
    adamw = advance(torch.optim.AdamW(matrices(), lr=1e-3, betas=(0.9, 0.999)))
    target = pg.PolarGrad(matrices(), lr=0.1, momentum=0.9, bias_correction=True)
    load(adamw, target, warm_start=True)
    assert [step.tolist() for step in buffers(target, "step")] == [[3], [3], [3]]


def test_a_corrected_average_needs_a_count():
    muon = advance(torch.optim.Muon(matrices(), lr=1e-3))
    target = pg.PolarGrad(matrices(), lr=0.1, bias_correction=True)
    with pytest.raises(ValueError, match="does not count the steps of parameter number 0: pass"):
        convert_state(muon, target)
    counts = [step.tolist() for step in buffers(load(muon, target, steps=3), "step")]
    assert counts == [[3], [3], [3]]


# --- Whole models ------------------------------------------------------------------------------


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def apart(module):
    """Muon and AdamW side by side, as torch has them."""
    groups = pg.param_groups(module)
    return [
        torch.optim.Muon(groups[0]["params"], lr=0.02),
        torch.optim.AdamW(groups[1]["params"], lr=1e-3),
    ]


def test_two_optimizers_become_one_and_two_again():
    """By name: the order of parameters is another one on each side."""
    pair = [advance(optimizer) for optimizer in apart(model())]
    module = model()
    one = load(pair, pg.PolarGrad(pg.param_groups(module, vector_lr=1e-3), lr=0.1))
    assert set(one.state) == set(module.parameters())
    again = [load(one, optimizer) for optimizer in apart(model())]
    for before, after in zip(pair, again, strict=True):
        for key in before.state_dict()["state"][0]:
            assert same(buffers(before, key), buffers(after, key))


def test_names_decide_and_not_positions():
    params = matrices()
    before = advance(pg.Muon(named(params), lr=0.02))
    turned = named(matrices())[::-1]
    after = load(before, pg.PolarGrad(turned, lr=0.1))
    assert same(buffers(after)[::-1], buffers(before))
    part = load(before, pg.PolarGrad(turned[:1], lr=0.1))
    assert same(buffers(part), buffers(before)[-1:])


def test_the_memory_of_shampoo_goes_to_an_equal_one_alone():
    before = advance(pg.optim.Shampoo(matrices(), lr=0.1, momentum=0.9))
    equal = load(before, pg.optim.Shampoo(matrices(), lr=0.2, momentum=0.9))
    for p, q in zip(before.state.values(), equal.state.values(), strict=True):
        assert same(list(p.values()), list(q.values()))
    other = load(before, pg.PolarGrad(matrices(), lr=0.1))
    assert same(buffers(other), buffers(before))
    assert {key for state in other.state.values() for key in state} == {"momentum_buffer"}
    fresh = load(other, pg.optim.Shampoo(matrices(), lr=0.1, momentum=0.9))
    assert same(buffers(fresh), buffers(before))
    advance(fresh, 1)
    assert all(p.isfinite().all() for p in fresh.param_groups[0]["params"])


def test_a_target_without_momentum_gets_none():
    before = advance(pg.Muon(matrices(), lr=0.02))
    assert convert_state(before, pg.PolarGrad(matrices(), lr=0.1, momentum=0))["state"] == {}


def test_options_stay_the_targets():
    before = advance(pg.Muon(matrices(), lr=0.02, momentum=0.9))
    target = pg.PolarGrad(matrices(), lr=0.1, method="svd")
    options = copy.deepcopy(target.state_dict()["param_groups"])
    assert convert_state(before, target)["param_groups"] == options


def test_a_state_before_the_first_step_is_empty():
    assert convert_state(pg.Muon(matrices()), pg.PolarGrad(matrices(), lr=0.1))["state"] == {}


def test_nothing_given_is_changed_and_no_memory_shared():
    before, target = (
        advance(torch.optim.Muon(matrices(), lr=0.02)),
        pg.PolarGrad(matrices(), lr=0.1),
    )
    saved = before.state_dict()
    copies = [copy.deepcopy(saved), copy.deepcopy(target.state_dict())]
    new = convert_state(saved, target)
    for state in new["state"].values():
        state["momentum_buffer"].fill_(torch.nan)
    new["param_groups"][0]["views"].clear()
    assert same(
        [s["momentum_buffer"] for s in saved["state"].values()],
        [s["momentum_buffer"] for s in copies[0]["state"].values()],
    )
    assert saved["param_groups"] == copies[0]["param_groups"]
    assert target.state_dict() == copies[1]


# --- What is refused ---------------------------------------------------------------------------


def test_another_shape_is_refused_by_name():
    before = advance(pg.Muon(named(matrices()), lr=0.02))
    wrong = [("layer0", nn.Parameter(torch.eye(6)))]
    with pytest.raises(ValueError, match=r"of parameter layer0 must .* \(6, 6\), got \(6, 4\)"):
        convert_state(before, pg.PolarGrad(wrong, lr=0.1))


def test_a_name_that_source_lacks_is_refused():
    before = advance(pg.Muon(named(matrices()), lr=0.02))
    other = [("layer9", nn.Parameter(torch.eye(6)))]
    with pytest.raises(ValueError, match="no parameter layer9, only layer0, layer1, layer2"):
        convert_state(before, pg.PolarGrad(other, lr=0.1))


def test_a_name_twice_is_refused():
    before = advance(pg.Muon(named(matrices()), lr=0.02))
    with pytest.raises(ValueError, match="parameter layer0 more than once"):
        convert_state([before, before], pg.PolarGrad(named(matrices()), lr=0.1))


def test_positions_have_to_be_equally_many():
    before = advance(pg.Muon(matrices(), lr=0.02))
    with pytest.raises(ValueError, match=r"3 parameters, target 2: give both\s+named_parameters"):
        convert_state(before, pg.PolarGrad(matrices()[:2], lr=0.1))


@pytest.mark.parametrize("order", ["polar-first", "polyak"])
def test_an_average_of_something_else_is_refused(order):
    def make(**options):
        return pg.PolarGrad(matrices(), lr=0.1, momentum=0.9, **options)

    gradients, others = advance(make()), advance(make(order=order))
    for source, target in ((gradients, make(order=order)), (others, make())):
        with pytest.raises(ValueError, match="momentum of parameter number 0 is one of"):
            convert_state(source, target)
    assert same(buffers(load(others, make(order=order))), buffers(others))


def test_adamw_without_a_second_moment_is_refused():
    before = advance(pg.Muon(matrices(), lr=0.02))
    with pytest.raises(ValueError, match="AdamW needs step, exp_avg, exp_avg_sq of parameter"):
        convert_state(before, torch.optim.AdamW(matrices()))


def test_a_momentum_under_another_name_is_refused():
    state = advance(torch.optim.SGD(matrices(), lr=0.1, momentum=0.9)).state_dict()
    for own in state["state"].values():
        own["velocity"] = own.pop("momentum_buffer")
    with pytest.raises(ValueError, match=r"must hold momentum_buffer .* got velocity"):
        convert_state(state, pg.PolarGrad(matrices(), lr=0.1), momentum_form="ema")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (3, TypeError, "source must be an optimizer .* got int"),
        ({"state": {}}, TypeError, "source must be an optimizer .* got dict"),
        (
            {"state": {}, "param_groups": [{"params": [0], "lr": 1.0}]},
            ValueError,
            "momentum or betas in every group, got the options lr",
        ),
    ],
)
def test_what_is_no_state_is_refused(source, error, message):
    with pytest.raises(error, match=message):
        convert_state(source, pg.PolarGrad(matrices(), lr=0.1))


def test_wrong_options_are_refused():
    muon, target = pg.Muon(matrices()), pg.PolarGrad(matrices(), lr=0.1)
    with pytest.raises(TypeError, match="target must be an optimizer, got dict"):
        convert_state(muon, target.state_dict())
    with pytest.raises(ValueError, match="momentum_form must be None, ema, heavy-ball, got 'sgd'"):
        convert_state(muon, target, momentum_form="sgd")
    with pytest.raises(ValueError, match="steps must be None or a positive integer, got 0"):
        convert_state(muon, target, steps=0)
