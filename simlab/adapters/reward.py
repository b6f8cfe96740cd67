"""Any ranker as a reward model: what an item would bring at a position."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.context import Context
from simlab.errors import BadInput, nearest
from simlab.log import Log
from simlab.rankers.contract import Ranker, Sizes, checked
from simlab.seeds import Seed
from simlab.training.fit import fit
from simlab.training.settings import FitSettings

LINKS = ("sigmoid", "identity")

CELLS = 1 << 18
"""How many (row, candidate) pairs are scored at once."""


@dataclass(frozen=True, eq=False)
class Reward:
    """q̂(x, a, k) = σ(logit) · c_k for rewards of 0 and 1, or b · logit + c_k for values.

    A ranker's logit knows no position, so c_k is fitted on the same rows. With the sigmoid it is what was
    clicked at k over what the ranker says of what was shown there: a position-based click model whose
    examination is estimated by a ratio. With the identity it is the mean of what is left at k. Either way the
    model is right on average at each position.

    Attributes:
        ranker: in eval mode.
        slot: c_k of each position.
        link: "sigmoid" or "identity".
        spread: b, the rewards' standard deviation; 1 with the sigmoid.
    """

    ranker: Ranker
    slot: Float[Tensor, " slot"]
    link: str = "sigmoid"
    spread: float = 1.0

    def predict(
        self, context: Context, position: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot cand"]:
        """Return q̂ of every candidate at each of the given positions, float64.

        Raises:
            BadInput: for a context that the ranker cannot be asked about.
        """
        with torch.no_grad():
            value = self._value(self.ranker.score(checked(context, self.ranker.sizes)))
        return self._at(value.unsqueeze(1), self.slot[position].unsqueeze(2))

    def of_log(self, log: Log) -> Float[Tensor, "round slot"]:
        """Return q̂ of what was shown, where it was shown."""
        return self._at(self._shown(log), self.slot[positions(log)])

    @classmethod
    def fit(
        cls,
        make: Callable[[Sizes], Ranker],
        log: Log,
        seed: Seed,
        *,
        slots: int | None = None,
        weight: Float[Tensor, " round"] | None = None,
        link: str = "sigmoid",
        settings: FitSettings | None = None,
        **training: Any,
    ) -> "Reward":
        """Train a ranker on what each shown item brought, then fit c_k on the same rows.

        Args:
            make: builds an untrained ranker for the sizes of a log.
            log: single items with any reward, or slates with clicks.
            seed: of everything random.
            slots: how many positions a page has; by default as many as the log shows.
            weight: of each row, or 1.
            link: "sigmoid" or "identity".
            settings: of training. By default the family's, but always on what was shown and not clicked: a
                model of chances does not learn from drawn negatives.
            training: further arguments of `simlab.training.fit.fit`.

        Raises:
            BadInput: for an unknown link, rewards other than 0 and 1 with the sigmoid, or clicks that do not
                add up to the reward.
        """
        if link not in LINKS:
            raise BadInput(f"link is {' or '.join(LINKS)}, not {link}{nearest(link, LINKS)}")
        seen = answers(log)
        if link == "sigmoid" and bool(((seen != 0) & (seen != 1)).any()):
            raise BadInput("a ranker's reward model needs rewards of 0 and 1")
        place = positions(log)
        slots = int(place.max()) + 1 if slots is None else slots
        spread = 1.0 if link == "sigmoid" else float(seen.std(correction=0)) or 1.0
        target = seen / spread  # not centred: a history tells what was worth something by its sign
        taught = replace(log, click=target.float(), reward=target.sum(1).float())
        ranker = make(replace(Sizes.of(log), slots=slots))
        if link == "identity":
            if not ranker.trainable:
                raise BadInput(
                    f"ranker {ranker.name} counts clicks, so it learns no values: take link sigmoid"
                )
            ranker.start(float(target.mean()))
        if settings is None:
            loss = "bce" if link == "sigmoid" else "mse"
            settings = FitSettings.of(ranker, **_LOGGED, loss=loss)
        each = None if weight is None else weight.float().unsqueeze(1).expand_as(seen)
        fit(ranker, taught, weight=each, seed=seed, settings=settings, **training)
        plain = torch.ones if link == "sigmoid" else torch.zeros
        model = cls(ranker.eval(), plain(slots, dtype=torch.float64), link, spread)
        said = model._shown(log)
        by = torch.ones_like(said) if each is None else each.double()
        return replace(model, slot=_slots(link, place, by, said, seen, slots))

    def _value(self, logit: Float[Tensor, "row pick"]) -> Float[Tensor, "row pick"]:
        logit = logit.double()
        return logit.sigmoid() if self.link == "sigmoid" else self.spread * logit

    def _at(self, value: Float[Tensor, "..."], slot: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return value * slot if self.link == "sigmoid" else value + slot

    def _shown(self, log: Log) -> Float[Tensor, "round slot"]:
        """Return the value of what was shown, without c_k, a block of rows at a time."""
        context, out = log.context(self.ranker.past), []
        block = max(1, CELLS // log.slots)
        with torch.no_grad():
            for start in range(0, len(log), block):
                rows = slice(start, start + block)
                part = replace(context.rows(rows), candidates=log.slate[rows], mask=log.slate[rows] >= 0)
                out.append(self._value(self.ranker.score(part)))
        return torch.cat(out)


_LOGGED: Mapping[str, Any] = {"unit": "round", "negatives": 0, "sampler": "uniform", "judge": "loss"}
"""Learn from the logged slates, clicked or not."""


def _slots(
    link: str,
    place: Int[Tensor, "round slot"],
    weight: Float[Tensor, "round slot"],
    said: Float[Tensor, "round slot"],
    seen: Float[Tensor, "round slot"],
    slots: int,
) -> Float[Tensor, " page"]:
    """Return c_k; a position that these rows never show keeps that of the whole."""

    def sums(value: Tensor) -> Tensor:
        zero = torch.zeros(slots, dtype=torch.float64, device=value.device)
        return zero.index_add_(0, place.reshape(-1), (weight * value).reshape(-1))

    if link == "sigmoid":
        above, below = sums(seen), sums(said)
    else:
        above, below = sums(seen - said), sums(torch.ones_like(said))
    return torch.where(below > 0, above / below, above.sum() / below.sum())


def answers(log: Log) -> Float[Tensor, "round slot"]:
    """Return what each shown item brought: the reward of a single item, the clicks of a slate.

    Raises:
        BadInput: if a slate has no clicks, or its reward is not their sum, so that it cannot be told apart.
    """
    if log.slots == 1:
        return log.reward.double().unsqueeze(1)
    if log.click is None:
        raise BadInput("a reward model of slates learns from column click, and the log has none")
    click = log.click.double()
    other = (click.sum(1) - log.reward.double()).abs() > 1e-6 * (1 + log.reward.double().abs())
    if bool(other.any()):
        row = int(other.nonzero()[0])
        raise BadInput(
            f"column reward, row {row}: {float(log.reward[row])} is not the sum of the row's clicks, "
            "so an additive reward model does not apply"
        )
    return click


def positions(log: Log) -> Int[Tensor, "round slot"]:
    """Return the position on the page of each shown item, from 0."""
    if log.position is not None:
        return log.position.unsqueeze(1)
    return torch.arange(log.slots, device=log.slate.device).expand(len(log), -1)
