"""Any ranker as a propensity model: how likely the logger was to show what it showed."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor

from simlab.adapters._descent import Descent, descend
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policies.greedy import scores
from simlab.rankers.contract import Interactions, Ranker
from simlab.seeds import Seed
from simlab.slates import PlackettLuce

CELLS = 1 << 20
"""How many (row, candidate) pairs are scored at once."""


@dataclass(frozen=True, eq=False)
class Propensity:
    """A softmax over what could have been shown; a slate is drawn from it slot by slot without replacement.

    So a slate of K items has the Plackett–Luce probability Π_k exp ℓ_{a_k} / Σ_{i not above k} exp ℓ_i with
    ℓ = logit / temperature, and K = 1 is the plain softmax. A logger that fills its slots in another way is
    another model. Masked candidates have probability 0, and a single item's `position` is not looked at. It
    keeps the contract of a policy.

    Attributes:
        ranker: in eval mode.
        temperature: what the logits are divided by.
        name: in tables and logs.

    Raises:
        BadInput: for a temperature that is not above 0.
    """

    ranker: Ranker
    temperature: float | int = 1.0
    name: str = "propensity"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise BadInput(f"temperature is above 0, not {self.temperature}")

    def distribution(self, context: Context, slots: int) -> PlackettLuce:
        """Return the distribution over slates, in float64."""
        return PlackettLuce(scores(self.ranker, context).double() / self.temperature, slots, context.mask)

    def probabilities(self, context: Context) -> Float[Tensor, "user cand"]:
        """Return the probability of each candidate at the top; a row sums to one."""
        return self.distribution(context, 1).slot_marginals().squeeze(1)

    def of_log(self, log: Log) -> Float[Tensor, "round slot"]:
        """Return P(item at its slot) of what was shown: `Log.slot_propensity`.

        For several slots these are the marginals of `PlackettLuce`: exact for few candidates, else its
        estimate, which is never 0.
        """
        return torch.cat([d.marginals(columns) for d, columns in self._blocks(log)])

    def of_slates(self, log: Log) -> Float[Tensor, " round"]:
        """Return P(slate) of what was shown: `Log.propensity`."""
        return torch.cat([d.log_prob(columns).exp() for d, columns in self._blocks(log)])

    def filled(self, log: Log) -> Log:
        """Return the log with these propensities instead of its own."""
        tiny = torch.finfo(torch.float64).tiny
        slate, slot = (x.clamp(tiny, 1.0) for x in (self.of_slates(log), self.of_log(log)))
        return replace(log, propensity=slate, slot_propensity=slot)

    @classmethod
    def fit(
        cls,
        ranker: Ranker,
        log: Log,
        seed: Seed,
        *,
        weight: Float[Tensor, " round"] | None = None,
        how: Descent | None = None,
        calibrate: bool = True,
    ) -> "Propensity":
        """Maximise the likelihood of what was shown, among what could have been.

        Args:
            ranker: is trained in place; a family that counts, counts what was shown.
            log: its propensities and rewards are not looked at, but for the feedback of histories.
            seed: of everything random.
            weight: of each row, or 1.
            how: of training; by default batches of 1024 rows and little weight decay.
            calibrate: fit the temperature on the held-out rows (Guo et al. 2017, "On calibration of modern
                neural networks", ICML, section 4.2); 1 if nothing is held out.

        Raises:
            BadInput: if what was shown is not among the row's candidates, or the loss is not a number.
        """
        how = Descent(batch_size=1024, weight_decay=0.01) if how is None else how
        context = log.context(ranker.past)
        size = max(1, CELLS // context.candidates.shape[1])
        every = torch.arange(len(log), device=log.user.device)
        parts = [slice(i, i + size) for i in range(0, len(log), size)]
        columns = torch.cat([context.rows(part).columns(log.slate[part]) for part in parts])
        mass = torch.ones(len(log), device=every.device) if weight is None else weight.float()
        train, held = (x.to(every.device) for x in how.split(len(log), seed))
        ranker.prepare(_shown(log, train, mass))

        def each(at: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
            part = _rows(context, at)
            return -PlackettLuce(ranker.score(part), log.slots, part.mask).log_prob(columns[at])

        if ranker.trainable:
            descend(ranker, each, mass, train, held, how, seed)
        ranker.eval()
        if not calibrate or not float(mass[held].sum()):
            return cls(ranker)
        some = held[:size]
        part = _rows(context, some)
        logits, by = scores(ranker, part).double(), mass[some].double()

        def surprise(log_temperature: float) -> float:
            d = PlackettLuce(logits / math.exp(log_temperature), log.slots, part.mask)
            return -float((by * d.log_prob(columns[some])).sum())

        found = minimize_scalar(surprise, bounds=(-3.0, 3.0), method="bounded")
        return cls(ranker, math.exp(float(found.x)))

    def _blocks(self, log: Log) -> list[tuple[PlackettLuce, Int[Tensor, "row slot"]]]:
        """Return distributions and the logged columns, a block of rows at a time."""
        context = log.context(self.ranker.past)
        size = max(1, CELLS // context.candidates.shape[1])
        parts = [slice(i, i + size) for i in range(0, len(log), size)]
        rows = [(context.rows(part), log.slate[part]) for part in parts]
        return [(self.distribution(c, log.slots), c.columns(slate)) for c, slate in rows]


def _rows(context: Context, at: Int[Tensor, " row"]) -> Context:
    """Return some rows; candidates that all rows share stay shared."""
    if context.candidates.stride(0) != 0:
        return context.rows(at)
    shared, mask = context.candidates[:1], context.mask[:1]
    bare = replace(context, candidates=context.candidates[:, :0], mask=context.mask[:, :0]).rows(at)
    return replace(bare, candidates=shared.expand(len(at), -1), mask=mask.expand(len(at), -1))


def _shown(log: Log, rounds: Int[Tensor, " row"], weight: Float[Tensor, " round"]) -> Interactions:
    """Return what these rounds showed, each user's in time order."""
    kept = torch.zeros(len(log), dtype=torch.bool, device=rounds.device)
    kept[rounds] = True
    order = log.order()
    order = order[kept[order]]
    return Interactions(
        user=log.user[order].repeat_interleave(log.slots),
        item=log.slate[order].reshape(-1),
        target=torch.ones(len(order) * log.slots, device=order.device),
        weight=weight[order].repeat_interleave(log.slots),
    )
