"""SAC + top-K and Wolpertinger: densities, targets, searches and slates against what they should be."""

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from agents.actor_critic._proto import ItemSpace, squashed_log_prob
from agents.actor_critic.sac_topk import ProtoBatch, ProtoReplay, SACTopK, SACTopKAgent
from agents.actor_critic.wolpertinger import Wolpertinger, WolpertingerAgent
from agents.core.agent import Greedy
from agents.core.algorithm import KeepRun
from agents.core.replay import SlateReplay
from agents.core.rows import Step, lean
from envs.oracles import Oracle
from envs.rollout import roll
from envs.sb3 import WorldVecEnv
from envs.users.feed import STILL, Feed, FeedSpec
from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.seeds import Seed
from simlab.slates import Deterministic, SlateDistribution

SMALL = Feed(FeedSpec(items=7, slots=2, horizon=4))
ALGORITHMS = (SACTopK, Wolpertinger)


def made(kind: Any, world: Feed = SMALL, envs: int = 6, **settings: Any) -> Any:
    return kind(env=WorldVecEnv(world, envs), device="cpu", **settings)


def seen(world: Feed, rows: int, seed: int = 3, first_user: int = 0) -> Context:
    state = world.reset(rows, Seed(seed), first_user=first_user)
    slate = torch.arange(world.slots).expand(rows, -1)
    state, _ = world.step(state, slate, Seed(seed))
    return lean(world.observe(state), 50)


def some_masked(context: Context, least: int, seed: int) -> Context:
    """Mask about half of each row, and leave at least a few."""
    luck = torch.Generator().manual_seed(seed)
    rank = torch.rand(context.candidates.shape, generator=luck).argsort(1).argsort(1)
    mask = (torch.rand(rank.shape, generator=luck) < 0.4) | (rank < least)
    return Context(**{**vars(context), "mask": mask})


# The density ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.7, -1.0), (-1.2, 0.5)])
def test_the_squashed_density_integrates_to_one(mean: float, log_std: float) -> None:
    n = 400_000
    point = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 - 1
    raw = point.atanh().unsqueeze(1)
    density = squashed_log_prob(raw, torch.full_like(raw, mean), torch.full_like(raw, log_std)).exp()
    assert float(density.sum() * 2 / n) == pytest.approx(1, abs=1e-4)


def test_the_squashed_density_is_that_of_the_change_of_variables() -> None:
    luck = torch.Generator().manual_seed(1)
    raw, mean, log_std = torch.randn(3, 50, 4, generator=luck, dtype=torch.float64)
    other = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform()])
    found = squashed_log_prob(raw, mean, log_std)
    wanted: Tensor = other.log_prob(raw.tanh())  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-6)


def test_the_squashed_density_survives_where_tanh_is_one() -> None:
    raw = torch.tensor([[30.0], [-30.0]])
    assert torch.equal(raw.tanh().abs(), torch.ones(2, 1))
    # log N(30; 30, 1) - log(1 - tanh² 30), and 1 - tanh² u → 4 e^{-2|u|}
    wanted = -0.5 * torch.log(torch.tensor(2 * torch.pi)) - (torch.log(torch.tensor(4.0)) - 60)
    found = squashed_log_prob(raw, raw, torch.zeros(2, 1))
    torch.testing.assert_close(found, wanted.expand(2))


# The critics' targets -------------------------------------------------------------------------------


def one_step(buffer: SlateReplay) -> tuple[Context, Context, Tensor]:
    """Add one step of six users: two are gone for good, two run out of time, two go on."""
    before, last, fresh = (seen(SMALL, 6, seed, 100 * seed) for seed in (1, 2, 3))
    columns = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6]])
    reward = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0, 3.0])
    gone = torch.tensor([True, True, False, False, False, False])
    late = torch.tensor([False, False, True, True, False, False])
    click = torch.zeros(6, 2)
    buffer.add(before, columns, Step(fresh, last, reward, click, gone, late))
    return before, last, columns


