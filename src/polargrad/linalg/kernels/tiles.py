"""The kernel of symmetric products: the one file that imports Triton, itself imported at need."""

# No annotations from the future: Triton reads those of the kernel's arguments.
import triton
import triton.language as tl


@triton.jit
def lower_tiles(
    left,
    right,
    addend,
    result,
    n,
    depth,
    alpha,
    beta,
    left_matrix,
    left_row,
    left_column,
    right_matrix,
    right_row,
    right_column,
    addend_matrix,
    addend_row,
    addend_column,
    ADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute one tile of alpha·left·right + beta·addend, and write it and its mirror image.

    One program a tile on or below the diagonal, matrix after matrix. The triangle of c × c tiles
    makes a rectangle: of its first ⌈c/2⌉ columns the part below the diagonal stays, and the smaller
    triangle to the right of them, transposed, goes above it. For even c that is (c + 1) × c/2, for
    odd c c × (c + 1)/2, and a program finds its tile in whole numbers, exactly.
    """
    count = (n + BLOCK - 1) // BLOCK
    half = (count + 1) // 2
    even = 1 - count % 2
    programs = half * (count + even)
    program = tl.program_id(0)
    matrix = (program // programs).to(tl.int64)
    place = program % programs
    down = place % (count + even) - even
    across = place // (count + even)
    inside = down >= across
    tile_row = tl.where(inside, down, half + across - 1 + even)
    tile_column = tl.where(inside, across, half + down + even)

    # 64 bits: offsets into large stacks do not fit into 32.
    rows = (tile_row * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    columns = (tile_column * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    inner = tl.arange(0, DEPTH)
    left_at = left + matrix * left_matrix + rows[:, None] * left_row
    left_at += inner[None, :] * left_column
    right_at = right + matrix * right_matrix + inner[:, None] * right_row
    right_at += columns[None, :] * right_column
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for start in range(0, depth, DEPTH):
        known = start + inner < depth
        a = tl.load(left_at, mask=(rows < n)[:, None] & known[None, :], other=0.0)
        b = tl.load(right_at, mask=known[:, None] & (columns < n)[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        left_at += DEPTH * left_column
        right_at += DEPTH * right_row

    # Of a tile on the diagonal only the lower half counts: it is what makes the result symmetric
    # to the last bit, whatever the order in which the hardware sums.
    below = (rows < n)[:, None] & (rows[:, None] >= columns[None, :])
    total = alpha * total
    if ADDED:
        addend_at = addend + matrix * addend_matrix + rows[:, None] * addend_row
        addend_at += columns[None, :] * addend_column
        total += beta * tl.load(addend_at, mask=below, other=0.0).to(tl.float32)
    tile = total.to(result.dtype.element_ty)
    first = result + matrix * n * n
    tl.store(first + rows[:, None] * n + columns[None, :], tile, mask=below)
    above = (rows < n)[None, :] & (rows[None, :] > columns[:, None])
    tl.store(first + columns[:, None] * n + rows[None, :], tl.trans(tile), mask=above)
