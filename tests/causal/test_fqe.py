"""Fitted-Q evaluation: exact where the regression is, cross-fitted, and refused where it runs away."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeRegressor
from torch import Tensor

import causal.fqe
from causal.cascade_reward import SklearnCascade
from causal.contract import stderr, value
from causal.evaluation import evaluate
from causal.fqe import FQE, fqe
from causal.q_models import FittedQ, QModel, RankerQ, SklearnQ
from causal.rl.dm import TrajectoryDM
from causal.rl.dr import TrajectoryDR
from causal.trajectories import trajectories
from simlab.adapters._descent import Descent
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers.contract import Sizes
from simlab.rankers.mlp import MLP
from simlab.rankers.popularity import Popularity
from simlab.seeds import Seed
from tests.sequential import END, Chain, chain
from tests.worlds import Softmax, table


def logged(world: Chain, n: int, seed: int) -> tuple[Log, Float[Tensor, "round state"]]:
    """Draw a log from the chain; feature 0 is the state, and the target is a policy over it."""
    every = world.listed()
    some = every.pick(n, seed)
    at = every.state[some] != END
    s, a = every.state[some][at], every.action[some][at]
    step = torch.arange(world.horizon).expand(n, world.horizon)[at]
    last = at.sum(1).unsqueeze(1) - 1 == torch.arange(world.horizon)
    user = torch.arange(n)[:, None].expand(n, world.horizon)[at]
    log = Log(
        user=user,
        session=torch.zeros_like(user),
        step=step,
        slate=a[:, None],
        propensity=world.logger[s, a],
        reward=every.reward[some][at],
        n_items=2,
        features=s[:, None].double(),
        terminated=last[at],
    )
    return log, world.target.log()


@dataclass(frozen=True)
class Groups:
    """The simplest Q-model: the mean of each (feature 0, item), and of all where none was seen."""

    past: int = 0

    def fit(
        self,
        context: Context,
        columns: Int[Tensor, "user slot"],
        target: Float[Tensor, " user"],
        sizes: Sizes,
        seed: Seed,
    ) -> FittedQ:
        key = context.features[:, 0].long() * 2 + columns[:, 0]
        above, below = torch.zeros(2, 4, dtype=torch.float64).unbind(0)
        above.index_add_(0, key, target)
        below.index_add_(0, key, torch.ones_like(target))
        return Means(torch.where(below > 0, above / below, target.mean()))


@dataclass(frozen=True)
class Means:
    mean: Float[Tensor, " pair"]

    def value(self, context: Context, columns: Int[Tensor, "user pick slot"]) -> Float[Tensor, "user pick"]:
        key = context.features[:, :1].long() * 2 + columns[:, :, 0]
        return self.mean[key]


def counted(world: Chain, log: Log) -> Float[Tensor, "step state action"]:
    """Return Q of the target in the model that counts make, in plain loops."""
    out = torch.zeros(world.horizon, 2, 2, dtype=torch.float64)
    s, a, r, t = log.features, log.slate[:, 0], log.reward, log.step
    assert s is not None
    assert t is not None
    for step in reversed(range(world.horizon)):
        for state in range(2):
            for action in range(2):
                here = ((t == step) & (s[:, 0] == state) & (a == action)).nonzero().squeeze(1)
                total = 0.0
                for row in here.tolist():
                    total += float(r[row])
                    if row + 1 < len(log) and log.user[row + 1] == log.user[row]:
                        later = int(s[row + 1, 0])
                        total += world.discount * float((world.target[later] * out[step + 1, later]).sum())
                out[step, state, action] = total / len(here)
    return out


MODELS: dict[str, QModel] = {"groups": Groups(), "tree": SklearnQ(DecisionTreeRegressor())}


@pytest.mark.parametrize("name", MODELS)
def test_by_steps_is_dynamic_programming_in_the_counted_model(name: str) -> None:
    """Each fold's rows get Q of the counts of the other folds, and of no row of their own."""
    world = chain()
    log, logits = logged(world, 300, 1)
    found = fqe(log, Softmax(logits), MODELS[name], world.discount, folds=3, seed=Seed(5))
    s, t = log.features, log.step
    assert s is not None
    assert t is not None
    for fold in range(3):
        held = found.fold == fold
        assert 0.25 < float(held.double().mean()) < 0.42
        q = counted(world, log.rows(~held))
        state = s[held, 0].long()
        assert torch.allclose(found.q_logged[held], q[t[held], state, log.slate[held, 0]], atol=1e-10)
        assert torch.allclose(
            found.v_target[held], (world.target[state] * q[t[held], state]).sum(1), atol=1e-10
        )
    for user in torch.unique(log.user).tolist():
        assert len(torch.unique(found.fold[log.user == user])) == 1
    assert found.converged
    assert all(len(v) == 3 for v in found.values)


