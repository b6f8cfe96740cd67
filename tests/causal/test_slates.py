"""From a log of slates to weights, and from weights to values: all against lists of every slate."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from causal.contract import value
from causal.evaluation import evaluate
from causal.pseudo_inverse import general_weights
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
from simlab.context import Context
from simlab.errors import BadInput
from simlab.slates import (
    Deterministic,
    Mixture,
    PlackettLuce,
    Ranked,
    SlateDistribution,
    Uniform,
)
from tests.slate_worlds import (
    CANDS,
    EXACT,
    EXAMINATION,
    SLOTS,
    ClickWorld,
    cascade_world,
    crowded_world,
    flat_world,
    off,
    position_world,
)
from tests.worlds import Listed, Softmax, population_value

FIELDS = ("joint", "marginal", "cascade", "pseudo", "document")


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
