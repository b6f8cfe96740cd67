"""Each policy against what it says it does."""

from dataclasses import replace

import pytest
import torch

from simlab.context import Context
from simlab.errors import BadInput
from simlab.policies import greedy as greedy_module
from simlab.policies.epsilon import Epsilon
from simlab.policies.greedy import Greedy, scores
from simlab.policies.popularity import Popularity
from simlab.policies.random import Random
from simlab.policies.softmax import Softmax
from simlab.policies.softmax_popularity import SoftmaxPopularity
from simlab.rankers.mf import MF
from simlab.seeds import Seed
from tests.contracts.policies import scene, slates
from tests.contracts.rankers import make


def test_random_is_even_over_what_is_allowed() -> None:
    c = scene()
    d = Random().distribution(c, 2)
    pair = torch.tensor([[0, 2]]).expand(8, 2)
    chance = d.log_prob(pair).exp()
    torch.testing.assert_close(chance[:3], torch.full((3,), 1 / 12, dtype=torch.float64))
    torch.testing.assert_close(chance[3:], torch.full((5,), 1 / 20, dtype=torch.float64))


def test_popularity_sorts_and_shares_ties() -> None:
    c = scene()
    assert c.popularity is not None
    d = Popularity().distribution(c, 3)
    shown = d.sample(Seed(0).torch())
    values = c.popularity.gather(1, shown)
    assert bool((values.diff(dim=1) <= 0).all())
    # Row 4 has no popularity at all: all 60 slates are equally likely. Row 3 has one possible slate.
    assert d.log_prob(shown).exp()[3:5].tolist() == pytest.approx([1, 1 / 60])
    with pytest.raises(BadInput, match="policy popularity needs a context with popularity"):
        Popularity().distribution(replace(c, popularity=None), 3)


def test_greedy_is_the_ranker_sorted() -> None:
    c, ranker = scene(), make(MF)
    d = Greedy(ranker).distribution(c, 3)
    with torch.no_grad():
        best = ranker(c).masked_fill(~c.mask, -torch.inf).topk(3, dim=1).indices
    assert torch.equal(d.sample(Seed(1).torch()), best)
    assert d.log_prob(best).tolist() == [0.0] * 8


def test_softmax_in_the_first_slot_is_a_softmax() -> None:
    c, ranker = scene(), make(MF)
    for temperature in (0.2, 1.0, 7.0):
        first = Softmax(ranker, temperature).distribution(c, 3).slot_marginals()[:, 0]
        with torch.no_grad():
            truth = (ranker(c) / temperature).masked_fill(~c.mask, -torch.inf).softmax(1)
        torch.testing.assert_close(first.float(), truth, atol=1e-6, rtol=1e-5)


def test_softmax_cools_down_to_greedy() -> None:
    c, ranker = scene(), make(MF)
    best = Greedy(ranker).distribution(c, 2).mode()
    cold = Softmax(ranker, 1e-4).distribution(c, 2)
    assert bool((cold.log_prob(best).exp() > 0.999).all())


def test_softmax_popularity_in_the_first_slot_is_a_share() -> None:
    c = scene()
    assert c.popularity is not None
    first = SoftmaxPopularity(sharpness=1.0, floor=0.2).distribution(c, 2).slot_marginals()[:, 0]
    allowed = c.popularity * c.mask
    n = c.mask.sum(1, keepdim=True)
    share = 0.8 * allowed / allowed.sum(1, keepdim=True).clamp(min=1e-30) + 0.2 / n
    truth = torch.where(allowed.sum(1, keepdim=True) > 0, share, 1 / n).masked_fill(~c.mask, 0.0)
    torch.testing.assert_close(first.float(), truth, atol=1e-6, rtol=1e-5)
    flat = SoftmaxPopularity(sharpness=0.0).distribution(c, 2).slot_marginals()[:, 0]
    torch.testing.assert_close(flat.float(), c.mask / n, atol=1e-6, rtol=1e-5)


def test_epsilon_mixes_whole_slates() -> None:
    c, base = scene(), Greedy(make(MF))
    mixed = Epsilon(base, 0.25).distribution(c, 3)
    for s in slates(c)[::5]:
        columns = s.expand(8, -1)
        parts = [p.distribution(c, 3).log_prob(columns).double().exp() for p in (base, Random())]
        torch.testing.assert_close(mixed.log_prob(columns).exp(), 0.75 * parts[0] + 0.25 * parts[1])
    assert not Epsilon(base).privileged

    class Knowing(Greedy):
        privileged = True

    assert Epsilon(Knowing(make(MF))).privileged


def test_scoring_leaves_the_ranker_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    c, ranker = scene(), make(MF)
    ranker.train()
    whole = scores(ranker, c)
    assert ranker.training
    assert not whole.requires_grad
    assert not scores(ranker.eval(), c).requires_grad
    assert not ranker.training
    monkeypatch.setattr(greedy_module, "CELLS", 15)  # three rows of five candidates at once
    torch.testing.assert_close(scores(ranker, c), whole)
    shared = Context.of(
        c.user,
        30,
        features=c.features,
        history=c.history,
        feedback=c.feedback,
        categories=c.categories,
    )
    torch.testing.assert_close(scores(ranker, shared), ranker.score_all(c).detach())


def test_a_score_that_is_no_number_is_named() -> None:
    c, ranker = scene(), make(MF)
    item = int(c.candidates[2, 4])
    with torch.no_grad():
        ranker.get_parameter("items.ids.weight")[item] = torch.nan
    row = int((c.candidates == item).any(1).nonzero()[0])
    with pytest.raises(
        BadInput, match=f"ranker mf gives row {row}, item {item} a score that is not a number"
    ):
        Greedy(ranker).distribution(c, 2)


@pytest.mark.parametrize(
    ("make_it", "sentence"),
    [
        (lambda: Softmax(make(MF), 0.0), "temperature is above 0, not 0.0"),
        (lambda: Epsilon(Random(), 1.5), r"epsilon is a probability in \[0, 1\], not 1.5"),
        (lambda: SoftmaxPopularity(-1.0), "sharpness is at least 0, not -1.0"),
        (lambda: SoftmaxPopularity(floor=0.0), r"floor is in \(0, 1\], not 0.0"),
        (lambda: Random().distribution(scene(), 5), "row 0 has 4 candidates, but the slate has 5 slots"),
    ],
)
def test_refusals(make_it: object, sentence: str) -> None:
    assert callable(make_it)
    with pytest.raises(BadInput, match=sentence):
        make_it()
