"""From a log of slates to weights, and from weights to values: all against lists of every slate."""

from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any

import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from torch import Tensor

from causal.cascade_reward import AdditiveCascade, SklearnCascade
from causal.contract import Estimator, Slates, stderr, value
from causal.evaluation import estimate, evaluate
from causal.prefixes import listed, next_item, prefix_log_probs
from causal.pseudo_inverse import gamma, general_weights, product_weights, uniform_weights
from causal.sklearn_reward import SklearnReward
from causal.slate.cascade_dr import CascadeDR
from causal.slate.clipped_iips import ClippedIIPS
from causal.slate.document import DocumentIPS
from causal.slate.iips import IIPS
from causal.slate.pbm import PBM
from causal.slate.pi import PI
from causal.slate.rips import RIPS
from causal.slate.sips import SIPS
from causal.slate.sniips import SNIIPS
from causal.slate.snrips import SNRIPS
from causal.slate.snsips import SNSIPS
from causal.slate_inputs import slot_values
from causal.slates import marginals_error, slates
from causal.tabular_slates import Chances, tabular_slates, wide
from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.seeds import Seed
from simlab.slates import (
    Deterministic,
    Mixture,
    OrderStatistics,
    PlackettLuce,
    Ranked,
    SlateDistribution,
    Uniform,
)
from tests.causal.test_reference import case
from tests.slate_worlds import (
    CANDS,
    EXAMINATION,
    SLOTS,
    ClickWorld,
    cascade_world,
    crowded_world,
    flat_world,
    position_world,
)
from tests.worlds import Listed, Softmax, population_value

EXACT = 1e-10
FIELDS = ("joint", "marginal", "cascade", "pseudo", "document")


def off(estimator: Estimator[Slates], found: Slates, world: ClickWorld, every: Listed) -> float:
    """Return the estimator's bias on the listed population."""
    return population_value(estimator.score(found), every.probability) - world.value()


# --- the builder ------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 7])
def test_the_builder_equals_a_slow_twin(chunk: int | None) -> None:
    world = flat_world()
    every = world.listed()
    found, wanted = slates(every.log, world.target, logger=world.logger, chunk=chunk), world.twin()
    assert torch.equal(found.reward, wanted.reward)
    for name in FIELDS:
        assert torch.allclose(found.need(name), wanted.need(name), atol=EXACT, rtol=0), name
    assert found.examined is None
    assert found.group is None
    assert marginals_error(found) == "the slot marginals are exact"


def test_a_table_of_the_logger_is_enough_for_click_models() -> None:
    world = position_world()
    every = world.listed()
    law = world.placed(world.law(world.logger))
    by_policy = slates(every.log, world.target, logger=world.logger, examination=EXAMINATION)
    by_table = slates(every.log, world.target, logger=law[every.context], examination=EXAMINATION)
    for name in ("joint", "marginal", "document", "examined"):
        assert torch.allclose(by_policy.need(name), by_table.need(name), atol=EXACT, rtol=0)
    assert by_table.cascade is None
    assert by_table.pseudo is None
    one = (every.context == 0).nonzero().squeeze(1)
    shared = slates(every.log.rows(one), world.target, logger=law[0])
    assert shared.document is not None
    assert torch.allclose(shared.document, by_policy.need("document")[one], atol=EXACT, rtol=0)


def test_without_a_logger_what_the_log_says_is_used() -> None:
    world = position_world()
    log = world.listed().log
    found = slates(log, world.target)
    assert [n for n in FIELDS if getattr(found, n) is not None] == ["joint", "marginal"]
    assert torch.allclose(found.need("marginal"), world.twin().need("marginal"), atol=EXACT, rtol=0)
    bare = slates(replace(log, slot_propensity=None), world.target)
    assert bare.marginal is None
    from_logger = slates(replace(log, slot_propensity=None), world.target, logger=world.logger)
    assert torch.allclose(from_logger.need("marginal"), found.need("marginal"), atol=EXACT, rtol=0)
    with pytest.raises(BadInput, match="weights marginal need column slot_propensity, or logger="):
        slates(replace(log, slot_propensity=None), world.target, fields=["marginal"])
    with pytest.raises(BadInput, match="there are no weights margin; did you mean marginal"):
        slates(log, world.target, fields=["margin"])


@pytest.mark.parametrize("name", ["deterministic", "ranked", "uniform", "mixture"])
def test_targets_of_every_kind(name: str) -> None:
    """The value of any slate policy, by weights of whole slates, slots, beginnings and pairs."""
    world = position_world()
    every = world.listed()
    target = Other(name)
    law = torch.stack([target.law(c, world.slates()) for c in (0, 1)])
    truth = float((world.chance[:, None] * law * world.mean.sum(2)).sum())
    found = slates(every.log, target, logger=world.logger, examination=EXAMINATION)
    for estimator in (SIPS(), IIPS(), RIPS(), PI(), PBM()):
        assert abs(population_value(estimator.score(found), every.probability) - truth) < EXACT, estimator


