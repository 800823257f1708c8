"""One step of each recipe is its formula, written with an SVD in float64, for each kind of part."""

import itertools

import pytest
import torch

import polargrad as pg
from polargrad.language import DEFAULTS, RECIPES, build_optimizer
from polargrad.language.presets import build_model

LR, VECTOR_LR, EMBEDDING_LR, BETA2 = 1e-2, 3e-2, 1e-3, 0.9
STEPS = 3
UP, DOWN = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"
QUERY, OUT = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.o_proj.weight"
HIDDEN = (UP, DOWN, QUERY, OUT)
EMBEDDING, HEAD, VECTOR = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def build(model, name, **options):
    if RECIPES[name].second_rate == "embedding_lr":
        options = {"embedding_lr": EMBEDDING_LR, **options}
    given = {"lr": LR, "vector_lr": VECTOR_LR, "beta2": BETA2, "weight_decay": 0.0}
    return build_optimizer(model, name, **{**given, **options})


def take_steps(model, optimizer):
    """Steps with random gradients: what the last one changed, and all gradients, by name."""
    generator = torch.Generator().manual_seed(0)
    gradients = {name: [] for name, _ in model.named_parameters()}
    for _ in range(STEPS):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            gradients[name].append(parameter.grad.double())
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.step()
    steps = {n: (p.detach() - before[n]).double() for n, p in model.named_parameters()}
    return steps, gradients


def momentum(gradients, beta):
    m = torch.zeros_like(gradients[0])
    for gradient in gradients:
        m = beta * m + (1 - beta) * gradient
    return m


def nesterov(gradients, beta=0.95):
    return beta * momentum(gradients, beta) + (1 - beta) * gradients[-1]


def quintic(sigma):
    """Muon's five Newton–Schulz steps, on the singular values of a matrix over its norm."""
    x = sigma / sigma.norm()
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    return x


def direction(signal, values=torch.ones_like):
    """U f(σ) Vᴴ, and its inner product with the signal."""
    u, sigma, vh = torch.linalg.svd(signal, full_matrices=False)
    return (u * values(sigma)) @ vh, (sigma * values(sigma)).sum()


def muon(gradients, values=torch.ones_like):
    signal = nesterov(gradients)
    m, n = signal.shape
    return -LR * max(1, m / n) ** 0.5 * direction(signal, values)[0]


def polarmuon(gradients, values=torch.ones_like):
    factor, nuclear = direction(nesterov(gradients), values)
    return -LR * nuclear * factor


def by_heads(gradients, *, outputs):
    """Muon of each of two heads, which are rows of a query and columns of the way out."""
    axis = 0 if outputs else 1
    parts = zip(*(g.chunk(2, dim=axis) for g in gradients), strict=True)
    return torch.cat([muon(part) for part in parts], dim=axis)


def polarsgdm(gradients):
    factor, nuclear = direction(momentum(gradients, 0.5))
    return -EMBEDDING_LR * nuclear * factor


def rows(gradients):
    return -EMBEDDING_LR * torch.nn.functional.normalize(momentum(gradients, 0.95), dim=1)


def centred_rows(gradients):
    centred = momentum(gradients, 0.95)
    update = torch.nn.functional.normalize(centred - centred.mean(0), dim=1)
    return -EMBEDDING_LR * (update - update.mean(0))


def adamw(gradients, lr=VECTOR_LR):
    """Without decay, which has its own test."""
    first, second = momentum(gradients, 0.9), momentum([g**2 for g in gradients], BETA2)
    steps = len(gradients)
    corrected = second / (1 - BETA2**steps)
    return -lr * first / (1 - 0.9**steps) / (corrected.sqrt() + 1e-8)


def one_rate(gradients):
    return adamw(gradients, LR)


def symmetric(name):
    if name in (QUERY, OUT):
        return lambda gradients: by_heads(gradients, outputs=name == QUERY)
    return muon


# Of each recipe: hidden matrices, embedding, head, vectors.
FORMULAS = {
    "adamw": (one_rate, adamw, adamw, adamw),
    "muon": (muon, adamw, adamw, adamw),
    "polargrad": (polarmuon, adamw, adamw, adamw),
    "polarmuon": (polarmuon, adamw, adamw, adamw),
    "muon-polarsgdm": (muon, polarsgdm, polarsgdm, adamw),
    "symmetric": (symmetric, rows, centred_rows, adamw),
}


def formula(recipe, name):
    hidden, embedding, head, vector = FORMULAS[recipe]
    if name in HIDDEN:
        return hidden(name) if recipe == "symmetric" else hidden
    return {EMBEDDING: embedding, HEAD: head, VECTOR: vector}[name]


