"""Slates from plain tensors: propensities of logger and target side by side, wide or in long form."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.contract import Slates
from causal.pseudo_inverse import product_weights
from causal.slate_inputs import AGREE, ratio, slot_values
from simlab.errors import BadInput


@dataclass(frozen=True)
class Chances:
    """What a policy says of the logged slates; leave out what is not known.

    Attributes:
        joint: of the whole, ordered slate.
        marginal: of the item at its slot, whatever else is shown.
        cascade: of the items down to each slot, in order.
        table: of every item at every slot; `marginal` is read from it where it is not given.
    """

    joint: Float[Tensor, " round"] | None = None
    marginal: Float[Tensor, "round slot"] | None = None
    cascade: Float[Tensor, "round slot"] | None = None
    table: Float[Tensor, "round slot cand"] | None = None


def tabular_slates(
    reward: Tensor,
    logger: Chances,
    target: Chances,
    *,
    item: Int[Tensor, "round slot"] | None = None,
    q: Float[Tensor, "round slot cand"] | None = None,
    following: Float[Tensor, "round slot cand"] | None = None,
    examination: Float[Tensor, " slot"] | None = None,
    slot_weight: Float[Tensor, " slot"] | None = None,
    independent: bool = False,
    group: Int[Tensor, " round"] | None = None,
) -> Slates:
    """Build slates from whole tables.

    Args:
        reward: what each slot earned, [round slot], or each slate, [round].
        logger: the logging policy's probabilities.
        target: the target policy's. What both have gives weights.
        item: the column at each slot, to look up tables.
        q: Q̂_k of every item at each slot, below the logged ones above it.
        following: π(item at slot | x, the logged items above it); with `q`.
        examination: θ_k; with tables.
        slot_weight: α_k, what is earned at a slot is multiplied by it.
        independent: the logger filled each slot independently of the others: then the pseudo-inverse has a
            closed form in the marginals.
        group: cluster of each slate.

    Raises:
        BadInput: for what is no probability, a table that does not sum to one, a beginning that is likelier
            than a shorter one, a slate that is likelier than its items, one side without the other, or
            shapes that do not fit.
    """
    per_slot = reward.ndim == 2
    slots = _slots(reward, logger, target)
    alpha = slot_values(slot_weight, slots, "slot_weight")
    if slot_weight is not None and not per_slot:
        raise BadInput("slot_weight is what slots are worth, and there is one reward a slate")
    if not bool(reward.isfinite().all()):
        row = int((~reward.isfinite()).nonzero()[0, 0])
        raise BadInput(f"reward, row {row}: it is missing or not finite")
    wide = torch.zeros(len(reward), slots, dtype=torch.float64, device=reward.device)
    if per_slot:
        wide += reward.double() * alpha
    else:
        wide[:, 0] = reward.double()
    below, above = (
        _checked(c, n, len(reward), slots, item) for c, n in ((logger, "logger"), (target, "target"))
    )
    found: dict[str, Tensor] = {}
    for name in ("joint", "marginal", "cascade"):
        one, two = getattr(below, name), getattr(above, name)
        if (one is None) != (two is None):
            has, lacks = ("logger", "target") if two is None else ("target", "logger")
            raise BadInput(f"the {has} has {name} probabilities, and the {lacks} has none to compare")
        if one is not None:
            found[name] = two / one
    if below.table is not None and above.table is not None:
        assert item is not None
        at = item.unsqueeze(1).expand(-1, slots, -1)
        had, aim = below.table.gather(2, at), above.table.gather(2, at)
        found["document"] = ratio(alpha, aim, had)
        if examination is not None:
            found["examined"] = ratio(
                alpha * slot_values(examination, slots, "examination", top=1.0), aim, had
            )
    elif examination is not None:
        raise BadInput("examination needs tables of both policies: where else an item could have stood")
    if independent:
        if "marginal" not in found:
            raise BadInput("independent slots give pseudo-inverse weights from marginals, and there are none")
        found["pseudo"] = product_weights(found["marginal"])
    if q is not None or following is not None:
        if q is None or following is None or item is None:
            raise BadInput("a model of slates needs q, following and item, all three")
        _probabilities(following, "following", "target", zero=True)
        _sums_to_one(following, "following", "target")
        found["q_logged"] = q.double().gather(2, item.unsqueeze(2)).squeeze(2)
        found["q_target"] = (following.double() * q.double()).sum(2)
    return Slates(wide, group=group, per_slot=per_slot, **found)


def wide(slate: Int[Tensor, " row"], position: Int[Tensor, " row"], *columns: Tensor) -> tuple[Tensor, ...]:
    """Turn columns with a row for each item of each slate into [round slot], slates by id, slots from 0.

    >>> slate, position = torch.tensor([7, 7, 5, 5]), torch.tensor([1, 0, 0, 1])
    >>> wide(slate, position, torch.tensor([10, 20, 30, 40]))[0].tolist()
    [[30, 40], [20, 10]]

    Args:
        slate: which slate a row belongs to.
        position: at which slot, from 0; every slate has each slot once.
        columns: what to turn; further axes stay.

    Raises:
        BadInput: if a slate lacks a slot or has it twice.
    """
    if len(slate) != len(position) or not len(slate):
        raise BadInput(f"{len(slate)} rows of slate and {len(position)} of position are no slates")
    for name, each in (("slate", slate), ("position", position)):
        if bool((each < 0).any()):
            row = int((each < 0).nonzero()[0])
            raise BadInput(f"column {name}, row {row}: {int(each[row])} is negative, but it counts from 0")
    names, where = torch.unique(slate, return_inverse=True)
    slots = int(position.max()) + 1
    count = torch.bincount(where * slots + position, minlength=len(names) * slots).view(-1, slots)
    if bool((count != 1).any()):
        row, slot = (int(x) for x in (count != 1).nonzero()[0])
        raise BadInput(f"slate {int(names[row])} has slot {slot} {int(count[row, slot])} times, not once")
    order = (where * slots + position).argsort()
    return tuple(c[order].reshape(len(names), slots, *c.shape[1:]) for c in columns)


def _slots(reward: Tensor, logger: Chances, target: Chances) -> int:
    if reward.ndim == 2:
        return reward.shape[1]
    if reward.ndim != 1:
        raise BadInput(f"reward is [round slot] or [round], not of shape {tuple(reward.shape)}")
    known = [c.shape[1] for p in (logger, target) for c in (p.cascade, p.marginal, p.table) if c is not None]
    return known[0] if known else 1


def _checked(
    chances: Chances, who: str, rows: int, slots: int, item: Int[Tensor, "round slot"] | None
) -> Chances:
    """Return the probabilities in float64, with marginals from the table.

    Raises:
        BadInput: naming the policy, the row and the value.
    """
    shape = {"joint": (rows,), "marginal": (rows, slots), "cascade": (rows, slots)}
    given = {f.name: getattr(chances, f.name) for f in fields(chances)}
    for name, values in given.items():
        if values is None:
            continue
        if tuple(values.shape[: 1 if name == "joint" else 2]) != shape.get(name, (rows, slots)):
            raise BadInput(
                f"{name} of the {who} has shape {tuple(values.shape)}, but there are {rows} slates of {slots}"
            )
        _probabilities(values, name, who, zero=who == "target" or name == "table")
        given[name] = values.double()
    if given["table"] is not None:
        if item is None:
            raise BadInput("a table of items at slots needs item: which ones were shown")
        _sums_to_one(given["table"], "table", who)
        if given["marginal"] is None:
            shown = given["table"].gather(2, item.unsqueeze(2)).squeeze(2)
            _probabilities(shown, "table at what was shown", who, zero=who == "target")
            given["marginal"] = shown
    slack = 1 + AGREE
    down = given["cascade"]
    if down is not None:
        _refuse(down[:, 1:] > down[:, :-1] * slack, "cascade", who, "is likelier than the shorter beginning")
        if given["joint"] is not None:
            end = given["joint"].unsqueeze(1)
            _refuse((down[:, -1:] - end).abs() > AGREE * end, "cascade", who, "ends elsewhere than joint")
    elif given["joint"] is not None and given["marginal"] is not None:
        low = given["joint"].unsqueeze(1) > given["marginal"] * slack
        _refuse(low, "marginal", who, "is below the probability of the whole slate")
    return Chances(**given)


def _refuse(wrong: Tensor, name: str, who: str, why: str) -> None:
    if bool(wrong.any()):
        raise BadInput(f"{name} of the {who}, row {int(wrong.nonzero()[0, 0])}: {why}")


def _probabilities(values: Tensor, name: str, who: str, zero: bool) -> None:
    wrong = ~((values >= 0 if zero else values > 0) & (values <= 1 + 1e-9))
    if bool(wrong.any()):
        at = tuple(int(x) for x in wrong.nonzero()[0])
        ends = "[0, 1]" if zero else "(0, 1]"
        raise BadInput(f"{name} of the {who}, row {at[0]}: {float(values[at])} is not in {ends}")


def _sums_to_one(table: Tensor, name: str, who: str) -> None:
    short = (table.sum(2) - 1).abs() > 1e-6
    if bool(short.any()):
        row, slot = (int(x) for x in short.nonzero()[0])
        raise BadInput(
            f"{name} of the {who}, row {row}, slot {slot}: "
            f"it sums to {float(table[row, slot].sum()):.6g}, not 1"
        )
