"""The Open Bandit Dataset: clicks on fashion items, logged with propensities by two policies.

Source: Saito, Aihara, Matsutani and Narita (2021), "Open Bandit Dataset and Pipeline: towards realistic and
reproducible off-policy evaluation", NeurIPS Datasets and Benchmarks. A sample of 10,000 rounds for each of
two policies and three campaigns ships with the package; the README beside it has source and licence.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from simlab.context import Catalog, Context
from simlab.datasets.open_bandit_sample.cells import read, refuse
from simlab.errors import BadInput, nearest
from simlab.log import Log
from simlab.slates import OrderStatistics

SAMPLE = Path(__file__).parent / "open_bandit_sample"
"""The layout's root inside the package."""

_HASH = pa.dictionary(pa.int32(), pa.string())
_ROUND = {
    "timestamp": pa.timestamp("us", "UTC"),
    "item_id": pa.int64(),
    "position": pa.int64(),
    "click": pa.int64(),
    "propensity_score": pa.float64(),
    **{f"user_feature_{i}": _HASH for i in range(4)},
}
_ITEM = {
    "item_id": pa.int64(),
    "item_feature_0": pa.float64(),
    **{f"item_feature_{i}": _HASH for i in range(1, 4)},
}


def columns(n_items: int | None) -> dict[str, pa.DataType]:
    """Return the columns of the rounds and their types, with an affinity to each item unless None."""
    return {**_ROUND, **{f"user-item_affinity_{i}": pa.float64() for i in range(n_items or 0)}}


@dataclass(frozen=True)
class OpenBandit:
    """One campaign of one logging policy: `<root>/<policy>/<campaign>/<campaign>.csv` (or `.parquet`).

    Each row logs one item at one of the three positions of a page, with the probability of that item at
    that position. The data have no user id: every row is a user of its own. Rows are in order of time
    (a stable sort), and `step` counts them.

    `Log.features` are the four hashed user features, one 0/1 column for each level but the first in
    alphabetical order, as `pandas.get_dummies(drop_first=True)` and obp 0.5.7 make them. Levels are those
    of the file, so two logs may differ in width: match them by `Log.feature_names`.

    Attributes:
        policy: who logged: "random" (uniform) or "bts" (Bernoulli Thompson sampling).
        campaign: "all", "men" or "women".
        root: where the data lie; the packaged sample if None.
        affinity: whether to add the user's affinity to each item (past clicks) to the features.
    """

    policy: str = "random"
    campaign: str = "men"
    root: Path | None = None
    affinity: bool = False
    page_slots: ClassVar[int] = 3
    """Positions of a page, the K to ask a policy for."""

    def load(self) -> Log:
        """Read the rounds.

        Raises:
            BadInput: for a file, column or cell that is missing or cannot be.
        """
        n_items = self.catalog().n_items
        path = self._file()
        table = read(path, columns(n_items if self.affinity else None))
        time, item, position, click, chance = (table[name].to_numpy() for name in list(_ROUND)[:5])
        last = self.page_slots
        for name, value, fine, why in (
            ("item_id", item, (item >= 0) & (item < n_items), f"is not one of the {n_items} items"),
            (
                "position",
                position,
                (position >= 1) & (position <= last),
                f"is not a position from 1 to {last}",
            ),
            ("click", click, (click == 0) | (click == 1), "is neither 0 nor 1"),
            ("propensity_score", chance, (chance > 0) & (chance <= 1), "is not a probability in (0, 1]"),
        ):
            refuse(path, name, value, ~fine, why)
        names, features = _one_hot(table, [f"user_feature_{i}" for i in range(4)])
        if self.affinity:
            affinity = table.column_names[len(_ROUND) :]
            names += affinity
            more = [table[name].to_numpy().astype(np.float32) for name in affinity]
            features = np.concatenate([features, np.stack(more, 1)], axis=1)
        order = np.argsort(time, kind="stable")
        reward = torch.from_numpy(click[order]).double()
        rows = torch.arange(len(order))
        return Log(
            user=rows,
            slate=torch.from_numpy(item[order]).unsqueeze(1),
            propensity=torch.from_numpy(chance[order]),
            reward=reward,
            n_items=n_items,
            step=rows,
            features=torch.from_numpy(features[order]),
            click=reward.unsqueeze(1),
            position=torch.from_numpy(position[order] - 1),
            policy=(self.policy,),
            feature_names=tuple(names),
        )

    def catalog(self) -> Catalog:
        """Read the items: one number and three hashed features, the latter one-hot without their first level.

        The hashes are salted anew in each folder of the data, so names differ between the two policies.

        Raises:
            BadInput: as in `load`, and where item ids do not count from 0.
        """
        path = self._folder() / "item_context.csv"
        table = read(path, _ITEM)
        ids = table["item_id"].to_numpy()
        again = np.ones(len(ids), dtype=bool)
        again[np.unique(ids, return_index=True)[1]] = False
        wrong = again | (ids < 0) | (ids >= len(ids))
        refuse(path, "item_id", ids, wrong, f"breaks the count of ids from 0 to {len(ids) - 1}")
        names, features = _one_hot(table, [f"item_feature_{i}" for i in range(1, 4)])
        number = table["item_feature_0"].to_numpy().astype(np.float32)
        refuse(path, "item_feature_0", number, ~np.isfinite(number), "is not finite")
        features = np.concatenate([number[:, None], features], axis=1)[np.argsort(ids)]
        return Catalog(torch.from_numpy(features), feature_names=("item_feature_0", *names))

    def _folder(self) -> Path:
        """Find the campaign's folder."""
        folder = SAMPLE if self.root is None else Path(self.root)
        if not folder.is_dir():
            raise BadInput(f"{folder} is not a folder with the layout of the Open Bandit Dataset")
        for kind, name in (("logging policy", self.policy), ("campaign", self.campaign)):
            known = [f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith(("_", "."))]
            if name not in known:
                where = "the sample" if self.root is None else str(folder)
                raise BadInput(f"{where} has no {kind} named {name}{nearest(name, known) if known else ''}")
            folder /= name
        return folder

    def _file(self) -> Path:
        """Find the rounds, in Parquet or else in CSV."""
        compact = self._folder() / f"{self.campaign}.parquet"
        return compact if compact.is_file() else compact.with_suffix(".csv")


