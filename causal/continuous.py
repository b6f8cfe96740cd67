"""Continuous actions: kernel weights turn them into rounds, and every estimator of rounds applies.

No logger shows just the action that the target wants: a price, a dose, a bid. A kernel lets rounds count that
came near. IPS, SNIPS and DR of these rounds are the kernel estimators.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.contract import Rounds
from simlab.errors import BadInput, nearest

Curve = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Kernel:
    """A symmetric density around 0.

    Attributes:
        density: K(u).
        below: ∫_{-∞}^u K.
        variance: κ₂ = ∫ u² K(u) du.
        roughness: R = ∫ K(u)² du.
    """

    density: Curve
    below: Curve
    variance: float
    roughness: float


def _triangular_below(u: Tensor) -> Tensor:
    u = u.clamp(-1, 1)
    return 0.5 + u - 0.5 * u * u.abs()


KERNELS: dict[str, Kernel] = {
    "gaussian": Kernel(
        lambda u: torch.exp(-u.square() / 2) / math.sqrt(2 * math.pi),
        torch.special.ndtr,
        1.0,
        1 / (2 * math.sqrt(math.pi)),
    ),
    "epanechnikov": Kernel(
        lambda u: 0.75 * (1 - u.square()).clamp(min=0),
        lambda u: 0.5 + 0.25 * u.clamp(-1, 1) * (3 - u.clamp(-1, 1).square()),
        1 / 5,
        3 / 5,
    ),
    "triangular": Kernel(lambda u: (1 - u.abs()).clamp(min=0), _triangular_below, 1 / 6, 2 / 3),
    "cosine": Kernel(
        lambda u: math.pi / 4 * torch.cos(math.pi / 2 * u.clamp(-1, 1)).clamp(min=0) * (u.abs() < 1),
        lambda u: 0.5 + 0.5 * torch.sin(math.pi / 2 * u.clamp(-1, 1)),
        1 - 8 / math.pi**2,
        math.pi**2 / 16,
    ),
}
"""The kernels by name. All but the gaussian are 0 beyond one bandwidth."""


def continuous(
    action: Float[Tensor, " round"],
    reward: Float[Tensor, " round"],
    density: Float[Tensor, " round"],
    target: Float[Tensor, " round"],
    bandwidth: float,
    kernel: str = "gaussian",
    *,
    q_target: Float[Tensor, " round"] | None = None,
    q_logged: Float[Tensor, " round"] | None = None,
    ends: tuple[float, float] | None = None,
    group: Int[Tensor, " round"] | None = None,
) -> Rounds:
    """Weigh each round by how near its action came to what the target would have done.

    w = K((a - π(x)) / h) / (h f(a|x)), with f the logger's density of what it did. What IPS then estimates is
    E[∫ K(u) q(x, π(x) + h u) du], the value of a target that trembles by h. It is off by h² κ₂ / 2 · E[q''(x,
    π(x))] + O(h⁴) for a smooth q, and exact for one that is linear in the action within the kernel's reach.
    An interval covers that smoothed value, so h must be small beside the interval's own width to speak of the
    target: give several to `causal.tuning`, or use `scott` and try half of it.

    **Ends.** Where π(x) is within reach of the end of what can be done, a part of the kernel lies where no
    round is. The weights' mean is then below 1: IPS loses that share of the reward, DR of its correction, and
    SNIPS counts such contexts less. With `ends`, w is divided by the part of the kernel that lies inside
    (Jones 1993, "Simple boundary correction for kernel density estimation", the cut-and-normalised kernel).
    A constant then comes back; a slope of q at the end leaves a bias of order h.

    **The model.** With q_logged, the model at the action that was logged, DR's correction has no expectation
    when the model is right, so DR is exact for every h. Without it the model's word on the target's action
    stands for it, as in obp; then even the right model leaves the smoothing bias above.

    Args:
        action: a, what was done.
        reward: r, what came back.
        density: f(a|x), the logger's density there; above 0.
        target: π(x), what the target would have done.
        bandwidth: h, in the action's unit.
        kernel: one of `KERNELS`.
        q_target: q̂(x, π(x)), or None without a model.
        q_logged: q̂(x, a), or None to put q_target in its place.
        ends: the least and the largest action that the logger can take, where there are such.
        group: cluster of each round.

    Source: Kallus and Zhou (2018), "Policy evaluation and optimization with continuous treatments", AISTATS.

    Raises:
        BadInput: naming the row and the value: a density that is not above 0, a number that is not finite, or
            an action beyond the ends; for an unknown kernel, a bandwidth that is not above 0, lengths that
            differ, or q_logged alone.
    """
    shape = _kernel(kernel)
    if not 0 < bandwidth < math.inf:
        raise BadInput(f"bandwidth is {bandwidth}, but a kernel's width is above 0 and finite")
    if q_logged is not None and q_target is None:
        raise BadInput("q_logged is given without q_target: a model must say what the target's action brings")
    columns = {"action": action, "reward": reward, "density": density, "target": target}
    columns |= {k: q for k, q in (("q_target", q_target), ("q_logged", q_logged)) if q is not None}
    for name, column in columns.items():
        if len(column) != len(action):
            raise BadInput(f"{name} has {len(column)} rows and action has {len(action)}")
        _refuse(name, column, ~column.isfinite(), "is not a finite number")
    _refuse("density", density, density <= 0, "is not above 0, yet the logger did what the row says")
    a, aimed = action.double(), target.double()
    weight = shape.density((a - aimed) / bandwidth) / (bandwidth * density.double())
    if ends is not None:
        low, high = ends
        if not low < high:
            raise BadInput(f"ends are {low} and {high}, but the first must be below the second")
        for name, column in (("action", action), ("target", target)):
            _refuse(
                name, column, (column < low) | (column > high), f"is not between the ends {low} and {high}"
            )
        inside = shape.below((high - aimed) / bandwidth) - shape.below((low - aimed) / bandwidth)
        weight = weight / inside
    if q_target is None:
        return Rounds(reward.double(), weight, group=group)
    q_logged = q_target if q_logged is None else q_logged
    return Rounds(reward.double(), weight, q_logged.double(), q_target.double(), group)


def scott(
    action: Float[Tensor, " round"], target: Float[Tensor, " round"], kernel: str = "gaussian"
) -> float:
    """Return the bandwidth of the normal reference rule, for the density of a - π(x).

    h = (R / κ₂²)^{1/5} (8 √π / 3)^{1/5} σ n^{-1/5}, with σ the deviation of a - π(x): for the gaussian kernel
    1.06 σ n^{-1/5}. It would be the best h to estimate that density with, were it normal. n^{-1/5} is the
    right order for kernel IPS too, but how the reward bends the rule does not know. It is a place to start.

    Args:
        action: a, what was done.
        target: π(x), what the target would have done.
        kernel: one of `KERNELS`.

    Source: Scott (1992), "Multivariate density estimation", the normal reference rule, rescaled to other
    kernels by Marron and Nolan (1988), "Canonical kernels for density estimation".

    Raises:
        BadInput: for an unknown kernel, fewer than 2 rounds, or actions that are all as far from the target.
    """
    shape = _kernel(kernel)
    if len(action) < 2:
        raise BadInput(f"a bandwidth needs at least 2 rounds, not {len(action)}")
    spread = float((action.double() - target.double()).std())
    if not spread > 0:
        raise BadInput("every action is as far from the target's as every other: there is nothing to smooth")
    normal = math.pow(8 * math.sqrt(math.pi) / 3 / len(action), 0.2)
    return math.pow(shape.roughness / shape.variance**2, 0.2) * normal * spread


def _kernel(name: str) -> Kernel:
    if name not in KERNELS:
        raise BadInput(f"there is no kernel named {name}{nearest(name, KERNELS)}")
    return KERNELS[name]


def _refuse(name: str, column: Tensor, wrong: Tensor, why: str) -> None:
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise BadInput(f"{name}, row {row}: {float(column[row])} {why}")
