"""Feed-v0: equal to a slow twin, exact in its truth, and refusing settings that cannot be."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from envs.clicks.position_based import PositionBased
from envs.rollout import roll
from envs.users.feed import Feed, FeedSpec
from simlab.errors import BadInput
from simlab.policies.random import Random
from simlab.policies.softmax_popularity import SoftmaxPopularity
from simlab.seeds import Seed
from tests.envs.twin_feed import TwinMarket, TwinUser

SMALL = FeedSpec(items=12, slots=3, topics=4, horizon=15, churn=0.4, boredom_limit=1.0, world_seed=3)


def some_slates(world: Feed, users: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(users, world.catalog.n_items, generator=g).topk(world.slots, 1).indices


TWINS: dict[str, dict[str, Any]] = {
    "churn": {},
    "budget": {"churn": 0.0, "budget": 3.0, "refund": 0.5},
    "births and deaths": {"unborn": 0.5, "lifetime": 12.0, "impression": 0.1},
    "providers": {"providers": 4, "provider_patience": 0.93, "provider_memory": 0.6},
}


@pytest.mark.parametrize("case", TWINS)
def test_equals_the_slow_twin_step_by_step(case: str) -> None:
    world, seed, n = Feed(replace(SMALL, base=-1.0, **TWINS[case])), Seed(7), 20
    state = world.reset(n, seed)
    market = {k: v.tolist() for k, v in vars(state.market).items() if v is not None}
    twin = TwinMarket(
        world,
        [TwinUser(u.tolist(), [0.0] * 4, [0.0] * 4, patience=world.spec.budget) for u in state.users.taste],
        state.popularity.tolist(),
        *(market.get(k, []) for k in ("enters", "leaves", "standing", "present")),
    )
    seen, came_or_went, before = 0.0, 0, state.market.available
    for t in range(world.horizon):
        slate = some_slates(world, n, t)
        slate[0, 1] = world.blank
        luck = seed.at(state.user, state.step).uniform("step", world.draws + world.slots)
        was_active = state.active
        state, response = world.step(state, slate, seed)
        clicks = twin.step(slate.tolist(), luck.tolist())
        assert response.click.tolist() == clicks
        assert response.active.tolist() == was_active.tolist()
        assert state.active.tolist() == [u.active for u in twin.users]
        theirs = torch.tensor(twin.popularity)
        torch.testing.assert_close(state.popularity, theirs, atol=1e-6, rtol=1e-5)
        for name, mine in (("taste", state.users.taste), ("consumed", state.users.consumed)):
            theirs = torch.tensor([getattr(u, name) for u in twin.users])
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(state.users.boredom, torch.tensor([u.boredom for u in twin.users]))
        assert state.users.session.tolist() == [u.sessions for u in twin.users]
        assert state.users.gap.tolist() == [u.gap for u in twin.users]
        torch.testing.assert_close(state.users.patience, torch.tensor([u.patience for u in twin.users]))
        here = state.market.available
        if here is not None:
            assert here.tolist() == [twin.available(i) for i in range(12)]
            assert before is not None
            came_or_went += int((here ^ before).sum())
            before = here
        seen += float(response.reward.sum())
    assert seen > 20, "too few clicks to compare anything"
    assert sum(u.sessions for u in twin.users) > 3, "nobody came back, so coming back was not compared"
    assert (came_or_went >= 3) == (case in ("births and deaths", "providers")), came_or_went
    assert any(b > 0 for u in twin.users for b in u.boredom)


def test_expected_is_the_mean_click_of_many_lucks() -> None:
    world = Feed(replace(SMALL, base=-1.0, popularity_feedback=0.0))
    state = world.reset(1, Seed(1))
    n = 200_000
    many = replace(
        state,
        user=torch.arange(n),
        step=torch.zeros(n, dtype=torch.long),
        active=torch.ones(n, dtype=torch.bool),
        users=type(state.users)(*(v.expand(n, *v.shape[1:]) for v in vars(state.users).values())),
    )
    slate = torch.tensor([[4, 0, 9]])
    _, response = world.step(many, slate.expand(n, -1), Seed(2))
    truth = world.expected(state, slate)[0]
    error = (truth * (1 - truth) / n).sqrt()
    z = (response.click.mean(0) - truth) / error
    assert float(z.abs().max()) < 4.5
    assert float(truth.min()) > 0.01


def test_relevance_agrees_with_expected_and_examination() -> None:
    world = Feed(SMALL)
    state = world.reset(5, Seed(1))
    for t in range(4):
        slate = some_slates(world, 5, t)
        truth = world.relevance(state).gather(1, slate) * world.examination() * state.active.unsqueeze(1)
        torch.testing.assert_close(world.expected(state, slate), truth)
        state, _ = world.step(state, slate, Seed(1))


def test_both_potential_outcomes_share_their_luck() -> None:
    world = Feed(replace(SMALL, base=0.0))
    state = world.reset(400, Seed(1))
    treated = some_slates(world, 400, 0)
    control = treated.clone()
    control[:, 1] = world.blank
    with_item, without = world.potential_outcomes(state, treated, control, Seed(1))
    torch.testing.assert_close(with_item.click[:, [0, 2]], without.click[:, [0, 2]], rtol=0, atol=0)
    assert float(without.click[:, 1].sum()) == 0
    effect = (with_item.reward - without.reward).mean()
    truth = (world.expected(state, treated) - world.expected(state, control)).sum(1).mean()
    assert abs(float(effect - truth)) < 4 * math.sqrt(0.25 / 400)
    assert float(truth) > 0.05


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    world = Feed(SMALL)
    slate = some_slates(world, 50, 0)
    runs = [world.step(world.reset(50, Seed(s)), slate, Seed(s))[1].click for s in (5, 5, 6)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_without_feedback_a_user_does_not_depend_on_the_batch() -> None:
    """A user's path is bit-equal alone, in a small batch and in a large one."""
    world = Feed(FeedSpec(items=40, slots=5, popularity_feedback=0.0, horizon=20))
    whole, parts = world.reset(30, Seed(4)), [world.reset(10, Seed(4), first_user=f) for f in (0, 10, 20)]
    for t in range(20):
        slate = some_slates(world, 30, t)
        whole, response = world.step(whole, slate, Seed(4))
        clicks = []
        for i in range(3):
            parts[i], piece = world.step(parts[i], slate[10 * i : 10 * i + 10], Seed(4))
            clicks.append(piece.click)
        assert torch.equal(response.click, torch.cat(clicks))
    assert torch.equal(whole.users.taste, torch.cat([p.users.taste for p in parts]))


