"""Several loggers: reference values, exactness on listed worlds, which weights are best, what is refused."""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from jaxtyping import Float, config
from torch import Tensor

from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.bandit.logger_balanced_dr import LoggerBalancedDR
from causal.bandit.logger_balanced_ips import LoggerBalancedIPS
from causal.bandit.logger_weighted_dr import LoggerWeightedDR
from causal.bandit.logger_weighted_ips import LoggerWeightedIPS
from causal.contract import Estimator, Rounds, Score, Scores, ones, possible, value
from causal.evaluation import estimate, evaluate
from causal.intervals import interval
from causal.loggers import precision, several
from causal.rounds import tabular
from simlab.errors import BadInput
from tests.causal.test_reference import case, same
from tests.worlds import bandit_world, population_value, table

EXACT = 1e-10
OURS: dict[str, Estimator[Rounds]] = {
    "multi_ipw": IPS(),
    "multi_dr": DR(),
    "multi_weighted_ipw": LoggerWeightedIPS(leave_one_out=False),
    "multi_weighted_dr": LoggerWeightedDR(leave_one_out=False, variance_of="score"),
    "multi_bal_ipw": LoggerBalancedIPS(),
    "multi_bal_dr": LoggerBalancedDR(),
}


def synthetic() -> tuple[Rounds, dict[str, Any]]:
    """Return the case's rounds. Its loggers are softmaxes of the expected reward, at three temperatures."""
    z, answer = case("synth_multi_10000")
    beta = torch.tensor([-3.0, 0.0, 3.0], dtype=torch.float64)
    policies = torch.softmax(beta[None, :, None] * z["expected_reward"][:, None, :], 2)
    shown = policies.gather(2, z["action"][:, None, None].expand(-1, 3, 1)).squeeze(2)
    data = tabular(z["action"], z["reward"], z["pscore"], z["action_dist"], z["q_logreg"])
    data = several(data, z["pscore"], z["stratum_idx"], shown)
    wanted = z["action_dist"].gather(1, z["action"][:, None]).squeeze(1) / z["pscore_avg"]
    torch.testing.assert_close(data.need("mixture"), wanted, rtol=1e-12, atol=0)
    return data, answer["results"]


def test_synthetic_loggers() -> None:
    data, results = synthetic()
    for name, estimator in OURS.items():
        same(estimator, data, results["estimates"][name]["value"])


def test_our_own_defaults_are_near_and_their_interval_is_too_wide() -> None:
    data, results = synthetic()
    theirs = results["estimates"]["multi_weighted_ipw"]
    ours = estimate(LoggerWeightedIPS(), data, "bootstrap")
    assert abs(ours.value - theirs["value"]) < 0.3 * ours.stderr
    assert ours.interval.low < results["ground_truth"] < ours.interval.high
    assert (theirs["ci_upper"] - theirs["ci_lower"]) / ours.interval.width > 1.3
    for estimator in (LoggerWeightedDR(), LoggerBalancedIPS(), LoggerBalancedDR()):
        found = estimate(estimator, data)
        assert found.interval.low < results["ground_truth"] < found.interval.high


@dataclass(frozen=True)
class Loggers:
    """The bandit world behind several loggers with given shares; every round of each is listed."""

    policies: tuple[Float[Tensor, "context cand"], ...] = (
        table([0.6, 0.3, 0.1], [0.2, 0.5, 0.3]),
        table([0.2, 0.2, 0.6], [0.5, 0.3, 0.2]),
    )
    share: tuple[float, ...] = (0.4, 0.6)

    def rounds(
        self, q: Tensor | None = None, claimed: tuple[Tensor, ...] | None = None
    ) -> tuple[Rounds, Float[Tensor, " round"]]:
        """List all rounds with their probabilities, weighed by what is claimed of the loggers."""
        world = bandit_world()
        q = world.reward if q is None else q
        claimed = self.policies if claimed is None else claimed
        axes = torch.arange(len(self.share)), torch.arange(2), torch.arange(3), torch.arange(2)
        logger, x, a, r = torch.cartesian_prod(*axes).unbind(1)
        share = torch.tensor(self.share, dtype=torch.float64)
        mean = torch.where(r == 1, world.reward[x, a], 1 - world.reward[x, a])
        probability = share[logger] * world.chance[x] * torch.stack(self.policies)[logger, x, a] * mean
        there = probability > 0
        logger, x, a, r = (v[there] for v in (logger, x, a, r))
        shown = torch.stack([policy[x, a] for policy in claimed], 1)
        logged = shown.gather(1, logger[:, None]).squeeze(1)
        weight = world.target[x, a] / logged
        pooled = Rounds(r.double(), weight, q[x, a], (world.target * q).sum(1)[x])
        return several(pooled, logged, logger, shown, share), probability[there]


