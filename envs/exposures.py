"""What was shown at which slot and what was bought, by pairs of user and item: a log whose truth is known.

A trial offers one item or none; a shop shows slates, and an item at slot k is seen only where the slot is
examined. Each row here is a user and an item: the slot of the item or none, whether it was bought, and the
logging policy's chance of each slot. So the effect of an item at a slot can be estimated, and checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from envs.users.promotion import Promotion
from simlab.context import Context
from simlab.errors import BadInput
from simlab.policy import Policy
from simlab.seeds import Seed
from simlab.slates import SlateDistribution

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 1 << 12
"""Users that are shown slates at once: the chances of all slots are [user, slot, item]."""
LEFT_OUT = 1e-3
"""Least chance of not being shown where chances are estimates from some hundreds of slates."""


@dataclass(frozen=True)
class ExposureLog:
    """Pairs of a user and an item, shown at a slot or not.

    Attributes:
        user: whose row it is.
        item: which item.
        X: what may be known of the pair: see `pair_features`.
        slot: where the item stood, from 0; K where it was not shown.
        Y: 1 where the user bought the item, seen or not.
        chance: the logging policy's chance of each slot, and last of not showing the item; sums to 1.
        weight: how many pairs a row stands for: 1 if shown, else one over the share of such pairs kept.
        baseline: true p0, the chance of buying unseen.
        cate: true τ, what being seen adds to it; a function of X alone.
        examination: true chance that each slot is examined.
        users: how many users there were.
        feature_names: a name for each column of X.
    """

    user: Int[Tensor, " round"]
    item: Int[Tensor, " round"]
    X: Float[Tensor, "round feat"]
    slot: Int[Tensor, " round"]
    Y: Float[Tensor, " round"]
    chance: Float[Tensor, "round place"]
    weight: Float[Tensor, " round"]
    baseline: Float[Tensor, " round"]
    cate: Float[Tensor, " round"]
    examination: Float[Tensor, " slot"]
    users: int
    feature_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return N, the number of rows."""
        return len(self.Y)

    def frame(self) -> "pd.DataFrame":
        """Return what a shop would have logged, without the truth: a row for each pair.

        Columns: user, item, slot (empty where the item was not shown), propensity (the chance of that slot,
        or of not being shown), outcome, weight, and the features.
        """
        import pandas as pd  # half a second to import, and few need it

        table = pd.DataFrame({"user": self.user.numpy(), "item": self.item.numpy()})
        unshown = self.slot == self.chance.shape[1] - 1
        table["slot"] = self.slot.double().masked_fill(unshown, torch.nan).numpy()
        table["propensity"] = self.chance.gather(1, self.slot.unsqueeze(1)).squeeze(1).numpy()
        table["outcome"], table["weight"] = self.Y.numpy(), self.weight.numpy()
        known = pd.DataFrame(self.X.numpy(), columns=list(self.feature_names))
        return pd.concat([table, known], axis=1)


@torch.no_grad()
def exposures(
    world: Promotion, policy: Policy, n: int, seed: Seed, *, unshown: float | int = 0.1, first_user: int = 0
) -> ExposureLog:
    """Show one slate to each of n new users, and note every pair of user and item that was shown.

    Of the pairs that were not shown a share is kept, drawn at random, and weighs for the others: sums over
    pairs stay right on average. Pairs whose place was certain (an item that was no candidate, say) are not
    there: their effect cannot be told.

    Args:
        world: the shop; the users are those of `world.reset`, and their luck that of its first step.
        policy: who shows, with exact slot chances (`slot_marginals`).
        n: how many users.
        seed: of users, luck, the policy's draws and the pairs kept.
        unshown: share of pairs without exposure that is kept, in (0, 1].
        first_user: id of the first user.

    Raises:
        BadInput: for an argument out of its range, or a policy that leaves nothing to chance.
    """
    if n < 1:
        raise BadInput(f"n is {n}, but there is at least one user")
    if not 0 < unshown <= 1:
        raise BadInput(f"unshown is {unshown}, but it is a share in (0, 1]")
    parts = [
        _some(world, policy, first_user + i, min(CHUNK, n - i), seed, float(unshown))
        for i in range(0, n, CHUNK)
    ]
    names = ("user", "item", "X", "slot", "Y", "chance", "weight", "baseline", "cate")
    columns: dict[str, Any] = {k: torch.cat([p[k] for p in parts]).cpu() for k in names}
    if not len(columns["Y"]):
        raise BadInput(
            f"{policy.name} leaves no pair of user and item to chance, so no effect can be told from its log"
        )
    theta = world.examination().double().cpu()
    return ExposureLog(**columns, examination=theta, users=n, feature_names=pair_names(world))


