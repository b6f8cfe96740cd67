"""Propensity models: out of fold, with a floor, calibrated; and the audit of a log's own propensities."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import Tensor

from causal.audit import audit
from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.bandit.mips import MIPS
from causal.bandit.snips import SNIPS
from causal.contract import value
from causal.mips import Clusters, marginal_weight
from causal.propensity import PropensityModel, RankerPropensity, cross_fit_propensity
from causal.propensity_calibration import Calibrated, slope
from causal.rounds import rounds, tabular
from causal.sklearn_propensity import SklearnPropensity
from simlab.adapters._descent import Descent
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers.mf import MF
from simlab.rankers.popularity import Popularity
from simlab.seeds import Seed
from simlab.slates import PlackettLuce
from tests.causal.test_reference import case, same
from tests.worlds import BanditWorld, bandit_world, slate_world

EXACT = 1e-10


@dataclass(frozen=True)
class Given:
    """A model of the logger that is given a table [context cand] by feature 0, whatever the log says."""

    table: Tensor
    users: tuple[int, ...] = ()
    past: ClassVar[int] = 0

    def fit(self, log: Log, slots: int, seed: Seed, weight: Tensor | None = None) -> "Given":
        return replace(self, users=tuple(log.user.tolist()))

    def probabilities(self, context: Context, position: Tensor) -> Tensor:
        assert not set(context.user.tolist()) & set(self.users), "a row was scored by its own model"
        return self.table[context.features[:, 0].long()]


def bandit_log(n: int, seed: int = 0, world: BanditWorld | None = None) -> Log:
    world = bandit_world() if world is None else world
    return replace(world.listed().draw(n, seed), user=torch.arange(n))


def one_hot(log: Log) -> Log:
    """The context as two columns, so that a linear model is saturated."""
    which = log.context().features[:, 0].long()
    return replace(log, features=torch.nn.functional.one_hot(which, 2).double())


def test_the_true_table_gives_the_true_propensities_and_nothing_leaks() -> None:
    world = bandit_world()
    log = replace(bandit_log(90), user=torch.arange(90) // 3)
    assert isinstance(Given(world.logger), PropensityModel)
    found = cross_fit_propensity(log, Given(world.logger), floor=0.0)
    assert torch.allclose(found.chance, log.propensity, atol=EXACT)
    assert torch.allclose(found.table(), world.logger[log.context().features[:, 0].long()], atol=EXACT)
    assert torch.allclose(found.filled().propensity, log.propensity, atol=EXACT)
    assert not bool(found.floored.any())


@pytest.mark.parametrize("name", ["classifier", "mf"])
def test_models_learn_the_logger(name: str) -> None:
    world = bandit_world()
    log = one_hot(bandit_log(6000))
    model: PropensityModel = SklearnPropensity(LogisticRegression(C=100))
    if name == "mf":
        how = Descent(epochs=15, batch_size=256, learning_rate=0.05, weight_decay=0.0)
        model = RankerPropensity(lambda sizes: MF(replace(sizes, n_users=0), MF.Spec(dim=4, past=0)), how=how)
    found = cross_fit_propensity(log, model, folds=2)
    assert float((found.chance / log.propensity).log().abs().max()) < 0.25
    assert float((found.table().sum(1) - 1).abs().max()) < EXACT
    # The plain twin: the counts of the other fold.
    if name == "classifier":
        assert log.features is not None
        which = log.features[:, 1].long()
        for fold in range(2):
            other, here = found.folds.fold != fold, found.folds.fold == fold
            for c in range(2):
                count = torch.bincount(log.slate[other & (which == c), 0], minlength=3).double()
                wanted = (count / count.sum())[log.slate[here & (which == c), 0]]
                assert torch.allclose(found.chance[here & (which == c)], wanted, atol=5e-3)
    # And it serves: weights by estimated propensities tell the truth.
    ips = value(SNIPS().score(rounds(found.filled(), Tell(world))))
    assert ips == pytest.approx(world.value(), abs=0.04)


@dataclass(frozen=True)
class Tell:
    """The target of a world, when contexts are one-hot."""

    world: BanditWorld
    name: str = "tell"

    def distribution(self, context: Context, slots: int) -> PlackettLuce:
        return PlackettLuce(self.world.target.log()[context.features[:, 1].long()], slots, context.mask)


def test_popularity_counts_what_was_shown() -> None:
    log = bandit_log(400)
    count = RankerPropensity(lambda sizes: Popularity(sizes, Popularity.Spec()), calibrate=False)
    found = cross_fit_propensity(log, count, folds=2)
    assert bool((found.chance > 0).all())
    assert len(torch.unique(found.chance)) == 6  # three items, two folds; no context
    with pytest.raises(BadInput, match="wants past=0, but its propensity model says 2"):
        cross_fit_propensity(log, replace(count, past=2))


def test_an_item_that_a_fold_never_saw_gets_the_floor() -> None:
    """Item 2 is shown once: the model of its own fold never met it."""
    slate = torch.arange(60)[:, None] % 2
    slate[7] = 2
    log = Log(torch.arange(60), slate, torch.full((60,), 0.5), torch.zeros(60), 5)
    found = cross_fit_propensity(log, SklearnPropensity(LogisticRegression()), folds=3)
    assert found.missing.nonzero().flatten().tolist() == [7]
    assert found.floored.nonzero().flatten().tolist() == [7]
    floor = min(1 / 41, 0.1 / 5)
    assert found.floor == (floor,) * 3
    # Three of five items are lifted in its row: the floor over the new sum.
    assert float(found.chance[7]) == pytest.approx(floor / (1 + 3 * floor), rel=1e-6)
    assert found.sentence() == (
        "of 60 rounds 1 show an item that their model never met, and 1 were lifted to the floor of 0.02"
    )
    with pytest.raises(BadInput, match="row 7: the model thinks item 2 impossible, and without a floor"):
        cross_fit_propensity(log, SklearnPropensity(LogisticRegression()), floor=0.0)
    with pytest.raises(BadInput, match=r"floor is 0.2, but 5 candidates can have at least that each only"):
        cross_fit_propensity(log, SklearnPropensity(LogisticRegression()), floor=0.2)


def test_candidates_and_positions() -> None:
    """What cannot be shown has probability 0; at another place of the page the logger is another one."""
    n = 3000
    g = torch.Generator().manual_seed(0)
    place = torch.randint(0, 2, (n,), generator=g)
    first = torch.rand(n, generator=g) < torch.where(place == 0, 0.8, 0.3)
    slate = torch.where(first, 0, 1)[:, None]
    log = Log(torch.arange(n), slate, torch.full((n,), 0.5), torch.zeros(n), 3, position=place)
    found = cross_fit_propensity(log, SklearnPropensity(LogisticRegression(C=100)))
    for where, share in ((0, 0.8), (1, 0.3)):
        assert float(found.chance[(place == where) & first].mean()) == pytest.approx(share, abs=0.03)
    some = replace(log, candidates=torch.tensor([[0, 1, -1]]).expand(n, -1))
    table = cross_fit_propensity(some, SklearnPropensity(LogisticRegression())).table()
    assert float(table[:, 2].max()) == 0
    assert torch.allclose(table.sum(1), torch.ones(n).double(), atol=EXACT)


def test_slates_have_their_plackett_luce_probability() -> None:
    world = slate_world()
    log = replace(world.listed().draw(500, 1), user=torch.arange(500))
    top = world.logger.logits.softmax(1)
    found = cross_fit_propensity(log, Given(top), floor=0.0)
    assert torch.allclose(found.chance, log.propensity, atol=EXACT)
    assert found.filled().slot_propensity is None
    report = audit(found)
    assert report.ratio == pytest.approx((1.0,) * 5, abs=EXACT)
    assert report.evidence == pytest.approx(0, abs=1e-9)
    with pytest.raises(BadInput, match="a classifier knows one item a row, but slate has 2 slots"):
        cross_fit_propensity(log, SklearnPropensity(LogisticRegression()))


def test_time_order_leaves_a_burn_in_out() -> None:
    log = replace(bandit_log(200), step=torch.arange(200))
    found = cross_fit_propensity(log, SklearnPropensity(LogisticRegression()), folds=4, order="time")
    assert bool(found.chance[:40].isnan().all())
    assert bool(found.chance[40:].isfinite().all())
    assert len(found.filled()) == 160
    assert audit(found).n == 160
    # What comes later changes nothing before.
    other = replace(log, slate=torch.where(torch.arange(200)[:, None] < 120, log.slate, 0))
    again = cross_fit_propensity(other, SklearnPropensity(LogisticRegression()), folds=4, order="time")
    assert torch.equal(again.chance[40:120], found.chance[40:120])


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_calibration_mends_a_model_that_is_too_sure(kind: str) -> None:
    """The true table to the third power has slope 1/3; corrected on other rows it is the true table again."""
    world = bandit_world()
    log = bandit_log(8000)
    sharp = world.logger**3 / (world.logger**3).sum(1, keepdim=True)

    @dataclass(frozen=True)
    class Sure(Given):
        def probabilities(self, context: Context, position: Tensor) -> Tensor:
            return self.table[context.features[:, 0].long()]

    raw = cross_fit_propensity(log, Sure(sharp), floor=0.0)
    mended = cross_fit_propensity(log, Calibrated(Sure(sharp), kind), floor=0.0)
    before, after = audit(raw), audit(mended)
    assert before.slope == pytest.approx(1 / 3, abs=0.03)
    assert after.slope == pytest.approx(1, abs=0.1)
    assert after.loss_estimated < before.loss_estimated - 0.05
    if kind == "temperature":
        assert float((mended.chance / log.propensity).log().abs().max()) < 0.2
    with pytest.raises(BadInput, match="calibration is isotonic or temperature, not tempratur"):
        Calibrated(Sure(sharp), "tempratur")
    with pytest.raises(BadInput, match="parts is at least 2, not 1"):
        Calibrated(Sure(sharp), parts=1)


def test_the_correction_does_not_see_the_rows_that_it_scores() -> None:
    """A forest that memorises: its own rows would say that it is always right."""
    g = torch.Generator().manual_seed(0)
    n = 600
    log = Log(
        torch.arange(n),
        torch.randint(0, 3, (n, 1), generator=g),
        torch.full((n,), 1 / 3),
        torch.zeros(n),
        3,
        features=torch.rand(n, 2, generator=g),
    )
    forest = SklearnPropensity(RandomForestClassifier(n_estimators=10, bootstrap=False))
    raw, mended = (cross_fit_propensity(log, m) for m in (forest, Calibrated(forest, "temperature")))
    assert audit(raw).slope < 0.2
    assert float((raw.chance - 1 / 3).abs().mean()) > 0.15
    assert float((mended.chance - 1 / 3).abs().mean()) < 0.08
    # Rewriting a fold's items changes nothing in what its own rows' model says of their table.
    fold = raw.folds.fold
    other = replace(log, slate=torch.where((fold == 0)[:, None], (log.slate + 1) % 3, log.slate))
    model = Calibrated(forest, "isotonic")
    one, two = cross_fit_propensity(log, model), cross_fit_propensity(other, model)
    assert torch.equal(one.table()[fold == 0], two.table()[fold == 0])
    assert not torch.equal(one.table()[fold == 1], two.table()[fold == 1])


def test_the_slope_is_the_maximum_likelihood_one() -> None:
    """Twin: a grid of powers."""
    world = bandit_world()
    log = bandit_log(500)
    table = world.target[log.context().features[:, 0].long()]
    mask = torch.ones_like(table, dtype=torch.bool)
    found = slope(table, log.slate[:, 0], mask)

    def loss(b: float) -> float:
        p = table**b / (table**b).sum(1, keepdim=True)
        return -float(p.gather(1, log.slate).log().sum())

    grid = np.linspace(-2, 2, 801)
    assert found < 0  # the target likes what the logger avoids
    assert found == pytest.approx(grid[np.argmin([loss(b) for b in grid])], abs=0.006)


def test_the_audit_acquits_right_propensities_and_names_what_is_off() -> None:
    log = one_hot(bandit_log(4000))
    model = SklearnPropensity(LogisticRegression(C=100))
    good = audit(cross_fit_propensity(log, model))
    assert good.off == ()
    assert good.p_value == 1
    assert good.loss_logged <= good.loss_estimated
    assert good.slope == pytest.approx(1, abs=0.1)
    assert good.sentences()[0].startswith("nothing speaks against the logged propensities")
    assert good.ratio[0] < 1 < good.ratio[-1]
    # Items 0 and 1 swapped in what the log claims: another logger's propensities.
    world = bandit_world()
    claimed = (
        world.logger[:, [1, 0, 2]][log.features[:, 1].long(), log.slate[:, 0]]
        if log.features is not None
        else 0
    )
    assert isinstance(claimed, Tensor)
    bad = audit(cross_fit_propensity(replace(log, propensity=claimed), model))
    assert bad.p_value < 1e-6
    assert set(bad.off) == {0, 1}
    assert bad.loss_estimated < bad.loss_logged
    first, second = bad.sentences()[:2]
    assert "not those of the logger" in first
    assert "2 of 3 items are not shown as their logged propensities say" in second


def test_the_audit_s_slope_holds_a_stated_number_of_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slope is fitted on evenly spaced scored rows, as many as fit: none of the burn-in, at least one."""
    log = one_hot(bandit_log(400))
    model = SklearnPropensity(LogisticRegression(C=100))
    found = cross_fit_propensity(log, model, order="time", time=torch.arange(400))
    seen = []

    def spy(table: Tensor, hit: Tensor, mask: Tensor) -> float:
        seen.append((table, hit))
        return slope(table, hit, mask)

    monkeypatch.setattr("causal.audit.slope", spy)
    every = audit(found)
    assert len(seen[0][0]) == 300
    assert torch.allclose(seen[0][0], found.table()[100:], atol=EXACT)
    assert torch.equal(seen[0][1], log.slate[100:, 0])
    assert every.slope == slope(seen[0][0], seen[0][1], torch.ones(300, 3, dtype=torch.bool))
    monkeypatch.setattr("causal.audit._CELLS", 3 * 50)  # three items, so fifty rows
    monkeypatch.setattr("causal.propensity._CELLS", 30)
    audit(found)
    assert torch.equal(seen[1][0], seen[0][0][::6])
    assert torch.equal(seen[1][1], seen[0][1][::6])
    monkeypatch.setattr("causal.audit._CELLS", 1)
    audit(found)
    assert len(seen[2][0]) == 1


