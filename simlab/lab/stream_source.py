"""How each target of `simlab evaluate --stream` weighs a batch, and the reward model that it may have."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float
from torch import Tensor

from causal.contract import Scored
from causal.rewards import Fitted, RewardModel
from causal.stream import ColumnTarget, PolicyRounds, PolicySlates, SlateColumns, UserFolds, fit_folds
from causal.stream.weigh import Weigh, narrowed, there
from simlab.context import Catalog
from simlab.errors import BadInput
from simlab.lab.evaluation_choice import Unit
from simlab.lab.evaluation_units import COLUMN
from simlab.lab.reward_models import reward_model
from simlab.lab.stream_files import Files
from simlab.lab.targets import fixed_policy
from simlab.log import BadCell, Log
from simlab.seeds import Seed

if TYPE_CHECKING:
    from simlab.lab.evaluate import EvaluateConfig

SAMPLE = 200_000
"""Rows, about, of whole users that a reward model is fitted on; they are held in memory."""


def unit_of(config: "EvaluateConfig", files: Files) -> Unit:
    """Return what is weighed.

    Raises:
        BadInput: for targets or options that go with another unit.
    """
    found: dict[str, Unit] = {}
    for words in filter(None, (config.policy, config.versus)):
        if words.startswith(COLUMN):
            found[words] = _unit_of_column(files, words.removeprefix(COLUMN).strip())
            if config.unit not in ("auto", found[words]):
                raise BadInput(
                    f"{words} says how likely a whole row is, and estimators of slates need a list of it for "
                    "each slot; use --unit round"
                    if found[words] == "round"
                    else f"{words} is a list of chances, one for each slot; use --unit slate"
                )
        elif config.unit != "auto":
            assert config.unit != "trajectory"
            found[words] = config.unit
        else:
            found[words] = "slate" if files.log.slots > 1 else "round"
    first, *others = found.items()
    for words, unit in others:
        if unit != first[1]:
            raise BadInput(f"{first[0]} weighs each {first[1]} and {words} each {unit}: say --unit")
    if first[1] == "slate" and not first[0].startswith(COLUMN) and files.log.slots == 1:
        raise BadInput("--unit slate needs several items a row, and this log has one; use --unit round")
    return first[1]


def weigher(
    config: "EvaluateConfig", files: Files, words: str, unit: Unit, model: Fitted | None
) -> tuple[str, Weigh]:
    """Return a target in its canonical words, and what weighs a batch for it.

    Raises:
        BadInput: for a policy that is not there, or cannot be had in a stream.
    """
    make: Weigh
    if words.startswith(COLUMN):
        column = words.removeprefix(COLUMN).strip()
        make = (ColumnTarget if unit == "round" else SlateColumns)(column, fields=files.fields)
        name = words
    else:
        log = files.log
        catalog = Catalog.bare(log.n_items)
        name, policy = fixed_policy(words, catalog)
        if unit == "round":
            make = replace(files.reader, make=PolicyRounds(policy, model, files.pages))
        else:
            logger = None if config.logger is None else fixed_policy(config.logger, catalog)[1]
            make = replace(
                files.reader, make=PolicySlates(policy, logger=logger, examination=_looks(config, log))
            )
    return name, make if config.reward_range is None else InRange(make, *config.reward_range)


@dataclass(frozen=True)
class InRange:
    """Refuse rewards outside the range that they are declared to have.

    Args:
        make: weighs a batch.
        low: the lowest reward of a row.
        high: the highest.
    """

    make: Weigh
    low: float
    high: float

    def columns(self, schema: pa.Schema) -> Sequence[str]:
        """Return the columns to read."""
        return self.make.columns(schema)

    def narrowed(self, rows: int, fields: tuple[str, ...] | None) -> "InRange":
        """Return the same with the weights that are used, and no others."""
        return replace(self, make=narrowed(self.make, rows, fields))

    def __call__(self, batch: pa.RecordBatch) -> Scored:
        """Weigh, and look at the rewards.

        Raises:
            BadCell: for the first one outside.
        """
        data: Any = self.make(batch)
        reward = data.reward if data.reward.ndim == 1 else data.reward.sum(1)
        wrong = ~((reward >= self.low) & (reward <= self.high))
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            why = f"is outside the declared range {self.low:g} … {self.high:g}"
            raise BadCell("reward", row, why, float(reward[row]))
        assert isinstance(data, Scored)
        return data


def fit_model(config: "EvaluateConfig", files: Files, seed: Seed) -> UserFolds:
    """Fit the reward model that is named, on a sample of the users, one for each fold."""
    catalog = Catalog.bare(files.log.n_items)
    past = getattr(reward_model(config.reward_model, files.log, catalog), "past", 0)
    return fit_folds(
        files.paths,
        Named(config.reward_model, catalog, past),
        files.reader,
        folds=config.folds,
        share=min(1.0, SAMPLE / files.rows),
        slots=files.pages,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class Named:
    """A reward model by its word, chosen when the rows to fit on are there.

    Args:
        word: as in `simlab.lab.reward_models.reward_model`.
        catalog: the items.
        past: how many items of history it wants.
    """

    word: str
    catalog: Catalog
    past: int = 0

    def fit(self, log: Log, slots: int, seed: Seed, weight: Float[Tensor, " round"] | None = None) -> Fitted:
        """Fit what the word means for these rows."""
        model = reward_model(self.word, log, self.catalog)
        assert isinstance(model, RewardModel)
        return model.fit(log, slots, seed, weight)


def _unit_of_column(files: Files, name: str) -> Unit:
    """Return slate where a column holds lists of more than one number."""
    with files.blamed():
        there(name, files.schema.names)
    kind = files.schema.field(name).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return "round"
    longest = pc.max(pc.list_value_length(files.first([name]).column(name))).as_py()
    return "slate" if (longest or 0) > 1 else "round"


def _looks(config: "EvaluateConfig", log: Log) -> Float[Tensor, " slot"] | None:
    if not config.examination:
        return None
    if len(config.examination) != log.slots:
        have = len(config.examination)
        raise BadInput(f"--examination has {have} numbers, but slates have {log.slots} slots")
    return torch.tensor(config.examination, dtype=torch.float64)