def test_with_trajectories_it_gives_dm_and_dr_their_model() -> None:
    world = chain()
    log, logits = logged(world, 2000, 2)
    target = Softmax(logits)
    q = fqe(log, target, Groups(), world.discount)
    data = trajectories(log, target, world.discount, q, state=log.features[:, 0].long())  # type: ignore[index]
    assert value(TrajectoryDM().score(data)) == pytest.approx(world.value(), abs=0.06)
    for each in evaluate(data):
        if each.name != "DM":  # whose interval does not know the model's error
            assert abs(each.value - world.value()) < 3.5 * each.stderr, each.name
    assert {e.name for e in evaluate(data)} >= {"TIS", "DR", "WDR", "MDR", "DRL", "SNMIS"}
    with pytest.raises(BadInput, match=r"a discount of 0.9, not of 1.0"):
        trajectories(log, target, 1.0, q)
    with pytest.raises(BadInput, match="a horizon of 3 steps, not of 2"):
        trajectories(log, target, world.discount, q, horizon=2)
    with pytest.raises(BadInput, match=r"a log of \d+ rows, not of 1"):
        trajectories(log.rows(torch.tensor([0])), target, world.discount, q)


def test_a_q_model_of_something_else_is_refused() -> None:
    """Doubly robust values with a model of another log or target would be quietly wrong, or at best wide."""
    world = chain()
    log, logits = logged(world, 60, 2)
    target, other = Softmax(logits), Softmax(2 * logits)
    q = fqe(log, target, Groups(), world.discount)
    with pytest.raises(BadInput, match="is of another target: it shows what row 0 logs with probability"):
        trajectories(log, other, world.discount, q)
    chance = q.chance.clone()
    trajectories(log, chance, world.discount, q)  # the same target, by its probabilities alone
    chance[7] /= 2
    with pytest.raises(BadInput, match="another target: it shows what row 7 logs"):
        trajectories(log, chance, world.discount, q)
    changes: list[dict[str, Any]] = [{"reward": log.reward + 1}, {"features": log.features + 1}]  # type: ignore[operator]
    for change in (*changes, {"session": None}):
        name = next(iter(change))
        with pytest.raises(BadInput, match=f"is of another log: column {name} is not the same"):
            trajectories(replace(log, **change), q.chance, world.discount, q)
    # Propensities are no part of a model: better ones may be put in after it was fitted.
    trajectories(replace(log, propensity=log.propensity / 2), target, world.discount, q)
    endless_log, endless_logits = endless(40, 6, 3)
    ever = fqe(endless_log, Softmax(endless_logits), Groups(), 0.6, stationary=True, horizon=6)
    with pytest.raises(BadInput, match="a horizon of 6 steps, not of 4"):
        trajectories(endless_log, Softmax(endless_logits), 0.6, ever, horizon=4)


