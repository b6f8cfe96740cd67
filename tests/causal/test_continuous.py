"""Kernel weights: reference values, exact expectations by quadrature, ends, bandwidths."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float, config
from torch import Tensor

from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.bandit.snips import SNIPS
from causal.continuous import KERNELS, continuous, scott
from causal.contract import Estimator, Rounds, value
from causal.intervals import interval
from causal.tuning import tune
from simlab.errors import BadInput
from tests.causal.test_reference import case, same
from tests.worlds import population_value

EXACT = 1e-10
NAMES: dict[str, Estimator[Rounds]] = {
    "kernelized_ipw": IPS(),
    "kernelized_snipw": SNIPS(),
    "kernelized_dr": DR(),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bandwidth", [0.02, 0.1, 0.5])
def test_synthetic_continuous(kernel: str, bandwidth: float) -> None:
    z, answer = case("synth_continuous_10000")
    data = continuous(
        z["action"],
        z["reward"],
        z["pscore"],
        z["action_by_evaluation_policy"],
        bandwidth,
        kernel,
        q_target=z["q_hat_at_eval_action"],
    )
    for name, estimator in NAMES.items():
        same(estimator, data, answer["results"]["estimates"][f"{name}@{kernel}@{bandwidth}"]["value"])


def nodes(cuts: list[float], degree: int = 60) -> tuple[Float[Tensor, " node"], Float[Tensor, " node"]]:
    """Return Gauss–Legendre nodes and weights between each two cuts."""
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(degree))
    at, much = [], []
    for low, high in pairwise(cuts):
        at.append((low + high) / 2 + (high - low) / 2 * x)
        much.append((high - low) / 2 * w)
    return torch.cat(at), torch.cat(much)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_the_densities_that_they_say(name: str) -> None:
    kernel = KERNELS[name]
    u, w = nodes([-12.0, -6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0, 12.0])
    k = kernel.density(u)
    assert bool((k >= 0).all())
    assert float((w * k).sum()) == pytest.approx(1, abs=1e-12)
    assert float((w * k * u).sum()) == pytest.approx(0, abs=1e-12)
    assert float((w * k * u**2).sum()) == pytest.approx(kernel.variance, abs=1e-12)
    assert float((w * k**2).sum()) == pytest.approx(kernel.roughness, abs=1e-12)
    for end in (-1.7, -0.6, 0.0, 0.3, 1.0, 2.2):
        cuts = sorted({-12.0, -6.0, -3.0, *(c for c in (-1.0, 0.0, 1.0) if c < end), end})
        v, much = nodes(cuts)
        below = float(kernel.below(torch.tensor(end, dtype=torch.float64)))
        assert float((much * kernel.density(v)).sum()) == pytest.approx(below, abs=1e-12)


@dataclass(frozen=True)
class DoseWorld:
    """Two contexts, doses from 0 to 10 logged with density (1 + (a - 5) / 20) / 10, rewards without noise.

    q(x, a) = c0 + c1 a + c2 a². Rounds are listed at quadrature nodes, so sums over them are integrals.
    """

    target: tuple[float, float] = (4.0, 6.5)
    chance: tuple[float, float] = (0.3, 0.7)
    coefficients: tuple[tuple[float, float, float], ...] = ((1.0, 0.5, -0.2), (-2.0, 0.3, 0.15))

    def q(self, context: Tensor, action: Tensor) -> Tensor:
        c = torch.tensor(self.coefficients, dtype=torch.float64)[context]
        return c[:, 0] + c[:, 1] * action + c[:, 2] * action**2

    @staticmethod
    def density(action: Tensor) -> Tensor:
        return (1 + (action - 5) / 20) / 10

    @property
    def value(self) -> float:
        context = torch.arange(2)
        q = self.q(context, torch.tensor(self.target, dtype=torch.float64))
        return float((q * torch.tensor(self.chance, dtype=torch.float64)).sum())

    @property
    def bend(self) -> float:
        """Return E[q''(x, π(x))]."""
        return sum(p * 2 * c[2] for p, c in zip(self.chance, self.coefficients, strict=True))

    def listed(self, h: float) -> tuple[dict[str, Any], Float[Tensor, " round"]]:
        """List rounds at nodes that respect the kernel's corners, with their probabilities."""
        columns: dict[str, list[Tensor]] = {"context": [], "action": [], "probability": []}
        for x, (aim, chance) in enumerate(zip(self.target, self.chance, strict=True)):
            corners = (aim + k * h for k in (-8, -4, -2, -1, 0, 1, 2, 4, 8))
            at, much = nodes(sorted({0.0, 10.0, *(c for c in corners if 0 < c < 10)}))
            columns["context"].append(torch.full_like(at, x, dtype=torch.int64))
            columns["action"].append(at)
            columns["probability"].append(chance * much * self.density(at))
        context, action, probability = (torch.cat(c) for c in columns.values())
        aimed = torch.tensor(self.target, dtype=torch.float64)[context]
        return {
            "context": context,
            "action": action,
            "reward": self.q(context, action),
            "density": self.density(action),
            "target": aimed,
        }, probability

    def rounds(self, h: float, kernel: str, **more: Any) -> tuple[Rounds, Float[Tensor, " round"]]:
        columns, probability = self.listed(h)
        del columns["context"]
        return continuous(**columns, bandwidth=h, kernel=kernel, **more), probability


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("h", [0.1, 0.4])
def test_the_smoothing_bias_is_what_is_stated(kernel: str, h: float) -> None:
    world = DoseWorld()
    rounds, probability = world.rounds(h, kernel)
    assert float(probability.sum()) == pytest.approx(1, abs=1e-12)
    bias = h**2 * KERNELS[kernel].variance / 2 * world.bend
    assert abs(bias) > 1e-5
    for estimator in (IPS(), SNIPS()):
        found = population_value(estimator.score(rounds), probability)
        assert abs(found - world.value - bias) < EXACT
    # The right model, known at the target's action only, does not take it away.
    columns, _ = world.listed(h)
    at_target = world.q(columns["context"], columns["target"])
    data, _ = world.rounds(h, kernel, q_target=at_target)
    assert abs(population_value(DR().score(data), probability) - world.value - bias) < EXACT


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("ends", [None, (0.0, 10.0)])
def test_dr_with_the_model_at_the_logged_action(kernel: str, ends: tuple[float, float] | None) -> None:
    world = DoseWorld()
    for h in (0.3, 3.0):
        columns, probability = world.listed(h)
        context = columns["context"]
        right = {
            name: world.q(context, columns[of])
            for name, of in (("q_target", "target"), ("q_logged", "action"))
        }
        data, _ = world.rounds(h, kernel, ends=ends, **right)
        assert abs(population_value(DR().score(data), probability) - world.value) < EXACT
        # A wrong density too: the model is right.
        data = continuous(
            columns["action"],
            columns["reward"],
            torch.full_like(columns["density"], 0.03),
            columns["target"],
            h,
            kernel,
            ends=ends,
            **right,
        )
        assert abs(population_value(DR().score(data), probability) - world.value) < EXACT
    # A wrong model leaves the bend of its error.
    h = 0.3
    columns, probability = world.listed(h)
    wrong = {"q_target": 2 + 0.5 * columns["target"], "q_logged": 2 + 0.5 * columns["action"]}
    data, _ = world.rounds(h, kernel, **wrong)
    bias = h**2 * KERNELS[kernel].variance / 2 * world.bend
    assert abs(population_value(DR().score(data), probability) - world.value - bias) < EXACT


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_straight_reward_is_exact_at_any_bandwidth(kernel: str) -> None:
    world = DoseWorld(coefficients=((1.0, 0.5, 0.0), (-2.0, 0.3, 0.0)))
    for h in (0.05, 0.4):
        rounds, probability = world.rounds(h, kernel)
        assert abs(population_value(IPS().score(rounds), probability) - world.value) < EXACT


