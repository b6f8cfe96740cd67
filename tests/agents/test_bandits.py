"""Bandits: exact statistics on hand-made logs, posteriors equal to NumPy's ridge, best items found."""

import json
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from agents.bandits._agent import Bandit
from agents.bandits._ensemble import Ensemble
from agents.bandits._linear import Linear, item_side
from agents.bandits.bernoulli_ts import BernoulliTS
from agents.bandits.cascade_ucb import CascadeUcb, kl_bound
from agents.bandits.epsilon_greedy import EpsilonGreedy
from agents.bandits.linear_ts import LinearTS
from agents.bandits.linucb import LinUcb
from agents.bandits.neural_ts import NeuralTS
from agents.bandits.pbm_ucb import PbmUcb
from agents.bandits.softmax_bandit import SoftmaxBandit
from envs.contract import Response
from envs.rollout import roll
from envs.users.feed import STILL, Feed, FeedSpec
from envs.world import State
from simlab.context import Context
from simlab.errors import BadInput
from simlab.policies.random import Random
from simlab.policy import Policy
from simlab.seeds import Seed
from simlab.slates import Ranked

USERS, STEPS = 40, 100
SEEDS = [1, *(pytest.param(s, marks=pytest.mark.slow) for s in (2, 3, 4))]


class Watched(Feed):
    """A feed that notes the true expected clicks of every step; without taste, all users are alike."""

    def __init__(self, spec: FeedSpec) -> None:
        super().__init__(spec)
        self.worth: list[float] = []

    def step(self, state: State[Any], slate: torch.Tensor, seed: Seed) -> tuple[State[Any], Response]:
        self.worth.append(float(self.expected(state, slate).sum(1).mean()))
        return super().step(state, slate, seed)

    def best(self) -> float:
        """Return the expected clicks of the best slate: the K best items in order."""
        items = self.relevance(self.reset(1, Seed(0))).argsort(1, descending=True)
        return float(self.expected(self.reset(1, Seed(0)), items[:, : self.slots]).sum())

    def regret(self) -> np.ndarray:
        return np.cumsum(self.best() - np.array(self.worth))


def alike(slots: int, **more: Any) -> Watched:
    settings: dict[str, Any] = STILL | {
        "items": 10,
        "horizon": STEPS,
        "slope": 0.0,
        "base": -1.5,
        "quality": 1.0,
    }
    return Watched(FeedSpec(slots=slots, **settings | more))


def regret_of(agent: Bandit, world: Watched, seed: int) -> np.ndarray:
    world.worth.clear()
    agent.learn(world, USERS, STEPS, Seed(seed))
    return world.regret()


def regret_of_random(world: Watched, seed: int) -> np.ndarray:
    world.worth.clear()
    roll(world, Random(), USERS, Seed(seed), steps=STEPS)
    return world.regret()


AGENTS: dict[str, Any] = {
    "epsilon_greedy": EpsilonGreedy,
    "softmax_bandit": SoftmaxBandit,
    "pbm_ucb": PbmUcb,
    "cascade_ucb": CascadeUcb,
    "cascade_ucb1": lambda: CascadeUcb("ucb1"),
    "bernoulli_ts": BernoulliTS,
    "linucb": LinUcb,
    "linucb, disjoint": lambda: LinUcb(form="disjoint"),
    "linear_ts": LinearTS,
    "linear_ts, disjoint": lambda: LinearTS(form="disjoint"),
}
BOTH = [pytest.param(a, marks=pytest.mark.slow) if "disjoint" in a else a for a in AGENTS]
PBM = [a for a in AGENTS if not a.startswith("cascade")]
CASCADE = ["cascade_ucb", "cascade_ucb1"]
EXPLORERS = ["pbm_ucb", "cascade_ucb", "bernoulli_ts", "linear_ts"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", BOTH)
def test_it_finds_the_best_single_item(name: str, seed: int) -> None:
    world = alike(1)
    mine, chance = regret_of(AGENTS[name](), world, seed), regret_of_random(world, seed)
    assert mine[-1] < chance[-1] / 3, (mine[-1], chance[-1])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PBM)
def test_it_finds_the_best_slate_under_position_bias(name: str, seed: int) -> None:
    world = alike(3)
    mine, chance = regret_of(AGENTS[name](), world, seed), regret_of_random(world, seed)
    assert mine[-1] < chance[-1] / 3, (mine[-1], chance[-1])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CASCADE)