@dataclass(frozen=True)
class Other:
    """A policy of another kind than Plackett–Luce."""

    name: str

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        rows = len(context)
        scores = torch.tensor([[3.0, 1.0, 1.0, 1.0]], dtype=torch.float64).expand(rows, -1)
        one = Deterministic(torch.tensor([[2, 0, 3]]).expand(rows, -1), CANDS)
        uniform = Uniform(torch.ones(rows, CANDS, dtype=torch.bool), slots)
        kinds: dict[str, SlateDistribution] = {
            "deterministic": one,
            "ranked": Ranked(scores, slots),
            "uniform": uniform,
            "mixture": Mixture((one, uniform, PlackettLuce(scores, slots)), (0.5, 0.2, 0.3)),
        }
        return kinds[self.name]

    def law(self, context: int, slates: Tensor) -> Tensor:
        """Return the probability of every slate, one at a time."""
        alone = Context.of(torch.tensor([0]), CANDS, features=torch.full((1, 1), float(context)))
        d = self.distribution(alone, SLOTS)
        return torch.stack([d.log_prob(s.unsqueeze(0))[0].double().exp() for s in slates])


def test_a_uniform_logger_uses_the_closed_form() -> None:
    world = position_world()
    log = world.listed().log.rows(torch.arange(0, 384, 8))
    uniform = replace(log, propensity=torch.full_like(log.propensity, 1 / 24), slot_propensity=None)
    found = slates(uniform, world.target, logger=Other("uniform"))
    listed_ = PI().score(replace(found, pseudo=_general(uniform, world)))
    assert abs(value(PI().score(found)) - value(listed_)) < EXACT


def _general(log: Any, world: ClickWorld) -> Tensor:
    context = log.context()
    return general_weights(
        Other("uniform").distribution(context, SLOTS),
        world.target.distribution(context, SLOTS).slot_marginals(),
        log.slate,
    )


def test_slot_weights_value_clicks() -> None:
    """With α_k: clicks of the top are worth more, and click models count slots by what they are worth."""
    world = position_world()
    every = world.listed()
    alpha = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    found = slates(every.log, world.target, logger=world.logger, examination=EXAMINATION, slot_weight=alpha)
    truth = world.value(alpha)
    for estimator in (SIPS(), IIPS(), RIPS(), PI(), PBM(), SNSIPS(), SNIIPS(), SNRIPS()):
        assert abs(population_value(estimator.score(found), every.probability) - truth) < EXACT
    flat = flat_world()
    found = slates(flat.listed().log, flat.target, logger=flat.logger, slot_weight=alpha)
    by = flat.listed().probability
    assert abs(population_value(DocumentIPS().score(found), by) - flat.value(alpha)) < EXACT


def test_one_reward_a_slate() -> None:
    world = crowded_world()
    every = world.listed()
    found = slates(replace(every.log, click=None), world.target, logger=world.logger)
    assert not found.per_slot
    assert abs(off(SIPS(), found, world, every)) < EXACT
    assert {e.name for e in evaluate(found)} == {"SIPS", "SNSIPS", "PI", "SNPI"}  # by default what applies
    with pytest.raises(BadInput, match="the log has no column click"):
        slates(replace(every.log, click=None), world.target, slot_weight=EXAMINATION)
    worth = replace(every.log, reward=every.log.reward * 3)
    with pytest.raises(BadInput, match=r"column reward, row 1: 3.0 is not the sum of the row's clicks"):
        slates(worth, world.target)
    assert slates(worth, world.target, slot_weight=torch.ones(SLOTS, dtype=torch.float64)).per_slot


class Noisy(PlackettLuce):
    """A distribution whose slot marginals are estimates, of which it knows the error."""

    def marginals_error(self, columns: Tensor) -> Tensor:
        return 0.01 * self.marginals(columns)


@dataclass(frozen=True)
class NoisyPolicy:
    inner: Softmax
    name: str = "noisy"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        inner = self.inner.distribution(context, slots)
        assert isinstance(inner, PlackettLuce)
        return Mixture((Noisy(inner.logits, slots), inner), (0.5, 0.5))


def test_estimated_marginals_say_so() -> None:
    """Half of the mixture is off by 1 %: the weights by .5 %, by .7 % with such a logger."""
    world = flat_world()
    log = world.listed().log
    found = slates(log, NoisyPolicy(world.target))
    assert found.marginal_error is not None
    assert torch.allclose(found.marginal_error, 0.005 * found.need("marginal"), atol=EXACT, rtol=0)
    assert marginals_error(found).startswith(
        "the slot marginals are estimates: the standard error of a weight is 0.50% of it in the median"
    )
    both = slates(
        replace(log, slot_propensity=None), NoisyPolicy(world.target), logger=NoisyPolicy(world.logger)
    )
    assert both.marginal_error is not None
    share = both.marginal_error / both.need("marginal")
    assert torch.allclose(share, torch.full_like(share, 0.005 * 2**0.5), atol=EXACT, rtol=0)


