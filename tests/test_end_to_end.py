"""From a world to a log to an estimate, against the world's own truth."""

from dataclasses import dataclass

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from causal.diagnostics import diagnose, verdict
from causal.evaluation import evaluate
from causal.rounds import rounds
from causal.sklearn_reward import SklearnReward
from envs.rollout import roll
from envs.users.feed import Feed, FeedSpec
from simlab.context import Context
from simlab.seeds import Seed
from simlab.slates import PlackettLuce, SlateDistribution


@dataclass(frozen=True)
class ByFeature:
    """Plackett–Luce over the match of the seen profile with the items' topics."""

    world: Feed
    sharpness: float
    name: str = "by profile"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        profile = context.features[:, : self.world.spec.topics].float()
        return PlackettLuce(self.sharpness * profile @ self.world.topics.T, slots)


@pytest.mark.parametrize("slots", [1, 2])
def test_every_estimator_finds_the_true_value_of_a_policy_in_the_feed(slots: int) -> None:
    """20,000 users see one slate of a mild policy; what a sharper policy would earn is known exactly.

    Each estimate is within 4 of its standard errors of the truth (clipping at 10 cuts nothing here), and
    doubly robust ones are at least as sure as IPS.
    """
    world = Feed(FeedSpec(items=8, slots=slots, topics=4, horizon=1, base=-1.0, remember=0))
    logger, target = ByFeature(world, 0.5), ByFeature(world, 2.0)
    log = roll(world, logger, 20_000, Seed(1), propensities=True).log(world)

    state = world.reset(20_000, Seed(1).split("world"))
    shown = target.distribution(world.observe(state), slots).slot_marginals()
    relevance, theta = world.relevance(state), world.examination()
    truth = float((shown * relevance.unsqueeze(1) * theta[:, None]).sum((1, 2)).double().mean())

    weighed = rounds(log, target, SklearnReward(LogisticRegression(max_iter=500)), seed=Seed(0))
    assert verdict(diagnose(weighed, log, target)).level == "ok"
    found = {e.name: e for e in evaluate(weighed)}
    assert {"IPS", "SNIPS", "DR", "SNDR", "DM"} <= set(found)
    for name, e in found.items():
        if name != "DM":  # the reward model is linear, so it alone may be wrong
            assert abs(e.value - truth) < 4 * e.stderr, (name, e.value, truth)
    assert found["DR"].stderr < found["IPS"].stderr
    assert found["IPS"].stderr < 0.02
    assert abs(float(torch.tensor(found["IPS"].value)) - float(log.reward.mean())) > 3 * found["IPS"].stderr
