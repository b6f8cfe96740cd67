"""More robust doubly robust: the model is the one that lets DR vary least."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import Tensor

from causal.bandit.dr import DR
from causal.bandit.mrdr import MRDR
from causal.contract import Rounds, value
from causal.evaluation import estimate
from causal.mrdr import VarianceReward, robust, robust_weight
from causal.rewards import RewardModel, cross_fit
from causal.rounds import model_terms, rounds, tabular
from causal.sklearn_reward import SklearnReward
from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.seeds import Seed
from tests.causal.test_reference import case, same
from tests.worlds import BanditWorld, Softmax, bandit_world, slate_world, table

EXACT = 1e-10


def variance(world: BanditWorld, q: Tensor) -> float:
    """Twin: E_x d'Ωd, by loops over contexts and pairs of items."""
    total = 0.0
    for x in range(len(world.chance)):
        d = world.target[x] * (world.reward[x] - q[x])
        for a in range(len(d)):
            for b in range(len(d)):
                omega = (1 / float(world.logger[x, a]) if a == b else 0.0) - 1
                total += float(world.chance[x]) * float(d[a]) * omega * float(d[b])
    return total


def fitted(model: RewardModel, world: BanditWorld, weight: Tensor | None = None) -> Tensor:
    """Return q̂ [context cand] of a model that is fitted on the whole listed population."""
    every = world.listed()
    mass = every.probability * 1e6
    found = model.fit(every.log, 1, Seed(0), mass if weight is None else mass * weight)
    q = found.predict(every.log.context(), torch.zeros(len(mass), 1, dtype=torch.long))[:, 0]
    return torch.stack([q[every.context == x][0] for x in range(len(world.chance))])


def flat(q: Tensor) -> BanditWorld:
    """The bandit world, with other rewards."""
    return replace(bandit_world(), reward=q)


def test_dr_varies_by_what_the_twin_says() -> None:
    """On the listed population: Var(DR) with q̂ minus Var(DR) with the truth is d'Ωd."""
    world = bandit_world()
    wrong = 1 - world.reward**2

    def spread(q: Tensor) -> float:
        found, p = world.rounds(q)
        s = DR().score(found)[0].numerator
        return float((p * s**2).sum() - (p * s).sum() ** 2)

    assert spread(wrong) - spread(world.reward) == pytest.approx(variance(world, wrong), abs=EXACT)


def test_the_paper_s_sample_objective_has_that_expectation() -> None:
    """E[w q'Ωq] with q = π q̂ - 1[a] r is d'Ωd plus what does not hang on q̂."""
    world = bandit_world()
    every = world.listed()
    x, a, r = every.context, every.log.slate[:, 0], every.log.reward
    weight = world.target[x, a] / world.logger[x, a]

    def objective(q: Tensor) -> float:
        total = 0.0
        for i in range(len(x)):
            v = world.target[x[i]] * q[x[i]]
            v[a[i]] -= r[i]
            omega = torch.diag(1 / world.logger[x[i]]) - 1
            total += float(every.probability[i] * weight[i] * (v @ omega @ v))
        return total

    one, two = 1 - world.reward**2, world.reward.flip(1)
    assert objective(one) - objective(two) == pytest.approx(
        variance(world, one) - variance(world, two), abs=EXACT
    )