def place_chances(
    chosen: SlateDistribution, columns: Int[Tensor, "user slot"]
) -> Float[Tensor, "user cand place"]:
    """Return the chance of each slot for each candidate, and last of not being shown, float64.

    Where a distribution's marginals are estimates (`exact_marginals`), so are these: those of the slate's own
    items are `marginals`, which is never 0, an item has at least `LEFT_OUT` of not being shown, and each
    candidate's chances are scaled to sum to 1.

    Args:
        chosen: who shows.
        columns: the slate that was shown.
    """
    chance = chosen.slot_marginals().double()
    exact = getattr(chosen, "exact_marginals", True)
    if not exact:
        chance = chance.scatter(2, columns.unsqueeze(2), chosen.marginals(columns).double().unsqueeze(2))
    return with_left_out(chance, exact=exact)


def with_left_out(
    chance: Float[Tensor, "user slot cand"], *, exact: bool = True
) -> Float[Tensor, "user cand place"]:
    """Return the chances of slots by candidate, and last that of not being shown."""
    slots = chance.transpose(1, 2)
    left = 1 - slots.sum(2, keepdim=True)
    if exact:
        return torch.cat([slots, left.clamp(0, 1)], 2)
    found = torch.cat([slots, left.clamp(min=LEFT_OUT)], 2)
    return found / found.sum(2, keepdim=True)


def pair_names(world: Promotion) -> tuple[str, ...]:
    """Return a name for each column of `pair_features`."""
    every = range(world.spec.covariates)
    products = [f"x_{j} {kind}_{j}" for kind in ("suits", "moves") for j in every]
    return (*(f"x_{j}" for j in every), *world.catalog.feature_names, *products)


def pair_features(
    world: Promotion, covariates: Float[Tensor, "row covariate"], item: Int[Tensor, " row"]
) -> Float[Tensor, "row feat"]:
    """Return what may be known of pairs: the user's covariates, the item's features, and their products.

    A product of a covariate and the item's direction along it is what a linear model needs to tell whom an
    item suits and whom it moves.
    """
    d = world.spec.covariates
    about = world.catalog.features[item]
    products = covariates.repeat(1, 2) * about[:, : 2 * d]
    return torch.cat([covariates, about, products], 1).double()


def seen_pairs(world: Promotion, context: Context) -> Float[Tensor, "user cand feat"]:
    """Return the features of each user and candidate of a context: for policies that act on pairs."""
    users, cands = context.candidates.shape
    known = context.features[:, : world.spec.covariates].repeat_interleave(cands, 0)
    return pair_features(world, known, context.candidates.reshape(-1)).view(users, cands, -1)


def joined(logs: Sequence[ExposureLog]) -> ExposureLog:
    """Return several logs of one world as one."""
    whole = [f.name for f in fields(ExposureLog) if isinstance(getattr(logs[0], f.name), Tensor)]
    rows: dict[str, Any] = {k: torch.cat([getattr(x, k) for x in logs]) for k in whole if k != "examination"}
    return replace(logs[0], **rows, users=sum(x.users for x in logs))


def _some(
    world: Promotion, policy: Policy, first: int, n: int, seed: Seed, unshown: float
) -> dict[str, Tensor]:
    """Return the rows of some users, by the name of the column."""
    world_seed, policy_seed = seed.split("world"), seed.split("policy")
    state = world.reset(n, world_seed, first)
    context = world.privileged(state) if getattr(policy, "privileged", False) else world.observe(state)
    chosen = policy.distribution(context, world.slots)
    columns = chosen.sample(policy_seed.at(state.user, state.step))
    slate = context.slate(columns)
    items, slots = world.spec.items, world.slots
    bought = world.purchases(state, slate, world_seed)
    place = torch.full((n, items + 1), slots, device=slate.device)  # the last column is the blank item's
    place = place.scatter(1, slate, torch.arange(slots, device=slate.device).expand(n, -1))[:, :items]
    table = place_chances(chosen, columns).masked_fill(~context.mask.unsqueeze(2), 0.0)
    chance = torch.zeros(n, items + 1, slots + 1, dtype=torch.float64, device=slate.device)
    chance.scatter_add_(1, context.candidates.unsqueeze(2).expand(-1, -1, slots + 1), table)
    chance[:, :, slots] += 1 - chance.sum(2)  # what is no candidate is surely not shown
    chance = chance[:, :items]
    luck = seed.split("kept").at(state.user, state.step).uniform("kept", items)
    shown = place < slots
    open_ = chance.amax(2) < 1 - 1e-9
    user, item = (open_ & (shown | (luck < unshown))).nonzero(as_tuple=True)
    groups = world.groups(state)
    return {
        "user": state.user[user], "item": item,
        "X": pair_features(world, state.users.covariates[user], item),
        "slot": place[user, item], "Y": bought[user, item].double(), "chance": chance[user, item],
        "weight": torch.where(shown[user, item], 1.0, 1 / unshown).double(),
        "baseline": groups.baseline[user, item].double(), "cate": groups.cate[user, item].double(),
    }  # fmt: skip
