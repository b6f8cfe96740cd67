"""SARDINE's presets show what they are named after, with a stated margin, and it vanishes with its switch."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from envs.oracles import FarSighted, Index, Oracle
from envs.registry import make_world
from envs.rollout import roll
from envs.users.sardine import Sardine
from simlab.policies.popularity import Popularity
from simlab.policy import Policy
from simlab.seeds import Seed
from tests.envs.measuring import interval


def new(name: str, **settings: Any) -> Sardine:
    world = make_world(name, **settings)
    assert isinstance(world, Sardine)
    return world


def surplus(world: Sardine, one: Policy, other: Policy, users: int) -> list[float]:
    """Return, per user, what one policy earns more than another under the same luck."""
    a, b = (roll(world, policy, users, Seed(3)).reward.sum(0) for policy in (one, other))
    return (a - b).tolist()


def versions(*presets: str, quick: str = "") -> list[Any]:
    """Return both ids of each preset; without influence v0 is the same as v1, and waits with the slow.

    Args:
        presets: their names.
        quick: the only version that does not wait with the slow, if any.
    """
    found = []
    for preset in presets:
        same = Sardine.ids[f"simlab/{preset}-v0"].get("omega") == 1.0
        marks = [pytest.mark.slow] if same or quick == "v1" else []
        found.append(pytest.param(f"{preset}-v0", marks=marks))
        found.append(pytest.param(f"{preset}-v1"))
    return found


BORED = {
    "SingleItem-BoredInf-v0": (40, 20, None),
    "SingleItem-BoredInf-v1": (40, 48, None),
    "SlateTopK-Bored-v0": (60, 280, -20),
    "SlateTopK-Bored-v1": (60, 280, -20),
    "SlateTopK-BoredInf-v0": (40, 115, -30),
    "SlateTopK-BoredInf-v1": (40, 300, -15),
    "SlateTopK-Uncertain-v0": (40, 135, -20),
    "SlateTopK-Uncertain-v1": (40, 250, -50),
    "SlateRerank-Bored-v0": (400, 2, -2),
    "SlateRerank-Bored-v1": (400, 2, -2),
}
"""Users; clicks that foresight earns more, at least; what rationing earns more without boredom, at most."""


@pytest.mark.parametrize(
    "preset", versions(*dict.fromkeys(preset.rpartition("-")[0] for preset in BORED), quick="v1")
)
def test_foresight_pays_where_users_get_bored(preset: str) -> None:
    """The far-sighted oracle earns more than the myopic one by the table's margin (99 % interval, paired).

    With boredom off the two are the same, and to ration all the same loses clicks by the table's margin. Not
    in SingleItem, where a second topic is as good, or is not, whatever was clicked.
    """
    users, margin, loss = BORED[preset]
    world = new(f"simlab/{preset}")
    low, high = interval(surplus(world, FarSighted(world), Oracle(world), users))
    print(f"{preset}: foresight earns {low:.1f} .. {high:.1f} more")
    assert low > margin
    calm = new(f"simlab/{preset}", boredom_threshold=11)
    assert not any(surplus(calm, FarSighted(calm), Oracle(calm), 10))
    if loss is not None:
        ration = Index(partial(calm.foresight, threshold=world.spec.boredom_threshold))
        low, high = interval(surplus(calm, ration, Oracle(calm), users))
        print(f"{preset}: rationing without boredom earns {low:.1f} .. {high:.1f} more")
        assert high < loss


@pytest.mark.parametrize("candidates", [20, 50])
def test_foresight_pays_among_few_candidates_too(candidates: int) -> None:
    """A topic's room is filled with items that may be shown: more than the myopic oracle (99 %, paired)."""
    world = new("simlab/SlateTopK-Bored-v1", candidates=candidates)
    low, high = interval(surplus(world, FarSighted(world), Oracle(world), 60))
    print(f"{candidates} candidates: foresight earns {low:.1f} .. {high:.1f} more")
    assert low > 0


def rise(world: Sardine, users: int = 200, steps: int = 20) -> tuple[Tensor, Tensor]:
    """Return how much nearer taste comes to what was clicked in 20 steps, and to the even taste: cosines."""
    state = world.reset(users, Seed(0))
    before, eaten = state.users.taste, torch.zeros(users, 10)
    for _ in range(steps):
        slate = Oracle(world).distribution(world.privileged(state), world.slots).mode()
        state, response = world.step(state, slate, Seed(0))
        rows = world.catalog.features[slate]
        eaten = eaten + (rows * response.click.unsqueeze(2)).sum(1)
    cosine = torch.nn.functional.cosine_similarity
    clicked = eaten.sum(1) > 0
    assert int(clicked.sum()) > 0.9 * users
    after, even = state.users.taste, torch.ones(1, 10)
    nearer = [(cosine(after, x) - cosine(before, x))[clicked] for x in (eaten, even)]
    return nearer[0], nearer[1]


INFLUENCED = ("SingleItem-BoredInf", "SlateTopK-BoredInf", "SlateTopK-Uncertain")


@pytest.mark.parametrize("preset", INFLUENCED)
def test_influence_moves_tastes_toward_what_was_clicked(preset: str) -> None:
    """v1: the cosine to the clicked items rises by at least 0.012 in 20 steps (99 % interval, 200 users)."""
    eaten, even = (interval(x.tolist()) for x in rise(new(f"simlab/{preset}-v1")))
    print(f"{preset}-v1: nearer to the clicked {eaten}, to the even taste {even}")
    assert eaten[0] > 0.012
    assert even[1] < 0


