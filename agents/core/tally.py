"""What the critics may know of an episode besides what the policy sees: sums of what happened so far."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from simlab.context import Catalog, Context
from simlab.errors import BadInput


class Tally(nn.Module):
    """Counts, for each user and from an episode's first step: steps, rewards, features of clicked items.

    Where something that decides the return is hidden (a budget that runs out, patience), a state does not
    tell its value: the return of a good slate late in an episode is less than that of a bad one early on, and
    a critic that must guess how late it is takes the one for the other. The sums say it, nearly or wholly,
    and anyone who shows slates can keep them. Only critics read them, in training: the policy asks nothing
    more of its users than before.

    Source: the clock is that of Pardo et al. (2018), "Time limits in reinforcement learning", ICML; a critic
    that knows more than its actor is that of Pinto et al. (2018), "Asymmetric actor critic for image-based
    robot learning", RSS. Differs: nothing hidden is read, and what is counted is more than time.

    Args:
        catalog: the items; without one, or without features, items are not told apart.
    """

    features: Tensor

    def __init__(self, catalog: Catalog | None) -> None:
        super().__init__()
        found = torch.zeros(0, 0) if catalog is None else catalog.features.detach().float().clone()
        self.register_buffer("features", found)  # in the saved file: `load` knows no catalogue

    @property
    def width(self) -> int:
        """How many sums there are."""
        return 2 + self.features.shape[1]

    def start(self, users: int) -> Float[Tensor, "user sum"]:
        """Return the sums of new users."""
        return self.features.new_zeros(users, self.width)

    def more(
        self,
        context: Context,
        columns: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        reward: Float[Tensor, " user"],
    ) -> Float[Tensor, "user sum"]:
        """Return what a step adds, each of the size of 1 over an episode of some tens of steps.

        Args:
            context: what was seen.
            columns: what was shown.
            click: what was clicked.
            reward: what the step earned, scaled as it is learned.
        """
        parts = [torch.full_like(reward, 1 / 30).unsqueeze(1), reward.unsqueeze(1) / 10]
        if self.features.shape[1]:
            item = context.slate(columns)
            parts.append((click.unsqueeze(2) * self.features[item]).sum(1) / 15)
        return torch.cat(parts, 1)


def tally_of(context: Context, width: int) -> Float[Tensor, "user sum"]:
    """Return the sums that a critic asks for.

    Raises:
        BadInput: where nobody counted.
    """
    if context.tally is None or context.tally.shape[1] != width:
        raise BadInput(
            "a critic with a tally needs Context.tally: the learners of this package count "
            "(SlatePPO, SlateA2C, SlateReinforce, SlateQ), those of stable-baselines3 do not"
        )
    return context.tally
