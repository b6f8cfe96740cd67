"""Reward models for a stream: each row is scored by a model that never saw its user.

Cross-fitting needs folds that every batch agrees on, so a user's fold is a hash of the user, not a deal.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.rewards import Fitted, RewardModel, positions
from causal.stream.files import Paths, batches, named, survey
from causal.stream.logged import Logged
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log, joined
from simlab.seeds import Seed


@dataclass(frozen=True, eq=False)
class UserFolds:
    """Fitted models, of which each row is scored by that of the fold that its user belongs to.

    It is a `Fitted`: give it to `PolicyRounds`.

    Attributes:
        models: one for each fold, fitted on users of the other folds.
        seed: of the hash.
        rows: how many the sample had that the models were fitted on.
    """

    models: tuple[Fitted, ...]
    seed: Seed
    rows: int = 0

    def fold(self, user: Int[Tensor, " user"]) -> Int[Tensor, " user"]:
        """Return the fold of each user."""
        return _fold(user, len(self.models), self.seed)

    def predict(
        self, context: Context, position: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot cand"]:
        """Predict every candidate at every given position, by the model that has not seen the user."""
        fold = self.fold(context.user)
        shape = (*position.shape, context.candidates.shape[1])
        out = torch.empty(shape, dtype=torch.float64, device=position.device)
        for number, model in enumerate(self.models):
            here = (fold == number).nonzero().squeeze(1)
            if len(here):
                out[here] = model.predict(context.rows(here), position[here]).double()
        return out


def fit_folds(
    paths: Paths,
    model: RewardModel,
    reader: Logged,
    *,
    folds: int = 3,
    share: float = 1.0,
    slots: int | None = None,
    seed: Seed = Seed(0),
    batch_rows: int = 65_536,
) -> UserFolds:
    """Read the log once, keep all rows of a share of the users, and fit one model for each fold.

    Model k is fitted on the sampled users of all other folds. Which users are sampled, and who is in which
    fold, are hashes of the user: any split of the log into files gives the same models.

    Source: Chernozhukov et al. (2018), "Double/debiased machine learning", definition 3.1.

    Args:
        paths: files and folders.
        model: the recipe; without history, which a batch does not hold.
        reader: how a batch becomes a log; its `make` is not called.
        folds: how many; at least 2.
        share: of the users to keep, in (0, 1]; the rows kept are held in memory.
        slots: positions of a page; by default as many as the sample shows.
        seed: of the sample, the folds and the fits.
        batch_rows: rows at a time.

    Raises:
        BadInput: for settings that cannot be, a log without users, or a fold that leaves too few rows to fit
            on.
    """
    if folds < 2:
        raise BadInput(f"folds is {folds}, but a model that scores rows it has not seen needs at least 2")
    if not 0 < share <= 1:
        raise BadInput(f"share is {share}, but a share of the users is in (0, 1]")
    if batch_rows < 1:
        raise BadInput(f"batch_rows is {batch_rows}, but it takes at least 1")
    if model.past:
        raise BadInput(f"the reward model wants past={model.past}, but a batch does not hold the history")
    log = joined(list(_sampled(paths, reader, share, seed, batch_rows)) or [_none(share)])
    fold = _fold(log.user, folds, seed)
    where = positions(log)
    pages = int(where.max()) + 1 if slots is None else slots
    models = []
    for number in range(folds):
        train = (fold != number).nonzero().squeeze(1)
        if not len(train) or len(train) == len(log):
            raise BadInput(f"fold {number} of {folds} has all users or none: the sample is too small")
        models.append(model.fit(log.rows(train), pages, seed.split(f"fold {number}"), None))
    return UserFolds(tuple(models), seed, len(log))


def _sampled(paths: Paths, reader: Logged, share: float, seed: Seed, rows: int) -> Iterator[Log]:
    """Yield the rows of the sampled users."""
    pieces, columns = survey(paths, reader.columns)
    for piece in pieces:
        row = piece.row
        for batch in batches(piece, columns, rows):
            with named(piece.path, row):
                log, known = reader.log(batch)
                if not known:
                    raise BadInput("folds keep users apart, but there is no column user")
            luck = seed.split("sample").at(log.user, torch.zeros_like(log.user)).uniform("share", 1)
            keep = (luck.squeeze(1) < share).nonzero().squeeze(1)
            if len(keep):
                yield log.rows(keep)
            row += batch.num_rows


def _fold(user: Int[Tensor, " user"], folds: int, seed: Seed) -> Int[Tensor, " user"]:
    """Hash users to folds."""
    luck = seed.split("folds").at(user, torch.zeros_like(user)).uniform("fold", 1).squeeze(1)
    return (luck.double() * folds).long()


def _none(share: float) -> Log:
    raise BadInput(f"a share of {share} of the users left no row to fit on")
