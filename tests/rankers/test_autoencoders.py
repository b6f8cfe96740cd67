"""AutoRec and MultVAE against their equations, and what they are trained on."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers.autorec import AutoRec
from simlab.rankers.contract import Ranker, Sizes
from simlab.rankers.multvae import MultVAE
from simlab.seeds import Seed
from simlab.training.fit import FitSettings, fit
from tests.contracts.rankers import SIZES, catalog, context, make, near
from tests.rankers.test_families import of_the_item

FAMILIES = (AutoRec, MultVAE)


def clicked(c: Context, row: int) -> list[int]:
    """Return the distinct items that a row's user clicked."""
    pairs = zip(c.history[row].tolist(), c.feedback[row].tolist(), strict=True)
    return sorted({i for i, f in pairs if f > 0 and i >= 0})


def said(ranker: AutoRec | MultVAE, c: Context, row: int) -> Tensor:
    """Return W s + Σ_c e_c, written out."""
    assert ranker.side.features is not None
    assert c.categories is not None
    vector: Tensor = ranker.side.features.weight @ c.features[row]
    for table, value in zip(ranker.side.categories, c.categories[row].tolist(), strict=True):
        if value >= 0:
            vector = vector + table.get_parameter("weight")[value]
    return vector


def test_autorec_is_its_equation() -> None:
    ranker, c = make(AutoRec), context()
    assert isinstance(ranker, AutoRec)
    scores = ranker(c)
    for row in (0, 1, 5):
        into = ranker.clicked.bias + said(ranker, c, row)
        for i in clicked(c, row):
            into = into + ranker.clicked.weight[:, i]
        hidden = 1 / (1 + (-into).exp())
        for column in (0, 6):
            item = of_the_item(ranker.items, int(c.candidates[row, column]))
            near(scores[row, column], item[:-1] @ hidden + item[-1])


def test_multvae_is_its_equation_at_the_mean() -> None:
    ranker, c = make(MultVAE), context()
    assert isinstance(ranker, MultVAE)
    scores, dim = ranker(c), ranker.spec.dim
    for row in (0, 1, 5):
        mine = clicked(c, row)
        into = ranker.clicked.bias + said(ranker, c, row)
        for i in mine:
            into = into + ranker.clicked.weight[:, i] / len(mine) ** 0.5
        mean = ranker.latent.weight[:dim] @ into.tanh() + ranker.latent.bias[:dim]
        hidden = (ranker.decode.weight @ mean + ranker.decode.bias).tanh()
        for column in (0, 6):
            item = of_the_item(ranker.items, int(c.candidates[row, column]))
            near(scores[row, column], item[:-1] @ hidden + item[-1])


def test_the_penalty_is_the_divergence_and_rises_to_beta() -> None:
    c = context()
    ranker = MultVAE.build(SIZES, {"anneal": 4, "beta": 0.3, "dropout": 0.0}, catalog())
    assert isinstance(ranker, MultVAE)
    hot = torch.zeros(8, SIZES.n_items)
    for row in range(8):
        hot[row, clicked(c, row)] = 1.0
    into = ranker.clicked(functional.normalize(hot)) + ranker.side(c.features, c.categories)
    mean, log_variance = ranker.latent(into.tanh()).chunk(2, dim=1)
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), prior).sum(1).mean()
    ranker.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for share in (0.25, 0.5, 0.75, 1.0, 1.0, 1.0):
            ranker(c)
            near(ranker.penalty(), 0.3 * share * expected)
    ranker.eval()
    ranker(c)
    assert float(ranker.penalty()) == 0
    assert int(ranker.steps) == 6  # only steps of training count


def test_training_draws_around_the_mean() -> None:
    """Over many draws of z, the latent noise has the standard deviation that the encoder says."""
    ranker = MultVAE.build(replace(SIZES, categories=()), {"dropout": 0.0, "dim": 3})
    assert isinstance(ranker, MultVAE)
    with torch.no_grad():
        ranker.latent.bias[3:] = torch.tensor([0.0, -2.0, -4.0])
        ranker.latent.weight[3:] = 0
        ranker.decode.weight.zero_()
        ranker.decode.weight[:3] = 0.01 * torch.eye(3)  # tanh is linear there
        ranker.decode.bias.zero_()
    c = context().rows(slice(0, 1))
    many = c.rows(torch.zeros(4000, dtype=torch.long))
    ranker.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = 100 * ranker.encode(many)[:, :3].detach()
    mean = 100 * ranker.eval().encode(c)[0, :3].detach()
    deviation = torch.tensor([0.0, -2.0, -4.0]).div(2).exp()
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.06, rtol=0)
    torch.testing.assert_close(drawn.std(0), deviation, atol=0, rtol=0.05)


def circles(users: int = 120) -> Log:
    """Return clicks of users who each stay in one of six groups of five items, and click four of them."""
    g = torch.Generator().manual_seed(0)
    group = torch.arange(users) % 6
    item = 5 * group.unsqueeze(1) + torch.rand(users, 5, generator=g).topk(4).indices
    n = 4 * users
    return Log(
        user=torch.arange(users).repeat_interleave(4),
        slate=item.reshape(-1, 1),
        propensity=torch.ones(n, dtype=torch.float64),
        reward=torch.ones(n, dtype=torch.float64),
        click=torch.ones(n, 1, dtype=torch.float64),
        step=torch.arange(4).repeat(users),
        n_items=30,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_recipe_finds_what_goes_together_for_new_users(family: type[Ranker]) -> None:
    ranker = family.build(Sizes(0, 30), {})
    settings = FitSettings.of(ranker, epochs=60, batch_size=32, validation=0.0)
    assert settings.unit == "user"
    fit(ranker, circles(), seed=Seed(0), settings=settings)
    history = torch.stack([5 * torch.arange(6), 5 * torch.arange(6) + 1], dim=1)
    new = Context.of(torch.arange(900, 906), 30, history=history, feedback=torch.ones(6, 2))
    with torch.no_grad():
        best = ranker.score_all(new).scatter(1, history, -torch.inf).topk(3).indices
    assert torch.equal(torch.div(best, 5, rounding_mode="floor"), torch.arange(6).unsqueeze(1).expand(6, 3))


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_last_items_count(family: type[Ranker]) -> None:
    ranker, c = family.build(SIZES, {"past": 2}, catalog()).eval(), context()
    near(ranker(c), ranker(replace(c, history=c.history[:, -2:], feedback=c.feedback[:, -2:])))
    assert not torch.allclose(ranker(c), ranker(replace(c, history=c.history.roll(1, 1))))


@pytest.mark.parametrize(
    ("family", "spec", "sentence"),
    [
        (AutoRec, {"past": 0}, "past of autorec is at least 1, not 0"),
        (AutoRec, {"dropout": 1.0}, "dropout of autorec is a share in [0, 1), not 1.0"),
        (MultVAE, {"past": 0}, "past of multvae is at least 1, not 0"),
        (MultVAE, {"dropout": -0.1}, "dropout of multvae is a share in [0, 1), not -0.1"),
        (MultVAE, {"anneal": 0}, "anneal of multvae is at least 1, not 0"),
        (MultVAE, {"beta": -1.0}, "beta of multvae is finite and at least 0, not -1.0"),
    ],
)
def test_refusals(family: type[Ranker], spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        family.build(SIZES, spec)
    assert str(caught.value) == sentence
