"""Where a log to evaluate comes from: a file whose columns are mapped, or a packaged data set."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from simlab.context import Catalog
from simlab.errors import BadInput, nearest
from simlab.log import Log
from simlab.parts import names, part
from simlab.tables import ColumnMap, read_log
from simlab.tables.columns import find
from simlab.tables.sources import open_source

if TYPE_CHECKING:
    from simlab.lab.evaluate import EvaluateConfig


@dataclass(frozen=True, eq=False)
class LogSource:
    """A log and what is known beside it.

    Attributes:
        log: the rounds.
        catalog: the items.
        page_slots: positions of a page, where a row logs one of them.
        dataset: the packaged data set that it is part of, if any.
    """

    log: Log
    catalog: Catalog
    page_slots: int | None = None
    dataset: Any = None


def load(config: "EvaluateConfig") -> LogSource:
    """Read the log that the options name.

    Raises:
        BadInput: naming the file, the column, the row and the value.
    """
    dataset = named(config.log)
    if dataset is None:
        _check_position(config)
        log = read_log(config.log, column_map(config), layout=config.layout, n_items=config.items)
        return LogSource(log, Catalog.bare(log.n_items))
    if config.columns or config.layout != "auto" or config.items is not None:
        raise BadInput(f"{config.log} is a data set, so --columns, --layout and --items do not apply")
    return LogSource(dataset.load(), dataset.catalog(), getattr(dataset, "page_slots", None), dataset)


def named(text: str) -> Any:
    """Return the data set that NAME:SETTING/SETTING names, or None for a file.

    >>> named("open-bandit:random/men").campaign
    'men'
    """
    name, colon, settings = text.partition(":")
    if not colon or Path(text).exists() or name.replace("-", "_") not in names("dataset"):
        if colon and "/" not in name and "\\" not in name and len(name) > 1 and not Path(text).exists():
            known = [n.replace("_", "-") for n in names("dataset")]
            raise BadInput(f"there is no file {text} and no data set named {name}{nearest(name, known)}")
        return None
    kind: Any = part("dataset", name)
    values = [v for v in settings.split("/") if v]
    words = [f.name for f in fields(kind) if f.init and f.type in (str, "str")]
    if len(values) > len(words):
        raise BadInput(f"{text} has {len(values)} settings, but {name} takes {', '.join(words)}")
    return kind(**dict(zip(words, values, strict=False)))


def column_map(config: "EvaluateConfig") -> ColumnMap:
    """Return the map that `--columns FIELD=COLUMN` makes.

    Raises:
        BadInput: for a field that a log does not have, with the nearest one.
    """
    known = [f.name for f in fields(ColumnMap) if f.name not in ("position_from", "recode", "category_sizes")]
    chosen: dict[str, Any] = {}
    for text in config.columns:
        field, equals, column = text.partition("=")
        field = field.strip().replace("-", "_")
        if not equals:
            raise BadInput(f"--columns {text} is not FIELD=COLUMN, such as propensity=pscore")
        if field not in known:
            raise BadInput(f"--columns {text}: a log has no field {field}{nearest(field, known)}")
        if field in chosen:
            raise BadInput(f"--columns gives {field} twice")
        several = field in ("features", "categories")
        chosen[field] = tuple(c.strip() for c in column.split(",")) if several else column.strip()
    return ColumnMap(**chosen, position_from=config.position_from, recode=tuple(config.recode))


def probability(config: "EvaluateConfig", name: str, log: Log) -> Float[Tensor, " round"]:
    """Read the column that holds the target's probability of what each round shows, float64.

    It is read in the place of the reward, which like it is one finite number for each round; in the long
    layout the rows of a round must then agree.

    Raises:
        BadInput: for a column that is missing, or a cell that is not a finite number.
    """
    if named(config.log) is not None or Path(config.log).suffix == ".npz":
        raise BadInput(f"column:{name} needs a log with columns, in Parquet or CSV")
    columns = column_map(config)
    there = open_source(config.log).names
    if name not in there:
        raise BadInput(f"{config.log}: there is no column {name}{nearest(name, there)}")
    long = config.layout == "long" or (log.slots > 1 and find("slate", columns, there) is None)
    # In the long layout a reward beside clicks belongs to the round; alone it would be each item's.
    mapped = replace(columns, reward=name, click=name if long else "")
    again = read_log(config.log, mapped, layout="long" if long else config.layout, n_items=log.n_items)
    chance = again.reward.double()
    wrong = ~((chance >= 0) & (chance <= 1 + 1e-6))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise BadInput(f"{config.log}: column {name}, row {row}: {float(chance[row]):g} is not in [0, 1]")
    return chance


def _check_position(config: "EvaluateConfig") -> None:
    """Refuse `--position-from` where nothing counts positions.

    Raises:
        BadInput: naming the file.
    """
    if config.position_from is None or not Path(config.log).is_file() or Path(config.log).suffix == ".npz":
        return
    columns, there = column_map(config), open_source(config.log).names
    if find("position", columns, there) is None and find("slot", columns, there) is None:
        raise BadInput(f"--position-from {config.position_from}: {config.log} has no column of positions")