def test_the_linear_model_is_the_minimiser() -> None:
    """A model that is wrong for every β: no step away from its β lowers the exact variance, to 1e-10."""
    # Four items: with three, β and d'Ωd = 0 for q̂ = q + c / w would leave nothing to minimise.
    world = BanditWorld(
        chance=table([0.3, 0.7])[0],
        reward=table([0.2, 0.9, 0.4, 0.6], [0.7, 0.1, 0.8, 0.3]),  # the best item changes with the context
        logger=table([0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]),
        target=table([0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]),
    )
    target = Softmax(world.target.log())
    q = fitted(VarianceReward(target, ridge=0), world)
    # φ = [1, x, one-hot]: directions of q̂ [context cand] that β can move it in.
    ways = [
        torch.ones(2, 4),
        torch.tensor([[0.0], [1.0]]).expand(2, 4),
        *torch.eye(4)[:, None].expand(-1, 2, 4),
    ]
    least = variance(world, q)
    assert least > 1e-3
    for way in ways:
        step = 1e-3 * way.double()
        slope = (variance(world, q + step) - variance(world, q - step)) / 2e-3
        assert abs(slope) < 1e-8
        assert variance(world, q + step) >= least - EXACT
    # The others are bounds of it or leave terms out, so they do no better; the plain fit is the worst.
    every = world.listed()
    w, p = world.rounds()[0].weight, every.log.propensity
    linear = SklearnReward(LinearRegression())
    others = {
        k: variance(world, fitted(linear, world, robust_weight(w, p, k)))
        for k in ("diagonal", "bound", "obp")
    }
    plain = variance(world, fitted(linear, world))
    assert all(least < other < plain for other in others.values()), (least, others, plain)
    assert least < 0.9 * others["obp"]


def test_with_slopes_for_each_item_the_truth_is_found() -> None:
    world = bandit_world()
    q = fitted(VarianceReward(Softmax(world.target.log()), ridge=0, interact=True), world)
    assert variance(world, q) < EXACT


def test_a_deterministic_target_makes_the_kinds_one() -> None:
    """There diagonal = obp = 1[a = π(x)] (1 - p) / p², the paper's weight, and it is exact."""
    world = bandit_world()
    world = replace(world, target=table([0.0, 0.0, 1.0], [1.0, 0.0, 0.0]))
    found, _ = world.rounds()
    p = world.listed().log.propensity
    shown = (found.weight > 0).double()
    for kind in ("diagonal", "obp"):
        assert torch.allclose(robust_weight(found.weight, p, kind), shown * (1 - p) / p**2, atol=EXACT)
    assert torch.allclose(robust_weight(found.weight, p, "bound"), shown / p**2, atol=EXACT)
    # So weighted least squares is the minimiser here, cross terms or not.
    q = fitted(SklearnReward(LinearRegression()), world, robust_weight(found.weight, p))
    least = fitted(VarianceReward(Softmax(world.target.log()), ridge=0), world)
    assert variance(world, q) == pytest.approx(variance(world, least), abs=EXACT)
    with pytest.raises(
        BadInput, match="kind is one of diagonal, bound, obp, not diagonl; did you mean diagonal\\?"
    ):
        robust_weight(found.weight, p, "diagonl")


def bandit_log(n: int, seed: int, world: BanditWorld) -> Log:
    return replace(world.listed().draw(n, seed), user=torch.arange(n))


def test_out_of_fold_it_is_narrower_than_dr_where_no_model_is_right() -> None:
    """One hundred logs: MRDR hits the truth on average and has the smaller spread."""
    world = flat(table([0.2, 0.9, 0.4], [0.7, 0.1, 0.8]))
    target = Softmax(world.target.log())
    wide, narrow = [], []
    for seed in range(100):
        log = bandit_log(600, seed, world)
        found = rounds(log, target, SklearnReward(LinearRegression()), seed=Seed(seed))
        found = robust(found, log, target, VarianceReward(target), seed=Seed(seed))
        wide.append(value(DR().score(found)))
        narrow.append(value(MRDR().score(found)))
    a, b = torch.tensor(wide), torch.tensor(narrow)
    assert float(b.std()) < 0.97 * float(a.std())
    assert abs(float(b.mean()) - world.value()) < 4 * float(b.std()) / 10