def test_sac_learns_from_the_hand_written_target() -> None:
    model = made(SACTopK, gamma=0.7)
    policy, buffer = model.policy, model.replay_buffer
    assert isinstance(buffer, ProtoReplay)
    proto = torch.rand(6, 1, policy.items.width) * 2 - 1
    decoded = torch.tensor([True, True, True, True, True, False])
    buffer.pending = (proto, decoded)
    before, last, _ = one_step(buffer)
    for module in (policy.critic, policy.critic_target):  # values that are not all alike
        for parameter in module.parameters():
            parameter.data += 0.3 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
            )
    batch = buffer.sample(64, model.luck, discount=0.7)
    assert isinstance(batch, ProtoBatch)
    luck = model.luck.get_state()
    loss, size, _ = model.losses(batch)
    with torch.no_grad():
        noise = torch.randn(64, 1, policy.items.width, generator=torch.Generator().set_state(luck))
        total, known = 0.0, 0
        for row, user in enumerate(batch.index.tolist()):
            now, then = before.rows(slice(user, user + 1)), last.rows(slice(user, user + 1))
            mean, log_std = policy.gaussian(then)
            raw = (mean + log_std.exp() * noise[row]).flatten(1)
            gauss: Any = Independent(Normal(mean.flatten(1), log_std.flatten(1).exp()), 1)
            normal = gauss.log_prob(raw)
            density = normal - (1 - raw.double().tanh() ** 2).log().sum(1)
            target = policy.critic_target(
                policy.critic_target.encode(then), raw.tanh().view(1, 1, -1)
            ).squeeze()
            value = min(float(target[0]), float(target[1])) - 0.1 * float(density)
            goal = float(buffer.kept["reward"][0, user]) + (0.7 * value if user > 1 else 0.0)
            if user == 5:  # a uniform slate has no proto-action
                assert float(size[row]) == 0
                continue
            q = policy.critic(policy.critic.encode(now), proto[user : user + 1]).squeeze()
            total += 0.5 * float((q - goal).square().sum())
            known += 1
            assert float(size[row]) == pytest.approx(float((q - goal).abs().mean()), rel=1e-3, abs=1e-4)
    assert set(batch.index.tolist()) == set(range(6))
    assert float(loss.detach()) == pytest.approx(total / known, rel=1e-3)


def test_wolpertinger_learns_from_the_hand_written_target() -> None:
    options = {"smoothing": 0.3, "clip": 0.2, "neighbours": 3}
    model = made(Wolpertinger, gamma=0.7, options=options)
    policy, buffer = model.policy, model.replay_buffer
    before, last, columns = one_step(buffer)
    luck = torch.Generator().manual_seed(5)
    for module in (policy.critic, policy.critic_target, policy.head_target):
        for parameter in module.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=luck)
    batch = buffer.sample(64, model.luck, discount=0.7)
    state = model.luck.get_state()
    loss, _, _ = model.losses(batch)
    with torch.no_grad():
        noise = torch.randn(64, 2, policy.items.width, generator=torch.Generator().set_state(state))
        total = 0.0
        for row, user in enumerate(batch.index.tolist()):
            now, then = before.rows(slice(user, user + 1)), last.rows(slice(user, user + 1))
            points = policy.proto(then, target=True) + (0.3 * noise[row]).clamp(-0.2, 0.2)
            chosen = policy.refine(then, points.clamp(-1, 1), policy.critic_target)
            target = policy.critic_target(
                policy.critic_target.encode(then), policy.items.vectors[chosen]
            ).squeeze()
            later = 0.7 * min(float(target[0]), float(target[1])) if user > 1 else 0.0
            goal = float(buffer.kept["reward"][0, user]) + later
            shown = policy.items.vectors[columns[user : user + 1]]
            q = policy.critic(policy.critic.encode(now), shown).squeeze()
            total += 0.5 * float((q - goal).square().sum())
    assert float(loss.detach()) == pytest.approx(total / 64, rel=1e-3)


def test_the_actor_leaves_the_critics_alone_and_climbs() -> None:
    for kind in ALGORITHMS:
        model = made(kind)
        if kind is SACTopK:
            model.replay_buffer.pending = (torch.zeros(6, 1, 8), torch.ones(6, dtype=torch.bool))
        one_step(model.replay_buffer)
        batch = model.replay_buffer.sample(64, model.luck)
        critic = {k: v.clone() for k, v in model.policy.critic.state_dict().items()}
        head = {k: v.clone() for k, v in model.policy.head.state_dict().items()}
        first = float(model.improve(batch)["actor_loss"].detach())
        for _ in range(30):
            last = float(model.improve(batch)["actor_loss"].detach())
        assert last < first
        assert all(torch.equal(v, critic[k]) for k, v in model.policy.critic.state_dict().items())
        assert not all(torch.equal(v, head[k]) for k, v in model.policy.head.state_dict().items())


# The search -----------------------------------------------------------------------------------------


def candidates_of(world: Feed, rows: int, drawn: int) -> Context:
    """Draw each row's own candidates."""
    context = seen(world, rows)
    luck = torch.Generator().manual_seed(8)
    few = torch.rand(rows, world.catalog.n_items, generator=luck).argsort(1)[:, :drawn]
    mask = torch.ones(rows, drawn, dtype=torch.bool)
    return Context(**{**vars(context), "candidates": few, "mask": mask})