PART = OpenBandit


def _one_hot(table: pa.Table, columns: list[str]) -> tuple[list[str], Float[np.ndarray, "round feat"]]:
    """Return a name and a 0/1 column for every level but the first of each column, in alphabetical order."""
    names: list[str] = []
    out: list[np.ndarray] = []
    for column in columns:
        coded = table[column].cast(_HASH).combine_chunks()
        code, level = coded.indices.to_numpy(), coded.dictionary.to_pylist()
        present = np.bincount(code, minlength=len(level)) > 0
        for i in sorted(np.flatnonzero(present), key=lambda i: level[i])[1:]:
            names.append(f"{column}_{level[i]}")
            out.append((code == i).astype(np.float32))
    return names, np.stack(out, 1) if out else np.zeros((table.num_rows, 0), dtype=np.float32)


@cache
def _priors() -> dict[str, dict[str, list[float]]]:
    """Read the Beta priors of each campaign."""
    found: dict[str, dict[str, list[float]]] = json.loads((SAMPLE / "priors.json").read_text("utf-8"))
    return found


@dataclass(frozen=True)
class BernoulliTS:
    """The policy that logged "bts", as it began: Thompson sampling from its Beta priors.

    It draws a click rate for every item and shows the three largest in order, to everyone alike. The logger
    went on learning during the week, so its logged propensities leave these probabilities as days go by.

    Attributes:
        campaign: "all", "men" or "women".
    """

    campaign: str = "men"

    @property
    def name(self) -> str:
        """The name of the policy in tables and logs."""
        return "bernoulli-ts"

    def priors(self) -> tuple[Float[Tensor, " item"], Float[Tensor, " item"]]:
        """Return alpha and beta of each item's click rate.

        Raises:
            BadInput: for a campaign without priors.
        """
        known = _priors()
        if self.campaign not in known:
            raise BadInput(f"there are no priors for campaign {self.campaign}{nearest(self.campaign, known)}")
        found = known[self.campaign]
        return torch.tensor(found["alpha"]).double(), torch.tensor(found["beta"]).double()

    def distribution(self, context: Context, slots: int) -> OrderStatistics:
        """Return the exact distribution over slates, the same for every row.

        Raises:
            BadInput: if rows differ in their candidates, or a candidate has no prior.
        """
        alpha, beta = self.priors()
        shared = context.candidates[:1]
        other = (context.candidates != shared).any(1) | ~context.mask.all(1)
        if bool(other.any()):
            row = int(other.nonzero()[0])
            raise BadInput(
                f"row {row}: bernoulli-ts chooses from one list of candidates, the same in every row"
            )
        if len(shared) and (int(shared.min()) < 0 or int(shared.max()) >= len(alpha)):
            raise BadInput(
                f"candidates go up to item {int(shared.max())}, but the priors of campaign {self.campaign} "
                f"are for {len(alpha)} items"
            )
        own = shared[0].cpu()
        alpha, beta = alpha[own].to(context.device), beta[own].to(context.device)
        return OrderStatistics(alpha, beta, slots, len(context))
