"""The contract of a ranker: two methods, logits out, the loss outside."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.errors import BadInput, nearest
from simlab.seeds import Seed


@dataclass(frozen=True)
class Sizes:
    """What a ranker must know of the data to be built.

    Attributes:
        n_users: users with an id of their own; an id at or above it is a new user. 0: all users are new.
        n_items: size of the catalogue.
        n_features: width of `Context.features`.
        slots: positions that a position-aware ranker tells apart.
    """

    n_users: int
    n_items: int
    n_features: int = 0
    slots: int = 1


class Ranker(nn.Module, ABC):
    """Scores candidates for users.

    A family is one file with one subclass: a frozen dataclass `Spec` of its settings, `encode` and `score`.
    `score` returns logits, never probabilities. The user's side (`encode`) is computed once and shared by
    all candidates.

    Args:
        sizes: the data's sizes.
        spec: the family's settings.
        catalog: the items, for families that use their features.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

    name: ClassVar[str]
    """The family's name on the command line: its file's name."""

    past: int = 0
    """H, how many items of history `encode` wants."""

    def __init__(self, sizes: Sizes, spec: Any, catalog: Catalog | None = None) -> None:
        super().__init__()
        self.sizes = sizes
        self.spec = spec

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

    def score_all(self, context: Context) -> Float[Tensor, "user item"]:
        """Score the whole catalogue instead of the candidates."""
        everything = Context.of(
            context.user,
            self.sizes.n_items,
            features=context.features,
            history=context.history,
            feedback=context.feedback,
        )
        return self.score(everything)

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

    def count(
        self,
        context: Context,
        columns: Int[Tensor, "user pick"],
        target: Float[Tensor, "user pick"],
        weight: Float[Tensor, "user pick"],
    ) -> None:
        """See a batch of training examples once, before training; for families that count.

        Args:
            context: who was there, and what was shown to them as `candidates`.
            columns: which candidates the examples are about.
            target: what came back for each.
            weight: how much each example counts.
        """

    def start(self, logit: float) -> None:
        """Take the logit of the base rate as intercept, before training; for families that have one.

        An intercept that is no longer 0 has been trained, and stays.
        """

    def settings(self) -> dict[str, Any]:
        """Return what is needed to build this ranker again, as plain JSON."""
        return {"ranker": self.name, "spec": asdict(self.spec), "sizes": asdict(self.sizes)}

    @classmethod
    def build(
        cls,
        sizes: Sizes,
        settings: dict[str, Any],
        catalog: Catalog | None = None,
        seed: Seed = Seed(0),
    ) -> "Ranker":
        """Build the family from settings by name, with first weights drawn from the seed.

        Raises:
            BadInput: for a setting that the family does not have, with the nearest one.
        """
        known = cls.Spec.__dataclass_fields__
        for key in settings:
            if key not in known:
                raise BadInput(f"ranker {cls.name} has no setting {key}{nearest(key, known)}")
        spec = cls.Spec(**settings)
        with torch.random.fork_rng(devices=[]):  # modules draw their first weights from the global generator
            torch.default_generator.manual_seed(seed.value & ((1 << 63) - 1))
            return cls(sizes, spec, catalog)


def user_rows(table: nn.Embedding, user: Tensor) -> Float[Tensor, "user dim"]:
    """Look up users' vectors; a user who was not there in training gets zeros."""
    if table.num_embeddings == 0:
        return table.weight.new_zeros(len(user), table.embedding_dim)
    known = (user < table.num_embeddings) & (user >= 0)
    vectors: Tensor = table(torch.where(known, user, 0))
    return vectors * known.unsqueeze(1)


def clicked_mean(table: nn.Embedding, context: Context, past: int) -> Float[Tensor, "user dim"]:
    """Return the mean vector of the clicked items among the last `past` of the history; zeros without any."""
    if past == 0 or context.history.shape[1] == 0:
        return table.weight.new_zeros(len(context), table.embedding_dim)
    history, feedback = context.history[:, -past:], context.feedback[:, -past:]
    clicked = (feedback > 0) & (history >= 0) & (history < table.num_embeddings)  # neither pad nor blank
    share = clicked / clicked.sum(1, keepdim=True).clamp(min=1)
    return functional.embedding_bag(
        history.where(clicked, 0), table.weight, mode="sum", per_sample_weights=share.to(table.weight.dtype)
    )


def shared_candidates(context: Context) -> Int[Tensor, " cand"] | None:
    """Return the one list of candidates that all rows share without a copy, or None.

    An expanded row has stride 0, so a matrix product with one [cand, dim] table replaces a gather of
    [user, cand, dim].
    """
    return context.candidates[0] if len(context) > 1 and context.candidates.stride(0) == 0 else None