def spread(scores: Scores, probability: Float[Tensor, " round"]) -> float:
    """Return N times the delta method's variance of a value, over listed rounds."""
    change = torch.zeros_like(probability)
    for s in scores:
        below = (probability * s.denominator).sum()
        change += (s.numerator - (probability * s.numerator).sum() / below * s.denominator) / below
    return float((probability * change.square()).sum() - (probability * change).sum() ** 2)


def weighed(
    x: Float[Tensor, " round"], by: Float[Tensor, " round"], rounds: Rounds, probability: Tensor
) -> Scores:
    """Score the loggers with the exact inverse variances of `by`, in plain loops."""
    logger = rounds.need("logger")
    sure = []
    for number in range(int(logger.max()) + 1):
        p = probability * (logger == number)
        share = float(p.sum())
        mean = float((p * by).sum()) / share
        sure.append(share / (float((p * (by - mean) ** 2).sum()) / share))
    return tuple(
        Score(x * (logger == number) * s / sum(sure), (logger == number).double())
        for number, s in enumerate(sure)
    )


ALL: list[Estimator[Rounds]] = [
    LoggerWeightedIPS(leave_one_out=False),
    LoggerWeightedDR(leave_one_out=False),
    LoggerWeightedDR(leave_one_out=False, variance_of="score"),
    LoggerBalancedIPS(),
    LoggerBalancedDR(),
]


@pytest.mark.parametrize("estimator", [IPS(), DR(), *ALL], ids=lambda e: repr(e))
def test_exact_with_a_wrong_model(estimator: Estimator[Rounds]) -> None:
    world = bandit_world()
    rounds, probability = Loggers().rounds(1 - world.reward**2)
    assert float(probability.sum()) == pytest.approx(1, abs=1e-12)
    assert abs(population_value(estimator.score(rounds), probability) - world.value()) < EXACT


@pytest.mark.parametrize("estimator", [DR(), *ALL[1:3], ALL[4]], ids=lambda e: repr(e))
def test_a_right_model_saves_wrong_propensities(estimator: Estimator[Rounds]) -> None:
    world = bandit_world()
    claimed = (table([0.3, 0.4, 0.3], [0.1, 0.4, 0.5]), table([0.5, 0.2, 0.3], [0.2, 0.2, 0.6]))
    rounds, probability = Loggers().rounds(claimed=claimed)
    assert abs(population_value(estimator.score(rounds), probability) - world.value()) < EXACT
    for bare in (IPS(), LoggerBalancedIPS()):
        assert abs(population_value(bare.score(rounds), probability) - world.value()) > 0.01


def test_the_mixture_covers_what_one_logger_never_shows() -> None:
    world = bandit_world()
    one_sided = Loggers(policies=(table([0.0, 0.5, 0.5], [1.0, 0.0, 0.0]), Loggers().policies[1]))
    rounds, probability = one_sided.rounds(1 - world.reward**2)
    for balanced in ALL[3:]:
        assert abs(population_value(balanced.score(rounds), probability) - world.value()) < EXACT
    pooled: list[Estimator[Rounds]] = [IPS(), DR(), *ALL[:2]]
    for estimator in pooled:
        assert abs(population_value(estimator.score(rounds), probability) - world.value()) > 0.01