def test_users_are_clusters() -> None:
    world = position_world()
    log = world.listed().log
    log = replace(log, user=log.user // 4)
    found = slates(log, world.target)
    assert found.group is not None
    assert torch.equal(found.group, log.user)
    assert slates(log, world.target, group_by_user=False).group is None


def test_the_wrong_logger_is_refused() -> None:
    world = position_world()
    log = world.listed().log
    with pytest.raises(BadInput, match=r"column propensity, row 0: .* it is not the logger of this log"):
        slates(log, world.target, logger=world.target)
    law = world.placed(world.law(world.logger))
    wrong = replace(log, slot_propensity=log.propensity[:, None].expand(-1, SLOTS).clone())
    with pytest.raises(BadInput, match=r"column slot_propensity, row 0, slot 0: .* not the logger"):
        slates(wrong, world.target, logger=world.logger)
    with pytest.raises(BadInput, match=r"table has shape \(4, 3\), but it is \[slot item\] \(3, 4\)"):
        slates(log, world.target, logger=law[0].T)
    with pytest.raises(BadInput, match=r"table sums to 0.5, not 1, at \[0\]"):
        slates(log, world.target, logger=law[0] / 2)
    with pytest.raises(BadInput, match=r"table holds -0\..* at \[0, 0\], which is no probability"):
        slates(log, world.target, logger=-law[0])
    one = torch.eye(SLOTS, CANDS, dtype=torch.float64)
    with pytest.raises(BadInput, match="row 8: the table gives what was logged at slot 2 no chance"):
        slates(replace(log, slot_propensity=None), world.target, logger=one)
    with pytest.raises(BadInput, match=r"examination of slot 1 is 1\.5, but it must be in"):
        slates(log, world.target, examination=torch.tensor([1.0, 1.5, 1.0]))
    with pytest.raises(BadInput, match=r"slot_weight of slot 0 is -1\.0, but it must be at least 0"):
        slates(log, world.target, slot_weight=torch.tensor([-1.0, 1.5, 1.0]))
    with pytest.raises(BadInput, match=r"slot_weight has shape \(2,\), but a slate has 3 slots"):
        slates(log, world.target, slot_weight=torch.tensor([1.0, 1.5]))


@pytest.mark.parametrize("field", ["marginal", "document", "examined", "joint"])
def test_a_table_is_checked_whatever_is_asked_for(field: str) -> None:
    """Also by weights that look an item up anywhere on the slate."""
    world = position_world()
    log = world.listed().log
    law = world.placed(world.law(world.logger))[0]
    one = torch.eye(SLOTS, CANDS, dtype=torch.float64)
    for given in (log, replace(log, slot_propensity=None)):
        with pytest.raises(BadInput, match=r"row 0, slot 0|row 8: the table gives what was logged at slot 2"):
            slates(given, world.target, logger=one, examination=EXAMINATION, fields=[field])
    with pytest.raises(BadInput, match=r"column slot_propensity, row 0, slot 0: .* not the logger"):
        slates(log, world.target, logger=law.flip(0), examination=EXAMINATION, fields=[field])
    twice = torch.zeros(SLOTS, CANDS, dtype=torch.float64)
    twice[:, 0] = 1.0
    with pytest.raises(BadInput, match=r"table has item 0 on a slate 3 times, but it stands at one slot at"):
        slates(log, world.target, logger=twice, fields=[field], examination=EXAMINATION)


def test_what_slots_are_worth_lies_where_the_log_does() -> None:
    far = torch.device("meta")
    assert slot_values(None, 3, "slot_weight", far).device == far


def test_a_chunk_of_no_rounds() -> None:
    world = position_world()
    with pytest.raises(BadInput, match="chunk is -1, but it takes at least 1"):
        slates(world.listed().log, world.target, chunk=-1)


# --- what each estimator is wrong about ------------------------------------------------------------


@pytest.mark.parametrize("make", [position_world, cascade_world, crowded_world])
def test_biases_are_the_documented_ones(make: Any) -> None:
    """Each limit of the docstrings, summed by hand; and the amounts in the worlds."""
    world = make()
    every, found = world.listed(), replace(world.twin(), examined=None)
    found = replace(found, examined=_examined(world, every))
    pi, pi0 = world.law(world.target), world.law(world.logger)
    where, whence = world.placed(pi), world.placed(pi0)
    slates_ = world.slates().tolist()
    # E_0[r_k | a at k], and E_0[r_k | a_1 … a_k] spread over the slates that begin so
    at = torch.zeros(2, SLOTS, CANDS, dtype=torch.float64)
    begun = torch.zeros_like(world.mean)
    for k in range(SLOTS):
        for s, x in enumerate(slates_):
            at[:, k, x[k]] += pi0[:, s] * world.mean[:, s, k] / whence[:, k, x[k]]
            same = [t for t, y in enumerate(slates_) if y[: k + 1] == x[: k + 1]]
            begun[:, s, k] = (pi0[:, same] * world.mean[:, same, k]).sum(1) / pi0[:, same].sum(1)
    by = world.chance[:, None]
    truth = world.value()
    independent = float((by[:, None] * where * at).sum()) - truth
    interaction = float((by[:, None] * pi[:, :, None] * begun).sum()) - truth
    document = where.sum(1) / whence.sum(1)
    anywhere = float((by[:, None] * whence * at * document[:, None]).sum()) - truth
    theta = EXAMINATION[:, None]
    seen = (theta * where).sum(1) / (theta * whence).sum(1)
    position = float((by[:, None] * whence * at * seen[:, None]).sum()) - truth
    wanted: dict[Any, float] = {
        IIPS(): independent,
        RIPS(): interaction,
        CascadeDR(): interaction,
        DocumentIPS(): anywhere,
        PBM(): position,
        PI(): _least_squares(world, pi0, where) - truth,
        SIPS(): 0.0,
    }
    for estimator, bias in wanted.items():
        assert abs(off(estimator, found, world, every) - bias) < EXACT, estimator
    amounts = {
        "position_world": (0, 0, -0.0904699),
        "cascade_world": (0.1203838, 0, 0.0528033),
        "crowded_world": (0.0414527, 0.0689893, 0.0616550),
    }[make.__name__]
    for bias, known in zip((independent, interaction, anywhere), amounts, strict=True):
        assert bias == pytest.approx(known, abs=1e-6)


def _examined(world: ClickWorld, every: Listed) -> Tensor:
    built = slates(every.log, world.target, logger=world.logger, examination=EXAMINATION)
    return built.need("examined")


def _least_squares(world: ClickWorld, pi0: Tensor, where: Tensor) -> float:
    """Return the target's value under the logger's best fit of a sum over slots."""
    total = 0.0
    x = torch.zeros(len(world.slates()), SLOTS * CANDS, dtype=torch.float64)
    for s, slate in enumerate(world.slates().tolist()):
        x[s, [k * CANDS + i for k, i in enumerate(slate)]] = 1
    for c in (0, 1):
        root = pi0[c].sqrt()[:, None]
        fit = torch.linalg.lstsq(root * x, root * world.mean[c].sum(1, keepdim=True), driver="gelsd").solution
        total += float(world.chance[c] * (where[c].flatten() @ fit[:, 0]))
    return total


def test_clipping_loses_what_it_says() -> None:
    world = position_world()
    every, found = world.listed(), world.twin()
    lost = ((found.need("marginal") - 1.5).clamp(min=0) * found.reward).sum(1)
    bias = off(ClippedIIPS(1.5), found, world, every)
    assert abs(bias + float((every.probability * lost).sum())) < EXACT
    assert bias < -0.05
    assert abs(off(ClippedIIPS(1e9), found, world, every)) < EXACT
    with pytest.raises(BadInput, match=r"clip is 0\.0, but the largest weight"):
        ClippedIIPS(0.0)


def test_cascade_dr_is_doubly_robust() -> None:
    """Right propensities with any model, and the right model with any propensities."""
    world = cascade_world()
    every = world.listed()
    wrong = Softmax(torch.zeros(2, CANDS, dtype=torch.float64))
    right_model = world.twin(claimed=wrong)
    assert abs(off(RIPS(), right_model, world, every)) > 0.01
    assert abs(off(CascadeDR(), right_model, world, every)) < EXACT
    q = world.truth(world.law(world.logger))  # of another policy: a wrong model
    assert abs(off(CascadeDR(), world.twin(q=q), world, every)) < EXACT


# --- models of what is still to come ------------------------------------------------------------


def test_the_recursion_finds_the_truth_without_noise() -> None:
    """Where clicks are their means and a tree may grow, Q̂_k is Q_k, out of fold too."""
    world = cascade_world()
    every = world.listed()
    mean = (
        world.mean[every.context]
        .gather(
            1,
            (every.log.slate[:, None] == world.slates())
            .all(2)
            .to(torch.uint8)
            .argmax(1)[:, None, None]
            .expand(-1, 1, SLOTS),
        )
        .squeeze(1)
    )
    log = replace(every.log, click=mean, reward=mean.sum(1))
    for catalog in (None, Catalog(torch.tensor([[0.1, 3.0], [0.4, 1.0], [0.2, 4.0], [0.3, 1.0]]))):
        model = SklearnCascade(DecisionTreeRegressor(), catalog)
        found = slates(log, world.target, logger=world.logger, reward_model=model, folds=2)
        wanted = world.twin()
        assert torch.allclose(found.need("q_logged"), wanted.need("q_logged"), atol=EXACT, rtol=0)
        assert torch.allclose(found.need("q_target"), wanted.need("q_target"), atol=EXACT, rtol=0)
    # Then the estimate has no noise from clicks either: a handful of slates tell the value of their contexts.
    assert stderr(CascadeDR().score(found)) < stderr(RIPS().score(found)) / 3


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["tree", "linear", "additive"])
def test_models_take_variance_and_leave_the_mean(kind: str, weighted: bool) -> None:
    world = cascade_world()
    every = world.listed()
    log = every.draw(3000, seed=1)
    models: dict[str, Any] = {
        "tree": SklearnCascade(DecisionTreeRegressor(min_samples_leaf=30)),
        "linear": SklearnCascade(LinearRegression()),
        "additive": SklearnReward(LinearRegression()),
    }
    log = replace(log, user=torch.arange(3000) % 1000)
    found = slates(
        log,
        world.target,
        logger=world.logger,
        reward_model=models[kind],
        weighted=weighted,
        fields=["cascade"],
        seed=Seed(3),
    )
    again = slates(
        log, world.target, logger=world.logger, reward_model=models[kind], weighted=weighted, seed=Seed(3)
    )
    assert torch.equal(found.need("q_logged"), again.need("q_logged"))
    one, two = estimate(CascadeDR(), found), estimate(RIPS(), found)
    assert abs(one.value - world.value()) < 4 * one.stderr
    assert one.stderr < 0.9 * two.stderr


