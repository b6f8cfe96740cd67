"""Which column of a file is which field of a log.

A field is found under its own name or one of the aliases below, whatever the case. Where a file has two
columns that could be the same field, nothing is guessed: the reader asks for `ColumnMap`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from simlab.errors import BadInput

ALIASES: dict[str, tuple[str, ...]] = {
    "slate": ("slate", "items", "item_ids", "actions"),
    "item": ("item", "item_id", "action", "action_id"),
    "propensity": ("propensity", "propensity_score", "pscore"),
    "slot_propensity": ("slot_propensity", "slot_propensities", "pscore_item_position"),
    "click": ("click", "clicks", "clicked"),
    "reward": ("reward", "rating"),
    "user": ("user", "user_id", "visitor_id"),
    "session": ("session", "session_id"),
    "step": ("step", "timestep"),
    "position": ("position", "pos"),
    "treatment": ("treatment", "treated"),
    "terminated": ("terminated", "done"),
    "truncated": ("truncated", "timeout"),
    "policy": ("policy", "policy_name"),
    "candidates": ("candidates", "candidate_ids"),
    "features": ("features",),
    "categories": ("categories",),
    "round": ("round", "round_id", "impression_id", "slate_id"),
    "slot": ("slot", "rank", "position", "pos"),
}
"""Names under which a field is found when the map does not say. `slot` and `round` are of the long layout."""

ROW = ("user", "session", "step", "treatment", "terminated", "truncated", "policy", "candidates", "features")
NEEDED = {
    "wide": (("slate", "item"), ("propensity", "slot_propensity"), ("reward", "click")),
    "long": (("round",), ("slot",), ("item",), ("propensity", "slot_propensity"), ("click", "reward")),
}
"""Of each of these groups, a file has at least one column."""

WIDE = ("slate", "item", "propensity", "slot_propensity", "click", "reward", "position", *ROW)
LONG = ("round", "slot", "item", "propensity", "slot_propensity", "click", "reward", *ROW)


@dataclass(frozen=True)
class ColumnMap:
    """Our fields by the names of the file's columns.

    None finds the column by its name or alias; "" leaves the field out even if there is such a column. Where
    a table has a column for each slot, `slate`, `click`, `slot_propensity` and `candidates` may be patterns
    such as `item_*`: the columns are taken in the order of the numbers that they end with.

    Attributes:
        slate: the items of a row, a list or text such as `3 7 9`, `3|7|9`, `[3, 7, 9]`. Names in text are
            separated by `|`, `;` or `,`, not by spaces.
        item: the one item of a row: K = 1, or a row of the long layout.
        propensity: probability of the whole slate.
        slot_propensity: probability of each item at its slot.
        click: feedback of each slot.
        reward: what the round was worth; the sum of the clicks where it is absent.
        user: who it was; where it is absent, every round has a user of its own.
        session: session of the user.
        step: order within the session.
        position: slot of the page, for K = 1.
        treatment: arm of an experiment.
        terminated: the user was gone afterwards.
        truncated: the last round by a time limit.
        policy: name of the logging policy.
        candidates: what could have been shown.
        round: the slate that a row of the long layout belongs to.
        slot: the slot of a row of the long layout.
        features: columns of context features: names, patterns such as `x_*`, or one column of lists.
        categories: columns of context features that are categories, likewise: whole numbers from 0. An empty
            cell, or -1, is an unknown category.
        category_sizes: how many categories each of these columns has; by default what the rows show.
        position_from: 0 or 1, where the file starts to count positions and slots. None: from 0, and refused
            if no 0 is there, since such a file may count from 1.
        recode: "user" or "item" where whole numbers are names too (sparse ids): they are numbered from 0 and
            kept as names. Ids that are text always are.
    """

    slate: str | None = None
    item: str | None = None
    propensity: str | None = None
    slot_propensity: str | None = None
    click: str | None = None
    reward: str | None = None
    user: str | None = None
    session: str | None = None
    step: str | None = None
    position: str | None = None
    treatment: str | None = None
    terminated: str | None = None
    truncated: str | None = None
    policy: str | None = None
    candidates: str | None = None
    round: str | None = None
    slot: str | None = None
    features: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    category_sizes: tuple[int, ...] = ()
    position_from: int | None = None
    recode: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.position_from not in (None, 0, 1):
            raise BadInput(f"position_from is 0 or 1, not {self.position_from}")
        for name in self.recode:
            if name not in ("user", "item"):
                raise BadInput(f"recode is for user and item, not {name}")


def find(field: str, columns: ColumnMap, names: Sequence[str]) -> str | None:
    """Return the file's column for a field, or None where there is none.

    Raises:
        BadInput: if a column that the map names is not there, or two columns could be the field.
    """
    said = getattr(columns, field)
    if said == "":
        return None
    if said is not None:
        if said not in names:
            raise BadInput(f"column {said} (our {field}) is missing{close(said, names)}")
        return str(said)
    found = [name for name in names if _plain(name) in ALIASES[field]]
    if len(found) > 1:
        raise BadInput(f"columns {' and '.join(found)} could both be our {field}: say which with {field}=…")
    return found[0] if found else None


def missing(fields: Sequence[str], names: Sequence[str]) -> BadInput:
    """Return the refusal of a file in which one of these fields is needed and none is there."""
    plain = {_plain(name): name for name in names}
    aliases = [alias for field in fields for alias in ALIASES[field]]
    near = [plain[m] for alias in aliases for m in get_close_matches(alias, plain, n=1)]
    hint = f"; did you mean {near[0]}?" if near else close(fields[0], names)
    return BadInput(f"column {' or '.join(fields)} is missing{hint}")


def several(field: str, columns: ColumnMap, names: Sequence[str]) -> list[str]:
    """Return the file's columns of "features" or "categories", in the order of the map.

    Within a pattern the order is the file's.

    Raises:
        BadInput: if a name or a pattern finds nothing.
    """
    asked: tuple[str, ...] = getattr(columns, field)
    if not asked:
        found = [name for name in names if _plain(name) in ALIASES[field]]
        if len(found) > 1:
            raise BadInput(
                f"columns {' and '.join(found)} could both be our {field}: say which with {field}=…"
            )
        return found
    chosen: list[str] = []
    for said in asked:
        hits = [said] if said in names else [n for n in names if fnmatchcase(n, said)]
        if not hits and said:
            raise BadInput(f"column {said} (our {field}) is missing{close(said, names)}")
        chosen += [n for n in hits if n not in chosen]
    return chosen


def close(word: str, names: Sequence[str]) -> str:
    """Return "; did you mean X?", or the first of the columns that there are."""
    near = get_close_matches(word, names, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    shown = ", ".join(n for n in names[:12] if n)
    return f"; the columns are {shown}{', …' if len(names) > 12 else ''}"


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")