@pytest.mark.parametrize("kernel", KERNELS)
def test_ends(kernel: str) -> None:
    h = 0.25
    flat = DoseWorld(target=(0.0, 5.0), coefficients=((3.0, 0.0, 0.0), (1.0, 0.0, 0.0)))
    rounds, probability = flat.rounds(h, kernel)
    # Half of the kernel of context 0 lies below 0, where nothing is.
    half = population_value(IPS().score(rounds), probability)
    assert abs(half - (flat.value - 0.5 * 0.3 * 3.0)) < EXACT
    uneven = population_value(SNIPS().score(rounds), probability)
    assert abs(uneven - (0.15 * 3.0 + 0.7) / 0.85) < EXACT
    rounds, probability = flat.rounds(h, kernel, ends=(0.0, 10.0))
    for estimator in (IPS(), SNIPS()):
        assert abs(population_value(estimator.score(rounds), probability) - flat.value) < EXACT
    # A slope at the end leaves a bias of order h: the mean of the half kernel.
    steep = DoseWorld(target=(0.0, 5.0), coefficients=((3.0, 2.0, 0.0), (1.0, 0.0, 0.0)))
    rounds, probability = steep.rounds(h, kernel, ends=(0.0, 10.0))
    u, w = nodes([0.0, 1.0, 3.0, 6.0, 12.0])
    mean = 2 * float((w * u * KERNELS[kernel].density(u)).sum())
    found = population_value(IPS().score(rounds), probability)
    assert abs(found - steep.value - 0.3 * 2.0 * h * mean) < EXACT


def logged(n: int, seed: int) -> dict[str, Tensor]:
    """Draw doses from the world, by inverting their distribution function, with noise in the reward."""
    world, luck = DoseWorld(), torch.Generator().manual_seed(seed)
    u, x = torch.rand(n, 2, generator=luck, dtype=torch.float64).unbind(1)
    # ∫_0^a f = .075 a + .0025 a² = u
    action = (-0.075 + torch.sqrt(0.075**2 + 0.01 * u)) / 0.005
    context = (x > world.chance[0]).long()
    noise = torch.randn(n, generator=luck, dtype=torch.float64)
    return {
        "action": action,
        "reward": world.q(context, action) + noise,
        "density": world.density(action),
        "target": torch.tensor(world.target, dtype=torch.float64)[context],
    }