def test_what_a_model_cannot_do_is_refused() -> None:
    world = cascade_world()
    log = world.listed().log
    tree = SklearnCascade(DecisionTreeRegressor())
    with pytest.raises(BadInput, match=r"needs cascade weights \(give logger=\)"):
        slates(log, world.target, reward_model=tree)
    with pytest.raises(BadInput, match="needs clicks, and there are none"):
        slates(replace(log, click=None), world.target, logger=world.logger, reward_model=tree)
    with pytest.raises(BadInput, match="its model is a regressor"):
        slates(log, world.target, logger=world.logger, reward_model=SklearnCascade(DecisionTreeClassifier()))
    bare = SklearnCascade(DecisionTreeRegressor(), Catalog.bare(CANDS))
    with pytest.raises(BadInput, match="no item features"):
        slates(log, world.target, logger=world.logger, reward_model=bare)

    @dataclass(frozen=True)
    class Looks(SklearnReward):
        past: int = 3

    with pytest.raises(BadInput, match="cannot look back, and this one wants past=3"):
        AdditiveCascade(Looks(LinearRegression()))


# --- beginnings of slates, and pairs ------------------------------------------------------------


def distributions() -> dict[str, SlateDistribution]:
    logits = torch.tensor(
        [[0.3, -1.2, 0.0, 2.0, 0.7], [5.0, -5.0, 0.0, -torch.inf, 5.0]], dtype=torch.float64
    )
    mask = torch.tensor([[True, True, False, True, True], [True] * 5])
    one = Deterministic(torch.tensor([[4, 0, 1], [1, 2, 3]]), 5)
    tied = torch.tensor([[1.0, 2.0, 9.0, 1.0, 1.0], [0.0, 0.0, 0.0, 3.0, 3.0]], dtype=torch.float64)
    pl, uniform = PlackettLuce(logits, 3), Uniform(mask, 3)
    beta = OrderStatistics(torch.tensor([1.0, 2, 3, 1, 5]), torch.tensor([2.0, 2, 1, 1, 9]), 3, 2)
    mixed = Mixture((pl, uniform, one), (0.5, 0.3, 0.2))
    return {
        "plackett-luce": pl,
        "plackett-luce, float32": PlackettLuce(logits.float(), 3),
        "uniform": uniform,
        "deterministic": one,
        "ranked": Ranked(tied, 3, mask),
        "order statistics": beta,
        "mixture": mixed,
        "mixture of mixtures": Mixture((mixed, Mixture((one, uniform), (0.4, 0.6))), (0.7, 0.3)),
    }


