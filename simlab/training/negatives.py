"""Negatives: items that a user did not click, drawn uniformly and exactly.

A user has n items and m clicked ones p_0 < p_1 < … < p_{m-1}. Below p_k there are p_k - k items without a
click, so the r-th item without a click is r + #{k : p_k - k ≤ r}. One uniform r in 0 … n-m-1 and one binary
search give a uniform negative: nothing is drawn twice, however much the user has clicked.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.errors import BadInput


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