@pytest.mark.parametrize(
    ("off", "still"),
    [
        ({"drift": 0.0}, "taste"),
        ({"boredom": 0.0}, "boredom"),
        ({"popularity_feedback": 0.0}, "popularity"),
        ({"churn": 0.0}, "session"),
    ],
)
def test_each_switch_stops_its_own_effect_and_no_other(off: dict[str, Any], still: str) -> None:
    def end(spec: FeedSpec) -> dict[str, bool]:
        world = Feed(spec)
        first = state = world.reset(200, Seed(2))
        for t in range(8):
            state, _ = world.step(state, some_slates(world, 200, t), Seed(2))
        moved = {
            name: not torch.equal(getattr(first.users, name), getattr(state.users, name))
            for name in ("taste", "boredom", "session")
        }
        return moved | {"popularity": not torch.equal(first.popularity, state.popularity)}

    spec = replace(SMALL, base=0.0)
    assert end(spec) == dict.fromkeys(("taste", "boredom", "session", "popularity"), True)
    expected = dict.fromkeys(("taste", "boredom", "session", "popularity"), True) | {still: False}
    assert end(replace(spec, **off)) == expected


def test_conformity_and_quality_move_attraction_only_when_on() -> None:
    flat = replace(SMALL, conformity=0.0, quality=0.0, slope=0.0)
    state = Feed(flat).reset(3, Seed(0))
    relevance = Feed(flat).relevance(state)
    torch.testing.assert_close(relevance, torch.full_like(relevance, 1 / (1 + math.exp(-flat.base))))
    herd = Feed(replace(flat, conformity=1.0)).relevance(state)[0]
    assert torch.equal(herd.argsort(), state.popularity.argsort())
    good = Feed(replace(flat, quality=1.0))
    assert torch.equal(good.relevance(state)[0].argsort(), good.quality.argsort())


def test_popularity_keeps_its_mean() -> None:
    world = Feed(replace(SMALL, base=1.0))
    state = world.reset(100, Seed(0))
    for t in range(10):
        state, _ = world.step(state, some_slates(world, 100, t), Seed(0))
    assert abs(float(state.popularity.mean()) - 1) < 1e-5