@pytest.mark.parametrize("name", distributions())
def test_beginnings_are_those_of_the_listed_slates(name: str) -> None:
    d = distributions()[name]
    slates_, chance = listed(d)
    close = 1e-6 if "32" in name else 1e-9 if "order" in name else 1e-12
    for s in range(0, len(slates_), 7):
        columns = slates_[s].expand(2, -1)
        begun = prefix_log_probs(d, columns).exp()
        for k in range(3):
            same = (slates_[:, : k + 1] == slates_[s, : k + 1]).all(1)
            assert torch.allclose(begun[:, k], chance[:, same].sum(1), atol=close, rtol=0)
            before = (slates_[:, :k] == slates_[s, :k]).all(1)
            possible = chance[:, before].sum(1) > 1e-9
            table = torch.zeros(2, 5, dtype=torch.float64)
            table.index_add_(1, slates_[before, k], chance[:, before])
            wanted = table / table.sum(1, keepdim=True)
            found = next_item(d, columns[:, :k])
            assert torch.allclose(found[possible], wanted[possible], atol=max(close, 1e-12) * 1e3, rtol=0)


class Unknown(SlateDistribution):
    """A distribution that nobody has a closed form for."""

    def __init__(self, cands: int, slots: int) -> None:
        self.cands, self.slots = cands, slots

    def sample(self, generator: object) -> Tensor:
        return self.mode()

    def mode(self) -> Tensor:
        return torch.arange(self.slots).unsqueeze(0)

    def log_prob(self, columns: Tensor) -> Tensor:
        weight = {s: 1.0 + i for i, s in enumerate(permutations(range(self.cands), self.slots))}
        total = sum(weight.values())
        return torch.tensor([weight[tuple(c)] / total for c in columns.tolist()], dtype=torch.float64).log()

    def slot_marginals(self) -> Tensor:
        return torch.full((1, self.slots, self.cands), 1 / self.cands, dtype=torch.float64)


