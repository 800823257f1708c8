"""Steps that read nothing on the host, that happen whole or not at all, and that make a state."""

import copy

import pytest
import torch
from optimizer_infos import CASES, INFOS, cases
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import polargrad as pg

SHAPES = [(5, 4), (5, 4), (4, 5), (3,)]
READING = {
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.item,
    torch.ops.aten.is_nonzero,
    torch.ops.aten.nonzero,
    torch.ops.aten.equal,
}


class Reads(TorchDispatchMode):
    """Notes every operation that hands the value of a tensor to the host."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in READING:
            self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def randn(shape, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def parameters(dtype=torch.float32):
    return [nn.Parameter(randn(s, i, dtype)) for i, s in enumerate(SHAPES)]


def set_gradients(params, step):
    for i, p in enumerate(params):
        p.grad = randn(p.shape, 100 * step + i, p.dtype)


def reads_of(optimizer, params, steps=3):
    seen = []
    for step in range(steps):
        set_gradients(params, step)
        with Reads() as reads:
            optimizer.step()
        seen += reads.seen
    return seen


def test_a_read_is_seen():
    x = torch.ones(())
    for read in (float, bool, int, torch.Tensor.item, torch.nonzero):
        with Reads() as reads:
            read(x)
        assert len(reads.seen) == 1


def looks_at_values(info, given):
    """SOAP, methods that are converged or named, rounds: refused, and tested elsewhere."""
    options = {**info.base, **given.kwargs}
    if options.get("approximation", {}).get("name") == "rounds":
        return True
    named = options.get("method", "auto") != "auto"
    return info.cls is pg.optim.SOAP or named or options.get("tol", 0.11) is None


FREE = [(i, g) for i, g in CASES if not looks_at_values(i, g)]
free = pytest.mark.parametrize(
    ("info", "given"), FREE, ids=[f"{i.cls.__name__}, {g.desc}" for i, g in FREE]
)


@free
@pytest.mark.parametrize("of_lr", [float, torch.tensor], ids=["number", "tensor"])
def test_a_capturable_step_reads_nothing(info, given, of_lr):
    """Every preset, on a CPU too; an lr in a tensor stays there."""
    params = parameters()
    lr, vector_lr = of_lr(given.kwargs.get("lr", 0.01)), of_lr(0.01)
    options = {**given.kwargs, "lr": lr, "vector_lr": vector_lr, "capturable": True}
    optimizer = info.make(params, **options)
    assert reads_of(optimizer, params) == []
    assert optimizer.skipped_steps == 0


OPTIONS = {
    "decay as a tensor": {"weight_decay": torch.tensor(0.1)},
    "decay of vectors as a tensor": {"vector_weight_decay": torch.tensor(0.1)},
    "momentum as a tensor": {"momentum": torch.tensor(0.9), "nesterov": True},
    "polyak": {"order": "polyak", "decay_per_step": 0.01, "lr": torch.tensor(0.01)},
    "corrected": {"bias_correction": True, "nesterov": True, "max_dual_norm": 1.0},
    "polar-first, corrected": {"order": "polar-first", "bias_correction": True},
    "lists": {"foreach": True},
    "loops": {"foreach": False},
    "one lr": {"shared_lr": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_a_capturable_step_reads_nothing_whatever_the_options(options):
    params = parameters()
    options = {"lr": 0.01, "vector_lr": 0.01, **options}
    optimizer = pg.PolarGrad(params, capturable=True, **options)
    assert reads_of(optimizer, params) == []


@pytest.mark.parametrize("method", [m for m in pg.linalg.METHODS if m != "randomized_svd"])
def test_a_method_that_looks_at_values_is_refused_or_does_not_look(method):
    params = parameters()
    try:
        optimizer = pg.PolarGrad(params, 0.01, method=method, capturable=True, vector_lr=0.01)
    except ValueError:
        with pytest.raises(ValueError, match="capturable"):
            pg.PolarGrad(params, 0.01, method=method, capturable=True, vector_lr=0.01)
    else:
        assert reads_of(optimizer, params) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, **more: pg.PolarGrad(p, 0.01, tol=None, **more), "tol=None: a converged method"),
        (lambda p, **more: pg.optim.SOAP(p, 0.01, **more), "reads its counter on the host"),
        (lambda p, **more: pg.PolarGrad(p, 0.01, method="svd", **more), "method 'svd' looks at"),
    ],
)
def test_what_has_to_look_is_refused(make, message):
    with pytest.raises(ValueError, match="capturable=True.*" + message):
        make([nn.Parameter(torch.eye(3))], capturable=True)
    make([nn.Parameter(torch.eye(3))])


@pytest.mark.parametrize(
    "make",
    [
        lambda p: pg.PolarGrad(p, 0.01, method="gram_eigh", capturable=True),
        lambda p: pg.optim.SSD(p, 0.01, rank=1, capturable=True),
        lambda p: pg.optim.Shampoo(p, 0.01, capturable=True),
        lambda p: pg.optim.OneSidedPolarGrad(p, 0.01, centred=True, capturable=True),
    ],
)
def test_what_waits_on_a_gpu_is_refused_there(make):
    """An eigendecomposition returns to the host, wherever that is not where it runs."""
    make([nn.Parameter(torch.eye(3))])
    with pytest.raises(ValueError, match="capturable=True"):
        make([nn.Parameter(torch.empty(3, 3, device="meta"))])


def test_stochastic_rounding_is_refused():
    """A recorded step would draw the same bits at every replay."""
    with pytest.raises(ValueError, match="capturable=True with rounding='stochastic'"):
        pg.PolarGrad(
            parameters(torch.bfloat16), 0.01, rounding="stochastic", capturable=True, vector_lr=0.01
        )


def test_step_parameter_reads_nothing():
    params = parameters()
    optimizer = pg.PolarGrad(params, 0.01, capturable=True, vector_lr=0.01)
    set_gradients(params, 0)
    with Reads() as reads:
        for p in params:
            optimizer.step_parameter(p)
    assert reads.seen == []


def test_without_capturable_a_step_on_a_cpu_looks_at_sizes_and_nothing_else():
    """The sum of each gradient; of a matrix that is alone in a stack its size and its step's."""
    params = parameters()
    optimizer = pg.PolarGrad(params, torch.tensor(0.01), vector_lr=torch.tensor(0.01))
    shapes = [tuple(p.shape) for p in params if p.ndim == 2]
    alone = sum(shapes.count(shape) == 1 for shape in shapes)
    assert len(reads_of(optimizer, params, steps=3)) == 3 * (len(params) + 2 * alone)


