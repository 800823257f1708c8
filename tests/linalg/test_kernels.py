"""Symmetric products in tiles: the kernel itself, interpreted, and when it stands for a product.

No GPU is needed: Triton's interpreter runs the kernel on matrices in main memory, and its compiler
builds it for GPUs that are not there. Both run in processes of their own, because whether Triton
interprets is settled when it is imported. The interpreter multiplies bfloat16 wrongly, so that
dtype is compiled only.
"""

import importlib.util
import multiprocessing
import os
import subprocess
import sys
import types
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from matrices import double, eps

from polargrad.linalg import kernels, products
from polargrad.linalg.kernels import symmetric, tiled_product

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason='needs Triton: pip install ".[triton]"'
)
INTERPRETED = (torch.float32, torch.float16)
# One to six tiles of 64 a side, whole ones and parts of them; sums of nothing, of one and of more.
SHAPES = [(1, 1), (5, 90), (64, 64), (65, 31), (130, 70), (2, 200, 33), (257, 1), (3, 321, 17)]
LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT,
    "every second": lambda x: x.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., ::2, ::2],
    "repeated": lambda x: x[:1].expand_as(x),
}


@pytest.fixture(scope="module")
def interpreter():
    """A process whose Triton interprets kernels."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(os.getpid).result()  # the process starts here, with this environment
        yield lambda *args, **options: pool.submit(tiled_product, *args, **options).result()


def normal(shape, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def mirrored(c):
    """The symmetric matrix with c's lower triangle."""
    return c.tril() + c.tril(-1).mT


def assert_exact_to_rounding(c, left, right, addend=None, alpha=1.0, beta=1.0):
    """Sums in float32, the result rounded once: the bound that holds for every order of a sum."""
    addend = torch.zeros_like(c) if addend is None else addend.tril()
    exact = mirrored(alpha * (double(left) @ double(right)) + beta * double(addend))
    sizes = (
        abs(alpha) * (double(left).abs() @ double(right).abs()) + abs(beta) * double(addend).abs()
    )
    allowed = (left.shape[-1] + 4) * eps(torch.float32) * mirrored(sizes)
    if c.dtype != torch.float32:
        allowed += eps(c.dtype) * exact.abs() + torch.finfo(c.dtype).smallest_normal
    assert ((double(c) - exact).abs() <= allowed).all()
    assert torch.equal(c, c.mT)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", INTERPRETED, ids=str)
def test_gram_matrix(interpreter, dtype, shape, layout):
    x = LAYOUTS[layout](normal(shape, dtype))
    before = x.clone()
    c = interpreter(x, x.mT)
    assert c.shape == (*shape[:-1], shape[-2])
    assert c.dtype == dtype
    assert_exact_to_rounding(c, x, x.mT)
    assert torch.equal(x, before)


@needs_triton
@pytest.mark.slow
def test_largest_tiles(interpreter):
    n = 2048 + 77
    assert symmetric.tiles_for(n, torch.float16).block == 128
    x = normal((70, n), torch.float16)
    assert_exact_to_rounding(interpreter(x.mT, x), x.mT, x)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("dtype", INTERPRETED, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "every second"])
def test_polynomial_of_a_symmetric_matrix(interpreter, dtype, layout):
    g = mirrored(normal((2, 130, 130), torch.float32) / 30).to(dtype)
    addend = LAYOUTS[layout](g + torch.full_like(g, torch.nan).triu(1))  # nothing above counts
    c = interpreter(g, g, addend, alpha=2.0315, beta=-4.775)
    assert_exact_to_rounding(c, g, g, addend, alpha=2.0315, beta=-4.775)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("n", [64, 150])
def test_only_the_lower_triangle_counts(interpreter, n):
    """Of a product that is not symmetric at all, the lower half and its mirror image."""
    left, right = normal((n, 20), torch.float32, 1), normal((20, n), torch.float32, 2)
    assert_exact_to_rounding(interpreter(left, right), left, right)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("dtype", INTERPRETED, ids=str)
def test_a_matrix_alone_and_in_a_stack_get_the_same_bits(interpreter, dtype):
    x = normal((3, 140, 50), dtype)
    x[1] = torch.nan
    stacked = interpreter(x, x.mT)
    for one, together in zip(x[::2], stacked[::2], strict=True):
        assert torch.equal(interpreter(one, one.mT), together)