def test_history_is_what_was_shown_newest_last() -> None:
    world = Feed(replace(SMALL, remember=2, base=0.0, churn=0.0))
    state, shown = world.reset(4, Seed(0)), []
    assert bool((world.observe(state).history == -1).all())
    for t in range(4):
        slate = some_slates(world, 4, t)
        state, response = world.step(state, slate, Seed(0))
        shown.append((slate, response.click))
        context = world.observe(state)
        expected = torch.cat([s for s, _ in shown[-2:]], 1)
        answers = torch.cat([c for _, c in shown[-2:]], 1)
        assert torch.equal(context.history[:, -expected.shape[1] :], expected)
        assert torch.equal(context.feedback[:, -expected.shape[1] :], answers)
    done = torch.tensor([True, False, False, False])
    fresh = world.observe(world.renew(state, done, 4, Seed(0)))
    assert bool((fresh.history[0] == -1).all())
    assert bool((fresh.history[1] >= 0).all())


def test_click_model_log_prob_sums_to_one_and_gives_the_marginals() -> None:
    model = PositionBased.power(3, 1.0)
    attraction = torch.tensor([[0.9, 0.3, 0.6]], dtype=torch.float64)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    chance = torch.stack([model.log_prob(attraction, c[None]) for c in every]).exp()
    assert abs(float(chance.sum()) - 1) < 1e-12
    torch.testing.assert_close((chance * every).sum(0), model.probs(attraction)[0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"items": 0}, "items is 0"),
        ({"slots": 20, "items": 10}, "slots is 20"),
        ({"churn": 1.5}, "churn is 1.5"),
        ({"drift": -1.0}, "drift is -1.0"),
        ({"slope": float("nan")}, "slope is nan"),
        ({"examination": (1.0, 0.5)}, "examination has 2 values for 10 slots"),
        ({"profile_noise": -0.1}, "profile_noise is -0.1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        FeedSpec(**settings)


def test_an_examination_outside_its_range_is_refused() -> None:
    with pytest.raises(BadInput, match=r"examination, place 1 is 1\.5"):
        Feed(FeedSpec(items=5, slots=2, examination=(1.0, 1.5)))


@pytest.mark.parametrize(
    "settings", [{"candidates": 6}, {"unborn": 0.4, "lifetime": 6.0}], ids=["drawn", "born and dying"]
)
def test_a_log_says_what_could_have_been_shown(settings: dict[str, Any]) -> None:
    """The propensities of a log can be had again from its own context: the candidates are all there."""
    world = Feed(replace(SMALL, **settings))
    seen = roll(world, SoftmaxPopularity(1.0), 40, Seed(1), propensities=True)
    log = seen.log(world)
    assert log.candidates is not None
    offered = (log.candidates >= 0).sum(1)
    assert int(offered.min()) >= 3
    assert (int(offered.min()) == int(offered.max()) == 6) == ("candidates" in settings)
    even = roll(world, Random(), 40, Seed(1), propensities=True).log(world)
    context = even.context()
    again = Random().distribution(context, 3).log_prob(context.columns(even.slate)).exp()
    torch.testing.assert_close(again.double(), even.propensity)


@pytest.mark.parametrize("lifetime", [1.0, 20.0, 1e8])
def test_lifetimes_have_their_mean(lifetime: float) -> None:
    """Of 20,000 items; a lifetime beyond float32 is not one step."""
    world = Feed(FeedSpec(items=20_000, lifetime=lifetime))
    market = world.market.begin(0, Seed(1))
    assert market.enters is not None
    assert market.leaves is not None
    lived = (market.leaves - market.enters).double()
    assert abs(float(lived.mean()) / lifetime - 1) < 0.04


def test_enough_items_stay_for_a_slate() -> None:
    """Where all would leave, the first that are needed stay; who is born is there at once."""
    world = Feed(replace(SMALL, lifetime=2.0, unborn=0.5, horizon=15))
    seen = roll(world, Random(), 20, Seed(1))
    state = world.reset(20, Seed(1).split("world"))
    for t in range(len(seen.slate)):
        market = state.market
        assert market.available is not None
        assert market.enters is not None
        assert market.leaves is not None
        alive = (market.enters <= market.time) & (market.time < market.leaves)
        assert bool((market.available | ~alive).all())
        assert int(market.available.sum()) == max(3, int(alive.sum()))
        state, _ = world.step(state, seen.slate[t], Seed(1).split("world"))


def test_who_shares_births_is_one_observation() -> None:
    assert Feed(replace(SMALL, popularity_feedback=0.0, unborn=0.5)).market.shared
    assert not Feed(replace(SMALL, popularity_feedback=0.0)).market.shared