def worth(policy: Any, context: Context, columns: Tensor) -> Tensor:
    """Return Q_1 of each row's slate, by way of item ids."""
    vectors = policy.items.vectors[context.candidates.gather(1, columns)]
    value: Tensor = policy.critic(policy.critic.encode(context), vectors)[:, 0]
    return value


@pytest.mark.parametrize("drawn", [0, 5])
def test_one_slot_is_the_best_of_all_where_all_are_retrieved(drawn: int) -> None:
    world = Feed(FeedSpec(items=9, slots=1, horizon=4))
    policy = made(Wolpertinger, world, options={"neighbours": 9}).policy
    context = candidates_of(world, 20, drawn) if drawn else seen(world, 20)
    context = some_masked(context, 1, 4)
    points = policy.proto(context)
    with torch.no_grad():
        every = torch.stack(
            [worth(policy, context, torch.full((20, 1), c)) for c in range(context.mask.shape[1])], dim=1
        )
    best = every.masked_fill(~context.mask, -torch.inf).argmax(1)
    assert torch.equal(policy.refine(context, points, policy.critic).squeeze(1), best)
    # With one neighbour there is nothing to choose: the nearest allowed item.
    policy.chosen["neighbours"] = 1
    away = torch.cdist(points, policy.items.vectors[context.candidates])[:, 0]
    nearest = away.masked_fill(~context.mask, torch.inf).argmin(1)
    assert torch.equal(policy.refine(context, points, policy.critic).squeeze(1), nearest)


def test_all_slates_are_valued_where_all_are_retrieved() -> None:
    policy = made(Wolpertinger, options={"neighbours": 7, "search": "slates"}).policy
    context = some_masked(seen(SMALL, 20), 2, 5)
    slates = list(permutations(range(7), 2))
    with torch.no_grad():
        every = torch.stack([worth(policy, context, torch.tensor([s] * 20)) for s in slates], dim=1)
    allowed = context.mask[:, torch.tensor(slates)].all(2)
    best = torch.tensor(slates)[every.masked_fill(~allowed, -torch.inf).argmax(1)]
    assert torch.equal(policy.refine(context, policy.proto(context), policy.critic), best)


@pytest.mark.parametrize("neighbours", [3, 7])
def test_the_search_by_slots_is_the_slow_one(neighbours: int) -> None:
    world = Feed(FeedSpec(items=7, slots=3, horizon=4))
    policy = made(Wolpertinger, world, options={"neighbours": neighbours, "sweeps": 2}).policy
    context = some_masked(seen(world, 12), 4, 6)
    points = policy.proto(context)
    found = policy.refine(context, points, policy.critic)
    moved = 0
    for row in range(12):
        alone = context.rows(slice(row, row + 1))
        near = []
        for k in range(3):
            away = torch.cdist(points[row : row + 1, k], policy.items.vectors)[0]
            order = [c for c in away.argsort().tolist() if context.mask[row, c]]
            near.append(order[:neighbours])
        slate: list[int] = []
        for k in range(3):
            slate.append(next(c for c in near[k] if c not in slate))
        start = list(slate)
        for k in [0, 1, 2] * 2:
            ways = []
            for c in near[k] + slate:
                way = list(slate)
                if c in slate:
                    way[slate.index(c)] = slate[k]
                way[k] = c
                ways.append(way)
            with torch.no_grad():
                slate = max(ways, key=lambda w: float(worth(policy, alone, torch.tensor([w]))))
        moved += slate != start
        assert found[row].tolist() == slate
    assert moved > 0


@pytest.mark.parametrize("by_distance", [False, True])
@pytest.mark.parametrize("protos", [1, 3])
def test_a_decoded_slate_is_allowed_and_without_repeats(by_distance: bool, protos: int) -> None:
    world = Feed(FeedSpec(items=12, slots=3, horizon=4))
    space = ItemSpace("features", None, world.catalog, 3, by_distance)
    context = some_masked(candidates_of(world, 200, 8), 3, 7)
    padded = context.candidates.masked_fill(~context.mask, -1)  # a masked candidate may have any id
    context = Context(**{**vars(context), "candidates": padded})
    points = torch.rand(200, protos, space.width, generator=torch.Generator().manual_seed(2)) * 2 - 1
    columns = space.decode(context, points, 3)
    assert bool(context.mask.gather(1, columns).all())
    assert all(len(set(row)) == 3 for row in columns.tolist())
    for row in range(200):  # the slow way: slot by slot, what is left
        left = context.mask[row].nonzero().squeeze(1).tolist()
        for k in range(3):
            point = points[row, min(k, protos - 1)]
            of = {c: space.vectors[context.candidates[row, c]] for c in left}
            key = {
                c: float((v - point).square().sum() if by_distance else -(v @ point)) for c, v in of.items()
            }
            assert key[int(columns[row, k])] == pytest.approx(min(key.values()), abs=1e-5)
            left.remove(int(columns[row, k]))