@pytest.mark.slow
def test_the_audit_s_errors_are_kept() -> None:
    """300 logs of right propensities, judged by an estimate that is wrong: alarms stay rare."""
    world = bandit_world()
    wrong = Given(world.target)
    z, evidence = [], []
    for seed in range(300):
        report = audit(cross_fit_propensity(bandit_log(300, seed), wrong, folds=2, floor=0.0))
        z += list(report.z.values())
        evidence.append(report.evidence)
    beyond = sum(abs(x) > 1.96 for x in z) / len(z)
    assert 0.02 < beyond < 0.08
    assert sum(e > np.log10(20) for e in evidence) / 300 <= 0.05


def test_an_estimated_logger_marginalises() -> None:
    """MIPS by estimated propensities: where items of a cluster are alike it needs no logged ones."""
    world = replace(
        bandit_world(), reward=torch.tensor([[0.2, 0.2, 0.9], [0.6, 0.6, 0.4]], dtype=torch.float64)
    )
    log = one_hot(bandit_log(6000, 3, world))
    found = cross_fit_propensity(log, SklearnPropensity(LogisticRegression(C=100)))
    embedding = Clusters(torch.tensor([0, 0, 1]))
    weight = marginal_weight(log, Tell(world), found.table(), embedding, check=False)
    filled = replace(rounds(log, Tell(world)), embedding=weight)
    assert value(MIPS().score(filled)) == pytest.approx(world.value(), abs=0.03)