@pytest.mark.parametrize("make", [SklearnQ, SklearnCascade])
@pytest.mark.parametrize("model", [LogisticRegression(), Pipeline([("c", LogisticRegression())]), KMeans()])
def test_a_model_of_values_is_a_regressor(make: Callable[[Any], object], model: Any) -> None:
    with pytest.raises(BadInput, match=rf"is a regressor, and {type(model).__name__} is a cl"):
        make(model)
    make(Ridge())
    make(Pipeline([("r", Ridge())]))


def test_stationary_iterates_to_the_fixed_point() -> None:
    """Long chains: one Q̂ for all steps, and its Bellman equation holds in the counted model."""
    world = chain()
    log, logits = endless(400, 12, 3)
    found = fqe(
        log, Softmax(logits), Groups(), 0.6, stationary=True, iterations=200, tolerance=1e-12, seed=Seed(1)
    )
    assert found.converged
    s, a = log.features[:, 0].long(), log.slate[:, 0]  # type: ignore[index]
    for fold in range(3):
        changes = np.array(found.changes[fold])
        assert bool((changes[1:] < changes[:-1]).all())  # a contraction
        assert changes[-1] <= 1e-12 * 10
        rows = (found.fold != fold).nonzero().squeeze(1)
        rows = rows[~log.truncated[rows]]  # type: ignore[index]
        model = found.models[fold][0]
        eye = Context.of(torch.zeros(2, dtype=torch.long), 2, features=torch.tensor([[0.0], [1.0]]))
        q = model.value(eye, torch.arange(2).reshape(1, 2, 1).expand(2, 2, 1))
        v = (world.target * q).sum(1)
        for state in range(2):
            for action in range(2):
                here = rows[(s[rows] == state) & (a[rows] == action)]
                assert bool((log.user[here] == log.user[here + 1]).all())
                wanted = (log.reward[here] + 0.6 * v[s[here + 1]]).mean()
                assert float(q[state, action]) == pytest.approx(float(wanted), rel=1e-9)
    few = fqe(log, Softmax(logits), Groups(), 0.6, stationary=True, iterations=3)
    assert not few.converged
    assert all(len(c) == 3 for c in few.changes)


def endless(n: int, steps: int, seed: int) -> tuple[Log, Float[Tensor, "state cand"]]:
    """Draw long sessions from the chain without its ends, cut by a time limit."""
    world, generator = chain(), torch.Generator().manual_seed(seed)
    move = world.move / world.move.sum(2, keepdim=True)
    s = torch.multinomial(world.first, n, replacement=True, generator=generator)
    columns: dict[str, list[Tensor]] = {"s": [], "a": [], "r": []}
    for _ in range(steps):
        a = torch.multinomial(world.logger[s], 1, generator=generator).squeeze(1)
        columns["s"].append(s)
        columns["a"].append(a)
        columns["r"].append(torch.bernoulli(world.mean[s, a], generator=generator))
        s = torch.multinomial(move[s, a], 1, generator=generator).squeeze(1)
    state, action, reward = (torch.stack(columns[k], 1).reshape(-1) for k in "sar")
    step = torch.arange(steps).repeat(n)
    log = Log(
        user=torch.arange(n).repeat_interleave(steps),
        session=torch.zeros(n * steps, dtype=torch.long),
        step=step,
        slate=action[:, None],
        propensity=world.logger[state, action],
        reward=reward,
        n_items=2,
        features=state[:, None].double(),
        truncated=step == steps - 1,
    )
    return log, world.target.log()


class First(LinearRegression):  # type: ignore[misc]
    """Least squares on the first column alone, through the origin."""

    def __init__(self) -> None:
        super().__init__(fit_intercept=False)

    def fit(self, X: NDArray[np.float64], y: NDArray[np.float64]) -> Any:
        return super().fit(X[:, :1], y)

    def predict(self, X: NDArray[np.float64]) -> Any:
        return super().predict(X[:, :1])


