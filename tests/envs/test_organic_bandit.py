"""OrganicBandit: equal to a slow twin, and to RecoGym in its statistics."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from scipy import stats

from envs.registry import make_world
from envs.users._organic_views import Products, room
from envs.users.organic_bandit import OrganicBandit, OrganicBanditSpec
from simlab.errors import BadInput
from simlab.policies.random import Random
from simlab.policy import Policy
from simlab.seeds import Seed
from tests.envs.twin_organic_bandit import MostViewed, TwinShopper

LIVELY = OrganicBanditSpec(
    items=11, slots=2, dims=3, drift=0.5, link=(5.0, 2.0, 1.0, 2.0, 4.0), views=4, horizon=15,
    bandit_to_organic=0.3, leave_organic=0.05, leave_bandit=0.02, organic_to_bandit=0.2,
)  # fmt: skip
"""Many clicks, sessions longer than what is remembered, and ends of both kinds."""


def some_slates(world: OrganicBandit, users: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(users, world.catalog.n_items, generator=g).topk(world.slots, 1).indices


@pytest.mark.parametrize(
    "change",
    [{}, {"leave_bandit": None, "click_drifts": False}, {"flips": 3, "organic_signal": 0.6, "slots": 1}],
    ids=["v1", "as in v0", "flips and signal"],
)
def test_equals_the_slow_twin_step_by_step(change: dict[str, Any]) -> None:
    world, seed, n = OrganicBandit(replace(LIVELY, **change)), Seed(7), 60
    dims = world.spec.dims
    born = seed.at(torch.arange(n), torch.zeros(n, dtype=torch.long)).uniform("shopper", dims + 3)
    twins = [TwinShopper.born(world, row) for row in born.tolist()]
    state = world.reset(n, seed)
    clicked, ends, sessions = 0, 0, 0
    for t in range(world.horizon + 1):
        there = state.active
        features = torch.tensor([twin.features() for twin in twins])
        torch.testing.assert_close(world.observe(state).features[there], features[there])
        taste = torch.tensor([twin.taste for twin in twins])
        torch.testing.assert_close(state.users.taste[there], taste[there], atol=1e-5, rtol=1e-5)
        sessions += sum(twin.active and len(twin.fresh) > 3 for twin in twins)
        if t == world.horizon:
            break
        slate = some_slates(world, n, t)
        slate[0, -1] = world.blank
        luck = seed.at(state.user, state.step).uniform("step", world.draws + world.slots).tolist()
        state, response = world.step(state, slate, seed)
        clicks = [twin.step(*x) for twin, *x in zip(twins, slate.tolist(), luck, strict=True)]
        assert response.click.tolist() == clicks
        assert (there & ~response.terminated).tolist() == [twin.active for twin in twins]
        if t + 1 == world.horizon:  # truncated users are still somewhere, so they can be compared
            state = replace(state, active=there & ~response.terminated)
        clicked, ends = clicked + int(response.click.sum()), ends + int(response.terminated.sum())
    assert clicked > 10, "too few clicks to compare what follows them"
    assert ends > 10, "too few ends"
    assert sessions > 10, "too few sessions that fill the memory"


def test_products_are_viewed_by_the_softmax() -> None:
    """A χ² test at 1 % of 200,000 views by one taste, and the same draw by a plain distribution function."""
    g = torch.Generator().manual_seed(1)
    gamma, mu = torch.randn(23, 5, generator=g), torch.randn(23, generator=g)
    taste = torch.randn(5, generator=g)
    n = 200_000
    luck = Seed(1).at(torch.arange(n), torch.zeros(n, dtype=torch.long)).uniform("test", 1).squeeze(1)
    drawn = Products(gamma, mu).view(taste.expand(n, 5), luck)
    chance = (gamma @ taste + mu).double().softmax(0)
    count = drawn.bincount(minlength=23)
    assert stats.chisquare(count, n * chance).pvalue > 0.01
    plain = torch.searchsorted(chance.cumsum(0), luck.double(), right=True)
    assert int((plain != drawn).sum()) < 20  # float32


def test_the_list_of_views_has_room_enough_and_not_much_more() -> None:
    """The bound holds for the exact distribution of the number of views, and is within 15 % of it."""
    rows, chance, stay, most = 2000, 0.08, 0.74, 50
    size = room(rows, chance, stay, most)
    k = torch.arange(1, 200, dtype=torch.float64)
    one = torch.cat([torch.tensor([1 - chance]).double(), chance * (1 - stay) * stay ** (k - 1)])
    spectrum = torch.fft.rfft(one, 1 << 14) ** rows
    total = torch.fft.irfft(spectrum, 1 << 14).clamp(min=0)
    tail = total.flip(0).cumsum(0).flip(0)
    assert float(tail[size + 1]) < 1e-9
    smallest = int((tail < 1e-9).nonzero()[0])
    assert smallest <= size < 1.15 * smallest
    assert room(1, chance, stay, most) == most
    assert room(10, 1.0, 0.0, 1) == 10


def test_a_user_does_not_depend_on_the_batch() -> None:
    """A user's path is bit-equal in a small batch and in a large one, drift and views included."""
    world = OrganicBandit(LIVELY)
    whole, parts = world.reset(30, Seed(4)), [world.reset(10, Seed(4), first_user=f) for f in (0, 10, 20)]
    for t in range(10):
        slate = some_slates(world, 30, t)
        whole, response = world.step(whole, slate, Seed(4))
        for i in range(3):
            parts[i], piece = world.step(parts[i], slate[10 * i : 10 * i + 10], Seed(4))
            assert torch.equal(response.click[10 * i : 10 * i + 10], piece.click)
    for name, value in vars(whole.users).items():
        assert torch.equal(value, torch.cat([getattr(p.users, name) for p in parts])), name


