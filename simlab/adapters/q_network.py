"""Any ranker as a Q-network: a value for each candidate."""

from copy import deepcopy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from simlab.adapters._state import ValueHead, copied, full, state_width
from simlab.context import Context
from simlab.errors import BadInput
from simlab.rankers.contract import Ranker
from simlab.seeds import Seed
from simlab.slates.contract import masked


class QNetwork(nn.Module):
    """Q(s, i) = α · logit(s, i) + β, or V(s) + α · [logit(s, i) - mean over allowed j of logit(s, j)].

    The second is the dueling network, with V a head on the ranker's state. α and β are learned from 1 and 0,
    or left out: a value is of another scale than a logit, and two numbers learn that faster than the body.

    In the dueling network V(s) is the mean of the allowed candidates' values, and a state does not know the
    candidates: it suits users who all choose from the same catalogue, not samples of candidates.

    Values of masked candidates are finite, so that they may be multiplied by a chance of 0; `best` and
    `greedy` never choose one.

    Source: Wang et al. (2016), "Dueling network architectures for deep reinforcement learning", ICML,
    equation 9, with the mean over allowed candidates only.

    Args:
        ranker: the body; it is used, not copied.
        affine: learn α and β.
        dueling: learn V beside the logits.
        hidden: widths of V's layers.
        seed: of V's first weights.
    """

    def __init__(
        self,
        ranker: Ranker,
        *,
        affine: bool = True,
        dueling: bool = False,
        hidden: tuple[int, ...] = (64,),
        seed: Seed = Seed(0),
    ) -> None:
        super().__init__()
        self.ranker = ranker
        self.scale = nn.Parameter(torch.ones(())) if affine else None
        self.shift = nn.Parameter(torch.zeros(())) if affine and not dueling else None  # V has one
        self.value = ValueHead(state_width(ranker), hidden, seed) if dueling else None

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return the ranker's state, which `forward` takes again."""
        return self.ranker.encode(self._context(context))

    def forward(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return Q of each candidate.

        Args:
            context: the users and their candidates.
            state: what `encode` returned, where it is at hand.
        """
        context = self._context(context)
        state = self.ranker.encode(context) if state is None else state
        q = self.ranker.score(context, state)
        if self.value is not None:
            allowed = context.mask
            mean = (q * allowed).sum(1, keepdim=True) / allowed.sum(1, keepdim=True).clamp(min=1)
            q = q - mean
        if self.scale is not None:
            q = q * self.scale
        if self.shift is not None:
            q = q + self.shift
        return q if self.value is None else q + self.value(state).unsqueeze(1)

    def best(self, context: Context) -> tuple[Float[Tensor, " user"], Int[Tensor, " user"]]:
        """Return max Q over the allowed candidates and its column; -inf where none is allowed."""
        found = masked(self(context), context.mask).max(1)
        return found.values, found.indices

    def greedy(self, context: Context, slots: int) -> Int[Tensor, "user slot"]:
        """Return the columns of the highest Q, best first; masked ones stand last."""
        return masked(self(context), context.mask).topk(slots, dim=1).indices

    def copy(self) -> "QNetwork":
        """Return a target network: the same values, no weight in common, nothing to train, in eval mode."""
        return deepcopy(self, {id(self.ranker): copied(self.ranker)}).requires_grad_(False).eval()

    @torch.no_grad()
    def soft_update(self, online: "QNetwork", tau: float) -> None:
        """Move every weight to τ · online + (1 - τ) · own; what is no float (counts) is copied.

        Source: Lillicrap et al. (2016), "Continuous control with deep reinforcement learning", algorithm 1.

        Raises:
            BadInput: for a τ outside [0, 1].
        """
        if not 0 <= tau <= 1:
            raise BadInput(f"tau is a share in [0, 1], not {tau}")
        theirs = online.state_dict()
        for name, mine in self.state_dict().items():  # tensors of the state share their storage with ours
            if mine.is_floating_point() and tau < 1:
                mine.lerp_(theirs[name], tau)
            else:
                mine.copy_(theirs[name])

    def _context(self, context: Context) -> Context:
        return context if self.value is None else full(context, self.ranker.past)


@torch.no_grad()
def double(online: QNetwork, target: QNetwork, context: Context) -> Float[Tensor, " user"]:
    """Return Q_target(s, argmax over allowed i of Q_online(s, i)): what double Q-learning bootstraps.

    Source: van Hasselt, Guez and Silver (2016), "Deep reinforcement learning with double Q-learning", AAAI,
    equation 4.
    """
    column = online.best(context)[1]
    value: Tensor = target(context).gather(1, column.unsqueeze(1))
    return value.squeeze(1)