def test_slow_plain_twin() -> None:
    columns = logged(200, 1)
    h = 0.7
    total = below = 0.0
    for a, r, f, aim in zip(*(c.tolist() for c in columns.values()), strict=True):
        u = (a - aim) / h
        w = (0.75 * (1 - u * u) if abs(u) < 1 else 0.0) / (h * f)
        total += w * r
        below += w
    rounds = continuous(**columns, bandwidth=h, kernel="epanechnikov")  # type: ignore[arg-type]
    assert value(IPS().score(rounds)) == pytest.approx(total / 200, rel=1e-12)
    assert value(SNIPS().score(rounds)) == pytest.approx(total / below, rel=1e-12)


def test_scott() -> None:
    columns = logged(1000, 2)
    action, target = columns["action"], columns["target"]
    spread = float((action - target).std())
    assert scott(action, target) == pytest.approx(1.0592238 * spread * 1000**-0.2, rel=1e-6)
    # What Marron and Nolan's canonical bandwidths say of kernels, beside the gaussian.
    gaussian = (1 / (4 * math.pi)) ** 0.1
    assert scott(action, target, "epanechnikov") / scott(action, target) == pytest.approx(15**0.2 / gaussian)
    assert scott(action, target, "triangular") / scott(action, target) == pytest.approx(24**0.2 / gaussian)
    # Thirty-two times as many rounds halve it.
    many = scott(action.repeat(32), target.repeat(32))
    assert many / scott(action, target) == pytest.approx(0.5, rel=1e-3)
    assert scott(10 * action, 10 * target) == pytest.approx(10 * scott(action, target))
    with pytest.raises(BadInput, match="at least 2 rounds, not 1"):
        scott(action[:1], target[:1])
    with pytest.raises(BadInput, match="there is nothing to smooth"):
        scott(target + 1, target)


def test_a_list_of_bandwidths_goes_to_tuning() -> None:
    columns = logged(2000, 3)
    middle = scott(columns["action"], columns["target"])
    widths = [middle * 2.0**k for k in range(-4, 3)]
    data = [continuous(**columns, bandwidth=h) for h in widths]  # type: ignore[arg-type]
    labels = [f"h = {h:.3g}" for h in widths]
    found = tune([IPS()] * len(widths), data, "slope", labels=labels, crossfit=False)
    assert found.choice.chosen.label in labels
    # The narrowest is never chosen: wider ones agree with it, and are surer.
    assert found.choice.index > 0


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_intervals_hold_the_smoothed_value(kernel: str) -> None:
    world, h = DoseWorld(), 0.5
    aim = world.value + h**2 * KERNELS[kernel].variance / 2 * world.bend
    hits = {"IPS": 0, "SNIPS": 0}
    for log in range(400):
        rounds = continuous(**logged(2000, log), bandwidth=h, kernel=kernel)  # type: ignore[arg-type]
        for estimator in (IPS(), SNIPS()):
            found = interval(estimator.score(rounds))
            hits[estimator.name] += found.low <= aim <= found.high
    assert all(0.92 <= number / 400 <= 0.98 for number in hits.values())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kernel": "gausian"}, "there is no kernel named gausian; did you mean gaussian"),
        ({"bandwidth": 0.0}, "bandwidth is 0.0"),
        ({"bandwidth": math.nan}, "bandwidth is nan"),
        ({"density": [0.1, 0.0, 0.1]}, "density, row 1: 0.0 is not above 0"),
        ({"density": [0.1, 0.1]}, "density has 2 rows and action has 3"),
        ({"reward": [1.0, 2.0, math.nan]}, "reward, row 2: nan is not a finite number"),
        ({"target": [1.0, math.inf, 2.0]}, "target, row 1: inf is not a finite number"),
        ({"ends": (5.0, 1.0)}, "ends are 5.0 and 1.0"),
        ({"ends": (1.5, 9.0)}, "action, row 0: 1.0 is not between the ends 1.5 and 9.0"),
        ({"ends": (0.0, 3.0), "target": [2.0, 3.5, 2.0]}, "target, row 1: 3.5 is not between the ends"),
        ({"q_logged": [1.0, 1.0, 1.0]}, "q_logged is given without q_target"),
        ({"q_target": [1.0, 1.0]}, "q_target has 2 rows and action has 3"),
    ],
)
def test_bad_input(change: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # as in production, where shapes are not checked
    words: dict[str, Any] = {
        "action": [1.0, 2.0, 3.0],
        "reward": [1.0, 0.0, 1.0],
        "density": [0.1, 0.1, 0.1],
        "target": [2.0, 2.0, 2.0],
        "bandwidth": 0.5,
    }
    words |= change
    tensors: dict[str, Any] = {
        k: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for k, v in words.items()
    }
    with pytest.raises(BadInput, match=says):
        continuous(**tensors)
