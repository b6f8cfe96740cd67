"""SARDINE: equal to a slow twin, and to the returns of the stock code."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from scipy import stats

from envs.contract import Privileged
from envs.oracles import FarSighted, Oracle
from envs.registry import make_world
from envs.rollout import roll
from envs.users.sardine import Sardine, SardineSpec
from simlab.context import Context
from simlab.errors import BadInput
from simlab.policies.random import Random
from simlab.policy import Policy
from simlab.seeds import Seed
from simlab.slates import Deterministic, SlateDistribution
from simlab.slates.contract import top
from tests.envs.twin_sardine import TwinSardine


def new(name: str, **settings: Any) -> Sardine:
    world = make_world(name, **settings)
    assert isinstance(world, Sardine)
    return world


@dataclass(frozen=True)
class Reversed:
    """The stock code's anti-oracle: the best items, best last."""

    world: Sardine
    name: str = "reversed"
    privileged: ClassVar[bool] = True

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        assert isinstance(context, Privileged)
        return Deterministic(top(self.world.myopic(context.state), slots).flip(1), context.mask.shape[1])


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in Sardine.ids},
    "only the boring topic": ("simlab/SlateTopK-BoredInf-v1", {"boredom": "user_tloi"}),
    "from both ends": ("simlab/SlateTopK-BoredInf-v1", {"click_model": "mixed_decay", "scale": 0.7}),
    "long memory": ("simlab/SlateTopK-BoredInf-v1", {"recall": 15, "window": 7, "boredom_threshold": 9}),
    "short memory": ("simlab/SlateTopK-BoredInf-v1", {"recall": 4, "window": 2, "boredom_threshold": 2}),
    "long slate": ("simlab/SlateTopK-BoredInf-v1", {"slots": 24, "decay": 0.99}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_slow_twin_step_by_step(case: str) -> None:
    """Slates are the user's best items in random order, so that users click, get bored and recover."""
    name, settings = CASES[case]
    world, seed, n, steps = new(name, **settings), Seed(11), 6, 40
    slots = world.slots
    state = world.reset(n, seed)
    start = seed.at(state.user, state.step)
    twins = [TwinSardine(world, u) for u in world._tastes(state.user, seed).double().tolist()]
    first = (start.uniform("first slate", slots) * world.spec.items).long().tolist()
    for twin, slate, luck in zip(twins, first, start.uniform("first clicks", slots).tolist(), strict=True):
        twin.step(slate, luck)
    seen = 0.0
    g = torch.Generator().manual_seed(0)
    for t in range(steps):
        users = state.users
        torch.testing.assert_close(users.taste, torch.tensor([w.taste for w in twins]), atol=1e-5, rtol=1e-5)
        assert world.rule.unpack(users.count).tolist() == [w.count() for w in twins]
        assert world.rule.unpack(users.bored).tolist() == [w.bored for w in twins]
        assert world.rule.unpack(users.timeout).tolist() == [w.timeout for w in twins]
        features = torch.tensor([w.features() for w in twins])
        torch.testing.assert_close(world.observe_users(state), features, atol=1e-5, rtol=1e-5)
        noise = torch.rand(n, world.spec.items, generator=g)
        taste = users.taste @ world.catalog.features.T
        slate = (taste + 0.15 * noise).topk(slots, 1).indices
        if t % 9 == 8:
            slate = noise.topk(slots, 1).indices
        slate[0, -1] = world.blank
        luck = seed.at(state.user, state.step).uniform("step", slots)
        state, response = world.step(replace(state, active=torch.ones(n, dtype=torch.bool)), slate, seed)
        clicks = [w.step(s, x) for w, s, x in zip(twins, slate.tolist(), luck.tolist(), strict=True)]
        assert response.click.tolist() == clicks
        seen += float(response.reward.sum())
    assert seen > 0.2 * n * steps, "too few clicks to compare anything"
    can_bore = world.spec.boredom_threshold <= world.spec.recall
    assert (sum(w.times_bored for w in twins) >= n) == can_bore
    if slots > 1 and world.spec.decay > 0.8:  # more clicks in the window than are remembered
        assert sum(w.forgotten_early for w in twins) > 10


STOCK = {
    "SingleItem-Static": ((8.64, 0.43), (100.0, 0.0), (100.0, 0.0)),
    "SingleItem-BoredInf": ((9.07, 0.45), (50.60, 0.17), (50.60, 0.17)),
    "SingleItem-Uncertain": ((11.50, 0.49), (95.14, 0.46), (95.14, 0.46)),
    "SlateTopK-Bored": ((43.30, 0.99), (142.63, 4.08), (145.97, 4.83)),
    "SlateTopK-BoredInf": ((41.81, 1.14), (148.59, 5.10), (147.79, 4.34)),
    "SlateTopK-Uncertain": ((70.28, 1.23), (138.49, 3.50), (136.38, 2.92)),
    "SlateRerank-Static": ((14.21, 0.57), (21.25, 0.57), (8.49, 0.47)),
    "SlateRerank-Bored": ((12.44, 0.51), (13.89, 0.50), (8.29, 0.43)),
}
"""Returns of random, oracle and anti-oracle in the stock code 1.0.8, with 95 % half-widths over users."""

WORLDS = 6
QUICK = ("SlateRerank-Static", "SlateRerank-Bored")


@pytest.mark.parametrize(
    "preset", [pytest.param(p, marks=[] if p in QUICK else pytest.mark.slow) for p in STOCK]
)
def test_returns_are_those_of_the_stock_code(preset: str) -> None:
    """Random, oracle and anti-oracle, in six catalogues with 150 users each (SlateRerank: 400 users).

    The stock code has one catalogue, so the 99 % prediction interval for one more catalogue holds its mean:
    |mean - stock| ≤ √((t_5 s √(1 + 1/6))² + (1.314 half-width)²), with s the standard deviation between
    catalogues; 1.314 turns a 95 % half-width into a 99 % one.
    """
    users = 400 if "Rerank" in preset else 150
    found: list[list[float]] = [[], [], []]
    for seed in range(WORLDS):
        world = new(f"simlab/{preset}-v0", world_seed=seed)
        policies: tuple[Policy, ...] = (Random(), Oracle(world), Reversed(world))
        for means, policy in zip(found, policies, strict=True):
            means.append(float(roll(world, policy, users, Seed(seed)).reward.sum(0).mean()))
    t = float(stats.t.ppf(0.995, WORLDS - 1))
    for means, (stock, half) in zip(found, STOCK[preset], strict=True):
        x = torch.tensor(means, dtype=torch.float64)
        spread = t * float(x.std()) * (1 + 1 / WORLDS) ** 0.5
        width = (spread**2 + (1.314 * half) ** 2) ** 0.5
        gap = abs(float(x.mean()) - stock)
        words = " ".join(f"{v:.2f}" for v in means)
        print(f"{preset}: {words}, mean {float(x.mean()):.2f}, stock {stock} ± {half}, within {width:.2f}")
        assert gap <= width + 0.01, (means, stock, width)
        assert width < 0.35 * stock, "the interval is too wide to tell anything"


@pytest.mark.parametrize("seed", range(3))
def test_items_and_tastes_are_drawn_as_documented(seed: int) -> None:
    """Unit vectors of 2 or 3 topics in equal shares, and of 3, 4 or 5 topics by Binomial(10, 0.4)."""
    world = new("simlab/SlateTopK-BoredInf-v1", world_seed=seed, items=4000)
    users = world._tastes(torch.arange(20_000), Seed(seed))
    for rows, fewest, weight in (
        (world.catalog.features, 2, [1.0, 1.0]),
        (users, 3, [float(stats.binom.pmf(k, 10, 0.4)) for k in (3, 4, 5)]),
    ):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
        size = (rows > 0).sum(1)
        count = torch.bincount(size - fewest, minlength=len(weight)).double()
        chance = torch.tensor(weight, dtype=torch.float64)
        assert stats.chisquare(count, len(rows) * chance / chance.sum()).pvalue > 1e-4
        topic = (rows > 0).sum(0).double()
        assert stats.chisquare(topic).pvalue > 1e-4  # every topic is as common


def test_no_slate_of_the_far_sighted_oracle_holds_more_of_a_topic_than_has_room() -> None:
    world = new("simlab/SlateTopK-Bored-v0")
    state, seed, room_left = world.reset(100, Seed(0)), Seed(0), 0
    for _ in range(12):
        context = world.privileged(state)
        slate = FarSighted(world).distribution(context, 10).mode()
        shown = torch.nn.functional.one_hot(world.main[slate], 10)
        good = world.relevance(state).gather(1, slate) > 0.5
        shown = (shown * good.unsqueeze(2)).sum(1)
        room = (4 - world.rule.soon(state.users, 3)).clamp(min=0)
        assert bool((shown <= room).all())
        room_left += int(shown.sum())
        state, _ = world.step(state, slate, seed)
    assert room_left > 100 * 12 * 3


@pytest.mark.parametrize("candidates", [0, 20])
def test_the_index_of_the_far_sighted_oracle_is_finite(candidates: int) -> None:
    world = new("simlab/SlateTopK-Bored-v1", candidates=candidates)
    assert bool(world.foresight(world.reset(50, Seed(0))).isfinite().all())


def test_where_every_click_bores_the_far_sighted_oracle_is_the_myopic_one() -> None:
    world = new("simlab/SlateTopK-Bored-v1", boredom_threshold=1)
    far, near = (roll(world, p, 20, Seed(0)).reward for p in (FarSighted(world), Oracle(world)))
    assert torch.equal(far, near)
    assert float(near.sum()) > 0


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_a_taste_that_nothing_moves_stays_even_where_clicks_replace_it(version: str) -> None:
    """ω = 0: the taste is that of the last clicks, and stays to the bit where nothing is clicked."""
    world = new(f"simlab/SlateTopK-BoredInf-{version}", omega=0.0)
    state, still = world.reset(100, Seed(0)), 0
    for t in range(10):
        before = state.users.taste
        slate = torch.rand(100, 1000, generator=Seed(t).torch()).topk(10, 1).indices
        state, response = world.step(state, slate, Seed(0))
        rest = response.click.sum(1) == 0
        assert torch.equal(state.users.taste[rest], before[rest])
        torch.testing.assert_close(state.users.taste.norm(dim=1), torch.ones(100))
        still += int(rest.sum())
    assert 0 < still < 1000


@pytest.mark.parametrize("offset", [-5.0, 5.0])
def test_popularity_is_flat_where_every_item_is_as_relevant(offset: float) -> None:
    """Also where nobody finds anything relevant, and the mean relevance is 0."""
    assert set(new("simlab/SlateTopK-Bored-v1", offset=offset).market.start.tolist()) == {1.0}


def test_a_recommender_may_be_shown_only_what_was_clicked_lately() -> None:
    full, part = (new("simlab/SlateTopK-BoredInf-v1", ideal_state=x) for x in (True, False))
    a, b = (w.observe(w.reset(50, Seed(0))).features for w in (full, part))
    assert torch.equal(a[:, 10:20], b)
    assert b.shape == (50, 10)
    assert float(b.max()) > 0


def test_popularity_is_mean_relevance() -> None:
    """Of two samples of users; items differ by 7 %, so the correlation is not one."""
    world = new("simlab/SlateTopK-Uncertain-v1")
    liked = world.relevance(world.reset(20_000, Seed(2))).mean(0)
    assert float(torch.corrcoef(torch.stack([liked, world.market.start]))[0, 1]) > 0.8
    assert abs(float(world.market.start.mean()) - 1) < 1e-5


def test_memory_of_a_user_is_below_two_kilobytes() -> None:
    world = new("simlab/SlateTopK-BoredInf-v1")
    state = world.reset(10, Seed(0))
    for _ in range(8):
        state, _ = world.step(state, torch.arange(10).expand(10, 10), Seed(0))
    tensors = [*vars(state.users).values(), state.user, state.step, state.active]
    tensors += [x for pair in state.recent for x in pair]
    assert sum(x.element_size() * x.numel() for x in tensors) / 10 < 2000


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"omega": 1.1}, "omega is 1.1"),
        ({"offset": 5.5}, "offset is 5.5"),
        ({"offset": -5.5}, "offset is -5.5"),
        ({"boredom_threshold": 0}, "boredom_threshold is 0"),
        ({"boredom": "car"}, "boredom is car"),
        ({"influence_blend": "mean"}, "influence_blend is mean"),
        ({"recall": 16}, "recall is 16"),
        ({"window": 8}, "window is 8"),
        ({"decay": -0.1}, "decay is -0.1"),
        ({"click_model": "cascade"}, "click_model is cascade"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        SardineSpec(**settings)
