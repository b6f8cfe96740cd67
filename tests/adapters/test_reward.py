"""Reward models: chances and values, right on average at each position."""

from dataclasses import replace

import pytest
import torch

from simlab.adapters.reward import Reward
from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers.contract import Ranker, Sizes
from simlab.rankers.mf import MF
from simlab.rankers.neumf import NeuMF
from simlab.rankers.popularity import Popularity
from simlab.seeds import Seed
from tests.rankers.worlds import planted

EXAMINED = torch.tensor([1.0, 0.6, 0.3])


def mf(sizes: Sizes) -> Ranker:
    return MF.build(sizes, {"dim": 4, "past": 0}, seed=Seed(1))


def clicks() -> Log:
    return planted(users=50, items=20, rounds=20, slots=3, examination=EXAMINED).log


def test_it_is_the_ranker_s_chance_times_a_factor() -> None:
    """Each factor is the clicks of its position over the chances there, and the mean is right at each."""
    log = clicks()
    model = Reward.fit(mf, log, Seed(2))
    assert log.click is not None
    q = model.of_log(log)
    assert q.mean(0).tolist() == pytest.approx(log.click.mean(0).tolist(), rel=1e-9)
    ratio = model.slot / model.slot[0]
    assert ratio.tolist() == pytest.approx(EXAMINED.tolist(), abs=0.12)
    context = log.context()
    table = model.predict(context, torch.tensor([[2, 0]]).expand(len(log), -1))
    assert table.shape == (len(log), 2, 20)
    with torch.no_grad():
        chance = model.ranker.score(context).double().sigmoid()
    assert torch.equal(table[:, 0], model.slot[2] * chance)
    assert torch.equal(table[:, 1], model.slot[0] * chance)
    rows = torch.arange(len(log))
    assert torch.allclose(table[rows, 1, log.slate[:, 0]], q[:, 0], atol=1e-6)


def test_positions_are_weighted_as_the_rows_are() -> None:
    """Rows of weight 0 are as if they were not there, also in the factors."""
    log = clicks()
    half = (torch.arange(len(log)) % 2).double()
    counting = lambda sizes: Popularity.build(sizes, {"by": "rate"})  # noqa: E731
    weighed, cut = (
        Reward.fit(counting, log, Seed(2), weight=half),
        Reward.fit(counting, log.rows(half > 0), Seed(2)),
    )
    assert torch.allclose(weighed.slot, cut.slot)
    assert torch.allclose(weighed.of_log(log), cut.of_log(log), atol=1e-6)
    assert not torch.allclose(weighed.slot, Reward.fit(counting, log, Seed(2)).slot)


def minutes(scale: float, centre: float) -> tuple[Log, torch.Tensor]:
    """Single items: reward = centre + scale (taste of the feature + item / 5 - position / 2) + noise."""
    g = torch.Generator().manual_seed(3)
    n = 4000
    x, item, place = (
        torch.randn(n, 1, generator=g),
        torch.randint(0, 5, (n, 1), generator=g),
        torch.randint(0, 3, (n,), generator=g),
    )
    mean = centre + scale * (x[:, 0] * (item[:, 0] - 2) + item[:, 0] / 5 - place / 2)
    log = Log(
        user=torch.arange(n),
        slate=item,
        propensity=torch.full((n,), 0.2),
        reward=(mean + 0.1 * scale * torch.randn(n, generator=g)).double(),
        n_items=5,
        features=x,
        position=place,
    )
    return log, mean.double()


@pytest.mark.parametrize(("scale", "centre"), [(1.0, 0.0), (1000.0, 5000.0)])
def test_values_are_learned_at_any_scale(scale: float, centre: float) -> None:
    log, mean = minutes(scale, centre)
    new = lambda sizes: mf(replace(sizes, n_users=0))  # noqa: E731
    model = Reward.fit(new, log, Seed(4), link="identity")
    q = model.of_log(log)[:, 0]
    assert float((q - mean).square().mean() / mean.var()) < 0.05
    for place in range(3):
        here = log.position == place
        assert float(q[here].mean()) == pytest.approx(
            float(log.reward[here].mean()), rel=1e-6, abs=1e-6 * scale
        )
    assert (model.slot.diff() / scale).tolist() == pytest.approx([-0.5, -0.5], abs=0.05)


@pytest.mark.slow
def test_a_family_that_draws_negatives_learns_from_what_was_shown_all_the_same() -> None:
    """NeuMF's own recipe would take every shown item for a click: chances would be far above the truth."""
    log = clicks()
    assert NeuMF.recipe["negatives"] > 0
    model = Reward.fit(lambda sizes: NeuMF.build(sizes, {"dim": 4, "past": 0, "layers": (8,)}), log, Seed(5))
    assert model.slot[0].item() == pytest.approx(1 / 0.66, rel=0.35)  # the mean of the factors is near 1
    assert float(model.slot.mean()) == pytest.approx(1, abs=0.1)


def test_histories_tell_clicks_in_both() -> None:
    """The reward of a value's history counts by its sign, when fitted as when asked."""
    g = torch.Generator().manual_seed(6)
    n = 2000
    item = torch.randint(0, 4, (n, 1), generator=g)
    liked = torch.randn(n, generator=g)
    before = torch.cat([torch.zeros(1), (liked[:-1] > 0).float() * (item[:-1, 0] == 1)])
    log = Log(
        user=torch.arange(n) // 20,
        slate=item,
        propensity=torch.full((n,), 0.25),
        reward=liked.double() + 5 * before.double(),
        n_items=4,
        step=torch.arange(n) % 20,
    )
    make = lambda sizes: MF.build(replace(sizes, n_users=0), {"dim": 4, "past": 1}, seed=Seed(1))  # noqa: E731
    model = Reward.fit(make, log, Seed(7), link="identity")
    first = log.step == 0
    left = (log.reward - model.of_log(log)[:, 0])[~first]
    assert float(left.var()) < 0.6 * float(log.reward[~first].var())


def test_refusals() -> None:
    log = clicks()
    odd = replace(log, click=2 * log.click, reward=2 * log.reward) if log.click is not None else log
    with pytest.raises(BadInput, match="needs rewards of 0 and 1"):
        Reward.fit(mf, odd, Seed(0))
    with pytest.raises(BadInput, match="link is sigmoid or identity, not logit"):
        Reward.fit(mf, log, Seed(0), link="logit")
    with pytest.raises(BadInput, match="ranker popularity counts clicks, so it learns no values"):
        Reward.fit(lambda sizes: Popularity.build(sizes), odd, Seed(0), link="identity")