def test_an_unknown_distribution_is_listed_or_refused() -> None:
    d = Unknown(4, 2)
    begun = prefix_log_probs(d, torch.tensor([[1, 0]])).exp()[0]
    assert begun.tolist() == pytest.approx([(4 + 5 + 6) / 78, 4 / 78], abs=1e-14)
    assert next_item(d, torch.tensor([[1]]))[0].tolist() == pytest.approx([4 / 15, 0, 5 / 15, 6 / 15])
    with pytest.raises(BadInput, match="30240 slates of 5 from 10 are too many to list"):
        prefix_log_probs(Unknown(10, 5), torch.arange(5).unsqueeze(0))


@pytest.mark.parametrize(("cands", "slots"), [(5, 3), (4, 4), (6, 1), (3, 2)])
def test_pseudo_inverse_of_a_uniform_logger(cands: int, slots: int) -> None:
    generator = torch.Generator().manual_seed(cands)
    logits = torch.randn(4, cands, generator=generator, dtype=torch.float64)
    target = PlackettLuce(logits, slots).slot_marginals()
    columns = torch.stack([torch.randperm(cands, generator=generator)[:slots] for _ in range(4)])
    uniform = Uniform(torch.ones(4, cands, dtype=torch.bool), slots)
    placed = target.gather(2, columns.unsqueeze(1).expand(-1, slots, -1))
    closed = uniform_weights(placed, torch.full((4,), cands))
    assert torch.allclose(closed, general_weights(uniform, target, columns), atol=1e-9, rtol=0)


def test_pseudo_inverse_of_independent_slots() -> None:
    """Slots filled one by one from the same three items, with repeats: Σ_k w_k - K + 1."""
    law = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]], dtype=torch.float64)
    aim = torch.tensor([[0.2, 0.2, 0.6], [0.4, 0.5, 0.1]], dtype=torch.float64)
    every = torch.tensor(list(product(range(3), repeat=2)))
    chance = law[0][every[:, 0]] * law[1][every[:, 1]]
    inverse = torch.linalg.pinv(gamma(every, chance[None], 3)[0], rtol=1e-10)
    slots = torch.arange(2)
    for slate in every:
        one = torch.zeros(2, 3, dtype=torch.float64)
        one[slots, slate] = 1
        wanted = aim.flatten() @ inverse @ one.flatten()
        assert float(product_weights((aim / law)[slots, slate][None])[0]) == pytest.approx(
            float(wanted), abs=EXACT
        )


def test_too_many_slates_for_a_pseudo_inverse() -> None:
    logits = torch.zeros(1, 30, dtype=torch.float64)
    logger = PlackettLuce(logits, 3)
    with pytest.raises(BadInput, match=r"3 of 30 are 24360 slates .* and 90 cells"):
        general_weights(logger, logger.slot_marginals(), torch.tensor([[0, 1, 2]]))


# --- plain tensors and reference values ------------------------------------------------------------


@pytest.mark.parametrize("policy", ["softmax3", "antisoftmax3"])
def test_the_reference_case(policy: str) -> None:
    z, answer = case("slate_cascade_additive_linear_1000")
    names = ("reward", "action", "pscore", "pscore_item_position", "pscore_cascade")
    aims = tuple(f"{policy}_{n}" for n in names[2:])
    mixed = torch.randperm(3000, generator=torch.Generator().manual_seed(0))  # long form has no order
    place, row = z["position"][mixed], z["slate_id"][mixed]
    reward, item, *chances = wide(row, place, *(z[n][mixed] for n in (*names, *aims)))
    logger, target = (Chances(c[0][:, 0], c[1], c[2]) for c in (chances[:3], chances[3:]))
    q, following = (z[f"{policy}_{n}"].reshape(1000, 3, 10) for n in ("q_hat", "action_dist"))
    found = tabular_slates(reward, logger, target, item=item, q=q, following=following)
    estimators: dict[str, Estimator[Slates]] = {
        "sips": SIPS(),
        "iips": IIPS(),
        "rips": RIPS(),
        "snsips": SNSIPS(),
        "sniips": SNIIPS(),
        "snrips": SNRIPS(),
        "cascade-dr": CascadeDR(),
    }
    results = answer["results"][policy]["estimates"]
    for name, estimator in estimators.items():
        assert value(estimator.score(found)) == pytest.approx(results[name]["value"], rel=1e-9), name
    one = estimate(SIPS(), found)
    assert one.ess == pytest.approx(answer["results"][policy]["ess_slate"], rel=1e-9)
    every = evaluate(found)
    assert {e.name for e in every} == {
        "SIPS", "IIPS", "RIPS", "SNSIPS", "SNIIPS", "SNRIPS", "Cascade-DR", "clipped IIPS",
    }  # fmt: skip


