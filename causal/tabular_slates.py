"""Slates from plain tensors: propensities of logger and target side by side, wide or in long form."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.contract import Slates
from causal.pseudo_inverse import product_weights
from causal.slate_inputs import AGREE, ratio, refuse, slot_values
from simlab.errors import BadInput


@dataclass(frozen=True)
class Chances:
    """What a policy says of the logged slates; leave out what is not known.

    Attributes:
        joint: [round], of the whole, ordered slate.
        marginal: [round slot], of the item at its slot, whatever else is shown.
        cascade: [round slot], of the items down to each slot, in order.
        table: [round slot cand], of every item at every slot; `marginal` is read from it where it is not
            given.
    """

    # Shapes are not in the types: `tabular_slates` knows how many slates there are, and says it better.
    joint: Float[Tensor, "..."] | None = None
    marginal: Float[Tensor, "..."] | None = None
    cascade: Float[Tensor, "..."] | None = None
    table: Float[Tensor, "..."] | None = None


def tabular_slates(
    reward: Tensor,
    logger: Chances,
    target: Chances,
    *,
    item: Int[Tensor, "..."] | None = None,
    q: Float[Tensor, "..."] | None = None,
    following: Float[Tensor, "..."] | None = None,
    examination: Float[Tensor, "..."] | None = None,
    slot_weight: Float[Tensor, "..."] | None = None,
    independent: bool = False,
    group: Int[Tensor, "..."] | None = None,
) -> Slates:
    """Build slates from whole tables.

    Args:
        reward: what each slot earned, [round slot], or each slate, [round].
        logger: the logging policy's probabilities.
        target: the target policy's. What both have gives weights.
        item: [round slot], the column at each slot, to look up tables.
        q: [round slot cand], Q̂_k of every item at each slot, below the logged ones above it.
        following: [round slot cand], π(item at slot | x, the logged items above it); with `q`.
        examination: [slot], θ_k; with tables.
        slot_weight: [slot], α_k, what is earned at a slot is multiplied by it.
        independent: the logger filled each slot independently of the others: then the pseudo-inverse has a
            closed form in the marginals.
        group: [round], cluster of each slate.

    Raises:
        BadInput: for no slates, what is no probability or no finite number, a table that does not sum to one,
            an item that is no column, a beginning that is likelier than a shorter one, a slate that is
            likelier than its items, one side without the other, or shapes that do not fit.
    """
    slots = _slots(reward, logger, target)
    rows, per_slot = len(reward), reward.ndim == 2
    alpha = slot_values(slot_weight, slots, "slot_weight", reward.device)
    if slot_weight is not None and not per_slot:
        raise BadInput("slot_weight is what slots are worth, and there is one reward a slate")
    refuse("reward", reward, ~reward.isfinite(), "is not a finite number")
    if group is not None and tuple(group.shape) != (rows,):
        raise BadInput(f"group has shape {tuple(group.shape)}, but there are {rows} slates")
    wide = torch.zeros(rows, slots, dtype=torch.float64, device=reward.device)
    if per_slot:
        wide += reward.double() * alpha
    else:
        wide[:, 0] = reward.double()
    tables = {"table of the logger": logger.table, "table of the target": target.table}
    _check_columns(item, {**tables, "q": q, "following": following}, rows, slots)
    below, above = (_checked(c, n, rows, slots, item) for c, n in ((logger, "logger"), (target, "target")))
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
            theta = slot_values(examination, slots, "examination", reward.device, top=1.0)
            found["examined"] = ratio(alpha * theta, aim, had)
    elif examination is not None:
        raise BadInput("examination needs tables of both policies: where else an item could have stood")
    if independent:
        if "marginal" not in found:
            raise BadInput("independent slots give pseudo-inverse weights from marginals, and there are none")
        _check_independent(below)
        found["pseudo"] = product_weights(found["marginal"])
    if q is not None or following is not None:
        if q is None or following is None or item is None:
            raise BadInput("a model of slates needs q, following and item, all three")
        refuse("q", q, ~q.isfinite(), "is not a finite number")
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
        BadInput: for a number below 0, a slate that lacks a slot or has it twice, or lengths that differ.
    """
    if len(slate) != len(position) or not len(slate):
        raise BadInput(f"{len(slate)} rows of slate and {len(position)} of position are no slates")
    for name, each in (("slate", slate), ("position", position)):
        if bool((each < 0).any()):
            row = int((each < 0).nonzero()[0])
            raise BadInput(f"column {name}, row {row}: {int(each[row])} is negative, but it counts from 0")
    for number, column in enumerate(columns):
        if len(column) != len(slate):
            raise BadInput(
                f"column {number} of those to turn has {len(column)} rows, but slate has {len(slate)}"
            )
    if int(position.max()) >= len(slate):
        row = int(position.argmax())
        why = f"is beyond the {len(slate)} rows: a slot is missing"
        raise BadInput(f"column position, row {row}: {int(position[row])} {why}")
    names, where = torch.unique(slate, return_inverse=True)
    slots = int(position.max()) + 1
    count = torch.bincount(where * slots + position, minlength=len(names) * slots).view(-1, slots)
    if bool((count != 1).any()):
        row, slot = (int(x) for x in (count != 1).nonzero()[0])
        raise BadInput(f"slate {int(names[row])} has slot {slot} {int(count[row, slot])} times, not once")
    order = (where * slots + position).argsort()
    return tuple(c[order].reshape(len(names), slots, *c.shape[1:]) for c in columns)