# A transaction, for every preset and input of torch's own list.


def everything(optimizer):
    """Parameters, state and groups: every bit and every number."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = [p.detach().clone() for p in held]
    for p in held:
        tensors += [v.clone() for _, v in sorted(optimizer.state.get(p, {}).items())]
    numbers = [
        {k: copy.deepcopy(v) for k, v in group.items() if k not in ("params", "resolved")}
        for group in optimizer.param_groups
    ]
    return tensors, numbers


def unchanged(optimizer, before):
    tensors, numbers = everything(optimizer)
    bits = all(
        torch.equal(a.nan_to_num(), b.nan_to_num())
        and torch.equal(a.isnan(), b.isnan())
        and torch.equal(a.signbit(), b.signbit())
        for a, b in zip(tensors, before[0], strict=True)
    )
    return bits and numbers == before[1]


BAD = {"skip": float("inf"), "raise": -float("inf"), "gated": float("nan")}


@pytest.fixture
def gate(monkeypatch):
    """Leave the verdict on the device, as on a GPU, for methods too that capturable refuses."""
    return lambda: monkeypatch.setattr(pg.MatrixOptimizer, "_gated", lambda *_: True)


@cases
@pytest.mark.parametrize(("mode", "bad"), BAD.items(), ids=list(BAD))
def test_a_bad_gradient_changes_nothing_and_leaves_no_trace(gate, info, given, mode, bad):
    """Of a matrix or of a vector, after good steps; later steps are those without it."""
    options = {**given.kwargs, "nonfinite": "raise" if mode == "raise" else "skip"}
    if mode == "gated":
        gate()
    ours, theirs = parameters(), parameters()
    optimizer, peer = info.make(ours, **options), info.make(theirs, **options)
    for step in range(4):
        for params, stepper in ((ours, optimizer), (theirs, peer)):
            set_gradients(params, step)
            if params is ours and step:
                before = everything(optimizer)
                victim = ours[1 + 2 * (step % 2)]
                victim.grad.view(-1)[1] = bad
                if mode == "raise":
                    with pytest.raises(pg.PolarGradError, match="is not finite"):
                        stepper.step()
                else:
                    stepper.step()
                assert unchanged(optimizer, before)
                set_gradients(params, step)
            stepper.step()
    assert optimizer.skipped_steps == (0 if mode == "raise" else 3)
    assert unchanged(optimizer, everything(peer))


@pytest.mark.parametrize("mode", list(BAD))
@pytest.mark.parametrize("info", INFOS, ids=lambda i: i.cls.__name__)
def test_bad_gradients_before_the_first_good_one_leave_no_trace(gate, info, mode):
    options = {"nonfinite": "raise" if mode == "raise" else "skip"}
    if mode == "gated":
        gate()
    ends = []
    for bad_steps in (0, 2):
        params = parameters()
        optimizer = info.make(params, **options)
        for _ in range(bad_steps):
            set_gradients(params, 9)
            params[0].grad[0, 0] = float("nan")
            try:
                optimizer.step()
            except pg.PolarGradError:
                assert mode == "raise"
        for step in range(3):
            set_gradients(params, step)
            optimizer.step()
        ends.append(params)
    assert all(map(torch.equal, *ends))


@cases
def test_a_step_with_zero_gradients_and_lr_zero_makes_the_whole_state(info, given):
    """As torch.distributed.checkpoint does it: nothing moves, and no key comes later."""
    params = parameters()
    optimizer = info.make(params, **given.kwargs)
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, start in zip(params, parameters(), strict=True):
        assert torch.equal(p, start)
    made = {p: {k: v.shape for k, v in optimizer.state[p].items()} for p in params}
    assert all(not v.any() for p in params[:3] for v in optimizer.state[p].values())
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    for step in range(3):
        set_gradients(params, step)
        optimizer.step()
    assert made == {p: {k: v.shape for k, v in optimizer.state[p].items()} for p in params}


@cases
def test_the_state_shares_no_memory_with_parameters_or_gradients(info, given):
    params = parameters()
    optimizer = info.make(params, **given.kwargs)
    for step in range(2):
        set_gradients(params, step)
        kept = [p.grad.clone() for p in params]
        optimizer.step()
        assert all(torch.equal(p.grad, k) for p, k in zip(params, kept, strict=True))
    held = [t for p in params for t in (p, p.grad, *optimizer.state[p].values())]
    assert len({t.untyped_storage().data_ptr() for t in held}) == len(held)