def test_it_finds_the_best_slate_in_a_cascade(name: str, seed: int) -> None:
    world = alike(3, click_model="cascade", base=-2.5)
    mine, chance = regret_of(AGENTS[name](), world, seed), regret_of_random(world, seed)
    assert mine[-1] < chance[-1] / 3, (mine[-1], chance[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPLORERS)
def test_regret_is_sublinear(name: str) -> None:
    """Doubling the time adds less than half of what the first half cost; chance doubles it."""
    world = alike(1)
    mine = sum(regret_of(AGENTS[name](), world, seed) for seed in range(3))
    chance = sum(regret_of_random(world, seed) for seed in range(3))
    assert isinstance(mine, np.ndarray)
    assert isinstance(chance, np.ndarray)
    assert mine[-1] / mine[STEPS // 2 - 1] < 1.5
    assert chance[-1] / chance[STEPS // 2 - 1] > 1.9


@pytest.mark.parametrize("agent", [LinUcb(), LinearTS(), LinUcb(form="disjoint")])
def test_it_personalises(agent: Linear) -> None:
    """Its last ten steps earn more than the best slate that is the same for everyone."""
    world = Watched(FeedSpec(**STILL | {"items": 30, "slots": 3, "horizon": 40}))  # type: ignore[arg-type]
    agent.learn(world, 200, 40, Seed(3))
    state = world.reset(200, Seed(3).split("world"))
    fixed = world.relevance(state).mean(0).argsort(descending=True)[:3].expand(200, -1)
    best = float(world.expected(state, fixed).sum(1).mean())
    assert np.mean(world.worth[-10:]) > 1.1 * best


# Counting --------------------------------------------------------------------------------------


def told(agent: Bandit, world: Feed, slates: Any, clicks: Any, active: Any = None) -> Bandit:
    """Let an agent begin in a world, and show it a hand-made batch."""
    slate, click = torch.tensor(slates), torch.tensor(clicks).float()
    context = world.observe(world.reset(len(slate), Seed(0)))
    there = torch.ones(len(slate), dtype=torch.bool) if active is None else torch.tensor(active)
    agent.begin(world, context, Seed(0))
    none = torch.zeros(len(slate), dtype=torch.bool)
    agent.update(context, slate, Response(click, click.sum(1), none, none, there))
    return agent


SLATES = [[0, 1, 2], [0, 2, 3], [3, 1, 0], [4, 5, 6]]
CLICKS = [[0, 1, 1], [0, 0, 0], [1, 0, 1], [1, 1, 1]]
THERE = [True, True, True, False]


def test_the_cascade_ignores_what_is_below_the_first_click() -> None:
    state = told(CascadeUcb(), alike(3), SLATES, CLICKS, THERE).state
    # Row 0 is read to slot 1, row 1 to the end, row 2 to slot 0; row 3's user was not there.
    assert state["shown"].tolist() == [2, 1, 1, 2, 0, 0, 0, 0, 0, 0]
    assert state["clicks"].tolist() == [0, 1, 0, 1, 0, 0, 0, 0, 0, 0]
    assert int(state["rounds"]) == 3


def test_position_based_counts_are_weighed_by_examination() -> None:
    agent = told(EpsilonGreedy(), alike(3), SLATES, CLICKS, THERE)
    assert isinstance(agent, EpsilonGreedy)
    third = 1 / 3
    seen = [2 + third, 1.0, third + 0.5, third + 1, 0, 0, 0, 0, 0, 0]
    clicks = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(agent.state["examined"], seen, rtol=1e-6)  # the world's θ is float32
    assert agent.state["clicks"].tolist() == clicks
    assert agent.state["shown"].tolist() == [3, 2, 2, 2, 0, 0, 0, 0, 0, 0]
    mean = (4 + 1) / (sum(seen) + 2)
    np.testing.assert_allclose(
        agent.rates(), [(c + mean) / (s + 1) for c, s in zip(clicks, seen, strict=True)], rtol=1e-6
    )


def test_epsilon_is_for_whole_slates() -> None:
    world = alike(3)
    agent = told(EpsilonGreedy(0.2), world, SLATES, CLICKS)
    chosen = agent.distribution(world.observe(world.reset(1, Seed(0))), 3)
    assert isinstance(agent, EpsilonGreedy)
    best = agent.rates().argsort(descending=True)[:3].unsqueeze(0)
    every = 1 / (10 * 9 * 8)
    assert float(chosen.log_prob(best).exp()) == pytest.approx(0.8 + 0.2 * every)
    assert float(chosen.log_prob(best.flip(1)).exp()) == pytest.approx(0.2 * every)


def test_softmax_follows_the_rates() -> None:
    world = alike(1)
    agent = told(SoftmaxBandit(0.1), world, [[0], [0], [1], [2]], [[1], [0], [1], [0]])
    assert isinstance(agent, SoftmaxBandit)
    rates = agent.rates().numpy()
    share = agent.distribution(world.observe(world.reset(1, Seed(0))), 1).slot_marginals()[0, 0].numpy()
    np.testing.assert_allclose(share, np.exp(rates / 0.1) / np.exp(rates / 0.1).sum(), rtol=1e-6)


def test_pbm_ucb_is_the_papers_index() -> None:
    agent = told(PbmUcb(1.5, theta=(1.0, 0.5, 0.25)), alike(3), SLATES, CLICKS, THERE)
    assert isinstance(agent, PbmUcb)
    index, delta = agent.index(), 1.5 * np.log(3)
    shown = {0: (3, 2.25, 1), 1: (2, 1.0, 1), 2: (2, 0.75, 1), 3: (2, 1.25, 1)}
    for item, (n, seen, clicks) in shown.items():
        slow = clicks / seen + np.sqrt(n / seen) * np.sqrt(delta / (2 * seen))
        assert float(index[item]) == pytest.approx(slow, rel=1e-12)
    assert index[4:].isinf().all()


def test_cascade_bounds_are_the_papers() -> None:
    one, kl = (told(CascadeUcb(b), alike(3), SLATES, CLICKS, THERE) for b in ("ucb1", "kl"))
    assert isinstance(one, CascadeUcb)
    assert isinstance(kl, CascadeUcb)
    log_t = np.log(3)
    assert float(one.index()[3]) == pytest.approx(0.5 + np.sqrt(1.5 * log_t / 2))
    budget = log_t + 3 * np.log(log_t)

    def gap(q: float) -> float:
        return float(2 * (0.5 * np.log(0.5 / q) + 0.5 * np.log(0.5 / (1 - q))) - budget)

    assert float(kl.index()[3]) == pytest.approx(brentq(gap, 0.5, 1 - 1e-12), abs=1e-9)
    assert kl.index()[4:].isinf().all()


def test_kl_bound_at_the_edges() -> None:
    mean = torch.tensor([0.0, 0.0, 1.0, 0.3], dtype=torch.float64)
    budget = torch.tensor([0.5, 0.0, 0.5, 0.0], dtype=torch.float64)
    # KL(0, q) = -log(1 - q).
    np.testing.assert_allclose(kl_bound(mean, budget), [1 - np.exp(-0.5), 0, 1, 0.3], atol=1e-8)


# Linear ----------------------------------------------------------------------------------------

SMALL = FeedSpec(**STILL | {"items": 8, "slots": 3, "topics": 2, "horizon": 6})  # type: ignore[arg-type]


def logged(agent: Linear) -> tuple[Feed, Context, np.ndarray, np.ndarray]:
    """Learn three random batches by hand, and return the world, a context, φ [row d] and clicks [row]."""
    world, luck = Feed(SMALL), Seed(5).torch()
    state = world.reset(20, Seed(4))
    context = world.observe(state)
    agent.begin(world, context, Seed(0))
    rows, clicks = [], []
    theta = world.examination().double()
    for _ in range(3):
        context = world.observe(state)
        slate = torch.rand(20, 8, generator=luck).topk(3, 1).indices
        state, response = world.step(state, slate, Seed(4))
        there = torch.rand(20, generator=luck) < 0.8
        click = response.click * there.unsqueeze(1)
        agent.update(context, slate, Response(click, click.sum(1), ~there, ~there, there))
        a = agent.users(context).numpy()
        for u in there.nonzero().squeeze(1).tolist():
            for k in range(3):
                rows.append(float(theta[k]) * phi(agent, a[u], int(slate[u, k])))
                clicks.append(float(click[u, k]))
    agent.refresh(Seed(1))
    return world, context, np.array(rows), np.array(clicks)


def phi(agent: Linear, a: np.ndarray, item: int) -> np.ndarray:
    b = agent.state["items"][item].numpy()
    if agent.form == "shared":
        return np.kron(a, b)
    return np.kron(np.eye(8)[item], a)


@pytest.mark.parametrize("form", ["shared", "disjoint"])
def test_the_posterior_is_ridge_regression(form: str) -> None:
    agent = LinUcb(alpha=0.7, form=form, ridge=0.5)
    _, context, x, y = logged(agent)
    cov = np.linalg.inv(x.T @ x + 0.5 * np.eye(x.shape[1]))
    w = cov @ x.T @ y
    a = agent.users(context).numpy()
    every = np.stack([[phi(agent, row, i) for i in range(8)] for row in a])  # [user item d]
    bound = every @ w + 0.7 * np.sqrt(np.einsum("uid,de,uie->ui", every, cov, every))
    chosen = agent.distribution(context, 3)
    assert isinstance(chosen, Ranked)
    np.testing.assert_allclose(chosen.scores, bound, atol=1e-10, rtol=0)
    mean = agent.users(context) @ agent.state["mean"].T
    np.testing.assert_allclose(mean, every @ w, atol=1e-10, rtol=0)


@pytest.mark.parametrize("form", ["shared", "disjoint"])
def test_draws_have_the_posterior_mean_and_covariance(form: str) -> None:
    m = 20_000
    agent = LinearTS(spread=0.6, draws=m, form=form, ridge=0.5)
    _, context, x, y = logged(agent)
    cov = np.linalg.inv(x.T @ x + 0.5 * np.eye(x.shape[1]))
    w = cov @ x.T @ y
    a = agent.users(context)[0]
    every = np.stack([phi(agent, a.numpy(), i) for i in range(8)])
    scores = (agent.state["draws"] @ a).numpy()  # [draw item]
    want = 0.36 * every @ cov @ every.T
    sd = np.sqrt(np.diag(want))
    assert np.abs((scores.mean(0) - every @ w) / sd).max() < 5 / np.sqrt(m)
    # The error of a covariance of normals is at most √(2/M) of the product of deviations.
    assert np.abs((np.cov(scores.T) - want) / np.outer(sd, sd)).max() < 5 * np.sqrt(2 / m)


def test_features_are_bounded_and_few() -> None:
    x = torch.randn(50, 30, generator=Seed(1).torch())
    assert item_side(x, 0).tolist() == [[1.0]] * 50
    assert item_side(x, 30).shape == (50, 31)
    few = item_side(x, 4)
    assert few.shape == (50, 5)
    # Principal components are uncorrelated.
    np.testing.assert_allclose(np.cov(few[:, 1:].numpy().T, bias=True), np.eye(4) / 4, atol=1e-10)
    agent = LinUcb(user_dim=2, item_dim=2).learn(Feed(SMALL), 20, 3, Seed(0))
    assert agent.state["precision"].shape == (9, 9)
    turn = agent.state["turn"]
    torch.testing.assert_close(turn.T @ turn, torch.eye(2, dtype=torch.float64))


# Ensembles -------------------------------------------------------------------------------------


def ensemble(draws: int = 7, cands: int = 4, slots: int = 2) -> Ensemble:
    luck = Seed(2).torch()
    users = torch.randn(3, 2, generator=luck, dtype=torch.float64)
    weights = torch.randn(draws, 6, 2, generator=luck, dtype=torch.float64)
    items = torch.stack([torch.randperm(6, generator=luck)[:cands] for _ in range(3)])
    mask = torch.ones(3, cands, dtype=torch.bool)
    mask[1, 0] = False
    return Ensemble(users, weights, items, mask, slots)


def test_an_ensemble_is_a_count_of_rankings() -> None:
    e = ensemble()
    slates = list(permutations(range(4), 2))
    for u in range(3):
        count: Counter[tuple[int, ...]] = Counter()
        for w in e.weights:
            scores = {
                c: float(w[i] @ e.users[u]) for c, i in enumerate(e.candidates[u].tolist()) if e.mask[u, c]
            }
            count[tuple(sorted(scores, key=lambda c: -scores[c])[:2])] += 1
        chance = torch.stack([e.log_prob(torch.tensor([s] * 3))[u].exp() for s in slates])
        np.testing.assert_allclose(chance, [count[s] / 7 for s in slates], atol=1e-12)
        table = e.slot_marginals()[u]
        for k in range(2):
            share = [sum(n for s, n in count.items() if s[k] == c) / 7 for c in range(4)]
            np.testing.assert_allclose(table[k], share, atol=1e-12)
        leading = max(count.values())
        assert tuple(e.mode()[u].tolist()) == min(s for s, n in count.items() if n == leading)
        here = torch.tensor([slates[0]] * 3)
        np.testing.assert_allclose(e.marginals(here)[u], table.gather(1, here[u].unsqueeze(1)).squeeze(1))


def test_an_ensemble_samples_its_own_probabilities() -> None:
    e = ensemble()
    n = 6000
    many = Ensemble(
        e.users[:1].expand(n, -1), e.weights, e.candidates[:1].expand(n, -1), e.mask[:1].expand(n, -1), 2
    )
    drawn = many.sample(Seed(3).torch())
    for slate, times in Counter(map(tuple, drawn.tolist())).items():
        chance = float(e.log_prob(torch.tensor([slate] * 3))[0].exp())
        assert abs(times / n - chance) < 4.5 * np.sqrt(chance * (1 - chance) / n)


def test_twins_among_the_items_do_not_make_a_slate_impossible() -> None:
    luck = Seed(4).torch()
    users = torch.randn(200, 5, generator=luck, dtype=torch.float64)
    weights = torch.randn(3, 1, 5, generator=luck, dtype=torch.float64).expand(3, 12, 5).contiguous()
    items = torch.arange(12).expand(200, 12)
    e = Ensemble(users, weights, items, torch.ones(200, 12, dtype=torch.bool), 4)
    assert e.sample(luck).tolist() == [[0, 1, 2, 3]] * 200
    assert e.log_prob(e.sample(luck)).tolist() == [0.0] * 200


# Neural ----------------------------------------------------------------------------------------


def after(agent: Policy, world: Watched) -> float:
    world.worth.clear()
    roll(world, agent, 60, Seed(70), first_user=10**6, steps=20)
    return float(np.mean(world.worth))


@pytest.mark.parametrize("slots", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_neural_ts_finds_the_best_items(slots: int) -> None:
    world = alike(slots)
    agent = NeuralTS(rounds=2).learn(world, 60, 40, Seed(1))
    best, mine, chance = world.best(), after(agent, world), after(Random(), world)
    assert best - mine < (best - chance) / 3
    assert len(agent.earned) == 40


def test_the_last_layer_is_ridge_regression_on_the_rankers_features() -> None:
    world = Feed(SMALL)
    agent = NeuralTS(rounds=1, draws=3, spread=0.0, ridge=2.0)
    agent.learn(world, 30, 4, Seed(2))
    ranker, state = agent.ranker, agent.state
    assert ranker is not None
    context = world.observe(world.reset(4, Seed(8)))
    with torch.no_grad():
        s = torch.nn.functional.pad(ranker.encode(context).double(), (1, 0), value=1.0)
        v = torch.nn.functional.pad(ranker.item_vectors().double(), (1, 0), value=1.0)
        logit = ranker.score(context)
    # All ones but the constant is the ranker's own logit.
    torch.testing.assert_close((s[:, 1:] @ v[:, 1:].T).float(), logit)
    slate, click = torch.tensor([[0, 1, 2]] * 4), torch.tensor([[1.0, 0.0, 1.0]] * 4)
    before_a, before_r = state["precision"].numpy().copy(), state["moment"].numpy().copy()
    there, none = torch.tensor([True, True, True, False]), torch.zeros(4, dtype=torch.bool)
    agent.update(context, slate, Response(click * there.unsqueeze(1), click.sum(1), none, none, there))
    theta = world.examination().double().numpy()
    rows = np.array([theta[k] * (s[u] * v[k]).numpy() for u in range(3) for k in range(3)])
    y = np.tile([1.0, 0.0, 1.0], 3)
    np.testing.assert_allclose(state["precision"], before_a + rows.T @ rows, atol=1e-10)
    np.testing.assert_allclose(state["moment"], before_r + rows.T @ y, atol=1e-10)
    agent.refresh(Seed(0))
    w = np.linalg.solve(before_a + rows.T @ rows, before_r + rows.T @ y)
    np.testing.assert_allclose(state["draws"], np.tile(w, (3, 1)), atol=1e-10)


def test_the_last_layer_starts_from_the_whole_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `learn` leaves is λ I and one row for each slot shown, in all collections."""
    agent = NeuralTS(rounds=1, ridge=2.0)
    agent.learn(Feed(SMALL), 30, 4, Seed(2))
    theta = Feed(SMALL).examination().double()
    # φ begins with a constant 1, so that corner of A is λ + Σ θ².
    want = 2.0 + 30 * 4 * float(theta.square().sum())
    assert float(agent.state["precision"][0, 0]) == pytest.approx(want, rel=1e-9)
    assert sum(agent.earned) * 30 > 0


# Disk and refusals -----------------------------------------------------------------------------

MADE: list[Bandit] = [
    EpsilonGreedy(0.3),
    SoftmaxBandit(0.5),
    PbmUcb(0.5, theta=(1.0, 0.4)),
    CascadeUcb("ucb1"),
    BernoulliTS(alpha=2, beta=(1.0,) * 8, corrected=False),
    LinUcb(alpha=2.0, form="disjoint"),
    LinearTS(draws=5, user_dim=3),
    NeuralTS("mf", {"dim": 4}, rounds=1),
]


@pytest.mark.parametrize("agent", MADE, ids=lambda a: a.name)
def test_settings_and_statistics_come_back(agent: Bandit, tmp_path: Path) -> None:
    world = Feed(FeedSpec(**STILL | {"items": 8, "slots": 2, "topics": 2, "horizon": 4}))  # type: ignore[arg-type]
    said: list[str] = []
    agent.learn(world, 20, 3, Seed(0), said.append)
    assert said
    agent.save(tmp_path)
    agent.learn(world, 20, 3, Seed(1)).save(tmp_path)  # replaces the first, and leaves no file behind
    assert len(list(tmp_path.glob("state-*"))) == 1
    again = type(agent).load(tmp_path)
    assert again.settings() == agent.settings()
    assert again.state.keys() == agent.state.keys()
    assert all(torch.equal(again.state[k], agent.state[k]) for k in agent.state)
    kept = json.loads((tmp_path / "agent.json").read_text())
    for change, sentence in (
        ({"agent": "other"}, "is not of an agent named"),
        ({"settings": {"colour": 1}}, "does not describe an agent"),
        ({"state": "../x.safetensors"}, "outside the folder"),
    ):
        (tmp_path / "agent.json").write_text(json.dumps({**kept, **change}))
        with pytest.raises(BadInput, match=sentence) as caught:
            type(agent).load(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_step_ends_learning_when_nobody_is_left() -> None:
    world = alike(1, horizon=5)
    assert len(EpsilonGreedy().learn(world, 3, 9, Seed(0)).earned) == 5


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: EpsilonGreedy(1.5), r"epsilon is a probability in \[0, 1\], not 1.5"),
        (lambda: SoftmaxBandit(0.0), "temperature is above 0, not 0.0"),
        (lambda: PbmUcb(-1.0), "exploration is at least 0"),
        (lambda: PbmUcb(theta=(1.0, 0.0)), r"theta, slot 1: 0.0 is not in \(0, 1\]"),
        (lambda: CascadeUcb("ucb"), "bound is ucb1 or kl, not ucb; did you mean ucb1"),
        (lambda: LinUcb(alpha=-1.0), "alpha is at least 0"),
        (lambda: LinUcb(form="hybrid"), "form is shared or disjoint, not hybrid"),
        (lambda: LinUcb(ridge=0.0), "ridge is above 0"),
        (lambda: LinUcb(user_dim=0), "user_dim is at least 1"),
        (lambda: LinearTS(spread=-1.0), "spread is at least 0"),
        (lambda: LinearTS(draws=0), "draws is at least 1"),
        (lambda: NeuralTS("din"), "not an inner product"),
        (lambda: NeuralTS(spec={"dims": 1}), "no setting dims"),
        (lambda: NeuralTS(rounds=0), "rounds is at least 1"),
        (lambda: NeuralTS(ridge=-1.0), "ridge is above 0"),
        (lambda: EpsilonGreedy().learn(alike(1), 0, 3, Seed(0)), "at least one user and one step"),
        (lambda: NeuralTS().learn(alike(1), 2, 3, Seed(0)), "too few for 4 collections"),
        (lambda: PbmUcb().learn(alike(3, click_model="cascade"), 3, 3, Seed(0)), "no position bias"),
        (
            lambda: PbmUcb(theta=(1.0,)).learn(alike(3), 3, 3, Seed(0)),
            "theta has 1 slots, but the slate has 3",
        ),
    ],
)
def test_refusals(make: Any, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_what_it_does_not_know_is_refused() -> None:
    agent = LinUcb().learn(Feed(SMALL), 5, 2, Seed(0))
    with pytest.raises(BadInput, match="0 features, but agent linucb learned from 5"):
        agent.distribution(Context.of(torch.arange(2), 8), 3)
    with pytest.raises(BadInput, match="the catalogue has items 0 to 9"):
        EpsilonGreedy().learn(alike(1), 5, 2, Seed(0)).distribution(Context.of(torch.arange(2), 11), 1)
