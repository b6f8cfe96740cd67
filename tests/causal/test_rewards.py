"""Reward models: nothing of a row's own fold reaches its prediction."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from causal.bandit.dm import DM
from causal.bandit.dr import DR
from causal.contract import value
from causal.evaluation import estimate
from causal.folds import Folds, clock
from causal.rewards import Fitted, RankerReward, RewardModel, answers, assign, cross_fit
from causal.rounds import rounds
from causal.sklearn_reward import SklearnReward
from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers.mf import MF
from simlab.rankers.popularity import Popularity
from simlab.seeds import Seed
from simlab.training.settings import FitSettings
from tests.worlds import Softmax, bandit_world, slate_world


@dataclass(frozen=True)
class Memory:
    """Remembers, for each user, whether their rows were there to be learned from."""

    users: tuple[int, ...] = ()
    past: ClassVar[int] = 0

    def fit(self, log: Log, slots: int, seed: Seed, weight: Tensor | None = None) -> Fitted:
        return Memory(tuple(log.user.tolist()))

    def predict(self, context: Context, position: Tensor) -> Tensor:
        known = torch.isin(context.user, torch.tensor(self.users)).double()
        return known[:, None, None].expand(-1, position.shape[1], context.candidates.shape[1])


def bandit_log(n: int, seed: int = 0, per_user: int = 1) -> Log:
    log = bandit_world().listed().draw(n, seed)
    return replace(log, user=torch.arange(n) // per_user)


@pytest.mark.parametrize("per_user", [1, 3])
def test_a_model_that_memorises_does_not_see_its_own_fold(per_user: int) -> None:
    log = bandit_log(90, per_user=per_user)
    found = rounds(log, Softmax(bandit_world().target.log()), Memory(), folds=3, chunk=11)
    assert found.q_logged is not None
    assert float(found.q_logged.abs().max()) == 0
    # By rounds, users who repeat do leak: that is why folds keep users whole.
    if per_user > 1:
        leaky = rounds(log, Softmax(bandit_world().target.log()), Memory(), group_by_user=False)
        assert leaky.q_logged is not None
        assert float(leaky.q_logged.mean()) > 0.5


def test_a_forest_that_memorises_noise_gains_nothing() -> None:
    """Rewards are coins and each row has its own features: out of fold nothing of them can be known."""
    n = 300
    g = torch.Generator().manual_seed(1)
    log = Log(
        user=torch.arange(n),
        slate=torch.randint(0, 2, (n, 1), generator=g),
        propensity=torch.full((n,), 0.5),
        reward=torch.randint(0, 2, (n,), generator=g).double(),
        n_items=2,
        features=torch.rand(n, 3, generator=g),
    )
    model = SklearnReward(RandomForestClassifier(n_estimators=20, bootstrap=False))
    uniform = Softmax(torch.zeros(1, 2, dtype=torch.float64))  # features below 1 are context 0
    found = rounds(log, uniform, model)
    assert found.q_logged is not None
    right = ((found.q_logged > 0.5) == (log.reward > 0.5)).double().mean()
    assert 0.4 < float(right) < 0.6
    inside = model.fit(log, 1, Seed(0)).predict(log.context(), torch.zeros(n, 1, dtype=torch.long))
    own = inside[torch.arange(n), 0, log.slate[:, 0]]
    assert float(((own > 0.5) == (log.reward > 0.5)).double().mean()) > 0.99


def test_folds_are_of_like_size_and_keep_users_whole() -> None:
    users = torch.tensor([0] * 50 + [1] * 30 + list(range(2, 42)))
    log = replace(bandit_log(120), user=users)
    fold = assign(log, 4, Seed(3), group=True)
    for user in range(42):
        assert len(set(fold[users == user].tolist())) == 1
    people = torch.tensor([len(set(users[fold == f].tolist())) for f in range(4)])
    assert int(people.max() - people.min()) <= 1
    assert torch.equal(fold, assign(log, 4, Seed(3), group=True))
    assert not torch.equal(fold, assign(log, 4, Seed(4), group=True))
    rows = torch.bincount(assign(log, 4, Seed(3), group=False))
    assert rows.tolist() == [30, 30, 30, 30]
    with pytest.raises(BadInput, match="1 users, too few for 3 folds"):
        assign(replace(log, user=torch.zeros(120, dtype=torch.long)), 3, Seed(0), group=True)
    with pytest.raises(BadInput, match="folds is 1"):
        assign(log, 1, Seed(0), group=False)


def test_a_linear_model_finds_the_slates_truth() -> None:
    """Clicks are examination × attraction; on one context a saturated regression has the true table."""
    world = slate_world()
    log = world.listed().draw(40_000, seed=2)
    log = replace(log, user=torch.arange(40_000))
    forest = SklearnReward(RandomForestClassifier(n_estimators=5, min_samples_leaf=200))
    found = rounds(log, world.target, forest, folds=2)
    assert value(DM().score(found)) == pytest.approx(world.value(), abs=0.03)
    # DR's model takes away variance: clicks that the model foresees are not luck.
    one = estimate(DR(), found)
    bare = float((found.weight * found.reward).std()) / 200
    assert one.stderr < 0.8 * bare
    assert abs(one.value - world.value()) < 4 * one.stderr


def test_one_class_folds_and_items_that_a_fold_never_saw() -> None:
    g = torch.Generator().manual_seed(3)
    log = Log(
        user=torch.arange(60),
        slate=torch.randint(0, 5, (60, 1), generator=g),
        propensity=torch.full((60,), 0.1),
        reward=torch.zeros(60),
        n_items=10,  # five are never shown
        position=torch.randint(0, 3, (60,), generator=g),
    )
    uniform = Softmax(torch.zeros(1, 10, dtype=torch.float64))
    log = replace(log, features=torch.zeros(60, 1))
    none = rounds(log, uniform, SklearnReward(LogisticRegression()))
    assert none.q_target is not None
    assert float(none.q_target.abs().max()) == 0
    # One click: whichever fold it is in trains on none of it, and the others on it.
    one = replace(log, reward=(torch.arange(60) == 7).float())
    found = rounds(one, uniform, SklearnReward(LogisticRegression()))
    assert found.q_target is not None
    assert bool(found.q_target.isfinite().all())
    assert int((found.q_target == 0).sum()) == 20
    assert float(found.q_target.max()) > 0.005


def test_the_design_knows_item_features_and_position() -> None:
    """Rewards are 2·feature of the item + position: least squares finds it for every item and place."""
    g = torch.Generator().manual_seed(4)
    catalog = Catalog(torch.rand(6, 1, generator=g))
    slate = torch.randint(0, 6, (200, 1), generator=g)
    place = torch.randint(0, 3, (200,), generator=g)
    log = Log(
        user=torch.arange(200),
        slate=slate,
        propensity=torch.full((200,), 0.2),
        reward=(2 * catalog.features[slate[:, 0], 0] + place).double(),
        n_items=6,
        position=place,
        features=torch.zeros(200, 1),
    )
    model = SklearnReward(make_pipeline(StandardScaler(), LinearRegression()), catalog)
    assert isinstance(model, RewardModel)
    fitted = model.fit(log, 3, Seed(0))
    every = torch.arange(3).expand(200, -1)
    q = fitted.predict(log.context(), every)
    wanted = 2 * catalog.features[:, 0].double()[None, :] + torch.arange(3)[:, None]
    assert torch.allclose(q, wanted.expand(200, -1, -1), atol=1e-6)
    assert model.estimator.steps[1][1].__dict__ == LinearRegression().__dict__  # cloned, never fitted


def test_blocks_of_predictions_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    log = bandit_log(50)
    fitted = SklearnReward(LogisticRegression()).fit(log, 1, Seed(0))
    place = torch.zeros(50, 1, dtype=torch.long)
    whole = fitted.predict(log.context(), place)
    monkeypatch.setattr("causal.sklearn_reward._CELLS", 40)
    assert torch.allclose(fitted.predict(log.context(), place), whole, atol=1e-15)


def test_weights_reach_the_fit() -> None:
    """All the weight on the rows with reward 1 of item 0: the model believes them."""
    log = bandit_log(300)
    heavy = torch.where(log.reward == 1, 1e4, 1.0).double()
    place = torch.zeros(300, 1, dtype=torch.long)
    for model in (
        SklearnReward(LogisticRegression()),
        RankerReward(lambda sizes: Popularity(sizes, Popularity.Spec(by="rate"))),
    ):
        plain = cross_fit(log, model, folds=2).predict(slice(None), log.context(), place)
        pulled = cross_fit(log, model, folds=2, weight=heavy).predict(slice(None), log.context(), place)
        assert float(pulled.mean()) > 0.9 > float(plain.mean())


def test_the_same_seed_gives_the_same_model() -> None:
    log = bandit_log(200)
    target = Softmax(bandit_world().target.log())
    model = SklearnReward(RandomForestClassifier(n_estimators=3))
    a, b, c = (rounds(log, target, model, seed=Seed(s)).q_target for s in (1, 1, 2))
    assert a is not None
    assert b is not None
    assert c is not None
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def slates(n: int) -> Log:
    log = slate_world().listed().draw(n, seed=5)
    return replace(log, user=torch.arange(n))


def test_a_counting_ranker_is_right_on_average_at_each_position() -> None:
    log = slates(4000)
    model = RankerReward(lambda sizes: Popularity(sizes, Popularity.Spec(by="rate")))
    fitted = model.fit(log, 2, Seed(0))
    q = fitted.predict(log.context(), torch.arange(2).expand(4000, -1))
    said = q.gather(2, log.slate[:, :, None]).squeeze(2).mean(0)
    assert log.click is not None
    assert said.tolist() == pytest.approx(log.click.double().mean(0).tolist(), rel=1e-6)
    assert float(said[0]) > 1.5 * float(said[1])  # the top slot is looked at twice as often


def test_a_trained_ranker_serves_as_a_reward_model() -> None:
    """MF with the context as a feature, out of fold, narrows DR below IPS and stays right."""
    log = slates(20_000)
    world = slate_world()
    one_hot = torch.nn.functional.one_hot(log.features[:, 0].long(), 2) if log.features is not None else None
    assert one_hot is not None
    log = replace(log, features=torch.cat([log.context().features[:, :1], one_hot.double()], 1))
    model = RankerReward(
        lambda sizes: MF(replace(sizes, n_users=0), MF.Spec(dim=4, past=0)),
        {"settings": FitSettings(epochs=8, batch_size=512, learning_rate=0.05, validation=0.0)},
    )
    found = rounds(log, world.target, model, folds=2)
    one = estimate(DR(), found)
    assert abs(value(DM().score(found)) - world.value()) < 0.05
    assert abs(one.value - world.value()) < 4 * one.stderr
    assert one.stderr < 0.8 * float((found.weight * found.reward).std()) / 20_000**0.5


def test_refusals() -> None:
    log = slates(20)
    with pytest.raises(BadInput, match="learns from column click"):
        answers(replace(log, click=None))
    with pytest.raises(BadInput, match=r"column reward, row 3: .* is not the sum of the row's clicks"):
        answers(replace(log, reward=log.reward + (torch.arange(20) == 3)))
    odd = replace(bandit_log(20), reward=torch.full((20,), 0.5))
    with pytest.raises(BadInput, match="a classifier needs 0 or 1"):
        SklearnReward(LogisticRegression()).fit(odd, 1, Seed(0))
    counting = RankerReward(lambda sizes: Popularity(sizes, Popularity.Spec()))
    with pytest.raises(BadInput, match="needs rewards of 0 and 1"):
        counting.fit(odd, 1, Seed(0))
    with pytest.raises(BadInput, match="wants past=0, but its reward model says 3"):
        replace(counting, past=3).fit(log, 2, Seed(0))


@dataclass(frozen=True)
class Latest:
    """Says, of every row, the latest time (feature 1) that it has learned from."""

    time: float = -1.0
    past: ClassVar[int] = 0

    def fit(self, log: Log, slots: int, seed: Seed, weight: Tensor | None = None) -> Fitted:
        return Latest(float(log.context().features[:, 1].max()))

    def predict(self, context: Context, position: Tensor) -> Tensor:
        shape = (*position.shape, context.candidates.shape[1])
        return torch.full(shape, self.time, dtype=torch.float64)


def timed(n: int, step: Tensor) -> Log:
    """A bandit log whose second feature is its time."""
    log = bandit_log(n)
    return replace(log, step=step, features=torch.stack([log.context().features[:, 0], step.float()], 1))


@pytest.mark.parametrize("folds", [1, 4])
@pytest.mark.parametrize("shuffled", [False, True])
def test_in_time_order_a_model_knows_only_what_came_before(folds: int, shuffled: bool) -> None:
    step = torch.arange(100) // 2  # two rounds at each time
    if shuffled:
        step = step[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    log = timed(100, step)
    fit = cross_fit(log, Latest(), folds, order="time")
    said = fit.predict(slice(None), log.context(), torch.zeros(100, 1, dtype=torch.long))[:, 0, 0]
    early = ~fit.scored
    assert int(early.sum()) == 100 // (folds + 1)
    assert int(step[early].max()) < int(step[~early].min())
    assert bool(said[early].isnan().all())
    assert bool((said[~early] < step[~early]).all())
    # And it has learned from all of it: the time just before its fold.
    for k in range(folds):
        here = fit.fold == k
        assert float(said[here][0]) == int(step[here].min()) - 1


def test_rounds_leave_the_burn_in_out() -> None:
    log = timed(120, torch.arange(120))
    target = Softmax(bandit_world().target.log())
    found = rounds(log, target, cross_fit(log, Latest(), 3, order="time"), chunk=7)
    assert len(found) == 90
    assert torch.equal(found.reward, log.reward[30:])
    assert found.q_logged is not None
    assert found.q_target is not None
    assert torch.equal(found.q_logged, (torch.arange(90) // 30 * 30 + 29).double())
    assert torch.allclose(found.q_target, found.q_logged, atol=1e-9)
    assert torch.allclose(found.weight, rounds(log, target).weight[30:])
    # The same folds of a fit at random are no other than without.
    fit = cross_fit(log, SklearnReward(LogisticRegression()), group=False)
    one, two = rounds(log, target, fit), rounds(log, target, SklearnReward(LogisticRegression()))
    assert one.q_target is not None
    assert two.q_target is not None
    assert torch.equal(one.q_target, two.q_target)
    with pytest.raises(BadInput, match="fitted models are of 120 rounds, but the log has 60"):
        rounds(log.rows(slice(60)), target, fit)


def test_time_must_be_known() -> None:
    log = bandit_log(30)
    with pytest.raises(
        BadInput, match="no column step and no time was given, so a fold could learn from rounds"
    ):
        cross_fit(log, Memory(), order="time")
    assert torch.equal(clock(log, torch.arange(30)), torch.arange(30))
    with pytest.raises(BadInput, match="time has 20 rows, but the log has 30"):
        clock(log, torch.arange(20))
    with pytest.raises(BadInput, match="time, row 3: is not a number"):
        clock(log, torch.where(torch.arange(30) == 3, torch.nan, torch.arange(30)))
    again = replace(
        log, user=torch.arange(30) // 2, session=torch.arange(30) % 2, step=torch.zeros(30).long()
    )
    with pytest.raises(
        BadInput, match="column step: user 0 has several sessions and step starts again in each"
    ):
        cross_fit(again, Memory(), order="time")
    with pytest.raises(BadInput, match="order is random or time, not tme; did you mean time"):
        cross_fit(log, Memory(), order="tme")
    with pytest.raises(BadInput, match="time is for folds with order time, and their order is random"):
        cross_fit(log, Memory(), time=torch.arange(30))
    with pytest.raises(BadInput, match="folds is 0, but at least 1 must be scored"):
        cross_fit(log, Memory(), 0, order="time", time=torch.arange(30))
    lumps = torch.tensor([0] * 25 + [1] * 5)
    with pytest.raises(
        BadInput, match="30 rounds at 2 times, of which one has 25, cannot be cut into 2 folds"
    ):
        cross_fit(log, Memory(), 2, order="time", time=lumps)


def test_given_folds_must_not_leak() -> None:
    log = replace(bandit_log(30), user=torch.arange(30) // 3)
    time, thirds = torch.arange(30), torch.arange(30) // 10
    dealt = Folds.deal(log, 3, Seed(0), order="time", time=time, fold=thirds - 1)
    assert dealt.count == 2
    assert dealt.train(1).tolist() == list(range(20))
    swapped = thirds.clone()
    swapped[4], swapped[14] = 1, 0
    with pytest.raises(
        BadInput, match="time leaks between folds: row 14 of fold -1 is of time 14, and row 4 of fold 0"
    ):
        Folds.deal(log, 3, Seed(0), order="time", time=time, fold=swapped - 1)
    with pytest.raises(
        BadInput, match="the burn-in, fold -1, has no rounds, so there is nothing to learn from"
    ):
        Folds.deal(log, 3, Seed(0), order="time", time=time, fold=thirds)
    with pytest.raises(
        BadInput, match="user 3 is in two folds, so a model scores a user that it has learned"
    ):
        Folds.deal(log, 3, Seed(0), fold=thirds)
    assert Folds.deal(log, 3, Seed(0), False, fold=thirds).count == 3
    with pytest.raises(BadInput, match="fold, row 0: -1 is below 0"):
        Folds.deal(log, 3, Seed(0), False, fold=thirds - 1)
    with pytest.raises(BadInput, match="fold 1 has no rounds"):
        Folds.deal(log, 3, Seed(0), False, fold=torch.where(thirds == 1, 2, thirds))
    with pytest.raises(BadInput, match="there is one fold only"):
        Folds.deal(log, 3, Seed(0), False, fold=torch.zeros(30, dtype=torch.long))
    with pytest.raises(BadInput, match="fold has 20 rows, but the log has 30"):
        Folds.deal(log, 3, Seed(0), False, fold=thirds[:20])


def test_items_that_a_model_never_met_are_marked() -> None:
    log = bandit_log(60)
    slate = torch.where(torch.arange(60)[:, None] == 17, 2, log.slate % 2)
    fit = cross_fit(replace(log, slate=slate), SklearnReward(LogisticRegression()))
    assert fit.unseen is not None
    assert fit.unseen.nonzero().flatten().tolist() == [17]
    with pytest.raises(BadInput, match="fold 0: all 40 rounds to learn from have weight 0"):
        cross_fit(log, SklearnReward(LogisticRegression()), weight=torch.zeros(60).double())
