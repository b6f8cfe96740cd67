"""Negatives: items that a user did not click, drawn evenly or by popularity, and exactly.

A user has n items and m clicked ones p_0 < p_1 < … < p_{m-1}. Below p_k there are p_k - k items without a
click, so the r-th item without a click is r + #{k : p_k - k ≤ r}. One uniform r in 0 … n-m-1 and one binary
search give a uniform negative: nothing is drawn twice, however much the user has clicked.

By popularity the same is done with masses instead of counts: lay the items' masses end to end, take the
clicked items' pieces out, and look where a uniform point of what is left falls.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.errors import BadInput

POWER = 0.75
"""Of the clicks, in draws by popularity (Mikolov et al. 2013, "Distributed representations", 2.2)."""


class Negatives:
    """Draws items that a user has not clicked.

    Args:
        user: user of each click, any ids.
        item: item of each click; repeats do no harm.
        n_items: size of the catalogue.

    Raises:
        BadInput: if a user clicked everything, so that nothing is left to draw.
    """

    def __init__(self, user: Int[Tensor, " click"], item: Int[Tensor, " click"], n_items: int) -> None:
        self.n_items = n_items
        self.users, group = torch.unique(user, return_inverse=True)
        clicked = torch.unique(group * n_items + item)  # sorted by user, then item
        group, item = clicked // n_items, clicked % n_items
        self.clicked = torch.bincount(group, minlength=len(self.users))  # m of each user
        if bool((self.clicked >= n_items).any()):
            who = int(self.users[self.clicked.argmax()])
            raise BadInput(f"user {who} clicked all {n_items} items, so there is no negative to draw")
        self.first = self.clicked.cumsum(0) - self.clicked  # where each user's keys begin
        rank = torch.arange(len(item), device=item.device) - self.first[group]
        # p_k - k never falls within a user and stays below n, so the keys are sorted.
        self.keys = group * n_items + item - rank
        # Every item keeps some mass, so that an item that nobody clicked can be drawn too.
        mass = torch.bincount(item, minlength=n_items).double().clamp(min=0.5) ** POWER
        self.mass = mass / mass.sum()
        self.upper = self.mass.cumsum(0)
        # Mass free of clicks below each clicked item, within its user; a step of 2 keeps users apart.
        taken = self.mass[item].cumsum(0)
        before = torch.cat([taken.new_zeros(1), taken])
        own = taken - before[self.first[group]]
        self.free = 2.0 * group + self.upper[item] - own
        self.lost = before[self.first + self.clicked] - before[self.first]
        self.taken = before

    def draw(self, user: Int[Tensor, " row"], uniform: Float[Tensor, "row pick"]) -> Int[Tensor, "row pick"]:
        """Turn uniforms in [0, 1) into items that each user has not clicked.

        Args:
            user: users among those given at the start.
            uniform: float64, so that large catalogues are drawn evenly.
        """
        group = torch.searchsorted(self.users, user).unsqueeze(1)
        left = self.n_items - self.clicked[group]
        r = torch.minimum((uniform.double() * left).long(), left - 1)
        below = torch.searchsorted(self.keys, group * self.n_items + r, right=True)
        return r + below - self.first[group]

    def popular(
        self, user: Int[Tensor, " row"], uniform: Float[Tensor, "row pick"]
    ) -> Int[Tensor, "row pick"]:
        """Turn uniforms in [0, 1) into items that each user has not clicked, by clicks to the power .75.

        Args:
            user: users among those given at the start.
            uniform: float64.
        """
        group = torch.searchsorted(self.users, user).unsqueeze(1)
        point = uniform.double().clamp(1e-9, 1 - 1e-9) * (1 - self.lost[group])  # off the ends by rounding
        # The pieces taken out that begin at or before the point push it to the right.
        below = torch.searchsorted(self.free, 2.0 * group + point, right=True)
        below = below.clamp(min=self.first[group]).minimum(self.first[group] + self.clicked[group])
        shifted = point + self.taken[below] - self.taken[self.first[group]]
        item = torch.searchsorted(self.upper, shifted, right=True)
        return item.clamp(max=self.n_items - 1)

    def log_q(
        self, user: Int[Tensor, " row"], item: Int[Tensor, "row pick"], *, popular: bool
    ) -> Float[Tensor, "row pick"]:
        """Return the log probability of each draw."""
        group = torch.searchsorted(self.users, user).unsqueeze(1)
        if not popular:
            left = self.n_items - self.clicked[group]
            return -left.double().log().expand(item.shape).float()
        return (self.mass[item] / (1 - self.lost[group])).log().float()