def close(found, expected):
    """To the rounding of float32, in the size of the step and of the parameter it is added to."""
    assert (found - expected).norm() <= 1e-4 * expected.norm() + 1e-7 * expected.numel() ** 0.5


@pytest.mark.parametrize("recipe", DEFAULTS)
def test_a_step_is_its_formula(small, recipe):
    """With an exact polar factor, so that only the rule is judged."""
    model = build_model(small, seed=0)
    exact = {} if recipe == "adamw" else {"method": "svd"}
    steps, gradients = take_steps(model, build(model, recipe, **exact))
    for name in (*HIDDEN, EMBEDDING, HEAD, VECTOR):
        close(steps[name], formula(recipe, name)(gradients[name]))


@pytest.mark.parametrize(
    ("recipe", "rule"), [("muon", muon), ("muon-polarsgdm", muon), ("polarmuon", polarmuon)]
)
def test_hidden_matrices_take_the_published_five_steps_by_default(small, recipe, rule):
    """PolarMuon's magnitude is ⟨M, U⟩ of that factor, which falls short of the nuclear norm."""
    model = build_model(small, seed=0)
    steps, gradients = take_steps(model, build(model, recipe))
    for name in HIDDEN:
        expected = rule(gradients[name], quintic)
        # Five quintics magnify the rounding of small singular values by up to 485.
        assert (steps[name] - expected).norm() <= 2e-3 * expected.norm()


@pytest.mark.parametrize("method", ["polar_express", "qdwh", "auto"])
def test_the_method_of_the_hidden_matrices_can_be_chosen(small, method):
    """The step is that of an exact factor, to the accuracy of the method."""
    accuracy = {"polar_express": 0.02, "qdwh": 1e-4, "auto": 0.15}[method]
    model = build_model(small, seed=0)
    steps, gradients = take_steps(model, build(model, "polarmuon", method=method))
    for name in HIDDEN:
        expected = polarmuon(gradients[name])
        assert (steps[name] - expected).norm() <= accuracy * expected.norm()


def test_embedding_and_head_keep_qdwh_whatever_the_hidden_matrices_take(small):
    model = build_model(small, seed=0)
    rules = {
        row.role: row.rule
        for row in pg.explain(build(model, "muon-polarsgdm", method="polar_express")).rows
    }
    assert rules["embedding"] == rules["head"] == "nuclear × qdwh"
    assert rules["hidden matrix"] == "original × polar_express"


@pytest.mark.parametrize("recipe", DEFAULTS)
def test_a_tied_head_is_stepped_once_as_an_embedding(tied, recipe):
    model = build_model(tied, seed=0)
    optimizer = build(model, recipe)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    steps, gradients = take_steps(model, optimizer)
    close(steps[EMBEDDING], formula(recipe, EMBEDDING)(gradients[EMBEDDING]))


@pytest.mark.parametrize("recipe", [name for name in DEFAULTS if name != "adamw"])
def test_explain_names_the_one_rule_of_every_parameter(kind, recipe):
    """Of every architecture, every parameter is in one row, and its rule is the recipe's."""
    model = build_model(kind, seed=0)
    rows_ = pg.explain(build(model, recipe)).rows
    assert sorted(row.name for row in rows_) == sorted(n for n, _ in model.named_parameters())
    hidden, embedding = {
        "muon": ("original", "AdamW"),
        "polargrad": ("nuclear", "AdamW"),
        "polarmuon": ("nuclear", "AdamW"),
        "muon-polarsgdm": ("original", "nuclear × qdwh"),
        "symmetric": ("original", "unit × largest_row"),
    }[recipe]
    head = "unit × centred(largest_row)" if recipe == "symmetric" else embedding
    router = head if recipe == "symmetric" else "AdamW"
    expected = {"embedding": embedding, "head": head, "router": router}
    for row in rows_:
        if row.role in ("vector", "scalar"):
            assert row.rule == "AdamW"
        elif row.role in expected:
            assert row.rule == expected[row.role]
        else:
            assert row.rule.startswith(hidden + " × "), row


@pytest.mark.parametrize("recipe", [name for name in DEFAULTS if name != "adamw"])
def test_all_of_a_model_is_in_one_optimizer_that_saves_and_restores(small, recipe):
    """Two steps, save, load, two steps are four steps, to the bit."""
    straight, resumed = (build_model(small, seed=0) for _ in range(2))
    optimizer = build(straight, recipe)
    for _ in range(2):
        take_steps(straight, optimizer)
    first = build(resumed, recipe)
    take_steps(resumed, first)
    second = build(resumed, recipe)
    second.load_state_dict(first.state_dict())
    take_steps(resumed, second)
    for a, b in itertools.zip_longest(straight.parameters(), resumed.parameters()):
        assert torch.equal(a, b)
