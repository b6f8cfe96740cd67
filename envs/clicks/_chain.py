"""What the cascade's family shares: the user goes down slot by slot, and may stop after each.

The chain: slot 1 is examined; an examined item is clicked with probability a_k; then the next slot is
examined with probability λ_k after a click and μ_k after none, and nothing below is seen otherwise.

    P(examined k+1)          = P(examined k) · (a_k λ_k + (1 − a_k) μ_k)
    e_k = P(examined k | the clicks above):   e_1 = 1,   e_{k+1} = λ_k after a click, since a click was seen,
                             and e_k (1 − a_k) μ_k / (1 − e_k a_k) after none, by Bayes' rule.
"""

from abc import abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from envs.clicks.contract import ClickModel


class Chain(ClickModel):
    """A cascade: P(click at k | the clicks above) = e_k a_k. A model writes `onward`."""

    @abstractmethod
    def onward(self, attraction: Float[Tensor, "user slot"]) -> tuple[Tensor, Tensor]:
        """Return λ and μ: P(next slot examined | this one was), after a click and after none.

        Both broadcast against the attraction and have its type. Those of the last slot are not used.
        """

    def examined(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return Π_{j<k} (a_j λ_j + (1 − a_j) μ_j)."""
        clicked, skipped = self.onward(attraction)
        goes_on = attraction * clicked + (1 - attraction) * skipped
        return pad(goes_on[:, :-1].cumprod(1), (1, 0), value=1.0)

    def probs(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return P(examined k) · a_k."""
        return attraction * self.examined(attraction)

    def conditional(
        self, attraction: Float[Tensor, "user slot"], click: Float[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return e_k a_k, with e_k filtered from the clicks above."""
        return self._filter(attraction, click > 0, None)[0]

    @torch.no_grad()
    def sample(
        self, attraction: Float[Tensor, "user slot"], uniform: Float[Tensor, "user draw"]
    ) -> Float[Tensor, "user slot"]:
        """Click where the slot's uniform is below e_k a_k, from the top to the bottom."""
        return self._filter(attraction, None, uniform)[1].to(attraction.dtype)

    def _filter(
        self,
        attraction: Float[Tensor, "user slot"],
        click: Bool[Tensor, "user slot"] | None,
        uniform: Float[Tensor, "user slot"] | None,
    ) -> tuple[Float[Tensor, "user slot"], Bool[Tensor, "user slot"]]:
        """Go down the slate, with clicks that are given or drawn; return e_k a_k and the clicks."""
        slots = attraction.shape[1]
        clicked, skipped = (x.expand_as(attraction).unbind(1) for x in self.onward(attraction))
        a, rest = attraction.unbind(1), (1 - attraction).unbind(1)
        tiny = torch.finfo(attraction.dtype).tiny  # where a click was sure, no click is never asked for
        seen = torch.ones_like(a[0])
        chances, clicks = [], []
        for k in range(slots):
            chance = seen * a[k]
            if uniform is None:
                assert click is not None
                hit = click[:, k]
            else:
                hit = uniform[:, k] < chance
            chances.append(chance)
            clicks.append(hit)
            if k + 1 < slots:
                missed = seen * rest[k] * skipped[k] / (1 - chance).clamp(min=tiny)
                seen = torch.where(hit, clicked[k], missed)
        return torch.stack(chances, 1), torch.stack(clicks, 1)
