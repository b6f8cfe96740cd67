"""Organic sessions drawn all at once: who views what, while tastes drift, in tensors of a fixed shape.

A session has a geometric number of views, and few users have a session at a step, so a tensor [user
view] would be nearly empty. The views of all users lie one after another in a list of fixed length
instead, long enough but with probability 1e-9 a step.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.seeds import Seed

CHUNK = 1 << 20
"""Probabilities of views held at a time."""

FIXED = 2.0**32
"""Drift is summed in units of 2⁻³²: whole numbers, so a user's sum does not depend on who else is there."""

RARE = 1e-9
"""How often, per step, the list may be too short; the last users then lose views."""


@lru_cache(maxsize=256)
def room(rows: int, chance: float, stay: float, most: int) -> int:
    """Return how long the list of views must be.

    The smallest M such that Chernoff's bound min_t E[exp(t·N)]^rows·exp(-t·M) on P(all views > M) is
    `RARE`.

    Args:
        rows: users.
        chance: the largest probability that a user has a session.
        stay: probability of another view after a view; N is geometric.
        most: views that are kept of a session.
    """
    limit = 5.0 if stay == 0 else min(5.0, -math.log(stay))
    needed = math.inf
    for i in range(1, 100):
        t = limit * i / 100
        geometric = (1 - stay) * math.exp(t) / (1 - stay * math.exp(t))
        needed = min(needed, (rows * math.log1p(chance * (geometric - 1)) - math.log(RARE)) / t)
    return min(math.ceil(needed), rows * most)


class Products:
    """Products to view: product i with probability softmax(Γω + μ)_i.

    Drawn by the inverse of the distribution function, in two levels: blocks of about √P products, then
    products. It is exact but for the 23 bits of a uniform and float32.

    Args:
        gamma: Γ, the products' latent vectors.
        mu: μ, how often a product is viewed whoever it is.
    """

    def __init__(self, gamma: Float[Tensor, "item dim"], mu: Float[Tensor, " item"]) -> None:
        self.count = len(mu)
        self.block = math.isqrt(self.count - 1) + 1
        missing = -self.count % self.block
        gamma = torch.nn.functional.pad(gamma, (0, 0, 0, missing))
        mu = torch.nn.functional.pad(mu, (0, missing), value=-torch.inf)
        self.table = torch.cat([gamma, mu.unsqueeze(1)], 1).T.contiguous()  # [dim + 1, item]

    def view(self, taste: Float[Tensor, "view dim"], luck: Float[Tensor, " view"]) -> Int[Tensor, " view"]:
        """Draw a product for each taste, in chunks of about `CHUNK` probabilities."""
        rows = max(1, CHUNK // self.table.shape[1])
        taste = torch.nn.functional.pad(taste, (0, 1), value=1.0)  # times μ
        drawn = [
            self._view(taste[at : at + rows], luck[at : at + rows].unsqueeze(1))
            for at in range(0, len(luck), rows)
        ]
        return torch.cat(drawn)

    def _view(
        self, taste: Float[Tensor, "view dim_and_one"], luck: Float[Tensor, "view 1"]
    ) -> Int[Tensor, " view"]:
        weight = taste @ self.table
        weight = weight.sub_(weight.amax(1, keepdim=True)).exp_().view(len(luck), -1, self.block)
        blocks = weight.sum(2).cumsum(1)
        target = luck * blocks[:, -1:]
        which = torch.searchsorted(blocks, target, right=True).clamp_(max=blocks.shape[1] - 1)
        before = torch.nn.functional.pad(blocks, (1, 0)).gather(1, which)
        inside = weight.gather(1, which.unsqueeze(2).expand(-1, 1, self.block)).squeeze(1).cumsum(1)
        place = torch.searchsorted(inside, target - before, right=True).clamp_(max=self.block - 1)
        return (which * self.block + place).squeeze(1).clamp_(max=self.count - 1)


def draw_views(
    taste: Float[Tensor, "user dim"],
    length: Int[Tensor, " user"],
    moves: Int[Tensor, " user"],
    key: Int[Tensor, " user"],
    *,
    products: Products,
    drift: float,
    size: int,
    most: int,
) -> tuple[Float[Tensor, "user dim"], Int[Tensor, " view"], Int[Tensor, " view"], Int[Tensor, " view"]]:
    """Draw one session for each user.

    The taste moves by a normal step before each view but the first, and before that one too where
    `moves` is 1. Of a session longer than `most` the first views are not drawn, and their moves are
    drawn in one.

    Args:
        taste: before the session.
        length: how many views; 0 is no session.
        moves: steps of taste before the first view, 0 or 1.
        key: the luck of each session.
        products: what may be viewed.
        drift: standard deviation of a step of taste, in each dimension.
        size: length of the list of views, from `room`.
        most: views that are kept of a session.

    Returns:
        The taste after the session, and for each place in the list the user it belongs to, its number
        among the kept views of the session and the product viewed; the user is one past the last where
        the place is empty.
    """
    rows, dims = taste.shape
    kept = length.clamp(max=most)
    ends = kept.cumsum(0)
    starts = ends - kept
    place = torch.arange(size, device=taste.device)
    owner = torch.searchsorted(ends, place, right=True)
    user = owner.clamp(max=rows - 1)
    number = place - starts[user]
    luck = Seed(0).split("organic views").at(key[user], number).uniform("view", dims + 1)
    now = taste[user]
    if drift:
        before = torch.where(number == 0, (length - kept + moves)[user], 1)  # steps before this view
        step = torch.special.ndtri(luck[:, 1:].double()) * (drift * before.clamp(min=0).sqrt()).unsqueeze(1)
        walk = torch.nn.functional.pad((step * FIXED).round().long().cumsum(0), (0, 0, 1, 0))
        start = walk[starts.clamp(max=size)]
        now = now + ((walk[1:] - start[user]).double() / FIXED).float()
        taste = taste + ((walk[ends.clamp(max=size)] - start).double() / FIXED).float()
    return taste, owner, number, products.view(now, luck[:, 0])
