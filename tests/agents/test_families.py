"""Every ranker that the catalogue finds can be an agent: it learns from clicks and beats chance."""

import pytest
import torch

from agents.learned import ClickRanker
from envs.rollout import roll
from envs.users.feed import Feed, FeedSpec
from simlab.parts import names
from simlab.policies.random import Random
from simlab.policy import Policy
from simlab.seeds import Seed
from simlab.statistics import paired_interval
from simlab.training.settings import FitSettings

WORLD = Feed(FeedSpec(items=40, slots=4, horizon=10))
FIT = FitSettings(epochs=6, batch_size=2048)


def returns(policy: Policy) -> torch.Tensor:
    return roll(WORLD, policy, 400, Seed(50), first_user=10**6).reward.sum(0)


@pytest.mark.slow
@pytest.mark.parametrize("family", names("ranker"))
def test_it_beats_chance(family: str) -> None:
    agent = ClickRanker(family, settings=FIT).learn(WORLD, 300, 10, Seed(1))
    gain = paired_interval(returns(agent), returns(Random()), level=0.99)
    assert gain.low > 0, (family, gain)
