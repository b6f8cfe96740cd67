"""Fairness among items: whether providers get the attention that their items merit."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from simlab.errors import BadInput
from simlab.metrics.means import PerUser, linear, per_user
from simlab.statistics import Summary


def log_attention(slots: int) -> Float[Tensor, " slot"]:
    """Return 1 / log2(1 + rank): the attention that a slot gets if NDCG is right about it."""
    return 1 / torch.arange(2, slots + 2, dtype=torch.float64).log2()


def geometric_attention(slots: int, patience: float | int) -> Float[Tensor, " slot"]:
    """Return patience^(rank - 1): the user goes on to the next slot with this chance (Moffat and Zobel 2008).

    Raises:
        BadInput: for a patience outside (0, 1].
    """
    if not 0 < patience <= 1:
        raise BadInput(f"patience is above 0 and at most 1, not {patience}")
    return float(patience) ** torch.arange(slots, dtype=torch.float64)


@dataclass(frozen=True)
class PerProvider:
    """What each provider gets over what it should get; 1 is fair.

    Attributes:
        value: of each provider.
        influence: what each user's slate adds to it to first order; its mean over users is 0.
    """

    value: Float[Tensor, " provider"]
    influence: Float[Tensor, "user provider"]

    def summary(self, provider: int, level: float = 0.95, groups: ArrayLike | None = None) -> Summary:
        """Return one provider's value with its standard error (delta method) and interval.

        Raises:
            BadInput: for fewer than two users or groups.
        """
        return linear(float(self.value[provider]), self.influence[:, provider], level, groups)

    def ratio(self, first: int, second: int, level: float = 0.95, groups: ArrayLike | None = None) -> Summary:
        """Return the value of one provider over that of another; 1 is fair.

        With merit this is the disparate treatment ratio of Singh and Joachims (2018), section 4.2; with
        clicks as attention the disparate impact ratio, section 4.3; without merit, demographic parity as a
        ratio, section 4.1.

        Raises:
            BadInput: if the second got nothing.
        """
        a, b = self.value[first], self.value[second]
        if float(b) <= 0:
            raise BadInput(f"provider {second} got nothing, so it has no ratio")
        ratio = a / b
        influence = (self.influence[:, first] - ratio * self.influence[:, second]) / b
        return linear(float(ratio), influence, level, groups)


def exposure_parity(
    slate: Int[Tensor, "user slot"],
    provider: Int[Tensor, " item"],
    attention: Float[Tensor, " slot"] | Float[Tensor, "user slot"] | None = None,
    merit: Float[Tensor, " item"] | Float[Tensor, "user item"] | None = None,
) -> PerProvider:
    """Return each provider's share of the attention over its share of the merit.

    (Σ of g's attention / Σ of all) / (Σ of g's merit / Σ of all), sums over users: up to a factor that all
    providers share, the exposure over utility of Singh and Joachims (2018), "Fairness of exposure in
    rankings". Without merit every item merits the same, which is demographic parity
    (`simlab.metrics.exposure.per_provider` is this without attention and errors).

    Args:
        slate: what was shown.
        provider: who supplies each item, 0 … G - 1.
        attention: what a slot gets (`log_attention`), or each user gave it (clicks); all the same by default.
        merit: of each item, or of each item for each user (its relevance); at least 0.

    Raises:
        BadInput: for an unknown item, attention or merit below 0, no attention at all, or a provider without
            merit.
    """
    n_users, n_items = len(slate), len(provider)
    if bool(((slate < 0) | (slate >= n_items)).any()):
        raise BadInput(f"a slate shows an item that is none of the {n_items}")
    given = torch.ones_like(slate, dtype=torch.float64)
    given = given if attention is None else given * attention.to(given)
    worth = given.new_ones(1, n_items) if merit is None else merit.to(given).reshape(-1, n_items)
    if bool((given < 0).any()) or bool((worth < 0).any()):
        raise BadInput("attention and merit are at least 0")
    size = int(provider.max()) + 1
    got = given.new_zeros(n_users, size).scatter_add_(1, provider[slate], given)
    fair = given.new_zeros(len(worth), size).scatter_add_(1, provider.expand(len(worth), -1), worth)
    all_got, all_fair = got.sum(1, keepdim=True), fair.sum(1, keepdim=True)
    if float(all_got.sum()) <= 0:
        raise BadInput("exposure of nothing is not defined: no slot gets attention")
    share, due = got.mean(0) / all_got.mean(), fair.mean(0) / all_fair.mean()
    if bool((due <= 0).any()):
        raise BadInput(f"provider {int((due <= 0).nonzero()[0])} has no merit, so it has no fair share")
    value = share / due
    of_share = (got - share * all_got) / all_got.mean()
    of_due = (fair - due * all_fair) / all_fair.mean()
    return PerProvider(value, (of_share - value * of_due) / due)


@dataclass(frozen=True)
class ExpectedExposure:
    """How far the attention that items get is from what equally relevant items would equally get.

    Attributes:
        loss: |got - due|² = disparity - 2 relevance + |due|²; 0 is fair.
        disparity: |got|², large where few items take all.
        relevance: got · due, large where relevant items are seen.
    """

    loss: PerUser
    disparity: PerUser
    relevance: PerUser


def expected_exposure(
    got: Float[Tensor, "user item"],
    relevance: Float[Tensor, "user item"],
    attention: Float[Tensor, " slot"],
) -> ExpectedExposure:
    """Return the expected exposure loss and its two parts.

    Source: Diaz et al. (2020), "Evaluating stochastic rankings with expected exposure", eq. 2 to 5. Items of
    the same relevance are due the same: the mean attention of the slots that they take in the ideal ranking.
    Users for whom nothing is relevant are skipped.

    Args:
        got: the expected attention of each item: `attention_of` scores, or the mean over sampled slates.
        relevance: at least 0; grades are compared with one another only by order.
        attention: of each slot; none beyond the last.

    Raises:
        BadInput: for a relevance that is not at least 0.
    """
    if not bool((relevance >= 0).all()):
        raise BadInput("expected exposure needs relevance of at least 0")
    due, got = attention_of(relevance, attention), got.double()
    counts = (relevance > 0).any(1)
    return ExpectedExposure(
        per_user((got - due).square().sum(1), counts),
        per_user(got.square().sum(1), counts),
        per_user((got * due).sum(1), counts),
    )


def attention_of(
    scores: Float[Tensor, "user item"], attention: Float[Tensor, " slot"]
) -> Float[Tensor, "user item"]:
    """Return the expected attention of each item ranked by score, equal scores in random order.

    An item gets the mean attention of the slots that its group of equal scores takes; none where the score
    is -inf.

    Raises:
        BadInput: for a score that is NaN.
    """
    if bool(scores.isnan().any()):
        raise BadInput("attention needs scores that are numbers")
    n = scores.shape[1]
    ordered, order = scores.detach().sort(dim=1, descending=True)
    slot = torch.arange(n, device=scores.device).expand_as(order).contiguous()
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = (slot * fresh).cummax(1).values
    ends = torch.ones_like(fresh)
    ends[:, :-1] = fresh[:, 1:]
    last = (slot + 1).masked_fill(~ends, n).flip(1).cummin(1).values.flip(1)
    given = attention.double().to(scores.device)[:n]
    weight = torch.nn.functional.pad(given, (0, n - len(given)))
    total = torch.nn.functional.pad(weight.cumsum(0), (1, 0))
    mean = (total[last] - total[first]) / (last - first)
    mean = mean.masked_fill(ordered == -torch.inf, 0.0)
    return torch.zeros_like(mean).scatter_(1, order, mean)