def test_which_weights_vary_least() -> None:
    world = bandit_world()
    q = 1 - world.reward**2
    rounds, probability = Loggers().rounds(q)
    ips = rounds.weight * rounds.reward
    q_logged, q_target = rounds.model()
    model = Score(q_target, ones(q_target))
    correction = rounds.weight * (rounds.reward - q_logged)
    pooled = spread(IPS().score(rounds), probability)
    assert spread(weighed(ips, ips, rounds, probability), probability) < pooled
    assert spread(LoggerBalancedIPS().score(rounds), probability) < pooled
    ours = spread((model, *weighed(correction, correction, rounds, probability)), probability)
    theirs = spread((model, *weighed(correction, q_target + correction, rounds, probability)), probability)
    assert ours < theirs < spread(DR().score(rounds), probability)
    # No other weights of the correction do better.
    logger = rounds.need("logger")
    for share in torch.linspace(0, 1, 41).tolist():
        parts = (share * (logger == 0), (1 - share) * (logger == 1))
        other = tuple(
            Score(correction * part, (logger == number).double()) for number, part in enumerate(parts)
        )
        assert spread((model, *other), probability) >= ours - EXACT


@cache
def sized(sizes: tuple[int, ...]) -> tuple[Rounds, Float[Tensor, " round"]]:
    """List the rounds of loggers with shares as these sizes, with a wrong model."""
    shares = tuple(size / sum(sizes) for size in sizes)
    return Loggers(share=shares).rounds(1 - bandit_world().reward ** 2)


def draw(sizes: tuple[int, ...], seed: int) -> Rounds:
    """Draw so many rounds of each logger."""
    luck = torch.Generator().manual_seed(seed)
    rounds, probability = sized(sizes)
    picked = []
    for number, size in enumerate(sizes):
        own = probability * (rounds.need("logger") == number)
        picked.append(torch.multinomial(own, size, replacement=True, generator=luck))
    return rounds.rows(torch.cat(picked))


def test_slow_plain_twins() -> None:
    rounds = draw((30, 20), 1)
    q_logged, q_target = (t.tolist() for t in rounds.model())
    rows = zip(rounds.reward.tolist(), rounds.weight.tolist(), rounds.need("logger").tolist(), strict=True)
    ips, dr = {0: list[float](), 1: list[float]()}, {0: list[float](), 1: list[float]()}
    for (r, w, number), a in zip(rows, q_logged, strict=True):
        ips[number].append(w * r)
        dr[number].append(w * (r - a))
    for estimator, each, base in (
        (LoggerWeightedIPS(leave_one_out=False), ips, 0.0),
        (LoggerWeightedDR(leave_one_out=False), dr, sum(q_target) / 50),
    ):
        means = [sum(x) / len(x) for x in each.values()]
        sure = [len(x) ** 2 / sum((v - m) ** 2 for v in x) for x, m in zip(each.values(), means, strict=True)]
        slow = base + sum(s * m for s, m in zip(sure, means, strict=True)) / sum(sure)
        assert value(estimator.score(rounds)) == pytest.approx(slow, rel=1e-12)
    for loo, each, base in (
        (LoggerWeightedIPS(), ips, 0.0),
        (LoggerWeightedDR(), dr, sum(q_target) / 50),
    ):
        total = 0.0
        for own, other in ((each[0], each[1]), (each[1], each[0])):
            mine, rest = len(own) / variance(own), len(other) / variance(other)
            share = mine / (mine + rest)
            for i, v in enumerate(own):
                without = variance(own[:i] + own[i + 1 :])
                total += (share + share * (1 - share) * (1 - without / variance(own))) * v / len(own)
        assert value(loo.score(rounds)) == pytest.approx(base + total, rel=1e-12)


def variance(x: list[float]) -> float:
    mean = sum(x) / len(x)
    return sum((v - mean) ** 2 for v in x) / (len(x) - 1)