def test_refusals() -> None:
    log = bandit_log(60)
    with pytest.raises(BadInput, match="LinearSVC has no predict_proba, so it gives no propensities"):
        cross_fit_propensity(log, SklearnPropensity(LinearSVC()))
    one = replace(log, slate=torch.zeros_like(log.slate))
    assert (
        float(cross_fit_propensity(one, SklearnPropensity(LogisticRegression()), floor=0.0).chance.min()) == 1
    )


def test_open_bandit_s_estimated_propensities() -> None:
    """obp's estimated propensities through our estimators give obp's answers."""
    z, answer = case("obd_random_to_bts_men")
    target = z["action_dist_one_round"][0].T[z["position"]]
    found = tabular(z["action"], z["reward"], z["estimated_pscore"], target)
    same(IPS(), found, answer["results"]["ipw_estps"]["value"])
    same(SNIPS(), found, answer["results"]["snipw_estps"]["value"])
    z, answer = case("synth_bandit_10000")
    for policy in ("softmax5", "epsgreedy01", "argmax"):
        found = tabular(
            z["action"], z["reward"], z["estimated_pscore"], z[f"action_dist_{policy}"], z["q_logreg"]
        )
        wanted = answer["results"][policy]["estimates"]
        same(IPS(), found, wanted["ipw_estps"]["value"])
        same(DR(), found, wanted["dr_estps"]["value"])


