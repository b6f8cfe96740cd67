"""Exposure: who is shown how much. These describe a whole market: they are no means over users."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.errors import BadInput


def exposure(
    slate: Int[Tensor, "round slot"], n_items: int, attention: Float[Tensor, " slot"] | None = None
) -> Float[Tensor, " item"]:
    """Return how often each item was shown, float64; or the attention it got, given that of each slot."""
    if attention is None:
        return torch.bincount(slate.reshape(-1), minlength=n_items).double()
    weight = attention.double().to(slate.device).expand(slate.shape).reshape(-1)
    return torch.bincount(slate.reshape(-1), weights=weight, minlength=n_items)


def gini(amount: Float[Tensor, " item"]) -> float:
    """Return the Gini index of what each item got.

    G = Σ_i (2i - n - 1) x_(i) / (n Σ x), x sorted upward: half the mean absolute difference of two items
    drawn with replacement, over the mean (Gini 1912). 0 where all items have the same, (n - 1) / n where
    one item has everything. Items that got nothing count.

    Raises:
        BadInput: if an amount is negative or nobody got anything.
    """
    x = amount.double().sort().values
    if bool((x[:1] < 0).any()):
        raise BadInput(f"a Gini index is of amounts of at least 0, not {float(x[0])}")
    total, n = float(x.sum()), len(x)
    if total == 0:
        raise BadInput("a Gini index of nothing is not defined: no item was shown")
    rank = torch.arange(1, n + 1, dtype=torch.float64, device=x.device)
    return float(((2 * rank - n - 1) * x).sum()) / (n * total)


def per_provider(shown: Float[Tensor, " item"], provider: Int[Tensor, " item"]) -> Float[Tensor, " provider"]:
    """Return each provider's exposure in fair shares: its share of the impressions over that of the items.

    Args:
        shown: how often each item was shown.
        provider: who supplies each item, 0 … G - 1; every provider has an item.

    Raises:
        BadInput: if nothing was shown, or a provider has no item.
    """
    items = torch.bincount(provider).double()
    if bool((items == 0).any()):
        raise BadInput(f"provider {int((items == 0).nonzero()[0])} has no items, so it has no fair share")
    if float(shown.sum()) <= 0:
        raise BadInput("exposure per provider of nothing is not defined: no item was shown")
    mine = torch.zeros_like(items).scatter_add_(0, provider, shown.double())
    return (mine / mine.sum()) / (items / items.sum())


def coverage(shown: Float[Tensor, " item"]) -> float:
    """Return the share of the catalogue that was shown at least once."""
    return float((shown > 0).double().mean())


def entropy(amount: Float[Tensor, " item"]) -> float:
    """Return Shannon's entropy -Σ p ln p of the items' shares, in nats: ln n where all have the same.

    RecBole divides it by the number of items that were shown at all; we do not, because showing one more
    item, once, then lowers it.

    Raises:
        BadInput: if an amount is negative or nobody got anything.
    """
    x = amount.double()
    if bool((x < 0).any()) or float(x.sum()) <= 0:
        raise BadInput("an entropy of exposure needs amounts of at least 0 that are not all 0")
    return float(torch.special.entr(x / x.sum()).sum())


def tail(popularity: Float[Tensor, " item"], share: float | int) -> Float[Tensor, " item"]:
    """Return 1 for the least popular items, `share` of the catalogue (rounded down, at least one), else 0.

    Equally popular items at the border share what is left: the mean over their orders, as everywhere.

    Raises:
        BadInput: for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise BadInput(f"a tail is a share of the items above 0 and at most 1, not {share}")
    ordered = popularity.sort().values
    size = max(1, int(len(popularity) * share))
    border = ordered[size - 1]
    below, equal = popularity < border, popularity == border
    return below + equal.double() * (size - below.sum()) / equal.sum()


def drift(before: Float[Tensor, " item"], after: Float[Tensor, " item"]) -> float:
    """Return the total-variation distance between two popularity shares: ½ Σ |p_i - q_i|, in [0, 1].

    It is the share of the popularity that moved from one item to another; amounts are normalised first.

    Raises:
        BadInput: if an amount is negative or a sum is zero.
    """
    shares = []
    for name, x in (("before", before.double()), ("after", after.double())):
        if bool((x < 0).any()) or float(x.sum()) <= 0:
            raise BadInput(f"popularity {name} has no shares: amounts are at least 0 and not all 0")
        shares.append(x / x.sum())
    return 0.5 * float((shares[0] - shares[1]).abs().sum())
