"""ClickRanker: what it trains on is what it will see, it beats chance, and debiasing helps."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.contract import Agent
from agents.learned import ClickRanker
from envs.rollout import roll
from envs.users.feed import Feed, FeedSpec
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policies.random import Random
from simlab.policy import Policy
from simlab.rankers.contract import Ranker
from simlab.seeds import Seed
from simlab.statistics import paired_interval
from simlab.training.fit import fit
from simlab.training.settings import FitResult, FitSettings

WORLD = Feed(FeedSpec(items=60, slots=5, horizon=12))
FIT = FitSettings(epochs=8, batch_size=2048)


def learned(debias: str = "none", family: str = "mf", **more: object) -> ClickRanker:
    agent = ClickRanker(family, debias=debias, settings=FIT, **more)  # type: ignore[arg-type]
    return agent.learn(WORLD, 300, 12, Seed(1))


def returns(policy: Policy, users: int = 300) -> torch.Tensor:
    return roll(WORLD, policy, users, Seed(50), first_user=10**6).reward.sum(0)


def test_the_log_holds_what_the_world_shows() -> None:
    """History and features in training are those that the agent meets when it acts."""
    seen = roll(WORLD, Random(), 40, Seed(3), propensities=True)
    log = seen.log(WORLD)
    past = WORLD.remember * WORLD.slots
    trained = log.context(past)
    state = WORLD.reset(40, Seed(3).split("world"))
    for step in range(12):
        acting = WORLD.observe(state)
        assert log.step is not None
        rows = (log.step == step).nonzero().squeeze(1)
        here = acting.rows(log.user[rows])
        assert torch.equal(here.user, log.user[rows])
        assert torch.equal(here.history, trained.history[rows])
        assert torch.equal(here.feedback, trained.feedback[rows])
        torch.testing.assert_close(here.features, trained.features[rows].float())
        state, _ = WORLD.step(state, seen.slate[step], Seed(3).split("world"))


@pytest.mark.parametrize("family", ["mf", "neumf", "popularity"])
def test_it_beats_chance(family: str) -> None:
    agent = learned("ips", family)
    assert isinstance(agent, Agent)
    gain = paired_interval(returns(agent), returns(Random()), level=0.99)
    assert gain.low > 0.5, gain
    assert agent.name == f"learned({family}, ips)"


def test_the_second_collection_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    logs: list[Log] = []

    def spied(ranker: Ranker, log: Log, **how: Any) -> FitResult:
        logs.append(log)
        return fit(ranker, log, **how)

    monkeypatch.setattr("agents.learned.fit", spied)
    ClickRanker("mf", settings=FIT, rounds=2).learn(WORLD, 90, 4, Seed(1), told.append)
    assert [t.split(" by ")[1].split(",")[0] for t in told if t.startswith("collection")] == [
        "random + popularity",
        "softmax",
        "softmax",
    ]
    assert sum(t.startswith("fitted mf for") for t in told) == 3
    # Nobody is met twice, so no history runs over into another user's.
    assert [sorted(set(log.user.tolist())) for log in logs] == [list(range(n)) for n in (30, 60, 90)]
    for earlier, later in pairwise(logs):
        assert torch.equal(later.slate[: len(earlier)], earlier.slate)


def test_propensities_are_exact() -> None:
    agent = learned()
    context = WORLD.observe(WORLD.reset(4, Seed(9)))
    d = agent.distribution(context, 1)
    one = torch.stack([d.log_prob(torch.full((4, 1), i)) for i in range(60)]).double().exp().sum(0)
    torch.testing.assert_close(one, torch.ones(4, dtype=torch.float64), atol=1e-5, rtol=0)


def test_the_seed_decides_and_a_saved_agent_acts_the_same(tmp_path: Path) -> None:
    first, second = learned("ips"), learned("ips")
    assert torch.equal(returns(first), returns(second))
    first.save(tmp_path / "agent")
    again = ClickRanker.load(tmp_path / "agent")
    assert torch.equal(returns(again), returns(first))
    for name in ("family", "spec", "debias", "rounds", "temperature", "collect_temperature", "settings"):
        assert getattr(again, name) == getattr(first, name)
    files = [p for p in (tmp_path / "agent").rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".json", ".safetensors"}


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no debias ipw; did you mean ips"):
        ClickRanker("mf", debias="ipw")
    with pytest.raises(BadInput, match="no ranker named neumff; did you mean neumf"):
        ClickRanker("neumff")
    with pytest.raises(BadInput, match="no setting dims; did you mean dim"):
        ClickRanker("mf", {"dims": 3})
    with pytest.raises(BadInput, match="has not learned yet"):
        ClickRanker("mf").distribution(WORLD.observe(WORLD.reset(1, Seed(0))), 3)
    with pytest.raises(BadInput, match="1 users for 5 steps are too few for 2 collections"):
        ClickRanker("mf").learn(WORLD, 1, 5, Seed(0))
    with pytest.raises(BadInput, match=r"there is no file .*agent\.json"):
        ClickRanker.load(tmp_path)
    learned().save(tmp_path)
    kept = json.loads((tmp_path / "agent.json").read_text())
    for change, sentence in (
        ({"family": "neumf"}, "says neumf, but the ranker beside it is mf"),
        ({"agent": "other"}, "is not of an agent named learned"),
        ({"settings": {"epoch": 1}}, "does not describe an agent"),
        ({"more": 1}, "does not describe an agent"),
    ):
        (tmp_path / "agent.json").write_text(json.dumps({**kept, **change}))
        with pytest.raises(BadInput, match=sentence) as caught:
            ClickRanker.load(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_debiasing_helps_where_there_is_position_bias() -> None:
    """Paired over users, three training seeds: clicks weighted by 1 / P(examined) are worth more."""
    world = Feed()
    gains = []
    for seed in range(3):
        both = [
            ClickRanker("mf", debias=d).learn(world, 1000, world.horizon, Seed(seed)) for d in ("ips", "none")
        ]
        a, b = (roll(world, p, 300, Seed(90 + seed), first_user=10**6).reward.sum(0) for p in both)
        gains.append(float((a - b).mean()))
    assert min(gains) > 2, gains
    flat = Feed(replace(world.spec, position_bias=0.0))
    agents = [ClickRanker("mf", debias=d).learn(flat, 300, 20, Seed(0)) for d in ("ips", "none")]
    a, b = (roll(flat, p, 50, Seed(9)).reward for p in agents)
    assert torch.equal(a, b)  # every weight is one, so the two are the same agent