def test_open_bandit_s_logger_is_audited() -> None:
    """The random logger shows 1 / 34 of each item at each place, and no model knows better."""
    z, _ = case("obd_random_to_bts_men")
    n = len(z["action"])
    log = Log(
        torch.arange(n), z["action"][:, None], z["pscore"], z["reward"].double(), 34, position=z["position"]
    )
    report = audit(cross_fit_propensity(log, SklearnPropensity(LogisticRegression(C=1)), folds=2))
    assert report.off == ()
    assert report.p_value == 1
    assert len(report.z) == 34
    wrong = replace(log, propensity=torch.where(log.slate[:, 0] == 5, 3 / 34, 1 / 34).double())
    assert 5 in audit(cross_fit_propensity(wrong, SklearnPropensity(LogisticRegression(C=1)), folds=2)).off


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    log = one_hot(bandit_log(100))
    model = Calibrated(SklearnPropensity(LogisticRegression()), "temperature")
    one = cross_fit_propensity(log, model)
    first = audit(one)
    monkeypatch.setattr("causal.propensity._CELLS", 30)
    monkeypatch.setattr("causal.propensity_calibration._CELLS", 30)
    two = cross_fit_propensity(log, model)
    assert torch.allclose(one.chance, two.chance, atol=EXACT)
    assert torch.allclose(one.table(), two.table(), atol=EXACT)
    assert audit(two).z == pytest.approx(first.z, abs=1e-9)