def _slots(reward: Tensor, logger: Chances, target: Chances) -> int:
    """Return K, from the rewards or, where they are of whole slates, from what the policies say of slots."""
    if reward.ndim not in (1, 2):
        raise BadInput(f"reward is [round slot] or [round], not of shape {tuple(reward.shape)}")
    if not reward.numel():
        raise BadInput(f"there are no slates: reward has shape {tuple(reward.shape)}")
    if reward.ndim == 2:
        return reward.shape[1]
    known = (c for p in (logger, target) for c in (p.cascade, p.marginal, p.table) if c is not None)
    return next((c.shape[1] for c in known if c.ndim > 1), 1)


def _check_columns(item: Tensor | None, tables: Mapping[str, Tensor | None], rows: int, slots: int) -> None:
    """Refuse items that are no columns, and tables whose columns are not those of the others.

    Raises:
        BadInput: naming the table, or the row, the slot and the item.
    """
    given = {name: table for name, table in tables.items() if table is not None}
    for name, table in given.items():
        if table.ndim != 3 or tuple(table.shape[:2]) != (rows, slots) or not table.shape[2]:
            raise _of_other_slates(name, table, rows, slots)
        first, one = next(iter(given.items()))
        if table.shape[2] != one.shape[2]:
            raise BadInput(f"{name} has {table.shape[2]} columns, but {first} has {one.shape[2]}")
        if item is not None:
            if tuple(item.shape) != (rows, slots):
                raise _of_other_slates("item", item, rows, slots)
            cands = table.shape[2]
            refuse("item", item, (item < 0) | (item >= cands), f"is none of the {cands} columns of {name}")


def _of_other_slates(name: str, values: Tensor, rows: int, slots: int) -> BadInput:
    return BadInput(f"{name} has shape {tuple(values.shape)}, but there are {rows} slates of {slots}")


def _checked(chances: Chances, who: str, rows: int, slots: int, item: Tensor | None) -> Chances:
    """Return the probabilities in float64, with marginals from the table.

    Raises:
        BadInput: naming the policy, the row, the slot and the value.
    """
    given: dict[str, Tensor | None] = {}
    for f in fields(chances):
        values = getattr(chances, f.name)
        given[f.name] = None if values is None else values.double()
        if values is None:
            continue
        shape = (rows,) if f.name == "joint" else (rows, slots)
        if f.name != "table" and tuple(values.shape) != shape:
            raise _of_other_slates(f"{f.name} of the {who}", values, rows, slots)
        _probabilities(values, f.name, who, zero=who == "target" or f.name == "table")
    if given["table"] is not None:
        if item is None:
            raise BadInput("a table of items at slots needs item: which ones were shown")
        _sums_to_one(given["table"], "table", who)
        shown = given["table"].gather(2, item.unsqueeze(2)).squeeze(2)
        _probabilities(shown, "table at what was shown", who, zero=who == "target")
        said = given["marginal"]
        if said is not None:
            _equal("marginal", who, said, shown, "what table says")
        given["marginal"] = shown if said is None else said
    _check_together(who, given["joint"], given["marginal"], given["cascade"])
    return Chances(**given)


def _check_together(who: str, joint: Tensor | None, marginal: Tensor | None, cascade: Tensor | None) -> None:
    """Refuse chances that cannot be those of one policy: a slate is no likelier than any part of it."""
    least, name = (None if joint is None else joint.unsqueeze(1)), "joint"
    if cascade is not None:
        longer = cascade[:, 1:] > cascade[:, :-1] * (1 + AGREE)
        wrong = torch.cat([torch.zeros_like(longer[:, :1]), longer], 1)
        refuse(f"cascade of the {who}", cascade, wrong, "is likelier than the shorter beginning")
        if least is not None:
            end = torch.zeros_like(cascade, dtype=torch.bool)
            end[:, -1:] = (cascade[:, -1:] - least).abs() > AGREE * least
            refuse(f"cascade of the {who}", cascade, end, "is not joint, where the slate ends")
        least, name = cascade, "cascade"
    if marginal is not None and least is not None:
        low = least > marginal * (1 + AGREE)
        refuse(f"marginal of the {who}", marginal, low, f"is below {name}, of a slate with that item there")
    if marginal is not None and cascade is not None:
        top = torch.zeros_like(low)
        top[:, 0] = (cascade[:, 0] - marginal[:, 0]).abs() > AGREE * marginal[:, 0]
        refuse(
            f"cascade of the {who}", cascade, top, "is not marginal, but the first item stands below no other"
        )


def _check_independent(logger: Chances) -> None:
    """Refuse a logger whose slates are not as likely as its items at their slots, one by one."""
    if logger.joint is not None and logger.marginal is not None:
        alone = logger.marginal.prod(1)
        _equal("joint", "logger", logger.joint, alone, "the product of marginal", ", as of independent slots")


def _equal(name: str, who: str, said: Tensor, wanted: Tensor, what: str, why: str = "") -> None:
    wrong = (said - wanted).abs() > AGREE * wanted
    if bool(wrong.any()):
        known = float(wanted[wrong][0])
        refuse(f"{name} of the {who}", said, wrong, f"is not {what}, {known:.6g}{why}")


def _probabilities(values: Tensor, name: str, who: str, zero: bool) -> None:
    wrong = ~((values >= 0 if zero else values > 0) & (values <= 1 + 1e-9))
    refuse(f"{name} of the {who}", values, wrong, f"is not in {'[0, 1]' if zero else '(0, 1]'}")


def _sums_to_one(table: Tensor, name: str, who: str) -> None:
    total = table.sum(2)
    if bool(((total - 1).abs() > 1e-6).any()):
        row, slot = (int(x) for x in ((total - 1).abs() > 1e-6).nonzero()[0])
        place = f"{name} of the {who}, row {row}, slot {slot}"
        raise BadInput(f"{place}: it sums to {float(total[row, slot]):.6g}, not 1")