def runaway(n: int = 30) -> Log:
    """Return sessions from feature 1 to feature 2, where the log is cut: w ← r + 2 γ w."""
    return Log(
        user=torch.arange(n).repeat_interleave(2),
        session=torch.zeros(2 * n, dtype=torch.long),
        step=torch.arange(2).repeat(n),
        slate=torch.zeros(2 * n, 1, dtype=torch.long),
        propensity=torch.full((2 * n,), 0.5, dtype=torch.float64),
        reward=torch.ones(2 * n, dtype=torch.float64),
        n_items=2,
        features=torch.tensor([1.0, 2.0], dtype=torch.float64).repeat(n)[:, None],
        truncated=torch.tensor([False, True]).repeat(n),
    )


@dataclass(frozen=True)
class Always:
    """A policy that does not look."""

    name: str = "always"

    def distribution(self, context: Context, slots: int) -> Any:
        return Softmax(table([0.0, 0.0])).distribution(
            replace(context, features=torch.zeros_like(context.features)), slots
        )


def test_divergence_is_refused() -> None:
    """The example of Tsitsiklis and Van Roy (1997): features 1 and 2, 2 never a start."""
    model = SklearnQ(First())
    with pytest.raises(BadInput, match=r"diverges: after iteration \d+ its values are of size"):
        fqe(runaway(), Always(), model, 0.9, stationary=True)
    calm = fqe(runaway(), Always(), model, 0.4, stationary=True, tolerance=1e-9)
    assert calm.converged
    assert calm.values[0][-1] == pytest.approx(1 / (1 - 0.8))  # w = 1 + 2 γ w
    by_steps = fqe(runaway(), Always(), model, 0.9)
    assert by_steps.values[0] == pytest.approx((1.0, 1.9))


