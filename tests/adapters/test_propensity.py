"""Propensity models: a softmax logger is found as well as its likelihood allows."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from simlab.adapters._descent import Descent
from simlab.adapters.propensity import Propensity
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policy import Policy
from simlab.rankers.bias import Bias
from simlab.rankers.contract import Ranker, Sizes
from simlab.rankers.mf import MF
from simlab.rankers.popularity import Popularity
from simlab.seeds import Seed
from simlab.slates import PlackettLuce

ITEMS, FEATURES = 5, 2
WHOLE = Descent(
    epochs=200, batch_size=1 << 20, learning_rate=0.03, weight_decay=0.0, validation=0.0, min_steps=1
)
"""The likelihood's maximum, without early stopping."""


def truth(x: Tensor) -> Tensor:
    """The logger's logits: linear in the features for each item."""
    g = torch.Generator().manual_seed(1)
    w, b = torch.randn(FEATURES, ITEMS, generator=g), 0.5 * torch.randn(ITEMS, generator=g)
    return x @ w.to(x.dtype) + b.to(x.dtype)


def logged(rows: int, slots: int = 1, seed: int = 2, some: bool = False) -> tuple[Log, PlackettLuce]:
    """Rounds of the logger, and its distribution; with `some`, each round has three candidates of its own."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, FEATURES, generator=g)
    candidates = torch.rand(rows, ITEMS, generator=g).argsort(1)[:, :3] if some else None
    if candidates is not None:
        candidates[::2, 2] = -1  # two candidates in every other round
    logits, mask = truth(x.double()), None
    if candidates is not None:
        logits, mask = logits.gather(1, candidates.clamp(min=0)), candidates >= 0
    law = PlackettLuce(logits, slots, mask)
    columns = law.sample(g)
    slate = columns if candidates is None else candidates.gather(1, columns)
    log = Log(
        user=torch.arange(rows),
        slate=slate,
        propensity=torch.full((rows,), 0.5, dtype=torch.float64),
        reward=torch.zeros(rows),
        n_items=ITEMS,
        features=x,
        candidates=candidates,
    )
    return log, law


def mf(seed: int = 3) -> Ranker:
    """Any linear logits: two factors and a bias suffice for two features."""
    return MF.build(Sizes(0, ITEMS, FEATURES), {"dim": FEATURES, "past": 0, "spread": 0.3}, seed=Seed(seed))


@pytest.mark.parametrize(("slots", "some"), [(1, False), (1, True), (3, False)])
def test_a_softmax_logger_is_found_to_within_sampling_error(slots: int, some: bool) -> None:
    """At the maximum, 2 N · mean KL(truth ‖ model) is χ² with a degree for each free parameter (Wilks 1938).

    Slates of K rank K choices with one table, so they know it better, never worse.
    """
    log, law = logged(2000, slots, some=some)
    model = Propensity.fit(mf(), log, Seed(4), how=WHOLE)
    q = model.probabilities(log.context())
    p = law.slot_marginals()[:, 0]
    free = (FEATURES + 1) * (ITEMS - 1)
    divergence = 2 * len(log) * float(torch.where(p > 0, p * (p / q).log(), 0).sum(1).mean())
    assert divergence < free + 4 * (2 * free) ** 0.5
    assert torch.allclose(q.sum(1), torch.ones(len(log), dtype=torch.float64))
    flat = p.where(p > 0, 0) * 0 + (p > 0) / (p > 0).sum(1, keepdim=True)
    assert 2 * len(log) * float(torch.where(p > 0, p * (p / flat).log(), 0).sum(1).mean()) > 20 * free


def test_what_could_not_be_shown_has_no_chance() -> None:
    log, _ = logged(500, some=True)
    model = Propensity.fit(mf(), log, Seed(4), how=replace(WHOLE, epochs=5))
    context = log.context()
    q = model.probabilities(context)
    assert bool((q[~context.mask] == 0).all())
    assert bool((q[context.mask] > 0).all())
    assert log.candidates is not None
    alone = replace(log, candidates=log.slate)
    assert torch.equal(model.of_log(alone), torch.ones(500, 1, dtype=torch.float64))


def test_slates_are_drawn_without_replacement() -> None:
    """P(slate) is a product of softmaxes over what is left; P(item at slot) sums over what may be above."""
    log, _ = logged(40, slots=2)
    model = Propensity(mf().eval(), temperature=0.7)
    with torch.no_grad():
        logits = model.ranker.score(log.context()).double() / 0.7
    whole, slot = model.of_slates(log), model.of_log(log)
    for row in range(40):
        a, b = log.slate[row].tolist()
        p = logits[row].softmax(0)
        assert float(whole[row]) == pytest.approx(float(p[a] * p[b] / (1 - p[a])), rel=1e-9)
        second = sum(float(p[i] * p[b] / (1 - p[i])) for i in range(ITEMS) if i != b)
        assert slot[row].tolist() == pytest.approx([float(p[a]), second], rel=1e-9)
    filled = model.filled(log)
    assert torch.equal(filled.propensity, whole)
    assert filled.slot_propensity is not None
    assert torch.equal(filled.slot_propensity, slot)
    assert isinstance(model, Policy)
    columns = log.context().columns(log.slate)
    assert torch.allclose(model.distribution(log.context(), 2).log_prob(columns).exp(), whole)


def test_the_temperature_mends_a_model_that_is_too_sure() -> None:
    """Fitted to a handful of rows without end, it is too sure: more than 1, and a better likelihood."""
    log, _ = logged(300)
    fresh, law = logged(3000, seed=9)
    how = Descent(epochs=60, learning_rate=0.1, weight_decay=0.0, validation=0.4, patience=60, min_steps=2)
    wide = [MF.build(Sizes(300, ITEMS, FEATURES), {"dim": 8, "past": 0}, seed=Seed(3)) for _ in range(2)]
    loose = Propensity.fit(wide[0], log, Seed(4), how=how, calibrate=False)
    wide[1].load_state_dict({k: 6 * v for k, v in wide[0].state_dict().items()})
    assert loose.temperature == 1.0
    sure = Propensity(wide[1].eval())
    mended = Propensity.fit(_Frozen.of(wide[1]), log, Seed(4), how=how)
    p = law.slot_marginals()[:, 0]

    def cost(model: Propensity) -> float:
        return -float((p * model.probabilities(fresh.context()).log()).sum(1).mean())

    assert mended.temperature > 2
    assert cost(mended) < cost(sure) - 0.1


class _Frozen(MF):
    """A factorisation that is not trained any more."""

    @property
    def trainable(self) -> bool:
        return False

    @classmethod
    def of(cls, ranker: Ranker) -> "_Frozen":
        copy = cls(ranker.sizes, ranker.spec)
        copy.load_state_dict(ranker.state_dict())
        return copy


def test_a_counter_counts_what_was_shown() -> None:
    """A logger that looks at nobody: the model is its frequencies, when the ranker says log counts."""
    g = torch.Generator().manual_seed(5)
    share = torch.tensor([0.5, 0.3, 0.1, 0.06, 0.04])
    slate = torch.multinomial(share, 5000, replacement=True, generator=g).unsqueeze(1)
    log = replace(logged(5000)[0], slate=slate, features=None)
    fitted = Propensity.fit(Bias.build(Sizes(0, ITEMS)), log, Seed(6), how=WHOLE)
    counts = torch.bincount(slate[:, 0], minlength=ITEMS) / 5000
    q = fitted.probabilities(log.context())[0]
    assert q.tolist() == pytest.approx(counts.tolist(), abs=2e-3)
    counter = Propensity.fit(Popularity.build(Sizes(0, ITEMS)), log, Seed(6))
    order = counter.probabilities(log.context())[0].argsort(descending=True)
    assert order.tolist() == [0, 1, 2, 3, 4]


def test_weights_and_seeds() -> None:
    log, _ = logged(400)
    how = replace(WHOLE, epochs=60, learning_rate=0.1)
    one = (log.slate[:, 0] == 1).double() * 100 + 1
    plain, heavy = (Propensity.fit(mf(), log, Seed(4), weight=w, how=how) for w in (None, one))
    context = log.context()
    assert (
        float(heavy.probabilities(context)[:, 1].mean())
        > 0.5
        > float(plain.probabilities(context)[:, 1].mean())
    )
    again = Propensity.fit(mf(), log, Seed(4), how=how)
    assert torch.equal(again.probabilities(context), plain.probabilities(context))
    short = Descent(epochs=2)
    other = [Propensity.fit(mf(), log, Seed(s), how=short).probabilities(context) for s in (4, 5)]
    assert not torch.equal(other[0], other[1])


def test_refusals() -> None:
    with pytest.raises(BadInput, match="temperature is above 0, not 0"):
        Propensity(mf(), 0)
    with pytest.raises(BadInput, match="patience is at least 1, not 0"):
        Descent(patience=0)
    with pytest.raises(BadInput, match="weight_decay is at least 0, not -1"):
        Descent(weight_decay=-1)
