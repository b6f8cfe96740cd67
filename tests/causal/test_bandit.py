"""Estimators for rounds: reference values, limits, stated biases, double robustness, slow plain twins."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from causal.bandit.clipped_dr import ClippedDR
from causal.bandit.clipped_ips import ClippedIPS
from causal.bandit.dm import DM
from causal.bandit.dr import DR
from causal.bandit.dros import DRos
from causal.bandit.ips import IPS
from causal.bandit.replay import Replay
from causal.bandit.sndr import SNDR
from causal.bandit.snips import SNIPS
from causal.bandit.sub_gaussian_dr import SubGaussianDR
from causal.bandit.sub_gaussian_ips import SubGaussianIPS, harmonic
from causal.bandit.switch_dr import SwitchDR
from causal.contract import Estimator, Rounds, possible, value
from causal.evaluation import evaluate
from causal.rounds import tabular
from simlab.errors import BadInput
from tests.causal.test_reference import case, same
from tests.contracts.estimators import matched_world
from tests.worlds import bandit_world, population_value, table, take

EXACT = 1e-10

PLAIN: dict[str, Estimator[Rounds]] = {
    "ipw": IPS(),
    "snipw": SNIPS(),
    "dm": DM(),
    "dr": DR(),
    "sndr": SNDR(),
}
TUNED: dict[str, Callable[[float], Estimator[Rounds]]] = {
    "ipw_clip": ClippedIPS,
    "sgipw_": SubGaussianIPS,
    "dr_clip": ClippedDR,
    "switch_dr_": SwitchDR,
    "dros_": DRos,
    "sgdr_": SubGaussianDR,
}


def ours(name: str) -> Estimator[Rounds] | None:
    """Return our estimator for the name of a case, which ends in its setting, or None."""
    if name in PLAIN:
        return PLAIN[name]
    stem = name.rstrip("0123456789.")
    return TUNED[stem](float(name[len(stem) :])) if stem in TUNED and stem != name else None


def compare(data: Rounds, answers: dict[str, Any], tag: str) -> int:
    """Compare every answer of one reward model (or of none) that we have an estimator for; count them."""
    number = 0
    for key, answer in answers.items():
        name, _, model = key.partition("@")
        estimator = ours(name)
        if estimator is not None and model == tag:
            same(estimator, data, answer["value"])
            number += 1
    return number


@pytest.mark.parametrize("model", ["logreg", "gbc", "lgbm", "logreg_mrdr"])
def test_open_bandit(model: str) -> None:
    z, answer = case("obd_random_to_bts_men")
    place = z["position"]
    target = z["action_dist_one_round"][0].T[place]
    q = z[f"q_{model}"][torch.arange(len(place)), :, place]
    data = tabular(z["action"], z["reward"], z["pscore"], target, q)
    # IPS, SNIPS, three clips and two shrinkages; DM, DR, SNDR, a clip, and 3 + 3 + 2 settings.
    assert compare(data, answer["results"], "") == 7
    assert compare(data, answer["results"], model) == 12


@pytest.mark.parametrize("policy", ["softmax5", "epsgreedy01", "argmax"])
def test_synthetic_bandit(policy: str) -> None:
    z, answer = case("synth_bandit_10000")
    data = tabular(z["action"], z["reward"], z["pscore"], z[f"action_dist_{policy}"], z["q_logreg"])
    assert compare(data, answer["results"][policy]["estimates"], "") == 14


def test_all_shrinkage_of_a_weight_of_zero_is_zero_and_not_nan() -> None:
    z, answer = case("synth_bandit_10000")
    data = tabular(z["action"], z["reward"], z["pscore"], z["action_dist_argmax"], z["q_logreg"])
    theirs = answer["results"]["argmax"]["estimates"]
    assert theirs["sgipw_slope"]["best_lambda"] == theirs["sgdr_slope"]["best_lambda"] == 1.0
    assert math.isnan(theirs["sgipw_slope"]["value"])
    assert math.isnan(theirs["sgdr_slope"]["value"])
    seen = data.weight > 0
    assert value(SubGaussianIPS(1.0).score(data)) == pytest.approx(float((seen * data.reward).mean()))
    # As the limit says, from below.
    near, at = (value(SubGaussianDR(s).score(data)) for s in (1 - 1e-9, 1.0))
    assert near == pytest.approx(at, abs=1e-6)


def wrong_rounds() -> tuple[Rounds, torch.Tensor]:
    world = bandit_world()
    return world.rounds(q=1 - world.reward**2)


LIMITS: list[tuple[Estimator[Rounds], Estimator[Rounds]]] = [
    (SwitchDR(math.inf), DR()),
    (SwitchDR(0.0), DM()),
    (DRos(math.inf), DR()),
    (DRos(0.0), DM()),
    (ClippedDR(math.inf), DR()),
    (ClippedIPS(math.inf), IPS()),
    (SubGaussianDR(0.0), DR()),
    (SubGaussianIPS(0.0), IPS()),
]


@pytest.mark.parametrize(("one", "two"), LIMITS, ids=lambda e: repr(e))
def test_limits_are_other_estimators(one: Estimator[Rounds], two: Estimator[Rounds]) -> None:
    rounds, _ = wrong_rounds()
    # A weight of zero and a huge one are where a limit written as 0/0 or inf/inf shows.
    rounds = replace(rounds, weight=rounds.weight.index_fill(0, torch.tensor([0]), 0.0))
    rounds = replace(rounds, weight=rounds.weight.index_fill(0, torch.tensor([1]), 1e200))
    (a,), (b,) = one.score(rounds), two.score(rounds)
    torch.testing.assert_close(a.numerator, b.numerator, rtol=1e-14, atol=0)
    assert torch.equal(a.denominator, b.denominator)


def test_shrunken_weights_keep_below_their_bounds() -> None:
    weight = torch.logspace(-6, 12, 1000, dtype=torch.float64)
    zero = torch.zeros_like(weight)
    data = Rounds(torch.ones_like(weight), weight, zero, zero)
    (optimistic,) = DRos(100.0).score(data)
    assert float(optimistic.numerator.max()) <= 5.0
    (half,) = DRos(100.0).score(Rounds(*(torch.tensor([x], dtype=torch.float64) for x in (1, 10, 0, 0))))
    assert float(half.numerator) == pytest.approx(5.0)
    assert float(harmonic(weight, 0.01).max()) <= 100
    assert bool((harmonic(weight, 0.01).diff() > 0).all())


BIASES: list[tuple[Estimator[Rounds], Callable[[float], float]]] = [
    (ClippedDR(2.0), lambda w: max(w - 2, 0)),
    (SwitchDR(2.0), lambda w: w if w > 2 else 0),
    (DRos(3.0), lambda w: w**3 / (w**2 + 3)),
    (SubGaussianDR(0.3), lambda w: 0.3 * w * (w - 1) / (0.7 + 0.3 * w)),
]
"""Estimators, and the weight that they take from a row."""


@pytest.mark.parametrize(("estimator", "lost"), BIASES, ids=lambda e: getattr(e, "name", ""))
def test_the_bias_is_what_the_model_gets_wrong_in_the_lost_weight(
    estimator: Estimator[Rounds], lost: Callable[[float], float]
) -> None:
    world = bandit_world()
    q = 1 - world.reward**2
    rounds, probability = world.rounds(q=q)
    bias = 0.0
    for x, a in product(range(2), range(3)):
        w = float(world.target[x, a] / world.logger[x, a])
        error = float(world.reward[x, a] - q[x, a])
        bias -= float(world.chance[x] * world.logger[x, a]) * lost(w) * error
    assert abs(bias) > 0.01
    assert abs(population_value(estimator.score(rounds), probability) - world.value() - bias) < EXACT


@pytest.mark.parametrize(("estimator", "lost"), BIASES, ids=lambda e: getattr(e, "name", ""))
def test_a_right_model_saves_wrong_propensities_and_any_shrinkage(
    estimator: Estimator[Rounds], lost: object
) -> None:
    world = bandit_world()
    rounds, probability = world.rounds(propensity=table([0.2, 0.5, 0.3], [0.4, 0.1, 0.5]))
    assert abs(population_value(estimator.score(rounds), probability) - world.value()) < EXACT


def test_sub_gaussian_ips_has_no_model_to_save_it() -> None:
    world = bandit_world()
    rounds, probability = world.rounds()
    w = rounds.weight
    short = float((probability * 0.3 * w * (w - 1) / (0.7 + 0.3 * w) * rounds.reward).sum())
    assert short > 0.05
    found = population_value(SubGaussianIPS(0.3).score(rounds), probability)
    assert abs(found + short - world.value()) < EXACT


TWINS: list[tuple[Estimator[Rounds], Callable[[float, float, float, float], float]]] = [
    (SwitchDR(1.5), lambda r, w, a, b: b + w * (r - a) if w <= 1.5 else b),
    (DRos(2.0), lambda r, w, a, b: b + 2 * w / (w * w + 2) * (r - a)),
    (ClippedDR(1.5), lambda r, w, a, b: b + min(w, 1.5) * (r - a)),
    (SubGaussianIPS(0.2), lambda r, w, a, b: r / (0.8 / w + 0.2)),
    (SubGaussianDR(0.2), lambda r, w, a, b: b + (r - a) / (0.8 / w + 0.2)),
]


@pytest.mark.parametrize(("estimator", "twin"), TWINS, ids=lambda e: getattr(e, "name", ""))
def test_slow_plain_twins(
    estimator: Estimator[Rounds], twin: Callable[[float, float, float, float], float]
) -> None:
    rounds, probability = wrong_rounds()
    rounds = take(
        rounds, torch.multinomial(probability, 100, True, generator=torch.Generator().manual_seed(1))
    )
    q_logged, q_target = rounds.model()
    rows = zip(
        rounds.reward.tolist(), rounds.weight.tolist(), q_logged.tolist(), q_target.tolist(), strict=True
    )
    total = 0.0
    for r, w, a, b in rows:
        total += twin(r, w, a, b)
    assert value(estimator.score(rounds)) == pytest.approx(total / 100, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SwitchDR(-1.0), "threshold is -1.0"),
        (lambda: SwitchDR(math.nan), "threshold is nan"),
        (lambda: DRos(-0.5), "shrinkage is -0.5"),
        (lambda: DRos(math.nan), "shrinkage is nan"),
        (lambda: ClippedDR(0.0), "clip is 0.0"),
        (lambda: SubGaussianIPS(1.5), "shrinkage is 1.5, but the sub-Gaussian forms need a λ from 0 to 1"),
        (lambda: SubGaussianDR(-0.1), "shrinkage is -0.1"),
        (lambda: SubGaussianDR(math.nan), "shrinkage is nan"),
    ],
)
def test_settings_that_cannot_be(make: Callable[[], object], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        make()


def test_replay_is_the_mean_over_matches() -> None:
    z, answer = case("synth_bandit_10000")
    target = z["action_dist_argmax"]
    match = target.gather(1, z["action"][:, None]).squeeze(1)
    # The case's logger is not uniform. As if it were, its answer is the mean reward of the matches.
    uniform = Rounds(z["reward"].double(), 10 * match.double())
    wanted = answer["results"]["argmax"]["estimates"]["replay"]["value"]
    same(Replay(), uniform, wanted)
    rewards = [r for r, m in zip(z["reward"].tolist(), match.tolist(), strict=True) if m == 1]
    assert sum(rewards) / len(rewards) == pytest.approx(wanted, rel=1e-12)
    same(SNIPS(), uniform, wanted)
    # With the weights that it has, it is refused.
    data = tabular(z["action"], z["reward"], z["pscore"], target)
    with pytest.raises(BadInput, match=r"column \(weight\), row \d+: .* needs a uniformly random logger"):
        Replay().score(data)


def test_replay_is_unbiased_at_every_size() -> None:
    world = matched_world()
    rounds, probability = world.rounds()
    for n in (1, 2, 3):
        index = torch.cartesian_prod(*[torch.arange(len(rounds))] * n).view(-1, n)
        chance = probability[index].prod(1)
        matches = (rounds.weight > 0)[index].double()
        means = (rounds.reward[index] * matches).sum(1) / matches.sum(1)
        some = matches.sum(1) > 0
        expected = (chance * means)[some].sum() / chance[some].sum()
        assert abs(float(expected) - world.value()) < EXACT
        # The estimator itself, on a few of these logs.
        for log in some.nonzero().squeeze(1)[:: max(1, len(index) // 20)].tolist():
            found = value(Replay().score(rounds.rows(index[log])))
            assert abs(found - float(means[log])) < EXACT


def test_replay_of_a_logger_with_tastes_is_wrong_and_refused() -> None:
    world = replace(bandit_world(), target=matched_world().target)
    rounds, probability = world.rounds()
    match = (rounds.weight > 0).double()
    limit = float((probability * match * rounds.reward).sum() / (probability * match).sum())
    assert abs(limit - world.value()) > 0.02
    assert abs(population_value(SNIPS().score(rounds), probability) - world.value()) < EXACT
    assert not possible(Replay(), rounds)
    assert "replay" not in {e.name for e in evaluate(rounds)}
    sentence = r"row 6: 5.0 is not the 10 of the first match: replay needs a uniformly random logger"
    with pytest.raises(BadInput, match=sentence):
        Replay().score(rounds)


def test_replay_without_a_match_has_no_value() -> None:
    rounds, _ = matched_world().rounds()
    none = rounds.rows((rounds.weight == 0).nonzero().squeeze(1))
    assert possible(Replay(), none)
    with pytest.raises(BadInput, match="never does what was logged"):
        value(Replay().score(none))