def test_what_cannot_be_fitted_is_refused() -> None:
    world = chain()
    log, logits = logged(world, 40, 1)
    target = Softmax(logits)
    for more, words in (
        ({"folds": 1}, "folds is 1"),
        ({"folds": 41}, "40 users, too few for 41 folds"),
        ({"discount": 1.1}, r"discount is 1.1"),
        ({"iterations": 0}, "iterations is 0, but it is at least 1"),
        ({"draws": 0}, "draws is 0, but it is at least 1"),
        ({"past": -1}, "past is -1, but it is at least 0"),
        ({"tolerance": float("nan")}, "tolerance is nan, but it is at least 0"),
    ):
        with pytest.raises(BadInput, match=words):
            fqe(log, target, Groups(), **more)
    with pytest.raises(BadInput, match="41 folds"):
        fqe(log, target, Groups(), folds=41, group_by_user=False)
    assert log.step is not None
    alone = log.user == log.user[log.step == 2][0]
    lone = replace(log.rows(alone | (log.step == 0)), terminated=None)
    with pytest.raises(
        BadInput, match=r"no trajectory outside fold \d reaches step 2: give a horizon of at m"
    ):
        fqe(lone, target, Groups())
    cut = runaway(6)
    with pytest.raises(BadInput, match="every step is the last of a trajectory that was cut"):
        fqe(cut, Always(), Groups(), stationary=True, horizon=1)
    placed = replace(log, position=torch.zeros(len(log), dtype=torch.long))
    with pytest.raises(BadInput, match="needs whole slates"):
        fqe(placed, target, Groups())
    with pytest.raises(BadInput, match="counts clicks, so it learns no values"):
        fqe(log, target, RankerQ(Popularity.build))
    with pytest.raises(BadInput, match=r"wants past=\d+, but its Q-model says 2"):
        fqe(log, target, RankerQ(MLP.build, past=2))


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the target would show is drawn by row: kept or asked for again, the answer is the same."""
    log, target = slates(40, 1)
    whole = fqe(log, target, SklearnQ(Ridge()), 0.9, draws=8, seed=Seed(2))
    monkeypatch.setattr(causal.fqe, "_CELLS", 100)
    parts = fqe(log, target, SklearnQ(Ridge()), 0.9, draws=8, seed=Seed(2))
    assert torch.allclose(whole.v_target, parts.v_target, atol=1e-10)
    assert torch.allclose(whole.q_logged, parts.q_logged, atol=1e-10)
    other = fqe(log, target, SklearnQ(Ridge()), 0.9, draws=8, seed=Seed(3))
    assert not torch.allclose(whole.v_target, other.v_target)


def slates(n: int, seed: int) -> tuple[Log, Softmax]:
    """Draw sessions of three slates of two of four items, with additive rewards and one state."""
    generator = torch.Generator().manual_seed(seed)
    slate = torch.stack([torch.randperm(4, generator=generator)[:2] for _ in range(3 * n)])
    worth = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=torch.float64)
    log = Log(
        user=torch.arange(n).repeat_interleave(3),
        session=torch.zeros(3 * n, dtype=torch.long),
        step=torch.arange(3).repeat(n),
        slate=slate,
        propensity=torch.full((3 * n,), 1 / 12, dtype=torch.float64),
        reward=(worth[slate] * torch.tensor([1.0, 0.5], dtype=torch.float64)).sum(1),
        n_items=4,
        features=torch.zeros(3 * n, 1, dtype=torch.float64),
    )
    return log, Softmax(table([0.0, 0.5, 1.0, 1.5]))


def test_slates_of_several_items() -> None:
    """An additive world and a linear model: Q̂ is exact, and V̂ is the mean of the target's slates."""
    log, target = slates(400, 4)
    found = fqe(log, target, SklearnQ(LinearRegression()), 1.0, draws=400, seed=Seed(1))
    marginal = target.distribution(log.context().rows(torch.tensor([0])), 2).slot_marginals()[0].double()
    worth = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=torch.float64)
    step = float((marginal @ worth) @ torch.tensor([1.0, 0.5], dtype=torch.float64))
    for t in range(3):
        at = log.step == t
        spread = float(found.v_target[at].std()) / 20
        assert float(found.v_target[at].mean()) == pytest.approx((3 - t) * step, abs=0.02 + spread)
    last = log.step == 2
    assert torch.allclose(found.q_logged[last], log.reward[last], atol=1e-9)
    data = trajectories(log, target, 1.0, found)
    dr = TrajectoryDR().score(data)
    assert abs(value(dr) - 3 * step) < 4 * stderr(dr) + 0.02


def test_rankers_learn_q() -> None:
    """An MLP over features and items, on the chain: near the truth, the same for the same seed."""
    world = chain()
    log, logits = logged(world, 800, 5)
    target = Softmax(logits)
    model = RankerQ(lambda sizes: MLP.build(replace(sizes, n_users=0), {"past": 0}), how=Descent(epochs=10))
    before = torch.random.get_rng_state()
    found = fqe(log, target, model, world.discount, folds=2, seed=Seed(3))
    assert torch.equal(before, torch.random.get_rng_state())
    few = log.rows(log.user < 60)
    one, two = (fqe(few, target, model, world.discount, folds=2, seed=Seed(3)) for _ in range(2))
    assert torch.equal(one.q_logged, two.q_logged)
    s = log.features[:, 0].long()  # type: ignore[index]
    truth = world.q()[log.step, s, log.slate[:, 0]]
    assert float((found.q_logged - truth).square().mean().sqrt()) < 0.12
    assert float(truth.std()) > 0.25
    data = trajectories(log, target, world.discount, found)
    assert abs(value(TrajectoryDM().score(data)) - world.value()) < 0.1
    dr = TrajectoryDR().score(data)
    assert abs(value(dr) - world.value()) < 3 * stderr(dr)


def test_protocols() -> None:
    for model in (Groups(), SklearnQ(Ridge()), RankerQ(MLP.build)):
        assert isinstance(model, QModel)
    assert isinstance(Means(torch.zeros(4)), FittedQ)
    assert FQE.__dataclass_params__.frozen  # type: ignore[attr-defined]