@pytest.mark.parametrize("loo", [True, False])
def test_constants_come_back(loo: bool) -> None:
    x = torch.randn(60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logger = torch.arange(60) % 3
    factor = precision(x, logger, loo)
    shares = torch.stack([factor[logger == k].mean() for k in range(3)])
    assert float(shares.sum()) == pytest.approx(1, abs=1e-12)
    assert torch.allclose(precision(x + 7, logger, loo), factor, rtol=1e-9)
    assert torch.allclose(precision(5 * x, logger, loo), factor, rtol=1e-12)
    # Names of loggers do not matter, nor one that has no rounds here.
    assert torch.equal(
        precision(x, torch.tensor([9, 4, 30])[logger], loo).sort().values, factor.sort().values
    )
    # Nothing to weigh by: all alike, or one logger.
    assert torch.allclose(precision(torch.full_like(x, 0.3), logger, loo), torch.full_like(x, 1 / 3))
    assert torch.equal(precision(x, torch.zeros_like(logger), loo), torch.ones_like(x))
    data = Rounds(torch.full_like(x, 0.3), torch.ones_like(x), logger=logger)
    found = estimate(LoggerWeightedIPS(loo), data)
    assert found.value == pytest.approx(0.3, rel=1e-12)
    assert found.stderr < 1e-12


def test_a_logger_without_spread_is_refused() -> None:
    rounds = draw((50, 50), 3)
    silent = replace(rounds, reward=rounds.reward * (rounds.need("logger") == 1))
    assert not possible(LoggerWeightedIPS(), silent)
    assert "logger-weighted IPS" not in {e.name for e in evaluate(silent)}
    assert "logger-weighted IPS" in {e.name for e in evaluate(rounds)}
    with pytest.raises(BadInput, match=r"logger 0: all its rounds score the same \(50 of 100\)"):
        LoggerWeightedIPS().score(silent)
    assert possible(LoggerWeightedDR(), silent)  # its model differs from row to row
    few = rounds.rows(torch.cat([torch.arange(50), torch.tensor([50, 51])]))
    few = replace(few, reward=few.reward.index_fill(0, torch.tensor([50]), 2.0))
    assert possible(LoggerWeightedIPS(leave_one_out=False), few)
    assert not possible(LoggerWeightedIPS(), few)
    with pytest.raises(BadInput, match="logger 1 has 2 rounds, but to leave one out"):
        LoggerWeightedIPS().score(few)


def test_the_only_reward_of_a_logger_counts_at_most_twice() -> None:
    """Without its only click a logger seems to be sure of 0."""
    reward = torch.zeros(40, dtype=torch.float64)
    reward[3] = reward[25] = reward[26] = 1
    logger = (torch.arange(40) >= 20).long()
    plain, ours = (precision(reward, logger, loo) for loo in (False, True))
    assert torch.allclose(ours[3], plain[3] * (2 - plain[3]), rtol=1e-12)
    assert float(ours.min()) > 0


def test_clicks_of_like_loggers_count_alike() -> None:
    """Plain inverse variances lose half a click a logger, of the 4 that two loggers of 200 see."""
    luck = torch.Generator().manual_seed(4)
    logger = torch.arange(400) % 2
    found: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(600):
        reward = (torch.rand(400, generator=luck) < 0.02).double()
        data = Rounds(reward, torch.ones_like(reward), logger=logger)
        for loo, values in found.items():
            estimator = LoggerWeightedIPS(loo)
            values.append(value((estimator if estimator.suits(data) else IPS()).score(data)) / 0.02)
    mean = {loo: sum(values) / 600 for loo, values in found.items()}
    assert mean[False] < 0.93
    assert abs(mean[True] - 1) < 0.04


@pytest.mark.slow
@pytest.mark.parametrize("make", [LoggerWeightedIPS, LoggerWeightedDR])
def test_left_out_rounds_take_the_bias_away(make: Any) -> None:
    """2,000 logs of 200 + 200 rounds: the bias beside the deviation, and coverage of 95 % intervals."""
    world = bandit_world()
    found: dict[bool, list[float]] = {True: [], False: []}
    hits = {True: 0, False: 0}
    for log in range(2000):
        rounds = draw((200, 200), log)
        for loo in found:
            scores = make(leave_one_out=loo).score(rounds)
            found[loo].append(value(scores))
            cut = interval(scores)
            hits[loo] += cut.low <= world.value() <= cut.high
    off = {}
    for loo, values in found.items():
        x = torch.tensor(values, dtype=torch.float64)
        off[loo] = float((x.mean() - world.value()) / x.std()) * math.sqrt(2000)
    assert abs(off[True]) < 3.5
    assert off[False] < -3.5
    assert 0.93 <= hits[True] / 2000 <= 0.97
    assert hits[False] < hits[True]


@pytest.mark.slow
@pytest.mark.parametrize("make", [LoggerWeightedIPS, LoggerWeightedDR, LoggerBalancedIPS, LoggerBalancedDR])
@pytest.mark.parametrize("sizes", [(300, 300), (200, 2000)])
def test_coverage(make: Any, sizes: tuple[int, int]) -> None:
    """The interval holds the truth in 92 to 98 of 100 logs with fixed numbers of rounds a logger."""
    world = bandit_world()
    hits = 0
    for log in range(400):
        found = interval(make().score(draw(sizes, log)))
        hits += found.low <= world.value() <= found.high
    assert 0.92 <= hits / 400 <= 0.985


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"logged": [0.5, 0.2]}, "there are 2 logged propensities for 3 rounds"),
        ({"logger": [0, 1]}, "there are 2 loggers for 3 rounds"),
        ({"propensity": [[0.5, 0.1], [0.5, 0.2]]}, "there are 2 rows for 3 rounds"),
        ({"propensity": [[0.5, 0.1], [0.3, 0.2], [1.5, 0.4]]}, "propensity, row 2, logger 0: 1.5 is not in"),
        (
            {"propensity": [[0.5, math.nan], [0.3, 0.2], [0.5, 0.4]]},
            "propensity, row 0, logger 1: nan is not in",
        ),
        ({"logger": [0, 1, 2]}, "logger, row 2: 2 is not one of the 2 loggers"),
        ({"logger": [0, -1, 1]}, "logger, row 1: -1 is not one"),
        ({"logger": [1, 1, 1]}, "logger 0 has no rounds: leave its column out"),
        (
            {"logged": [0.5, 0.25, 0.4]},
            "propensity, row 1: logger 1 would show this with probability 0.2, but the log says 0.25",
        ),
        ({"logged": [0.5, math.nan, 0.4]}, "row 1: logger 1 .* but the log says nan"),
        ({"share": [0.5, 0.25, 0.25]}, "there are 3 shares for 2 loggers"),
        ({"share": [1.5, -0.5]}, r"share, logger 0: 1.5 is not in \(0, 1\]"),
        ({"share": [0.5, 0.4]}, "the shares of the loggers sum to 0.9, not to 1"),
    ],
)
def test_bad_input(change: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # as in production, where shapes are not checked
    words = {
        "logged": [0.5, 0.2, 0.4],
        "logger": [0, 1, 1],
        "propensity": [[0.5, 0.1], [0.3, 0.2], [0.5, 0.4]],
    }
    kinds = {"logger": torch.int64}
    tensors = {k: torch.tensor(v, dtype=kinds.get(k, torch.float64)) for k, v in (words | change).items()}
    rounds = Rounds(torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    with pytest.raises(BadInput, match=says):
        several(rounds, **tensors)


def test_shares_are_those_of_the_rounds_unless_given() -> None:
    chance = torch.tensor([[0.5, 0.1], [0.3, 0.2], [0.5, 0.4]], dtype=torch.float64)
    logger = torch.tensor([0, 1, 1])
    rounds = Rounds(torch.ones(3, dtype=torch.float64), torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64))
    own = torch.tensor([0.5, 0.2, 0.4], dtype=torch.float64)
    found = several(rounds, own.float(), logger, chance)
    assert found.logger is logger
    wanted = [0.5 / ((0.5 + 2 * 0.1) / 3), 2 * 0.2 / ((0.3 + 2 * 0.2) / 3), 0.0]
    assert found.need("mixture").tolist() == pytest.approx(wanted, rel=1e-12)
    given = several(rounds, own, logger, chance, torch.tensor([0.9, 0.1], dtype=torch.float64))
    assert float(given.need("mixture")[0]) == pytest.approx(0.5 / (0.45 + 0.01))


def test_a_variance_of_something_else() -> None:
    spoilt = LoggerWeightedDR()
    object.__setattr__(spoilt, "variance_of", "both")
    with pytest.raises(BadInput, match="variance_of is both, but it is correction or score"):
        spoilt.__post_init__()
