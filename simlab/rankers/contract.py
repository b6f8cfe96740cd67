"""The contract of a ranker: two methods, logits out, the loss outside."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from simlab.context import Catalog, Context, Field
from simlab.errors import BadInput, nearest
from simlab.log import Log
from simlab.rankers._settings import proper
from simlab.seeds import Seed


@dataclass(frozen=True)
class Sizes:
    """What a ranker must know of the data to be built.

    Attributes:
        n_users: users with an id of their own; an id at or above it is a new user. 0: all users are new.
        n_items: size of the catalogue.
        n_features: width of `Context.features`.
        slots: positions that a position-aware ranker tells apart.
        categories: how many categories each column of `Context.categories` has.
    """

    n_users: int
    n_items: int
    n_features: int = 0
    slots: int = 1
    categories: tuple[int, ...] = ()

    @classmethod
    def of(cls, log: Log) -> "Sizes":
        """Return the sizes of a log, in which every user has an id of their own."""
        width = 0 if log.features is None else log.features.shape[1]
        slots = log.slots if log.position is None else int(log.position.max()) + 1
        n_users = len(log.user_names) or int(log.user.max()) + 1
        return cls(n_users, log.n_items, width, slots, log.category_sizes)


@dataclass(frozen=True)
class Interactions:
    """Everything that a ranker is trained on, flat: each user's examples follow one another in time order.

    Attributes:
        user: who; may be at or above `Sizes.n_users`.
        item: what was shown.
        target: what came back; above 0 is a click.
        weight: how much the example counts.
    """

    user: Int[Tensor, " example"]
    item: Int[Tensor, " example"]
    target: Float[Tensor, " example"]
    weight: Float[Tensor, " example"]

    def __len__(self) -> int:
        """Return how many examples there are."""
        return len(self.user)

    def rows(self, index: Int[Tensor, " pick"] | Bool[Tensor, " example"]) -> "Interactions":
        """Return some of the examples."""
        return Interactions(self.user[index], self.item[index], self.target[index], self.weight[index])

    def clicks(self) -> "Interactions":
        """Return the clicked ones that count."""
        return self.rows((self.target > 0) & (self.weight > 0))


class Ranker(nn.Module, ABC):
    """Scores candidates for users.

    A family is one file with one subclass: a frozen dataclass `Spec` of its settings, `encode` and `score`.
    `score` returns logits, never probabilities. The user's side (`encode`) is computed once and shared by
    all candidates.

    What is unknown has an answer: a user without an id of their own (new, or an id at or above
    `Sizes.n_users`) has a zero id vector and is known by history, features and categories alone; an unknown
    category (-1, or at or above its size) has a zero vector; an item of the catalogue that was never shown
    keeps its first id vector and is known by its side features. An id outside the catalogue is no candidate:
    policies and adapters refuse it, or take it for padding where it is masked (`checked`).

    Args:
        sizes: the data's sizes.
        spec: the family's settings.
        catalog: the items, for families that use what is known of them.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

    name: ClassVar[str]
    """The family's name on the command line: its file's name."""

    recipe: ClassVar[Mapping[str, Any]] = {}
    """Settings of `fit` that suit the family, where they differ from the defaults of `FitSettings`."""

    least: ClassVar[Mapping[str, int]] = {}
    """The lowest values of whole-number settings, where the family needs others than `_settings` says."""

    tasks: tuple[str, ...] = ()
    """Names of the heads of a multi-task family."""

    past: int = 0
    """H, how many items of history `encode` wants."""

    def __init__(self, sizes: Sizes, spec: Any, catalog: Catalog | None = None) -> None:
        super().__init__()
        self.sizes = sizes
        self.spec = spec
        self.catalog_shape = _shape(catalog)

    @abstractmethod
    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return the state of each user: everything that does not depend on the candidate."""

    @abstractmethod
    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return a logit for each of `context.candidates`.

        Args:
            context: the users and their candidates; masked candidates are scored too.
            state: what `encode` returned, where it is at hand.
        """

    def forward(self, context: Context) -> Float[Tensor, "user cand"]:
        """Score: a ranker is called like any module."""
        return self.score(context)

    def score_tasks(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand task"]:
        """Return the output of each head, in the order of `tasks`: a logit, or a value for a regression.

        Raises:
            BadInput: if the family has one head only.
        """
        raise BadInput(f"{self.name} has one head: score is all that it says")

    def score_all(self, context: Context) -> Float[Tensor, "user item"]:
        """Score the whole catalogue instead of the candidates."""
        n = self.sizes.n_items
        everything = torch.arange(n, device=context.device).expand(len(context), n)
        mask = torch.ones(1, 1, dtype=torch.bool, device=context.device).expand(len(context), n)
        return self.score(replace(context, candidates=everything, mask=mask, popularity=None))

    def item_vectors(self) -> Float[Tensor, "item dim"]:
        """Return vectors v with logit = ⟨state, v⟩, for nearest-neighbour search.

        Raises:
            BadInput: if the family's score is not an inner product.
        """
        raise BadInput(f"the score of {self.name} is not an inner product, so it has no item vectors")

    @property
    def trainable(self) -> bool:
        """Whether gradient descent has anything to do (a popularity count has not)."""
        return any(p.requires_grad for p in self.parameters())

    def prepare(self, seen: Interactions) -> None:
        """See all training examples once, before training: count them, solve for them, lay a graph.

        Args:
            seen: the examples, without what is held out.
        """

    def penalty(self) -> Float[Tensor, ""]:
        """Return what the last forward in training adds to the mean loss (a KL term, say); 0 for most."""
        return torch.zeros(())

    def start(self, logit: float) -> None:
        """Take the logit of the base rate as intercept, before training; for families that have one.

        An intercept that is no longer 0 has been trained, and stays.
        """

    def settings(self) -> dict[str, Any]:
        """Return what is needed to build this ranker again, as plain JSON."""
        return {
            "ranker": self.name,
            "spec": asdict(self.spec),
            "sizes": asdict(self.sizes),
            "catalog": self.catalog_shape,
        }

    @classmethod
    def check(cls, sizes: Sizes, spec: Any) -> None:
        """Refuse what only the family knows: settings that do not go together, or too large a table.

        `build` asks before it makes anything; each setting has passed its own check by then.

        Raises:
            BadInput: one sentence with the family, the settings and their values.
        """

    @classmethod
    def build(
        cls,
        sizes: Sizes,
        settings: Mapping[str, Any] | None = None,
        catalog: Catalog | None = None,
        seed: Seed = Seed(0),
    ) -> "Ranker":
        """Build the family from settings by name, with first weights drawn from the seed.

        Lists are taken for tuples and whole numbers for floats.

        Raises:
            BadInput: for a setting that the family does not have, with the nearest one; for a value that
                cannot be, with what can; and for a catalogue of another size.
        """
        known = cls.Spec.__dataclass_fields__
        for key in settings or {}:
            if key not in known:
                raise BadInput(f"ranker {cls.name} has no setting {key}{nearest(key, known)}")
        if catalog is not None and catalog.n_items != sizes.n_items:
            raise BadInput(f"the catalogue has {catalog.n_items} items, but the sizes say {sizes.n_items}")
        spec = cls.Spec(**proper(cls.name, cls.Spec, settings or {}, cls.least))
        cls.check(sizes, spec)
        with torch.random.fork_rng(devices=[]):  # modules draw their first weights from the global generator
            torch.default_generator.manual_seed(seed.value & ((1 << 63) - 1))
            return cls(sizes, spec, catalog)


def checked(context: Context, sizes: Sizes) -> Context:
    """Return a context that any ranker may be asked about, where it comes from outside.

    A masked candidate may have any id, as the padding of a ragged list has: it is replaced by item 0, and its
    score means nothing. Features become float32.

    Raises:
        BadInput: naming the row and the column of a candidate that may be shown and is not in the catalogue,
            of a feature that is not finite, or the widths that are not the ranker's.
    """
    n, candidates = sizes.n_items, context.candidates
    if sizes.n_features and context.features.shape[1] != sizes.n_features:
        raise BadInput(
            f"the context has {context.features.shape[1]} features, but the ranker was built for "
            f"{sizes.n_features}"
        )
    categories = 0 if context.categories is None else context.categories.shape[1]
    if context.categories is not None and sizes.categories and categories != len(sizes.categories):
        raise BadInput(
            f"the context has {categories} columns of categories, but the ranker was built for "
            f"{len(sizes.categories)}"
        )
    if not bool(context.features.isfinite().all()):
        row, column = (int(x) for x in (~context.features.isfinite()).nonzero()[0])
        value = float(context.features[row, column])
        raise BadInput(f"feature {column} of row {row} is {value}, and a ranker needs finite features")
    if context.features.dtype != torch.float32:
        context = replace(context, features=context.features.float())
    # What all rows share is looked at once.
    shared = candidates.stride(0) == 0 and len(candidates) > 0
    outside = (candidates[:1] < 0) | (candidates[:1] >= n) if shared else (candidates < 0) | (candidates >= n)
    if not bool(outside.any()):
        return context
    wrong = outside & context.mask
    if bool(wrong.any()):
        row, column = (int(x) for x in wrong.nonzero()[0])
        raise BadInput(
            f"candidate {column} of row {row} is {int(candidates[row, column])}, but the catalogue has items "
            f"0 to {n - 1}"
        )
    return replace(context, candidates=candidates.where(~outside, 0))


def _shape(catalog: Catalog | None) -> dict[str, Any]:
    """Return what decides the shapes of a ranker's item side, as plain JSON."""
    if catalog is None:
        return {"features": 0, "fields": [], "vectors": 0}
    return {
        "features": catalog.features.shape[1],
        "fields": [[f.name, f.values.shape[1], f.size] for f in catalog.fields],
        "vectors": 0 if catalog.vectors is None else catalog.vectors.shape[1],
    }


def hollow(shape: Mapping[str, Any], n_items: int) -> Catalog:
    """Return a catalogue of this shape of which nothing is known, to load a saved ranker into."""
    return Catalog(
        torch.zeros(n_items, shape["features"]),
        fields=tuple(
            Field(name, torch.full((n_items, width), -1), size) for name, width, size in shape["fields"]
        ),
        vectors=torch.zeros(n_items, shape["vectors"]) if shape["vectors"] else None,
    )