def test_plain_tensors_equal_the_builder() -> None:
    world = position_world()
    every = world.listed()
    built = slates(every.log, world.target, logger=world.logger, examination=EXAMINATION)
    tables = [world.placed(world.law(p))[every.context] for p in (world.logger, world.target)]
    logger, target = Chances(table=tables[0]), Chances(table=tables[1])
    assert every.log.click is not None
    found = tabular_slates(every.log.click, logger, target, item=every.log.slate, examination=EXAMINATION)
    for name in ("marginal", "document", "examined"):
        assert torch.allclose(found.need(name), built.need(name), atol=EXACT, rtol=0)
    whole = tabular_slates(
        every.log.reward, Chances(every.log.propensity), Chances(every.log.propensity * built.need("joint"))
    )
    assert not whole.per_slot
    assert abs(off(SIPS(), whole, world, every)) < EXACT
    alone = tabular_slates(every.log.click, logger, target, item=every.log.slate, independent=True)
    assert torch.allclose(alone.need("pseudo"), built.need("marginal").sum(1) - 2, atol=EXACT, rtol=0)


def chances(**given: Any) -> Chances:
    return Chances(**{k: torch.tensor(v, dtype=torch.float64) for k, v in given.items()})


GOOD = {"joint": [0.1, 0.2], "marginal": [[0.5, 0.2], [0.4, 0.5]], "cascade": [[0.5, 0.1], [0.4, 0.2]]}
TABLE = [[[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"joint": [0.1, 0.0]}, r"joint of the logger, row 1: 0 is not in \(0, 1\]"),
        ({"joint": [0.1, float("nan")]}, r"joint of the logger, row 1: nan is not in"),
        ({"marginal": [[0.5, 0.2], [0.4, 1.4]]}, r"marginal of the logger, row 1, slot 1: 1.4 is not in"),
        ({"marginal": [[0.5, 0.2], [-0.4, 0.5]]}, r"marginal of the logger, row 1, slot 0: -0.4 is not in"),
        (
            {"cascade": [[0.5, 0.1], [0.2, 0.4]]},
            "cascade of the logger, row 1, slot 1: 0.4 is likelier than the shorter beginning",
        ),
        (
            {"cascade": [[0.5, 0.2], [0.4, 0.2]]},
            "cascade of the logger, row 0, slot 1: 0.2 is not joint",
        ),
        (
            {"cascade": [[0.45, 0.1], [0.4, 0.2]]},
            "cascade of the logger, row 0, slot 0: 0.45 is not marginal, but the first item stands",
        ),
        (
            {"marginal": [[0.5, 0.2], [0.4, 0.1]]},
            "marginal of the logger, row 1, slot 1: 0.1 is below cascade, of a slate with that item there",
        ),
        ({"joint": None}, "the target has joint probabilities, and the logger has none"),
        ({"joint": [[0.1, 0.2]]}, r"joint of the logger has shape \(1, 2\), but there are 2 slates of 2"),
        ({"joint": [[0.1], [0.2]]}, r"joint of the logger has shape \(2, 1\), but there are 2 slates of 2"),
        ({"marginal": [0.5, 0.2]}, r"marginal of the logger has shape \(2,\), but there are 2 slates of 2"),
        (
            {"table": [[0.5, 0.5], [0.5, 0.5]]},
            r"table of the logger has shape \(2, 2\), but there are 2",
        ),
        (
            {"table": [[[], []], [[], []]]},
            r"table of the logger has shape \(2, 2, 0\), but there are 2",
        ),
    ],
)
def test_tables_that_cannot_be(change: dict[str, Any], says: str) -> None:
    logger = chances(**{k: v for k, v in {**GOOD, **change}.items() if v is not None})
    with pytest.raises(BadInput, match=says):
        tabular_slates(torch.ones(2, 2), logger, chances(**GOOD))


def test_more_tables_that_cannot_be() -> None:
    reward, item, good = torch.ones(2, 2), torch.tensor([[0, 1], [1, 0]]), chances(table=TABLE)
    low = chances(joint=[0.1, 0.3], marginal=[[0.5, 0.2], [0.2, 0.5]])
    with pytest.raises(
        BadInput, match=r"marginal of the logger, row 1, slot 0: 0.2 is below joint, of a slate with"
    ):
        tabular_slates(reward, low, low)
    short = chances(table=[TABLE[0], [[0.5, 0.25], [0.5, 0.5]]])
    with pytest.raises(BadInput, match=r"row 1, slot 0: it sums to 0\.75, not 1"):
        tabular_slates(reward, good, short, item=item)
    with pytest.raises(BadInput, match=r"joint of the logger has shape \(2,\), but there are 3 slates of 2"):
        tabular_slates(torch.ones(3, 2), chances(**GOOD), chances(**GOOD))
    with pytest.raises(
        BadInput, match=r"marginal of the logger has shape \(2, 2\), but there are 2 slates of 3"
    ):
        tabular_slates(torch.ones(2, 3), chances(marginal=GOOD["marginal"]), chances(**GOOD))
    with pytest.raises(BadInput, match="needs item: which ones were shown"):
        tabular_slates(reward, good, good)
    never = chances(table=[TABLE[0], [[1.0, 0.0], [0.5, 0.5]]])
    with pytest.raises(BadInput, match=r"table at what was shown of the logger, row 1, slot 0: 0 is not in"):
        tabular_slates(reward, never, good, item=item)
    with pytest.raises(BadInput, match="a model of slates needs q, following and item"):
        tabular_slates(reward, good, good, item=item, q=torch.ones(2, 2, 2))
    with pytest.raises(BadInput, match="reward, row 1, slot 0: nan is not a finite number"):
        tabular_slates(torch.tensor([[0.0, 1.0], [float("nan"), 0]]), good, good, item=item)
    with pytest.raises(BadInput, match="examination needs tables of both"):
        tabular_slates(reward, chances(**GOOD), chances(**GOOD), examination=torch.ones(2))
    with pytest.raises(BadInput, match="from marginals, and there are none"):
        tabular_slates(torch.ones(2), chances(joint=[0.1, 0.3]), chances(joint=[0.1, 0.3]), independent=True)
    with pytest.raises(BadInput, match="there is one reward a slate"):
        tabular_slates(torch.ones(2), good, good, item=item, slot_weight=torch.ones(2))