@needs_triton
@pytest.mark.slow
def test_sums_of_nothing(interpreter):
    empty = torch.empty(2, 70, 0)
    addend = mirrored(normal((2, 70, 70), torch.float32))
    assert torch.equal(interpreter(empty, empty.mT), torch.zeros(2, 70, 70))
    assert torch.equal(interpreter(empty, empty.mT, addend), addend)
    assert interpreter(torch.empty(0, 70, 3), torch.empty(0, 3, 70)).shape == (0, 70, 70)


COMPILE = """
import torch
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from polargrad.linalg.kernels.symmetric import TILES
from polargrad.linalg.kernels.tiles import lower_tiles

names = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
for capability in 80, 90:
    for dtype, tiles in ((dtype, tiles) for dtype in TILES for _, tiles in TILES[dtype]):
        fixed = dict(ADDED=True, BLOCK=tiles.block, DEPTH=tiles.depth, PRECISION="ieee")
        fixed |= dict(left_row=1, right_column=1)  # a Gram matrix
        kinds = dict.fromkeys(lower_tiles.arg_names, "i32")
        kinds |= dict.fromkeys(("left", "right", "addend", "result"), "*" + names[dtype])
        kinds |= dict.fromkeys(("alpha", "beta"), "fp32") | dict.fromkeys(fixed, "constexpr")
        multiples_of_16 = {
            (index,): [["tt.divisibility", 16]]
            for index, kind in enumerate(kinds.values()) if kind not in ("constexpr", "fp32")
        }
        built = compile(
            ASTSource(lower_tiles, kinds, fixed, multiples_of_16),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": tiles.warps, "num_stages": tiles.stages},
        )
        text = built.asm["ptx"]
        print(names[dtype], built.metadata.shared, "mma" in text, ".local" in text)
"""


@needs_triton
@pytest.mark.slow
def test_compiles_for_gpus(tmp_path):
    """In all dtypes, within the shared memory there is, registers enough, half on matrix units."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    built = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, *_ in built] == 2 * ["fp16", "fp16", "bf16", "bf16", "fp32"]
    for name, shared, on_matrix_units, spilled in built:
        assert int(shared) <= 99 * 1024
        assert on_matrix_units == str(name != "fp32")
        assert spilled == "False"


class Recorder:
    """Stands for the kernel and notes the grid it is launched with."""

    def __getitem__(self, grid):
        self.grid = grid
        return lambda *_, **options: setattr(self, "options", options)


@pytest.mark.parametrize("dtype", list(symmetric.TILES), ids=str)
@pytest.mark.parametrize("n", [1, 64, 65, 128, 1000, 2047, 2048, 5000])
@pytest.mark.parametrize("batch", [None, 1, 7])
def test_as_many_programs_as_tiles_on_and_below_the_diagonal(monkeypatch, dtype, n, batch):
    kernel = Recorder()
    monkeypatch.setitem(
        sys.modules, "polargrad.linalg.kernels.tiles", types.SimpleNamespace(lower_tiles=kernel)
    )
    x = torch.empty(() if batch is None else (batch,), dtype=dtype)
    x = x[..., None, None].expand(*x.shape, n, 3)
    c = tiled_product(x, x.mT)
    assert c.is_contiguous()
    block = kernel.options["BLOCK"]
    below = sum(1 for row in range(0, n, block) for column in range(0, n, block) if row >= column)
    assert kernel.grid == ((batch or 1) * below,)


@pytest.fixture
def matmul_precision():
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("setting", "precision"), [("highest", "ieee"), ("high", "tf32")])
def test_float32_is_multiplied_as_pytorch_does(monkeypatch, matmul_precision, setting, precision):
    kernel = Recorder()
    monkeypatch.setitem(
        sys.modules, "polargrad.linalg.kernels.tiles", types.SimpleNamespace(lower_tiles=kernel)
    )
    matmul_precision(setting)
    tiled_product(torch.empty(9, 3), torch.empty(3, 9))
    assert kernel.options["PRECISION"] == precision


@pytest.mark.parametrize(
    ("left", "right", "addend", "error", "message"),
    [
        (torch.zeros(4, 3).double(), torch.zeros(3, 4).double(), None, TypeError, "float64"),
        (torch.zeros(4, 3), torch.zeros(4, 3), None, ValueError, r"\(4, 3\) of torch.float32"),
        (torch.zeros(4, 3), torch.zeros(3, 4).half(), None, ValueError, "torch.float16"),
        (torch.zeros(2, 4, 3), torch.zeros(3, 4), None, ValueError, r"got \(2, 4, 3\)"),
        (torch.zeros(1, 2, 4, 3), torch.zeros(1, 2, 3, 4), None, ValueError, "stacks"),
        (torch.zeros(4, 3), torch.zeros(3, 4), torch.zeros(4, 3), ValueError, r"be \(4, 4\)"),
        (torch.zeros(4, 3), torch.zeros(3, 4), torch.zeros(4, 4).half(), ValueError, "addend"),
    ],
)
def test_refuses_what_does_not_match(left, right, addend, error, message):
    with pytest.raises(error, match=message):
        tiled_product(left, right, addend)


@pytest.fixture
def here(monkeypatch):
    """As if main memory were a GPU's, with a Triton that works."""
    monkeypatch.setattr(symmetric, "DEVICE", "cpu")
    monkeypatch.setattr(symmetric, "_is_usable", lambda _: True)


