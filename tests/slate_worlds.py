"""Worlds of slates so small that every slate can be listed: the truth is a sum, and so is every bias."""

from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.contract import Estimator, Slates
from simlab.log import Log
from tests.worlds import Listed, Softmax, population_value, table

CONTEXTS, CANDS, SLOTS = 2, 4, 3

EXACT = 1e-10
"""How far sums over all slates may be apart."""


@dataclass(frozen=True)
class ClickWorld:
    """Two contexts, three slots from four candidates; a click at each slot, given all of the slate.

    `mean` is the chance of a click at each slot of each slate, in the order of `slates`. The estimators see
    only means of clicks, so clicks of one slate are drawn independently.
    """

    mean: Float[Tensor, "context slate slot"]
    chance: Float[Tensor, " context"]
    logger: Softmax
    target: Softmax

    def slates(self) -> Int[Tensor, "slate slot"]:
        return torch.tensor(list(permutations(range(CANDS), SLOTS)))

    def law(self, policy: Softmax) -> Float[Tensor, "context slate"]:
        """Return the probability of every slate, by multiplying and dividing."""
        weight = policy.logits.exp()
        out = torch.ones(CONTEXTS, len(self.slates()), dtype=torch.float64)
        for s, slate in enumerate(self.slates().tolist()):
            left = weight.sum(1)
            for item in slate:
                out[:, s] *= weight[:, item] / left
                left = left - weight[:, item]
        return out

    def value(self, slot_weight: Tensor | None = None, policy: Softmax | None = None) -> float:
        """Return the true mean of the clicks of a slate: the target's by default."""
        by = torch.ones(SLOTS, dtype=torch.float64) if slot_weight is None else slot_weight
        law = self.law(self.target if policy is None else policy)
        return float((self.chance[:, None] * law * (self.mean @ by)).sum())

    def listed(self) -> Listed:
        """List every (context, slate, click vector)."""
        every = list(product(range(CONTEXTS), range(len(self.slates())), product((0, 1), repeat=SLOTS)))
        context = torch.tensor([c for c, _, _ in every])
        which = torch.tensor([s for _, s, _ in every])
        click = torch.tensor([k for _, _, k in every], dtype=torch.float64)
        p = self.mean[context, which]
        likely = torch.where(click == 1, p, 1 - p).prod(1)
        law = self.law(self.logger)
        slots = torch.arange(SLOTS)
        log = Log(
            user=torch.arange(len(every)),
            slate=self.slates()[which],
            propensity=law[context, which],
            reward=click.sum(1),
            n_items=CANDS,
            features=context[:, None].double(),
            slot_propensity=self.placed(law)[context[:, None], slots, self.slates()[which]],
            click=click,
        )
        return Listed(log, self.chance[context] * law[context, which] * likely, context)

    def placed(self, law: Float[Tensor, "context slate"]) -> Float[Tensor, "context slot cand"]:
        """Return P(candidate at slot), one slate at a time."""
        out = torch.zeros(CONTEXTS, SLOTS, CANDS, dtype=torch.float64)
        for s, slate in enumerate(self.slates().tolist()):
            for k, item in enumerate(slate):
                out[:, k, item] += law[:, s]
        return out

    def twin(
        self,
        target: Softmax | None = None,
        *,
        claimed: Softmax | None = None,
        q: Float[Tensor, "context slate slot"] | None = None,
    ) -> Slates:
        """Return every listed row as estimators see it, row by row in plain Python.

        Args:
            target: the world's by default.
            claimed: what the log says of its logger; the truth by default.
            q: Q̂_k of every slate, of which only the items down to k may matter; the truth by default.
        """
        listed, slates = self.listed(), [tuple(s) for s in self.slates().tolist()]
        aim = self.law(self.target if target is None else target)
        had = self.law(self.logger if claimed is None else claimed)
        where, whence = self.placed(aim), self.placed(had)
        q = self.truth(aim) if q is None else q
        rows: dict[str, list[object]] = {
            n: [] for n in ("joint", "marginal", "cascade", "pseudo", "document", "q_logged", "q_target")
        }
        inverse = [torch.linalg.pinv(self._gamma(had[c]), rtol=1e-10) for c in range(CONTEXTS)]
        for row, slate_ in enumerate(listed.log.slate.tolist()):
            c, slate = int(listed.context[row]), tuple(slate_)
            s = slates.index(slate)

            def begins(law: Tensor, k: int, c: int = c, slate: tuple[int, ...] = slate) -> float:
                return sum(float(law[c, t]) for t, x in enumerate(slates) if x[:k] == slate[:k])

            rows["joint"].append(float(aim[c, s] / had[c, s]))
            rows["marginal"].append([float(where[c, k, i] / whence[c, k, i]) for k, i in enumerate(slate)])
            rows["cascade"].append([begins(aim, k) / begins(had, k) for k in range(1, SLOTS + 1)])
            one = torch.zeros(SLOTS, CANDS, dtype=torch.float64)
            one[torch.arange(SLOTS), list(slate)] = 1
            rows["pseudo"].append(float(where[c].flatten() @ inverse[c] @ one.flatten()))
            rows["document"].append([float(where[c, :, i].sum() / whence[c, :, i].sum()) for i in slate])
            rows["q_logged"].append([float(q[c, s, k]) for k in range(SLOTS)])
            rows["q_target"].append(
                [
                    sum(float(aim[c, t] * q[c, t, k]) for t, x in enumerate(slates) if x[:k] == slate[:k])
                    / begins(aim, k)
                    for k in range(SLOTS)
                ]
            )
        values: dict[str, Any] = {n: torch.tensor(v, dtype=torch.float64) for n, v in rows.items()}
        assert listed.log.click is not None
        return Slates(listed.log.click, examined=values["document"], **values)

    def _gamma(self, law: Float[Tensor, " slate"]) -> Float[Tensor, "cell cell"]:
        out = torch.zeros(SLOTS * CANDS, SLOTS * CANDS, dtype=torch.float64)
        for s, slate in enumerate(self.slates().tolist()):
            for j, a in enumerate(slate):
                for k, b in enumerate(slate):
                    out[j * CANDS + a, k * CANDS + b] += law[s]
        return out

    def truth(self, law: Float[Tensor, "context slate"]) -> Float[Tensor, "context slate slot"]:
        """Return Q_k(x, a_1 … a_k) = E_π[Σ_{j≥k} r_j | a_1 … a_k], spread over the slates that begin so."""
        slates = [tuple(s) for s in self.slates().tolist()]
        ahead = self.mean.flip(2).cumsum(2).flip(2)
        out = torch.zeros_like(self.mean)
        for k in range(SLOTS):
            for s, slate in enumerate(slates):
                same = [t for t, x in enumerate(slates) if x[: k + 1] == slate[: k + 1]]
                out[:, s, k] = (law[:, same] * ahead[:, same, k]).sum(1) / law[:, same].sum(1)
        return out


