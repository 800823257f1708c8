r"""Coefficients of the polynomial methods: the published tables, each with its source.

What can be recomputed is, by :func:`polargrad.linalg.minimax.minimax_polynomials`, in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from polargrad.linalg.odd_polynomials import OddPolynomial, with_safety

__all__ = [
    "CLASSIC_CUBIC",
    "MUON_QUINTIC",
    "POLAR_EXPRESS",
    "SETS",
    "CoefficientSet",
    "Coefficients",
    "Triple",
    "check_coefficients",
    "schedule",
]

Triple = tuple[float, float, float]
Coefficients = str | Triple | tuple[OddPolynomial, ...]

# p(x) = 3/2 x − 1/2 x³ is the only odd cubic with p(1) = 1 and p'(1) = 0.
# N. J. Higham, Functions of Matrices (2008), section 8.3.
CLASSIC_CUBIC: Triple = (1.5, -0.5, 0.0)

# Chosen by hand for the steepest slope at zero with all values kept near 1; it does not converge.
# K. Jordan, https://kellerjordan.github.io/posts/muon/ (2024); torch.optim.Muon has the same.
MUON_QUINTIC: Triple = (3.4445, -4.7750, 2.0315)

# N. Amsel, D. Persson, C. Musco, R. Gower, "The Polar Express", arXiv 2505.16932 (2025), the list
# for l = 1e-3: `minimax_polynomials(1e-3, 8, cushion=0.02407327424182761)`; 1.875, -1.25, 0.375
# from then on.
POLAR_EXPRESS: tuple[Triple, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)


@dataclass(frozen=True)
class CoefficientSet:
    """Published polynomials under a name.

    Attributes:
        polynomials: one after the other, for singular values in (0, 1].
        source: where they were published and, where it is known, what made them.
        steps: how many steps its users take.
        open_ended: whether any number of steps is meant, with the last polynomial repeated;
            otherwise the set is one polynomial of high degree, and no part of it stands alone.
    """

    polynomials: tuple[OddPolynomial, ...]
    source: str
    steps: int
    open_ended: bool = False


SETS: dict[str, CoefficientSet] = {
    "quintic": CoefficientSet(
        (MUON_QUINTIC,), "K. Jordan, Muon (2024), torch.optim.Muon", steps=5, open_ended=True
    ),
    "cubic": CoefficientSet(
        (CLASSIC_CUBIC,), "Higham (2008), section 8.3", steps=5, open_ended=True
    ),
    "modula": CoefficientSet(
        ((3.0, -16.0 / 5.0, 6.0 / 5.0),),
        "J. Bernstein, Modula (2025), quoted in facebookresearch/optimizers; p(1) = 1",
        steps=5,
        open_ended=True,
    ),
    "tuned_quintics": CoefficientSet(
        (
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        ),
        "J. You, tuned by optimization for Muon (2024); Emerging-Optimizers, optax",
        steps=5,
    ),
    "polar_express": CoefficientSet(
        POLAR_EXPRESS, "Amsel et al., arXiv 2505.16932 (2025)", steps=8, open_ended=True
    ),
    # minimax_polynomials(1e-3, 5, cushion=0.02, safety=1.02)
    "polar_express_1.02": CoefficientSet(
        (
            (8.156554524902461, -22.48329292557795, 15.878769915207462),
            (4.042929935166739, -2.808917465908714, 0.5000178451051316),
            (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
            (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
            (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
        ),
        "modded-nanogpt and dion (2025), safety 1.02 within",
        steps=5,
    ),
    # POLAR_EXPRESS with safety 1.01 on all but the last, to four digits
    "polar_express_rounded": CoefficientSet(
        (
            (8.2051, -22.9019, 16.4607),
            (4.0664, -2.8612, 0.5184),
            (3.9096, -2.8234, 0.5250),
            (3.2856, -2.4153, 0.4853),
            (2.2779, -1.6198, 0.3985),
            (1.8726, -1.2307, 0.3585),
            (1.8564, -1.2132, 0.3568),
            (1.8750, -1.2500, 0.3750),
        ),
        "NVIDIA-NeMo/Emerging-Optimizers (2025), safety 1.01 within",
        steps=8,
        open_ended=True,
    ),
    # minimax_polynomials(1e-3, 5), to four digits
    "cans": CoefficientSet(
        (
            (8.4703, -25.1081, 18.6293),
            (4.1828, -3.1087, 0.5806),
            (3.9619, -2.9541, 0.5630),
            (3.2866, -2.4647, 0.5074),
            (2.2737, -1.6447, 0.4162),
        ),
        "E. Grishina et al., arXiv 2506.10935 (2025), as in Emerging-Optimizers",
        steps=5,
    ),
    "deepseek_v4": CoefficientSet(
        (*(MUON_QUINTIC,) * 8, *((2.0, -1.5, 0.5),) * 2),
        "DeepSeek-V4, as in Emerging-Optimizers: eight steps to lift, two to settle",
        steps=10,
    ),
    # Best cubics on what is left of [7e-3, 1], scaled so that each has the maximum 1.3.
    "cubic5": CoefficientSet(
        (
            (3.3656576, -3.3420992),
            (2.5744352, -1.4957376),
            (2.5368962, -1.4312570),
            (2.4418906, -1.2764040),
            (2.2230472, -0.9630650),
        ),
        "a five-step cubic schedule for Muon (2025)",
        steps=5,
    ),
}


def check_coefficients(coefficients: object) -> Coefficients:
    """Return coefficients as they are kept: a name, a triple, or a tuple of odd polynomials.

    Lists become tuples: descriptions are compared, hashed and read from saved files.

    Raises:
        ValueError: for an unknown name, or numbers that are neither.

    Example:
        >>> check_coefficients([[1.5, -0.5], [2, -1.5, 0.5]])
        ((1.5, -0.5), (2.0, -1.5, 0.5))
    """
    if isinstance(coefficients, str):
        if coefficients in SETS:
            return coefficients
        others = ", ".join(name for name in SETS if name not in ("cubic", "quintic"))
        raise ValueError(
            "coefficients must be one of cubic, quintic or a triple (a, b, c), one of the sets "
            f"{others}, or a sequence of odd polynomials, got {coefficients!r}"
        )
    if isinstance(coefficients, Sequence) and coefficients:
        if _are_numbers(coefficients):
            if len(coefficients) == 3:
                a, b, c = (float(number) for number in coefficients)
                return (a, b, c)
        elif all(_are_numbers(one) and 2 <= len(one) <= 5 for one in coefficients):
            return tuple(tuple(float(number) for number in one) for one in coefficients)
    raise ValueError(
        "coefficients must be a name, a sequence of odd polynomials of two to five finite numbers "
        f"each, or a triple (a, b, c), got {coefficients!r}"
    )


def _are_numbers(entries: object) -> bool:
    return isinstance(entries, Sequence) and all(
        isinstance(entry, int | float) and math.isfinite(entry) for entry in entries
    )


def schedule(
    coefficients: Coefficients, steps: int | None, safety: float = 1.0
) -> tuple[OddPolynomial, ...]:
    """Return the polynomial of each step.

    A single polynomial is taken ``steps`` times, five where that is None. A set or sequence has a
    length of its own; only one whose publication says so goes on with its last polynomial.
    ``safety`` s makes p(x/s) of all polynomials but the last of the set, as Polar Express has it.

    Raises:
        ValueError: for a number of steps that the set does not have.

    Example:
        >>> schedule("deepseek_v4", None)[-1]
        (2.0, -1.5, 0.5)
        >>> schedule("cans", 6)
        Traceback (most recent call last):
        ValueError: steps must be None or 5, the length of coefficients 'cans', got 6
    """
    if isinstance(coefficients, str):
        chosen = SETS[coefficients]
        polynomials, count, open_ended = chosen.polynomials, chosen.steps, chosen.open_ended
    elif isinstance(coefficients[0], tuple):
        polynomials, count, open_ended = coefficients, len(coefficients), False
    else:
        polynomials, count, open_ended = (coefficients,), 5, True
    if steps is None:
        steps = count
    elif steps != count and not open_ended:
        raise ValueError(
            f"steps must be None or {count}, the length of coefficients {coefficients!r}, "
            f"got {steps}"
        )
    last = len(polynomials) - 1
    polynomials = with_safety(polynomials, safety, last)
    return tuple(polynomials[min(index, last)] for index in range(steps))