def test_flips_pair_the_most_similar_products() -> None:
    spec = OrganicBanditSpec(items=6, flips=2)
    straight, flipped = OrganicBandit(replace(spec, flips=0)), OrganicBandit(spec)
    assert torch.equal(straight.beta, straight.gamma)
    similar = straight.gamma @ straight.gamma.T
    pairs = sorted(((float(similar[i, j]), i, j) for i in range(6) for j in range(i)), reverse=True)
    _, a, b = pairs[0]
    _, c, d = next(p for p in pairs if not {p[1], p[2]} & {a, b})
    index = list(range(6))
    index[a], index[b], index[c], index[d] = b, a, d, c
    assert torch.equal(flipped.beta, straight.gamma[index])
    assert torch.equal(flipped.nu, straight.mu[index])


def test_popularity_is_the_mean_rate_of_new_users() -> None:
    """Over 200,000 tastes, the quadrature is within 5 standard errors."""
    world = make_world("OrganicBandit-v0")
    state = world.reset(200_000, Seed(0))
    g = torch.Generator().manual_seed(0)
    rate = world.relevance(
        replace(state, users=replace(state.users, taste=torch.randn(200_000, 5, generator=g)))
    )
    mean, error = rate.mean(0), rate.std(0) / 200_000**0.5
    gap = world.market.start * mean.mean() - mean
    assert float((gap / error).abs().max()) < 5


# RecoGym -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lives:
    """Means over catalogues of what a user's life holds, with 95 % half-widths.

    Measured by running recogym 0.1.3.0 (NumPy 1.26, gym 0.26.2) through `env.reset` and `env.step`, over 300
    catalogues of 100 users (`random_seed` = 0 … 299), or 100 of 60 for the other settings: clicks by events,
    events by user, organic views before the last event by user; users without any event are not counted. The
    organic policy shows the product that the user viewed most so far.
    """

    rate: tuple[float, float]
    events: tuple[float, float]
    views: tuple[float, float]


OTHER: dict[str, Any] = {
    "items": 40, "drift": 0.5, "flips": 12, "bandit_to_organic": 0.2, "leave_organic": 0.03,
    "popularity_spread": 1.0,
}  # fmt: skip
RECOGYM = {
    "random": Lives((0.010897, 0.000205), (82.421884, 0.881571), (22.232005, 0.231869)),
    "most viewed": Lives((0.019787, 0.000346), (80.930896, 0.872531), (24.443301, 0.258162)),
    "random, other settings": Lives((0.011200, 0.000649), (19.341267, 0.434057), (16.710264, 0.419087)),
    "most viewed, other settings": Lives((0.018229, 0.000833), (19.150664, 0.425567), (16.918713, 0.424093)),
}


def lives(policy: Policy, seed: int, users: int, **settings: Any) -> tuple[float, float, float]:
    """Return clicks by event, events by user and views by user in one catalogue."""
    world = make_world("OrganicBandit-v0", world_seed=seed, remember=0, **settings)
    state = world.reset(users, Seed(seed))
    views, luck = state.users.total, Seed(seed).split("policy")
    events = clicks = 0.0
    while bool(state.active.any()):
        chosen = policy.distribution(world.observe(state), 1)
        state, response = world.step(state, chosen.sample(luck.at(state.user, state.step)), Seed(seed))
        events, clicks = events + float(response.active.sum()), clicks + float(response.click.sum())
        views = torch.where(state.active, state.users.total, views)
    return clicks / events, events / users, float(views.double().mean())


@pytest.mark.parametrize(
    ("name", "catalogues"),
    [
        ("random, other settings", 16),
        pytest.param("random", 60, marks=pytest.mark.slow),
        pytest.param("most viewed", 60, marks=pytest.mark.slow),
        pytest.param("most viewed, other settings", 60, marks=pytest.mark.slow),
    ],
)
def test_lives_are_those_of_recogym(name: str, catalogues: int) -> None:
    """The means over other catalogues are within 3 standard errors of the difference."""
    settings = OTHER if "other" in name else {}
    policy: Policy = Random()
    if "most viewed" in name:  # RecoGym's agent never forgets a view
        policy, settings = MostViewed(settings.get("items", 10)), settings | {"views": 400}
    ours = torch.tensor([lives(policy, 1000 + c, 250, **settings) for c in range(catalogues)]).double()
    mean, error = ours.mean(0).tolist(), (ours.std(0) / catalogues**0.5).tolist()
    for what, mine, my_error in zip(("rate", "events", "views"), mean, error, strict=True):
        theirs, half = getattr(RECOGYM[name], what)
        allowed = 3 * math.hypot(my_error, half / 1.96)
        print(f"{name}: {what} {mine:.5g} ± {1.96 * my_error:.2g}, RecoGym {theirs:.5g} ± {half:.2g}")
        assert abs(mine - theirs) < allowed, (what, mine, theirs, allowed)
        assert allowed < 0.25 * theirs  # the comparison could fail


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dims": 0}, "dims is 0"),
        ({"organic_signal": 1.5}, "organic_signal is 1.5"),
        ({"organic_to_bandit": 0.0}, "organic_to_bandit is 0.0"),
        ({"organic_to_bandit": 0.995}, r"organic_to_bandit \+ leave_organic is 1.005"),
        ({"bandit_to_organic": 1.0}, r"bandit_to_organic \+ leave_bandit is 1.01"),
        ({"link": (1.0, 2.0)}, "link has 2 values"),
        ({"views": 0}, "views is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        OrganicBanditSpec(**settings)