@pytest.mark.parametrize("by_distance", [False, True])
def test_a_large_catalogue_is_searched_by_the_retriever(by_distance: bool) -> None:
    luck = torch.Generator().manual_seed(1)
    catalog = Catalog(torch.randn(5000, 4, generator=luck))
    space = ItemSpace("features", None, catalog, 2, by_distance)
    context = Context.of(torch.zeros(6, dtype=torch.long), 5000)
    points = torch.rand(6, 4, generator=luck) * 2 - 1
    found = space.nearest(context, points, 5)
    assert space._search is not None
    away = torch.cdist(points, space.vectors) if by_distance else -(points @ space.vectors.T)
    assert torch.equal(found, away.argsort(1)[:, :5])
    space.vectors.mul_(-1)  # the index follows its vectors
    again = torch.cdist(points, space.vectors) if by_distance else -(points @ space.vectors.T)
    assert torch.equal(space.nearest(context, points, 5), again.argsort(1)[:, :5])
    masked = some_masked(context, 5, 3)
    shown = space.nearest(masked, points, 5)
    assert torch.equal(shown, again.masked_fill(~masked.mask, torch.inf).argsort(1)[:, :5])


# As policies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_the_distribution_is_the_best_slate_and_a_share_of_uniform_ones(kind: Any) -> None:
    model = made(kind, explore=(1.0, 0.2, 0.5))
    context = seen(SMALL, 5)
    chosen = model.distribution(context, 2)
    best = chosen.mode()
    torch.testing.assert_close(
        chosen.log_prob(best).exp(), torch.full((5,), 0.8 + 0.2 / 42, dtype=torch.float64)
    )
    assert torch.equal(best, model.policy.distribution(context, 2).mode())


@pytest.mark.parametrize("kind", ALGORITHMS)
@pytest.mark.parametrize("items", ["clicks", "features"])
def test_a_killed_run_resumes_to_the_same_weights(kind: Any, items: str, tmp_path: Path) -> None:
    short: dict[str, Any] = {
        "learning_starts": 24, "batch_size": 16, "seed": 4,
        "options": {"items": items, "fit": 3, "refresh": 2},
        "policy_kwargs": {"hidden": (16,), "spec": {"dim": 8, "layers": (8,)}},
    }  # fmt: skip
    whole = made(kind, **short)
    whole.learn(120, callback=KeepRun(tmp_path / "run", every=11), log_interval=None)
    again = made(kind, **short)
    again.resume(tmp_path / "run")
    assert again.num_timesteps == 66
    again.learn(120 - 66, reset_num_timesteps=False, log_interval=None)
    assert whole._n_updates == again._n_updates > 10
    wanted, found = whole.policy.state_dict(), again.policy.state_dict()
    for key, value in wanted.items():
        assert torch.equal(value, found[key]), key
    for name in kind.optimizers:
        one, other = (getattr(m.policy, name).state_dict()["state"] for m in (whole, again))
        for number, kept in one.items():
            assert all(torch.equal(v, other[number][k]) for k, v in kept.items())
    whole.save(tmp_path / "weights")
    loaded = kind.load(tmp_path / "weights", device="cpu")
    context = seen(SMALL, 30)
    assert torch.equal(loaded.distribution(context, 2).mode(), whole.distribution(context, 2).mode())
    assert torch.equal(loaded.policy.items.vectors, whole.policy.items.vectors)
    assert loaded.policy.chosen == whole.policy.chosen


def test_item_vectors_learn_what_is_clicked_then_stand_still() -> None:
    settled = made(
        SACTopK, learning_starts=12, batch_size=16, options={"fit": 2, "settle": 0.0, "refresh": 1}
    )
    moving = made(SACTopK, learning_starts=12, batch_size=16, options={"fit": 2, "settle": 1.0, "refresh": 1})
    both = []
    for model in (settled, moving):
        model.learn(30, log_interval=None)
        first = model.policy.items.vectors.clone()
        model.learn(30, reset_num_timesteps=False, log_interval=None)
        both.append(torch.equal(first, model.policy.items.vectors))
    assert both == [True, False]
    space = ItemSpace("clicks", made(SACTopK).policy.items.ranker, None, 2, False)
    context, columns = seen(SMALL, 6), torch.tensor([[0, 1]] * 6)
    optimizer = torch.optim.Adam(space.parameters(), lr=0.05)
    for _ in range(200):  # item 0 is always clicked at slot 0, item 1 never at slot 1
        optimizer.zero_grad()
        torch.autograd.backward(space.click_loss(context, columns, torch.tensor([[1.0, 0.0]] * 6)))
        optimizer.step()
    assert float(space.click_loss(context, columns, torch.tensor([[1.0, 0.0]] * 6)).detach()) < 0.05


# Bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (SACTopK, {"protos": "two"}, "protos is one or slots, not two"),
        (SACTopK, {"temperature": 0.0}, "temperature is above 0, not 0.0"),
        (SACTopK, {"neighbours": 3}, "there is no option neighbours"),
        (Wolpertinger, {"neighbours": 0}, "neighbours is at least 1, not 0"),
        (Wolpertinger, {"search": "slate"}, "did you mean slates?"),
        (Wolpertinger, {"search": "slates", "neighbours": 70}, "there are 4900 of them"),
        (Wolpertinger, {"refresh": 0}, "refresh is at least 1, not 0"),
        (SACTopK, {"items": "vectors"}, "items is vectors, but the catalogue has no vectors"),
        (SACTopK, {"items": "feature"}, "did you mean features?"),
        (SACTopK, {"retriever": "tree"}, "retriever is exact, ivf, pq, hnsw, not tree"),
        (SACTopK, {"item_ranker": "nfm"}, "item vectors"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(kind: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as error:
        made(kind, options=options)
    assert words in str(error.value)


def test_other_bad_input() -> None:
    with pytest.raises(BadInput, match="hidden is empty"):
        made(SACTopK, policy_kwargs={"hidden": ()})
    context = seen(SMALL, 3)
    for kind, options in ((SACTopK, {"protos": "slots"}), (Wolpertinger, {})):
        with pytest.raises(BadInput, match=r"2 slots, not (of|for) 3"):
            made(kind, options=options).distribution(context, 3)
        with pytest.raises(BadInput, match="learned slates of 2 slots, not of 8"):
            made(kind).distribution(context, 8)


# Known answers --------------------------------------------------------------------------------------


def plain(slots: int) -> Feed:
    """Return a world in which items differ in quality alone: the best slate is the same for everybody."""
    settings: dict[str, Any] = {
        "items": 8,
        "slots": slots,
        "horizon": 5,
        "slope": 0.0,
        "quality": 2.0,
        "base": -1.0,
    }
    return Feed(FeedSpec(**{**STILL, **settings}))


QUICK = {
    "num_envs": 64, "gamma": 0.3, "learning_starts": 1000, "explore": (1.0, 0.05, 0.3),
    "final_learning_rate": 1e-4,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("kind", [SACTopKAgent, WolpertingerAgent])
def test_it_finds_the_best_slate(kind: Any, slots: int) -> None:
    world = plain(slots)
    agent = kind(**QUICK).learn(world, 2400, 5, Seed(1))
    context = seen(world, 500, first_user=10**6)
    best = world.quality.topk(slots).indices
    shown = Greedy(agent).distribution(context, slots).mode()
    # By chance it is 1 slate of 8, 56 or 336. Not all users: nothing tells a learner that users are alike.
    assert float((shown == best).all(1).float().mean()) > 0.9


@dataclass(frozen=True)
class Always:
    """Shows everybody the same."""

    slate: Tensor
    name: str = "always"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        return Deterministic(self.slate.expand(len(context), -1), context.candidates.shape[1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SACTopKAgent, WolpertingerAgent])
def test_it_learns_whose_taste_is_what(kind: Any) -> None:
    settings: dict[str, Any] = {
        "items": 30,
        "slots": 2,
        "horizon": 5,
        "topics": 4,
        "base": -3.5,
        "profile_noise": 0.0,
    }
    world = Feed(FeedSpec(**{**STILL, **settings}))
    agent = kind(**QUICK).learn(world, 4000, 5, Seed(1))

    def earns(policy: Any) -> float:
        return float(roll(world, policy, 500, Seed(9), first_user=10**6).reward.sum(0).mean())

    # The slate that is best for all at once, which knows nobody's taste.
    liked = world.relevance(world.reset(500, Seed(9), first_user=10**6)).mean(0).topk(2).indices
    found = earns(Greedy(agent))
    assert found > earns(Always(liked)) + 0.1
    assert found > 0.85 * earns(Oracle(world))