def test_products_take_the_kernel_where_it_covers_them(monkeypatch, here):
    monkeypatch.setattr(kernels, "tiled_product", lambda left, right: ("kernel", left, right))
    x = torch.zeros(3, symmetric.LEAST_SIZE)
    name, left, right = products.gram(x)
    assert name == "kernel"
    assert left.shape == x.mT.shape
    assert right is x
    assert isinstance(products.gram(x[:, 1:]), torch.Tensor)


@pytest.mark.parametrize("dtype", list(symmetric.TILES), ids=str)
@pytest.mark.parametrize("batch", [(), (1,), (5,)], ids=str)
def test_covers_large_products(here, dtype, batch):
    x = torch.zeros(*batch, symmetric.LEAST_SIZE, 2, dtype=dtype)
    assert kernels.covers(x, x.mT)
    assert not kernels.covers(x[..., 1:, :], x[..., 1:, :].mT)
    assert not kernels.covers(x[None, None], x[None, None].mT)
    assert not kernels.covers(x, x.mT.double())
    assert not kernels.covers(x.double(), x.mT.double())
    assert not kernels.covers(x.to(torch.complex64), x.mT.to(torch.complex64))
    assert not kernels.covers(x, torch.zeros(2, 3, dtype=dtype))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # in torch.func.jvp
def test_leaves_derivatives_and_transforms_to_the_library(here):
    x = torch.zeros(symmetric.LEAST_SIZE, 2)
    followed = x.clone().requires_grad_()
    assert not kernels.covers(followed, x.mT)
    assert not kernels.covers(x, followed.mT)
    with torch.no_grad():
        assert kernels.covers(followed * 1, x.mT)
    found = []

    def product(x):
        found.append(kernels.covers(x, x.mT))
        return x

    torch.func.jvp(product, (x,), (x,))
    torch.func.vmap(product)(torch.stack([x, x]))
    torch.func.grad(lambda x: product(x).sum())(x)
    assert found == [False] * 3


def test_no_kernel_on_a_cpu():
    x = torch.zeros(symmetric.LEAST_SIZE, 2)
    assert not kernels.covers(x, x.mT)


def test_is_tried_out_before_it_is_used(monkeypatch):
    """Too old a GPU, no Triton, or one that cannot build: the library's product, and a word."""
    gpu, usable = torch.device("cuda", 0), symmetric._is_usable.__wrapped__
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(symmetric, "tiled_product", lambda *_: None)
    assert usable(gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert not usable(gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert not usable(gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())

    def fail(*_):
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(symmetric, "tiled_product", fail)
    with pytest.warns(RuntimeWarning, match="cannot build a kernel for cuda:0: no C compiler"):
        assert not usable(gpu)


def test_triton_is_needed_by_the_kernel_alone():
    """In a process that cannot import it."""
    code = (
        "import sys, torch; sys.modules['triton'] = None\n"
        "import polargrad as pg\n"
        "from polargrad.linalg.kernels import tiled_product\n"
        "pg.polar(torch.eye(3), method='qdwh')\n"
        "assert 'polargrad.linalg.kernels.tiles' not in sys.modules\n"
        "try: tiled_product(torch.eye(3), torch.eye(3))\n"
        "except ModuleNotFoundError as error: print(error.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "triton"
