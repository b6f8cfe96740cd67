"""What a policy may see, and the items that it chooses from."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.errors import BadInput

PAD = -1
"""The id in `history` where nothing happened yet."""


@dataclass(frozen=True)
class Field:
    """A categorical side feature of the items: one value each (a brand) or several (genres).

    Attributes:
        name: what it is called.
        values: category ids from 0, padded with -1; an item may have none.
        size: how many categories there are.
        labels: the owner's own words for the categories, or empty.

    Raises:
        BadInput: for a category outside -1 … size - 1, naming the item.
    """

    name: str
    values: Int[Tensor, "item value"]
    size: int
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = (self.values < PAD) | (self.values >= self.size)
        if bool(wrong.any()):
            item, place = (int(x) for x in wrong.nonzero()[0])
            raise BadInput(
                f"field {self.name}, item {item}: {int(self.values[item, place])} is no category, "
                f"there are {self.size} from 0 (and -1 for none)"
            )
        if self.labels and len(self.labels) != self.size:
            raise BadInput(f"field {self.name} has {self.size} categories and {len(self.labels)} labels")


@dataclass(frozen=True)
class Catalog:
    """The items. Their features live here once and are never copied per row.

    Attributes:
        features: what is known of each item as numbers; `feat` may be 0.
        names: the owner's own item ids, for reports, or empty.
        feature_names: a name for each column of `features`, or empty.
        fields: what is known of each item as categories.
        vectors: a given embedding of each item (of its text or image), or None.

    Raises:
        BadInput: if a field or the vectors are of another number of items, or hold what is not finite.
    """

    features: Float[Tensor, "item feat"]
    names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    vectors: Float[Tensor, "item width"] | None = None

    def __post_init__(self) -> None:
        for field in self.fields:
            if len(field.values) != self.n_items:
                raise BadInput(f"field {field.name} is of {len(field.values)} items, not of {self.n_items}")
        if self.vectors is not None and len(self.vectors) != self.n_items:
            raise BadInput(f"there are vectors of {len(self.vectors)} items, not of {self.n_items}")
        for name, value in (("feature", self.features), ("vector", self.vectors)):
            if value is not None and not bool(value.isfinite().all()):
                item, column = (int(x) for x in (~value.isfinite()).nonzero()[0])
                raise BadInput(f"item {item}, {name} {column}: {float(value[item, column])} is not finite")

    @property
    def n_items(self) -> int:
        """How many items there are; ids run from 0 to n_items - 1."""
        return self.features.shape[0]

    def to(self, device: torch.device | str) -> "Catalog":
        """Return the same catalogue on another device."""
        return replace(
            self,
            features=self.features.to(device),
            fields=tuple(replace(f, values=f.values.to(device)) for f in self.fields),
            vectors=None if self.vectors is None else self.vectors.to(device),
        )

    @classmethod
    def bare(cls, n_items: int) -> "Catalog":
        """Return a catalogue of items of which nothing is known but their number."""
        return cls(torch.zeros(n_items, 0))


@dataclass(frozen=True)
class Context:
    """What a policy may see of each of B users at the moment of choice.

    Attributes:
        user: id of the user in each row, from 0.
        features: what is known of the user now, float32.
        history: item ids shown to the user, newest last, left-padded with -1.
        feedback: what came back for each item of the history (a click is 1), 0 where padded.
        candidates: item ids that may be shown. A **column** is a position in this row.
        mask: True where the candidate may be shown.
        popularity: what everyone sees of each candidate's popularity (a share, view count or 0), if anything.
        categories: what is known of the user and the moment as categories (gender, hour), -1 where unknown.
        tally: what a critic wants counted of the episode so far (`agents.core.tally`); no policy reads it.
    """

    user: Int[Tensor, " user"]
    features: Float[Tensor, "user feat"]
    history: Int[Tensor, "user past"]
    feedback: Float[Tensor, "user past"]
    candidates: Int[Tensor, "user cand"]
    mask: Bool[Tensor, "user cand"]
    popularity: Float[Tensor, "user cand"] | None = None
    categories: Int[Tensor, "user field"] | None = None
    tally: Float[Tensor, "user sum"] | None = None

    def __len__(self) -> int:
        """Return B, the number of rows."""
        return self.user.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.candidates.device

    def slate(self, columns: Int[Tensor, "user slot"]) -> Int[Tensor, "user slot"]:
        """Return the item ids in these columns of `candidates`."""
        return self.candidates.gather(1, columns)

    def columns(self, slate: Int[Tensor, "user slot"]) -> Int[Tensor, "user slot"]:
        """Return the column of each item id.

        Raises:
            BadInput: if an item is not among its row's candidates, or is masked there.
        """
        n = self.candidates.shape[1]
        first = self.candidates[:1]
        everything = torch.arange(n, device=self.device)
        if self.candidates.stride(0) == 0 and bool((first == everything).all()):
            if slate.numel() and (int(slate.min()) < 0 or int(slate.max()) >= n):
                raise BadInput(f"a slate holds an item outside 0..{n - 1}, so it is not a candidate")
            return slate  # the whole catalogue in order: a column is an item
        match = (slate.unsqueeze(2) == self.candidates.unsqueeze(1)) & self.mask.unsqueeze(1)
        found = match.any(2)
        if not bool(found.all()):
            row, slot = (int(x) for x in (~found).nonzero()[0])
            raise BadInput(f"row {row}: item {int(slate[row, slot])} at slot {slot} is not a candidate")
        return match.to(torch.uint8).argmax(2)

    def rows(self, index: Tensor | slice) -> "Context":
        """Return the context of some rows only; what all rows share stays one row, expanded."""

        def pick(x: Tensor) -> Tensor:
            if not isinstance(index, Tensor) or index.dtype == torch.bool or index.dim() != 1:
                return x[index]
            if x.dim() == 2 and x.stride(0) == 0 and len(x) > 0:
                return x[:1].expand(len(index), -1)
            return x.index_select(0, index)

        return self._map(pick)

    def to(self, device: torch.device | str) -> "Context":
        """Return the same context on another device."""
        return self._map(lambda x: x.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Context":
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: change(v) for k, v in values.items() if isinstance(v, Tensor)})

    @classmethod
    def of(
        cls,
        user: Int[Tensor, " user"],
        n_items: int,
        *,
        features: Float[Tensor, "user feat"] | None = None,
        history: Int[Tensor, "user past"] | None = None,
        feedback: Float[Tensor, "user past"] | None = None,
        candidates: Int[Tensor, "user cand"] | None = None,
        popularity: Float[Tensor, "user cand"] | None = None,
        categories: Int[Tensor, "user field"] | None = None,
    ) -> "Context":
        """Build a context; what is left out is empty, and every item is a candidate."""
        rows, device = user.shape[0], user.device
        if candidates is None:
            candidates = torch.arange(n_items, device=device).expand(rows, n_items)
        past = 0 if history is None else history.shape[1]
        return cls(
            user=user,
            features=torch.zeros(rows, 0, device=device) if features is None else features,
            history=torch.zeros(rows, 0, dtype=torch.long, device=device) if history is None else history,
            feedback=torch.zeros(rows, past, device=device) if feedback is None else feedback,
            candidates=candidates,
            mask=torch.ones(1, 1, dtype=torch.bool, device=device).expand(candidates.shape),
            popularity=popularity,
            categories=categories,
        )
