"""Every click model that the catalogue finds × every check, and what each is by its own paper."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from envs.clicks.cascade import Cascade
from envs.clicks.click_chain import ClickChain
from envs.clicks.contract import ClickModel
from envs.clicks.dependent_click import DependentClick
from envs.clicks.dynamic_bayesian import DynamicBayesian
from envs.clicks.mixed_decay import MixedDecay
from envs.clicks.multinomial import Multinomial
from envs.clicks.position_based import PositionBased
from envs.clicks.proportional import Proportional
from envs.clicks.top_down_decay import TopDownDecay
from envs.clicks.trust_bias import TrustBias
from envs.clicks.user_browsing import UserBrowsing
from envs.registry import make_world
from simlab.errors import BadInput
from simlab.parts import all_parts, names
from simlab.seeds import Seed
from tests.contracts.click_models import ATTRACTION, CHECKS, SLOTS, VECTORS, joint, tensors, with_values


def drawn(name: str) -> ClickModel:
    """Return the model with random parameters, also where a fit would hold them."""
    kind: Any = all_parts("click model")[name]
    g = torch.Generator().manual_seed(sum(map(ord, name)))
    values = {
        key: p.low
        + (min(p.high, 10.0) - p.low) * (0.1 + 0.8 * torch.rand(p.start.shape, generator=g).double())
        for key, p in kind.parameters(SLOTS).items()
    }
    model: ClickModel = kind(**values)
    return model


def typical(name: str) -> ClickModel:
    kind: Any = all_parts("click model")[name]
    model: ClickModel = kind.typical(SLOTS)
    return model


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("make", [typical, drawn], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", names("click model"))
def test_click_model(
    name: str, make: Callable[[str], ClickModel], check: Callable[[ClickModel], None]
) -> None:
    check(make(name))


@pytest.mark.parametrize("name", names("click model"))
def test_a_fit_can_reach_the_typical_model(name: str) -> None:
    """Starts are in bounds, and what a fit holds still is so in the typical model, or is not seen."""
    kind: Any = all_parts("click model")[name]
    model, held = typical(name), {}
    parameters = kind.parameters(SLOTS)
    assert parameters.keys() == tensors(model).keys()
    for key, p in parameters.items():
        assert p.start.dtype == torch.float64
        assert p.free.shape == p.start.shape == tensors(model)[key].shape
        assert bool(((p.start >= p.low) & (p.start <= p.high)).all())
        held[key] = torch.where(p.free, tensors(model)[key].double(), p.start)
    torch.testing.assert_close(joint(with_values(model, **held)), joint(model))
    assert isinstance(kind(**{key: p.start for key, p in parameters.items()}), ClickModel)


# A user's life in each model, told as in its paper: coins are tossed, slots are seen and clicked -----------

Toss = Callable[[float], bool]
Life = Callable[[Toss, Any, list[float]], tuple[list[int], list[int]]]


def position_based(toss: Toss, model: Any, a: list[float]) -> tuple[list[int], list[int]]:
    seen = [k for k, theta in enumerate(model.theta().tolist()) if toss(theta)]
    return seen, [k for k in seen if toss(a[k])]


def trust_bias(toss: Toss, model: Any, a: list[float]) -> tuple[list[int], list[int]]:
    seen = [k for k, theta in enumerate(model.examination.tolist()) if toss(theta)]
    relevant = {k: toss(a[k]) for k in seen}
    believed = {True: model.true_positive.tolist(), False: model.false_positive.tolist()}
    return seen, [k for k in seen if toss(believed[relevant[k]][k])]


def cascade(toss: Toss, model: Any, a: list[float]) -> tuple[list[int], list[int]]:
    seen = []
    for k in range(len(a)):
        seen.append(k)
        if toss(a[k]):
            return seen, [k]
    return seen, []


def dependent_click(toss: Toss, model: Any, a: list[float]) -> tuple[list[int], list[int]]:
    seen, clicked = [], []
    for k in range(len(a)):
        seen.append(k)
        if toss(a[k]):
            clicked.append(k)
            if not toss(float(model.continuation[k])):
                break
    return seen, clicked


def dynamic_bayesian(toss: Toss, model: Any, a: list[float]) -> tuple[list[int], list[int]]:
    seen, clicked = [], []
    for k in range(len(a)):
        seen.append(k)
        if toss(a[k]):
            clicked.append(k)
            if toss(float(model.satisfaction.expand(len(a))[k])):
                break
        if not toss(float(model.continuation)):
            break
    return seen, clicked


def click_chain(toss: Toss, model: Any, a: list[float]) -> tuple[list[int], list[int]]:
    seen, clicked = [], []
    for k in range(len(a)):
        seen.append(k)
        if toss(a[k]):
            clicked.append(k)
            on = float(model.after_relevant if toss(a[k]) else model.after_irrelevant)
        else:
            on = float(model.after_skip)
        if not toss(on):
            break
    return seen, clicked


def user_browsing(toss: Toss, model: Any, a: list[float]) -> tuple[list[int], list[int]]:
    seen: list[int] = []
    clicked: list[int] = []
    for k in range(len(a)):
        distance = k - clicked[-1] if clicked else k + 1
        if toss(float(model.examination[k, distance - 1])):
            seen.append(k)
            if toss(a[k]):
                clicked.append(k)
    return seen, clicked


def choice(toss: Toss, model: Any, a: list[float]) -> tuple[list[int], list[int]]:
    """Item against item: who has not chosen among the first ones chooses among the rest and nothing."""
    mass = [float(w) * x / (1 - x) for w, x in zip(model.weight, a, strict=True)]
    for k in range(len(a)):
        if toss(mass[k] / (sum(mass[k:]) + 1)):
            return list(range(len(a))), [k]
    return list(range(len(a))), []


LIVES: dict[str, Life] = {
    "cascade": cascade,
    "click_chain": click_chain,
    "dependent_click": dependent_click,
    "dynamic_bayesian": dynamic_bayesian,
    "mixed_decay": position_based,
    "multinomial": choice,
    "position_based": position_based,
    "proportional": choice,
    "top_down_decay": position_based,
    "trust_bias": trust_bias,
    "user_browsing": user_browsing,
}


def every_life(life: Life, model: ClickModel, a: list[float]) -> Iterator[tuple[float, list[int], list[int]]]:
    """List all that can happen, with its probability: each coin falls on both sides."""
    todo: list[list[bool]] = [[]]
    while todo:
        sides, tossed, chance = todo.pop(), 0, 1.0

        def toss(p: float) -> bool:
            nonlocal tossed, chance
            if tossed == len(sides):  # noqa: B023
                if 0 < p < 1:
                    todo.append([*sides, False])  # noqa: B023
                sides.append(p > 0)  # noqa: B023
            up = sides[tossed]  # noqa: B023
            tossed += 1
            chance *= p if up else 1 - p
            return up

        seen, clicked = life(toss, model, a)
        yield chance, seen, clicked


@pytest.mark.parametrize("make", [typical, drawn], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", LIVES)
def test_equals_the_lives_that_its_paper_tells(name: str, make: Callable[[str], ClickModel]) -> None:
    """The joint of clicks, and the examination of each slot, by listing all lives of a user."""
    model = make(name)
    chance = joint(model)
    for user, a in enumerate(ATTRACTION.tolist()):
        seen, clicks = torch.zeros(SLOTS).double(), torch.zeros(len(VECTORS)).double()
        for p, examined, clicked in every_life(LIVES[name], model, a):
            seen[examined] += p
            clicks[sum(2 ** (SLOTS - 1 - k) for k in clicked)] += p
        torch.testing.assert_close(chance[:, user], clicks)
        torch.testing.assert_close(model.examined(ATTRACTION)[user], seen)


@pytest.mark.parametrize("name", names("click model"))
def test_the_feed_runs_with_it(name: str) -> None:
    """Clicks of each slot minus their expectation are within 4.5 standard errors of zero."""
    world: Any = make_world("Static-v0", items=30, slots=4, horizon=5, click_model=name, base=-2.0)
    assert type(world.clicks) is all_parts("click model")[name]
    n, seed = 4000, Seed(5)
    state, gaps = world.reset(n, seed), []
    for t in range(3):
        g = torch.Generator().manual_seed(t)
        slate = torch.rand(n, 30, generator=g).topk(4, 1).indices
        slate[:400, 1] = world.blank
        expected = world.expected(state, slate)
        state, response = world.step(state, slate, seed)
        assert float(response.click[:400, 1].sum()) == 0
        assert float(response.click.sum()) > 0
        gaps.append(response.click.double() - expected.double())
    gap = torch.cat(gaps)
    assert bool((gap.mean(0).abs() < 4.5 * gap.std(0) / len(gap) ** 0.5).all())


# What is special to one model ------------------------------------------------------------------------------


def test_logits_of_the_multinomial_are_a_softmax_with_no_click() -> None:
    logit = torch.randn(50, SLOTS, generator=torch.Generator().manual_seed(0)).double() * 3
    for none in (0.0, 5, torch.linspace(-3, 3, 50).double().unsqueeze(1)):
        attraction = Multinomial.attraction_of(logit, none)
        both = torch.cat([logit, torch.as_tensor(none).double().expand(50, 1)], 1).softmax(1)
        torch.testing.assert_close(Multinomial.typical(SLOTS).probs(attraction), both[:, :-1])
    biased = (logit - 0.4 * torch.arange(SLOTS)).exp()
    attraction = Multinomial.attraction_of(logit)
    torch.testing.assert_close(
        Multinomial.log_linear(SLOTS, -0.4).probs(attraction),
        biased / (1 + biased.sum(1, keepdim=True)),
        rtol=1e-6,  # the weights are float32
        atol=0,
    )


def test_scores_of_the_proportional_choice_are_shares() -> None:
    """P(i) = (s_i − least) / (Σ_j (s_j − least) + mass − least), as RecSim's interest evolution has it."""
    score = torch.rand(50, SLOTS, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    share = (score + 1) / ((score + 1).sum(1, keepdim=True) + 2)
    attraction = Proportional.attraction_of(score, 1.0, -1.0)
    torch.testing.assert_close(Proportional.typical(SLOTS).probs(attraction), share)
    with pytest.raises(BadInput, match="no_click_mass is 0, but it is more than 0"):
        Proportional.attraction_of(score, 0, 0)


def test_a_choice_of_sure_items_stays_finite() -> None:
    model = Multinomial.typical(3)
    for dtype in (torch.float32, torch.float64):
        sure = torch.tensor([[1.0, 1.0, 0.5]], dtype=dtype, requires_grad=True)
        chance = model.probs(sure)
        (slope,) = torch.autograd.grad(chance.sum(), sure)
        torch.testing.assert_close(chance.detach(), torch.tensor([[0.5, 0.5, 0.0]], dtype=dtype))
        assert bool(slope.isfinite().all())


def test_decays_are_those_of_sardine() -> None:
    top, mixed = TopDownDecay.of(4, 0.5, 0.8), MixedDecay.of(4, 0.5, 0.8)
    torch.testing.assert_close(top.theta(), torch.tensor([0.8, 0.4, 0.2, 0.1]))
    torch.testing.assert_close(mixed.theta(), torch.tensor([0.45, 0.3, 0.3, 0.45]))


def test_satisfaction_may_belong_to_the_slot_or_the_item() -> None:
    """One value for each row and slot is each row's own model."""
    g = torch.Generator().manual_seed(0)
    each = torch.rand(2, SLOTS, generator=g).double()
    gamma = torch.tensor(0.9).double()
    together = joint(DynamicBayesian(gamma, each))
    for user in (0, 1):
        alone = joint(DynamicBayesian(gamma, each[user]))
        torch.testing.assert_close(together[:, user], alone[:, user])
    simple = DynamicBayesian.simplified(each)
    assert float(simple.continuation) == 1
    torch.testing.assert_close(joint(simple).sum(0), torch.ones(2).double())
    uniform = torch.rand(2, SLOTS, generator=g).double()
    assert torch.equal(
        simple.sample(ATTRACTION, uniform)[1:],
        DynamicBayesian(simple.continuation, each[1]).sample(ATTRACTION[1:], uniform[1:]),
    )


def test_the_family_of_chains_nests() -> None:
    """At their corners they are one another, and the position-based model is browsing without memory."""
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    plain = joint(Cascade())
    torch.testing.assert_close(joint(DependentClick(torch.zeros(SLOTS))), plain)
    torch.testing.assert_close(joint(DynamicBayesian(one, one)), plain)
    torch.testing.assert_close(joint(ClickChain(one, zero, zero)), plain)
    theta = torch.tensor([1.0, 0.6, 0.5, 0.2, 0.1])
    torch.testing.assert_close(
        joint(UserBrowsing(theta.unsqueeze(1).expand(SLOTS, SLOTS))), joint(PositionBased(theta))
    )
    torch.testing.assert_close(
        joint(TrustBias(theta, torch.ones(SLOTS), torch.zeros(SLOTS))), joint(PositionBased(theta))
    )


def test_trust_bias_has_one_description_in_its_frame() -> None:
    """Any falling bias and trust is θ_1 = 1, ε⁺ = 1 and ε⁻_K = 0 with other attractions, as its page says."""
    theta = torch.tensor([0.95, 0.7, 0.5, 0.3, 0.25]).double()
    high = torch.tensor([0.98, 0.96, 0.95, 0.9, 0.9]).double()
    low = torch.tensor([0.5, 0.4, 0.3, 0.2, 0.1]).double()
    model = TrustBias(theta, high, low)
    alpha, beta = theta * (high - low), theta * low
    n = -beta[-1] / alpha[-1]
    m = (1 - beta[0]) / alpha[0] - n
    a, b = alpha * m, beta + alpha * n
    framed = TrustBias(a + b, torch.ones(SLOTS).double(), (b / (a + b)).clamp(min=0))
    assert float(framed.examination[0]) == pytest.approx(1)
    assert float(framed.false_positive[-1]) == pytest.approx(0, abs=1e-12)
    seen: Tensor = (ATTRACTION - n) / m
    assert 0 <= float(seen.min()) <= float(seen.max()) <= 1
    torch.testing.assert_close(framed.probs(seen), model.probs(ATTRACTION))


def test_a_table_of_browsing_is_square() -> None:
    with pytest.raises(BadInput, match="examination is 2 × 3, but it has as many distances as slots"):
        UserBrowsing(torch.ones(2, 3))
    with pytest.raises(BadInput, match=r"examination, slot 1, distance 1: 1.5 is not a probability"):
        UserBrowsing(torch.tensor([[1.0, 0.0], [1.5, 0.2]]))


@pytest.mark.parametrize("name", names("click model"))
def test_a_slate_longer_than_a_parameter_is_refused(name: str) -> None:
    """Not spread over the slate, whether there is one value or there are too few."""
    kind: Any = all_parts("click model")[name]
    slate, n = torch.full((2, SLOTS), 0.5), SLOTS
    for slots in (1, 3):
        model: ClickModel = kind.typical(slots)
        slotted = [k for k, x in tensors(model).items() if x.ndim]
        if not slotted:
            model.probs(slate)  # scalars hold for any slate
            continue
        words = rf"{slotted[0]} has {slots} slots, but the slate has {n}"
        for ask, more in (
            (model.probs, ()),
            (model.conditional, (torch.zeros_like(slate),)),
            (model.sample, (torch.full((2, model.draws(n)), 0.5),)),
        ):
            with pytest.raises(BadInput, match=words):
                ask(slate, *more)


def test_a_short_parameter_is_named() -> None:
    """Also where it may be one value, or one a row and slot; a table of browsing has two axes."""
    slate = torch.full((2, 4), 0.5)
    with pytest.raises(BadInput, match="satisfaction has 2 slots, but the slate has 4"):
        DynamicBayesian(torch.tensor(0.9), torch.full((2, 2), 0.5)).probs(slate)
    flat = object.__new__(UserBrowsing)  # past the tests' own check of shapes, which users do not have
    object.__setattr__(flat, "examination", torch.tensor([0.6]))
    with pytest.raises(BadInput, match="examination has 1 axes, but it is a table"):
        flat.__post_init__()


def test_a_click_on_an_item_without_odds_keeps_other_gradients() -> None:
    """It pulls its own attraction without end; those of the others stay finite, and two clicks cannot be."""
    model = Multinomial.typical(3)
    attraction = torch.tensor([[0.5, 0.0, 0.3]], requires_grad=True)
    likely = model.log_prob(attraction, torch.tensor([[0.0, 1.0, 0.0]]))
    (slope,) = torch.autograd.grad(likely.sum(), attraction)
    assert float(likely.detach()) == -torch.inf
    assert float(slope[0, 1]) == torch.inf
    assert bool(slope[0, [0, 2]].isfinite().all())
    assert float(model.log_prob(torch.full((1, 3), 0.5), torch.tensor([[1.0, 1.0, 0.0]]))) == -torch.inf