_ATTRACTION = table([0.9, 0.5, 0.3, 0.1], [0.2, 0.6, 0.4, 0.8])
EXAMINATION = table([1.0, 0.6, 0.3])[0]


def _world(mean: Float[Tensor, "context slate slot"]) -> ClickWorld:
    return ClickWorld(
        mean,
        chance=table([0.4, 0.6])[0],
        logger=Softmax(table([0.0, 0.3, -0.2, 0.5], [0.4, 0.0, 0.2, -0.3])),
        target=Softmax(table([1.0, 0.2, 0.0, -0.8], [-0.5, 0.6, 0.1, 0.9])),
    )


def _attraction() -> Float[Tensor, "context slate slot"]:
    return _ATTRACTION[:, torch.tensor(list(permutations(range(CANDS), SLOTS)))]


def flat_world() -> ClickWorld:
    """A click depends on the item alone: every estimator's assumption holds."""
    return _world(_attraction())


def position_world() -> ClickWorld:
    """A click is examination of the slot times attraction of the item."""
    return _world(EXAMINATION * _attraction())


def cascade_world() -> ClickWorld:
    """Users read on with chance 0.9 after what they did not click and 0.2 after a click."""
    attraction = _attraction()
    on = 0.2 * attraction + 0.9 * (1 - attraction)
    reached = torch.cat([torch.ones_like(on[:, :, :1]), on.cumprod(2)[:, :, :-1]], 2)
    return _world(reached * attraction)


def crowded_world() -> ClickWorld:
    """What stands below an item takes clicks from it, so only whole slates tell the truth."""
    attraction = _attraction()
    below = torch.cat([attraction[:, :, 1:], torch.zeros_like(attraction[:, :, :1])], 2)
    return _world(attraction * (1 - 0.5 * below))


def off(estimator: Estimator[Slates], found: Slates, world: ClickWorld, every: Listed) -> float:
    """Return the estimator's bias on the listed population."""
    return population_value(estimator.score(found), every.probability) - world.value()