def test_any_model_takes_the_weights_and_nothing_leaks() -> None:
    """A model that memorises its users says nothing of the rows that it scores."""

    @dataclass(frozen=True)
    class Memory:
        users: tuple[int, ...] = ()
        mass: float = 0.0
        past: ClassVar[int] = 0

        def fit(self, log: Log, slots: int, seed: Seed, weight: Tensor | None = None) -> "Memory":
            assert weight is not None
            wanted = robust_weight(
                world.target[log.context().features[:, 0].long(), log.slate[:, 0]] / log.propensity,
                log.propensity,
            )
            assert torch.allclose(weight, wanted, atol=EXACT)
            return Memory(tuple(log.user.tolist()))

        def predict(self, context: Context, position: Tensor) -> Tensor:
            known = torch.isin(context.user, torch.tensor(self.users)).double()
            return known[:, None, None].expand(-1, position.shape[1], context.candidates.shape[1])

    world = bandit_world()
    log = replace(bandit_log(90, 1, world), user=torch.arange(90) // 3)
    target = Softmax(world.target.log())
    found = robust(rounds(log, target), log, target, Memory())
    assert found.robust_logged is not None
    assert float(found.robust_logged.abs().max()) == 0
    never = replace(log, slate=torch.zeros_like(log.slate))
    deterministic = Softmax(table([-1e9, 0.0, 0.0], [-1e9, 0.0, 0.0]))
    with pytest.raises(BadInput, match="fold 0: all 60 rounds to learn from have weight 0"):
        robust(rounds(never, deterministic), never, deterministic, Memory())
    with pytest.raises(BadInput, match="weights of 60 rounds, but the log has 90"):
        robust(rounds(log, target).rows(slice(60)), log, target, Memory())
    with pytest.raises(BadInput, match="ridge is at least 0, not -1"):
        VarianceReward(target, ridge=-1)


def test_slates_positions_and_features() -> None:
    """The blocks of φ, against least squares on a design that is written out row by row."""
    world = slate_world()
    log = replace(world.listed().draw(400, seed=3), user=torch.arange(400))
    catalog = Catalog(torch.tensor([[0.3], [1.0], [-0.4], [0.1]]))
    model = VarianceReward(world.target, ridge=2.0, interact=True, catalog=catalog)
    fit = model.fit(log, 2, Seed(0))
    found = rounds(log, world.target)
    context, marginals = log.context(), world.target.distribution(log.context(), 2).slot_marginals().double()

    def phi(x: float, a: int, k: int) -> Tensor:
        item, page = torch.zeros(4).double(), torch.zeros(2).double()
        item[a], page[k] = 1, 1
        return torch.cat(
            [torch.tensor([1.0, x, float(catalog.features[a, 0])]).double(), item, page, x * item]
        )

    z = []
    for i in range(400):
        x = float(context.features[i, 0])
        row = torch.zeros(13).double()
        for k in range(2):
            row += found.weight[i] * phi(x, int(log.slate[i, k]), k)
            for a in range(4):
                row -= marginals[i, k, a] * phi(x, a, k)
        z.append(row)
    design, y = torch.stack(z), found.weight * found.reward
    design, y = design - design.mean(0), y - y.mean()
    beta = torch.linalg.solve(design.T @ design + 2.0 * torch.eye(13).double(), design.T @ y)
    q = fit.predict(context, torch.arange(2).expand(400, -1))
    for i in range(5):
        for k in range(2):
            for a in range(4):
                assert float(q[i, k, a]) == pytest.approx(
                    float(phi(float(context.features[i, 0]), a, k) @ beta), abs=1e-9
                )
    filled = robust(found, log, world.target, model)
    assert abs(value(MRDR().score(filled)) - world.value()) < 4 * estimate(MRDR(), filled).stderr


def test_a_page_of_which_one_place_is_logged_and_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    world = bandit_world()
    log = replace(bandit_log(200, 4, world), position=torch.arange(200) % 2)
    target = Softmax(world.target.log())
    model = VarianceReward(target)
    filled = robust(rounds(log, target), log, target, model)
    again = robust(rounds(log, target), log, target, model)
    assert filled.robust_target is not None
    assert again.robust_target is not None
    assert torch.equal(filled.robust_target, again.robust_target)
    monkeypatch.setattr("causal.mrdr._CELLS", 60)
    blocks = robust(rounds(log, target), log, target, model)
    assert blocks.robust_target is not None
    assert torch.allclose(blocks.robust_target, filled.robust_target, atol=1e-9)


def test_what_is_made_lies_where_the_log_lies() -> None:
    """With another default device, a tensor that is made without one meets the log's and torch refuses."""
    world = bandit_world()
    log = replace(bandit_log(60, 4, world), position=torch.arange(60) % 2)
    model = VarianceReward(Softmax(world.target.log()), interact=True)
    wanted = model.fit(log, 2, Seed(0)).predict(log.context(), torch.zeros(60, 1, dtype=torch.long))
    with torch.device("meta"):
        fit = model.fit(log, 2, Seed(0))
        found = fit.predict(log.context(), torch.zeros(60, 1, dtype=torch.long, device="cpu"))
    assert found.device == log.slate.device
    assert torch.equal(found, wanted)


def test_blocks_of_slopes_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    world = bandit_world()
    log = bandit_log(60, 4, world)
    model = VarianceReward(Softmax(world.target.log()), interact=True)
    whole = model.fit(log, 1, Seed(0))
    place = torch.zeros(60, 1, dtype=torch.long)
    wanted = whole.predict(log.context(), place)
    monkeypatch.setattr("causal.mrdr._CELLS", 9)  # three rows of three items at once
    assert torch.allclose(whole.predict(log.context(), place), wanted, atol=EXACT)
    assert torch.allclose(model.fit(log, 1, Seed(0)).predict(log.context(), place), wanted, atol=1e-9)


def test_too_wide_a_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 + 1 feature + 3 items + 3 slopes are 8 columns."""
    log = bandit_log(60, 4, bandit_world())
    model = VarianceReward(Softmax(bandit_world().target.log()), interact=True)
    monkeypatch.setattr("causal.mrdr.WIDEST", 8)
    model.fit(log, 1, Seed(0))
    monkeypatch.setattr("causal.mrdr.WIDEST", 7)
    with pytest.raises(BadInput, match="a linear model of 8 columns, and 7 are the most that are solved for"):
        model.fit(log, 1, Seed(0))


def test_in_time_order_the_burn_in_is_left_out() -> None:
    world = bandit_world()
    log = bandit_log(400, 5, world)
    target = Softmax(world.target.log())
    model = VarianceReward(target)
    filled = robust(rounds(log, target), log, target, model, order="time", time=torch.arange(400))
    assert len(filled) == 300
    assert torch.equal(filled.reward, log.reward[100:])
    # Rewriting the future changes nothing before it.
    other = replace(log, reward=torch.where(torch.arange(400) < 200, log.reward, 1 - log.reward))
    changed = robust(rounds(other, target), other, target, model, order="time", time=torch.arange(400))
    assert filled.robust_logged is not None
    assert changed.robust_logged is not None
    assert torch.equal(filled.robust_logged[:100], changed.robust_logged[:100])
    assert not torch.equal(filled.robust_logged[200:], changed.robust_logged[200:])


def test_open_bandit_s_model() -> None:
    """obp's q̂ of fitting_method="mrdr" in our estimator gives obp's DR."""
    z, answer = case("obd_random_to_bts_men")
    n, place = len(z["action"]), z["position"]
    target = z["action_dist_one_round"][0].T[place]
    q = z["q_logreg_mrdr"][torch.arange(n), :, place]
    found = tabular(z["action"], z["reward"], z["pscore"], target)
    logged, aimed = model_terms(q.unsqueeze(1), target.unsqueeze(1), z["action"].unsqueeze(1))
    filled: Rounds = replace(found, robust_logged=logged, robust_target=aimed)
    same(MRDR(), filled, answer["results"]["dr@logreg_mrdr"]["value"])


def test_weights_of_cross_fit_are_those_of_the_rows() -> None:
    world = bandit_world()
    log = bandit_log(120, 6, world)
    target = Softmax(world.target.log())
    found = rounds(log, target)
    weight = robust_weight(found.weight, log.propensity)
    fit = cross_fit(log, SklearnReward(LinearRegression()), group=False, weight=weight)
    filled = robust(found, log, target, SklearnReward(LinearRegression()))
    assert filled.robust_target is not None
    said = rounds(log, target, fit)
    assert said.q_target is not None
    assert torch.allclose(said.q_target, filled.robust_target, atol=1e-9)