def test_items_and_models_that_cannot_be() -> None:
    reward, item, good = torch.ones(2, 2), torch.tensor([[0, 1], [1, 0]]), chances(table=TABLE)
    q, following = torch.ones(2, 2, 2), torch.full((2, 2, 2), 0.5)

    def said(match: str, **given: Any) -> None:
        settings = {"item": item, "logger": good, "target": good, "reward": reward, **given}
        with pytest.raises(BadInput, match=match):
            tabular_slates(settings.pop("reward"), settings.pop("logger"), settings.pop("target"), **settings)

    said(r"item, row 0, slot 1: 2 is none of the 2 columns of table of the logger", item=item * 2)
    said(r"item, row 0, slot 1: -1 is none of the 2 columns", item=-item)
    said(r"item has shape \(1, 2\), but there are 2 slates of 2", item=item[:1])
    said(r"item has shape \(2, 1\), but there are 2 slates of 2", item=item[:, :1])
    wide_ = chances(table=[[[0.5, 0.5, 0.0]] * 2] * 2)
    said(r"table of the target has 3 columns, but table of the logger has 2", target=wide_)
    said(r"q has 3 columns, but table of the logger has 2", q=torch.ones(2, 2, 3), following=following)
    said(r"q has shape \(2, 1, 2\), but there are 2 slates of 2", q=q[:, :1], following=following)
    said(r"following has shape \(1, 2, 2\), but there are 2 slates of 2", q=q, following=following[:1])
    said(r"q, row 1, slot 0, column 1: nan is not a finite", q=_with(q, (1, 0, 1)), following=following)
    said(r"following of the target, row 0, slot 1, column 0: nan is not", q=q, following=_with(q, (0, 1, 0)))
    said(r"following of the target, row 0, slot 0: it sums to 2, not 1", q=q, following=q)
    said(r"group has shape \(1,\), but there are 2 slates", group=torch.tensor([0]))
    said(r"there are no slates: reward has shape \(0, 2\)", reward=reward[:0])
    said(r"there are no slates: reward has shape \(2, 0\)", reward=reward[:, :0])
    said(r"reward is \[round slot\] or \[round\], not of shape \(2, 2, 1\)", reward=reward.unsqueeze(2))
    said(r"reward, row 1: inf is not a finite number", reward=torch.tensor([1.0, torch.inf]))
    other = Chances(table=good.table, marginal=torch.tensor([[0.5, 0.5], [0.5, 0.4]]))
    said(r"marginal of the logger, row 1, slot 1: 0.4 is not what table says, 0.5", logger=other)
    joint = Chances(joint=torch.tensor([0.25, 0.3]), table=good.table)
    said(
        r"joint of the logger, row 1: 0.3 is not the product of marginal, 0.25, as of independent slots",
        logger=joint,
        target=joint,
        independent=True,
    )
    said("examination of slot 1 is nan, but it must be in", examination=torch.tensor([1.0, torch.nan]))


def _with(x: Tensor, at: tuple[int, ...]) -> Tensor:
    out = x.clone()
    out[at] = torch.nan
    return out


@pytest.mark.parametrize(
    ("slate", "position", "says"),
    [
        ([3, 3, 4], [0, 1, 0], "slate 4 has slot 1 0 times, not once"),
        ([3, 3, 4, 4], [0, 1, 1, 1], "slate 4 has slot 0 0 times, not once"),
        ([3, 3], [0, -1], "column position, row 1: -1 is negative"),
        (
            [3, 3],
            [0, 1 << 40],
            "column position, row 1: 1099511627776 is beyond the 2 rows: a slot is",
        ),
        ([], [], "0 rows of slate and 0 of position are no slates"),
    ],
)
def test_long_forms_that_cannot_be(slate: list[int], position: list[int], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        wide(torch.tensor(slate, dtype=torch.long), torch.tensor(position, dtype=torch.long))


def test_columns_of_another_length_are_refused() -> None:
    slate, position = torch.tensor([0, 0]), torch.tensor([0, 1])
    with pytest.raises(BadInput, match="column 1 of those to turn has 3 rows, but slate has 2"):
        wide(slate, position, torch.ones(2), torch.ones(3))
