"""Slates beyond accuracy: how varied, how little known and how surprising what a user is shown is.

Each function gives a value for each user's slate, so that means come with their standard errors.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.context import PAD
from simlab.errors import BadInput
from simlab.metrics.means import PerUser, per_user


def ild(slate: Int[Tensor, "user slot"], vectors: Float[Tensor, "item dim"]) -> PerUser:
    """Return the intra-list distance: the mean of 1 - cosine over the pairs of a slate, in [0, 2].

    Source: Smyth and McClave (2001); 1 less the mean of Ziegler et al. (2005)'s similarity. A zero vector
    has cosine 0 with everything. Pairs are never listed: Σ_{i≠j} cos = |Σ x̂|² - Σ |x̂|².

    Raises:
        BadInput: for slates of fewer than two slots, or an item without a vector.
    """
    k = _pairs(slate)
    _known(slate, len(vectors))
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)[slate]
    together = unit.sum(1).square().sum(1) - unit.square().sum((1, 2))
    return per_user(1 - together / (k * (k - 1)))


def ild_of(slate: Int[Tensor, "user slot"], distance: Float[Tensor, "item item"]) -> PerUser:
    """Return the intra-list distance by given distances: their mean over the pairs of a slate.

    Args:
        slate: what was shown.
        distance: symmetric, 0 on the diagonal.

    Raises:
        BadInput: for slates of fewer than two slots, or an item without a distance.
    """
    k = _pairs(slate)
    _known(slate, len(distance))
    pairs = distance[slate.unsqueeze(2), slate.unsqueeze(1)].double()
    itself = pairs.diagonal(dim1=1, dim2=2).sum(1)
    return per_user((pairs.sum((1, 2)) - itself) / (k * (k - 1)))


def category_entropy(slate: Int[Tensor, "user slot"], category: Int[Tensor, "item value"]) -> PerUser:
    """Return Shannon's entropy -Σ p ln p of the categories of each slate, in nats.

    p_c is the category's share of the slate; an item of several categories is split equally among them, one
    of none is left out, and a slate of such items is skipped. 0: one category; ln n: n of them equally.

    Args:
        slate: what was shown.
        category: ids from 0, padded with -1 (`Field.values`).

    Raises:
        BadInput: for an item that is not in the catalogue.
    """
    _known(slate, len(category))
    size = int(category.max()) + 1 if category.numel() else 0
    of_slot = category[slate]
    there = of_slot > PAD
    mass = there / there.sum(2, keepdim=True).clamp(min=1).double()
    total = mass.new_zeros(len(slate), max(size, 1))
    total.scatter_add_(1, of_slot.clamp(min=0).flatten(1), mass.flatten(1))
    all_of_it = total.sum(1, keepdim=True)
    share = total / all_of_it.clamp(min=1)
    return per_user(torch.special.entr(share).sum(1), all_of_it[:, 0] > 0)


def novelty(slate: Int[Tensor, "user slot"], users: Float[Tensor, " item"], n_users: int) -> PerUser:
    """Return the mean self-information of the items shown, in bits: log2(n_users / users of the item).

    Source: Zhou et al. (2010), "Solving the apparent diversity-accuracy dilemma of recommender systems". An
    item that nobody used counts as one that a single user did (as in RecTools), for else it would be
    infinitely new.

    Args:
        slate: what was shown.
        users: how many users each item had in training.
        n_users: of how many.

    Raises:
        BadInput: for an item that is not in the catalogue, or with more users than there are.
    """
    _known(slate, len(users))
    if bool((users > n_users).any()):
        item = int((users > n_users).nonzero()[0])
        raise BadInput(f"item {item} has {float(users[item])} users of {n_users}")
    return per_user((n_users / users.double().clamp(min=1)).log2()[slate].mean(1))


def average_popularity(slate: Int[Tensor, "user slot"], popularity: Float[Tensor, " item"]) -> PerUser:
    """Return the mean popularity of the items shown, in its unit (Yin et al. 2012, of "long tail" lists).

    Raises:
        BadInput: for an item that is not in the catalogue.
    """
    _known(slate, len(popularity))
    return per_user(popularity.double()[slate].mean(1))


def tail_share(slate: Int[Tensor, "user slot"], tail: Float[Tensor, " item"]) -> PerUser:
    """Return the share of a slate that is from the long tail (Abdollahpouri et al. 2017: APLT).

    Args:
        slate: what was shown.
        tail: 1 for an item of the tail, else 0; `simlab.metrics.exposure.tail` makes it.

    Raises:
        BadInput: for an item that is not in the catalogue.
    """
    return average_popularity(slate, tail)


def serendipity(
    slate: Int[Tensor, "user slot"], relevant: Bool[Tensor, "user item"], obvious: Int[Tensor, "user top"]
) -> PerUser:
    """Return the share of a slate that is relevant and not obvious.

    Source: Ge, Delgado-Battenfeld and Jannach (2010), "Beyond accuracy", eq. 2 and 3: useful items among
    those that a primitive recommender would not have shown. There are many other definitions; this one has
    no scale of its own. Users for whom nothing is relevant are skipped.

    Args:
        slate: what was shown.
        relevant: what would have been useful.
        obvious: what a primitive recommender shows (the most popular items); any width.

    Raises:
        BadInput: for an item that is not in the catalogue.
    """
    _known(slate, relevant.shape[1])
    known = (slate.unsqueeze(2) == obvious.unsqueeze(1)).any(2)
    useful = relevant.gather(1, slate) & ~known
    return per_user(useful.double().mean(1), relevant.any(1))


def _pairs(slate: Int[Tensor, "user slot"]) -> int:
    """Return the slots, of which a distance needs two."""
    if slate.shape[1] < 2:
        raise BadInput(f"a distance within a slate needs at least two slots, not {slate.shape[1]}")
    return slate.shape[1]


def _known(slate: Int[Tensor, "user slot"], n_items: int) -> None:
    """Refuse ids that are no items: -1 would silently mean the last one."""
    wrong = (slate < 0) | (slate >= n_items)
    if bool(wrong.any()):
        user, slot = (int(x) for x in wrong.nonzero()[0])
        raise BadInput(
            f"user {user} is shown item {int(slate[user, slot])} at slot {slot}, and there are {n_items}"
        )