@pytest.mark.parametrize("preset", INFLUENCED)
def test_the_scalar_blend_moves_tastes_toward_the_even_one_instead(preset: str) -> None:
    """v0's defect: away from what was clicked by at least 0.008, toward the even taste by at least 0.07."""
    eaten, even = (interval(x.tolist()) for x in rise(new(f"simlab/{preset}-v0")))
    print(f"{preset}-v0: nearer to the clicked {eaten}, to the even taste {even}")
    assert eaten[1] < -0.008
    assert even[0] > 0.07


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("preset", INFLUENCED)
def test_tastes_stay_where_there_is_no_influence(preset: str, version: str) -> None:
    """With ω = 1, to the bit."""
    assert all(not bool(x.any()) for x in rise(new(f"simlab/{preset}-{version}", omega=1.0)))


def test_the_scalar_blend_wears_interest_out() -> None:
    """v0's defect, without boredom: the myopic oracle loses at least 120 of 533 clicks; none by a vector."""

    def earned(**settings: Any) -> Tensor:
        world = new("simlab/SlateTopK-BoredInf-v1", boredom_threshold=11, **settings)
        return roll(world, Oracle(world), 40, Seed(3)).reward.sum(0)

    without = earned(omega=1.0)
    _, high = interval((earned(influence_blend="scalar") - without).tolist())
    assert high < -120
    assert abs(float((earned(influence_blend="vector") - without).mean())) < 2


STILL = {
    "SingleItem-Static": 75.0,
    "SingleItem-Uncertain": 70.0,
    "SlateRerank-Static": 4.0,
}
"""Clicks that the personalised oracle earns more than popularity, at least."""


@pytest.mark.parametrize("preset", versions(*STILL))
def test_a_static_user_wants_what_suits_him_and_never_changes(preset: str) -> None:
    """The oracle beats popularity by the table's margin (99 % interval, 100 users); not so with slope 0.

    Relevance after a whole episode is that of the start to the bit; with boredom on it is not.
    """
    world = new(f"simlab/{preset}")
    low, high = interval(surplus(world, Oracle(world), Popularity(), 100))
    print(f"{preset}: the oracle earns {low:.1f} .. {high:.1f} more than popularity")
    assert low > STILL[preset.rpartition("-")[0]]
    flat = new(f"simlab/{preset}", slope=0.0)
    assert not any(surplus(flat, Oracle(flat), Popularity(), 10))
    assert changed(world) == 0
    assert changed(new(f"simlab/{preset}", boredom_threshold=4)) > 0.5


def changed(world: Sardine, users: int = 20) -> float:
    """Return the share of users whose relevances are another at some step of an episode."""
    state = world.reset(users, Seed(0))
    first = world.relevance(state)
    other = torch.zeros(users, dtype=torch.bool)
    for _ in range(world.horizon):
        slate = Oracle(world).distribution(world.privileged(state), world.slots).mode()
        state, _ = world.step(state, slate, Seed(0))
        other |= (world.relevance(state) != first).any(1)
    return float(other.double().mean())


@pytest.mark.parametrize("preset", versions("SingleItem-Static"))
def test_the_oracle_of_a_static_user_is_always_clicked(preset: str) -> None:
    """100 clicks in 100 steps, whoever the user is."""
    world = new(f"simlab/{preset}")
    assert roll(world, Oracle(world), 100, Seed(0)).reward.sum(0).tolist() == [100.0] * 100


def test_presets_without_influence_are_the_same_world_in_both_versions() -> None:
    """The settings differ in the blend alone, which ω = 1 leaves unused."""
    for name, settings in Sardine.ids.items():
        assert settings == Sardine.ids[name[:-1] + "1"] | {"influence_blend": settings["influence_blend"]}
    old, young = (new(f"simlab/SlateTopK-Bored-{version}") for version in ("v0", "v1"))
    one, other = (roll(w, Oracle(w), 20, Seed(0), steps=20).click for w in (old, young))
    assert torch.equal(one, other)


@pytest.mark.parametrize("preset", versions("SingleItem-Uncertain", "SlateTopK-Uncertain"))
def test_uncertain_clicks_stay_uncertain_even_on_the_best_items(preset: str) -> None:
    """Variance r (1 - r) of an examined click on the best ten items of each user, mean of 500 users.

    At least 0.04 (99 % interval); at slope 100 at most 0.01.
    """

    def variance(slope: float) -> tuple[float, float]:
        world = new(f"simlab/{preset}", slope=slope)
        r = world.relevance(world.reset(500, Seed(0))).topk(10, 1).values
        return interval((r * (1 - r)).mean(1).tolist())

    print(f"{preset}: variance {variance(10.0)}, with slope 100 {variance(100.0)}")
    assert variance(10.0)[0] > 0.04
    assert variance(100.0)[1] < 0.01


@pytest.mark.parametrize(("decay", "margin"), [(0.7, 4.0), (1.0, 0.0)])
@pytest.mark.parametrize("preset", versions("SlateRerank-Static", "SlateRerank-Bored"))
def test_order_matters_where_attention_decays(preset: str, decay: float, margin: float) -> None:
    """Ten items, all of them shown: best first earns more than best last.

    At least 4 clicks in 10 steps (99 % interval, 400 users); with γ = 1 the same slate is worth the same.
    """
    world = new(f"simlab/{preset}", decay=decay)
    best_last = Index(lambda state: -world.myopic(state))
    if margin:
        low, high = interval(surplus(world, Oracle(world), best_last, 400))
        print(f"{preset}: best first earns {low:.1f} .. {high:.1f} more")
        assert low > margin
        return
    state = world.reset(400, Seed(0))
    for _ in range(world.horizon):
        slate = Oracle(world).distribution(world.privileged(state), 10).mode()
        one, other = (world.expected_reward(state, s) for s in (slate, slate.flip(1)))
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        state, _ = world.step(state, slate, Seed(0))
