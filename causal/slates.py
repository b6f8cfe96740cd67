"""From a log of slates and a target policy to what slate estimators use, exact and vectorised."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.cascade_reward import AdditiveCascade, CascadeModel, fit_cascade
from causal.contract import Slates
from causal.prefixes import next_item, placed, prefix_log_probs
from causal.pseudo_inverse import general_weights, listable, uniform_weights
from causal.rewards import RewardModel
from causal.slate_inputs import Table, agree, checked_table, ratio, rewards_of, slot_values, table_rows
from simlab.errors import BadInput, nearest
from simlab.log import Log
from simlab.policy import Policy
from simlab.seeds import Seed
from simlab.slates import Mixture, SlateDistribution, Uniform

_CELLS = 1 << 20
"""Cells of [round, slot, cand] held at once: 8 MB."""
_ROWS = 4096
"""Rounds at a time at most."""
FIELDS = ("joint", "marginal", "cascade", "pseudo", "examined", "document")
"""The weights that can be filled."""

_NEEDS = {
    "marginal": "column slot_propensity, or logger=",
    "cascade": "logger= a policy",
    "pseudo": "logger= a policy",
    "examined": "examination=, and logger= a policy or a table",
    "document": "logger= a policy or a table",
}


def slates(
    log: Log,
    target: Policy,
    *,
    logger: Policy | Table | None = None,
    examination: Float[Tensor, " slot"] | None = None,
    reward_model: CascadeModel | RewardModel | None = None,
    slot_weight: Float[Tensor, " slot"] | None = None,
    fields: Iterable[str] | None = None,
    folds: int = 3,
    weighted: bool = False,
    group_by_user: bool = True,
    seed: Seed = Seed(0),
    past: int = 0,
    total: int | None = None,
    chunk: int | None = None,
) -> Slates:
    """Weigh each slate of a log for a target policy.

    - `joint` from the log's `propensity`; `marginal` from its `slot_propensity`, else from the logger.
    - `cascade` needs a logging policy: what it would have shown below each beginning of a slate.
    - `document`, and with examination probabilities `examined`, need what the logger gives each item at
      every slot: a logging policy or a table.
    - `pseudo` needs a logging policy that is uniform, or few enough slates to list (`causal.pseudo_inverse`);
      where listing them for every round is long, it must be asked for by name.

    What cannot be had stays None. A slot earns its click, times `slot_weight`; a slate without clicks its
    reward, and then estimators that need slots refuse. Weights of `examined` and `document` count the slots
    by `slot_weight` too, since a click is worth that much there.

    Slot marginals of the known distributions are exact. One that estimates them and has `marginals_error`
    (the standard error of its `marginals`) fills `marginal_error` with that of each weight;
    `marginals_error` of this module says it in words.

    Args:
        log: the logged slates.
        target: the policy to evaluate.
        logger: the logging policy, or its probability of each item at each slot: [slot item] for all rounds,
            or [round slot cand] in the order of the log's candidates.
        examination: θ_k, the chance that each slot is examined.
        reward_model: of what is still to come (`causal.cascade_reward`), or of single items; needs `cascade`.
        slot_weight: α_k, what a click at each slot is worth; 1 by default.
        fields: the weights to fill; by default all that can be had.
        folds: of cross-fitting.
        weighted: weigh the regressions by the cascade weights.
        group_by_user: take users, not rounds, as the independent units, where a user has several rounds.
        seed: of folds and fits.
        past: how many items of history the policies want in their context.
        total: rounds of the whole log, of which this may be a part, to tell what would take long.
        chunk: rounds at a time.

    Raises:
        BadInput: if the logger's probabilities are not those of the log, a table does not sum to one, clicks
            do not add up to the reward, or a field that is asked for cannot be had.
    """
    wanted = FIELDS if fields is None else _known(fields)
    if chunk is not None and chunk < 1:
        raise BadInput(f"chunk is {chunk}, but it takes at least 1")
    device = log.reward.device
    alpha = slot_values(slot_weight, log.slots, "slot_weight", device)
    theta = (
        None if examination is None else slot_values(examination, log.slots, "examination", device, top=1.0)
    )
    reward, per_slot = rewards_of(log, slot_weight, alpha)
    context = log.context(past)
    table = checked_table(logger, log, context) if isinstance(logger, Tensor) else None
    policy = None if isinstance(logger, Tensor) else logger
    many = 0 if fields is not None else len(log) if total is None else total
    size = chunk or min(_ROWS, max(1, _CELLS // (log.slots * context.candidates.shape[1])))
    parts = []
    with torch.no_grad():
        for start in range(0, len(log), size):
            rows = slice(start, start + size)
            seen = context.rows(rows)
            piece = _Piece(
                first=start,
                columns=seen.columns(log.slate[rows]),
                target=target.distribution(seen, log.slots),
                logger=None if policy is None else policy.distribution(seen, log.slots),
                table=None if table is None else table_rows(table, rows, seen),
                joint=log.propensity[rows].double(),
                marginal=None if log.slot_propensity is None else log.slot_propensity[rows].double(),
            )
            parts.append(_weigh(piece, wanted, alpha, theta, many))
    found = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    for name in () if fields is None else wanted:
        if name not in found:
            raise BadInput(f"weights {name} need {_NEEDS[name]}")
    if "marginal_error" in found and not bool((found["marginal_error"] > 0).any()):
        del found["marginal_error"]
    again = group_by_user and len(torch.unique(log.user)) < len(log)
    built = Slates(reward=reward, group=log.user if again else None, per_slot=per_slot, **found)
    if reward_model is None:
        return built
    if built.cascade is None or not per_slot:
        missing = "cascade weights (give logger=)" if per_slot else "clicks"
        raise BadInput(f"a model of what is still to come needs {missing}, and there are none")

    def following(rows: slice, slot: int) -> Float[Tensor, "round cand"]:
        seen = context.rows(rows)
        with torch.no_grad():
            return next_item(target.distribution(seen, log.slots), seen.columns(log.slate[rows])[:, :slot])

    model = reward_model if isinstance(reward_model, CascadeModel) else AdditiveCascade(reward_model)
    by = built.cascade if weighted else None
    q_logged, q_target = fit_cascade(
        log, model, reward, following, folds=folds, seed=seed, group=again, weight=by, chunk=size
    )
    return replace(built, q_logged=q_logged, q_target=q_target)


def marginals_error(data: Slates) -> str:
    """Say in words how sure the slot marginals are.

    >>> marginals_error(Slates(torch.ones(2, 1, dtype=torch.float64)))
    'the slot marginals are exact'
    """
    if data.marginal_error is None:
        return "the slot marginals are exact"
    share = torch.where(data.need("marginal") > 0, data.marginal_error / data.need("marginal"), 0.0)
    row, slot = divmod(int(share.argmax()), share.shape[1])
    return (
        f"the slot marginals are estimates: the standard error of a weight is {float(share.median()):.2%} of "
        f"it in the median and {float(share[row, slot]):.2%} at worst (row {row}, slot {slot})"
    )


@dataclass(frozen=True)
class _Piece:
    """Some rounds of a log, and what is known of them."""

    first: int
    columns: Int[Tensor, "round slot"]
    target: SlateDistribution
    logger: SlateDistribution | None
    table: Float[Tensor, "round slot cand"] | None
    joint: Float[Tensor, " round"]
    marginal: Float[Tensor, "round slot"] | None


def _weigh(
    piece: _Piece,
    wanted: tuple[str, ...],
    alpha: Float[Tensor, " slot"],
    theta: Float[Tensor, " slot"] | None,
    total: int,
) -> dict[str, Tensor]:
    """Return the weights that can be had.

    Args:
        piece: the rounds.
        wanted: of `FIELDS`.
        alpha: what each slot is worth.
        theta: how often it is examined, if that is known.
        total: rounds of the log, to leave out what would take long; 0 to do all that is wanted, or refuse.
    """
    columns, target, logger = piece.columns, piece.target, piece.logger
    out: dict[str, Tensor] = {}
    if logger is not None:
        agree("propensity", piece.joint, logger.log_prob(columns).double().exp(), piece.first)
    shown = _shown(piece)
    if "joint" in wanted:
        out["joint"] = target.log_prob(columns).double().exp() / piece.joint
    if "marginal" in wanted and (piece.marginal is not None or logger is not None or piece.table is not None):
        out["marginal"], out["marginal_error"] = _marginal(piece, shown)
    if "cascade" in wanted and logger is not None:
        try:
            out["cascade"] = (prefix_log_probs(target, columns) - prefix_log_probs(logger, columns)).exp()
        except BadInput:
            if total == 0:
                raise
    placing = {"document", "examined"} & set(wanted)
    if placing and (logger is not None or piece.table is not None):
        aim = placed(target, columns)
        if logger is not None:
            had = placed(logger, columns)
        else:
            assert piece.table is not None
            had = piece.table.gather(2, columns.unsqueeze(1).expand(-1, columns.shape[1], -1))
        if "document" in wanted:
            out["document"] = ratio(alpha, aim, had)
        if "examined" in wanted and theta is not None:
            out["examined"] = ratio(alpha * theta, aim, had)
    if "pseudo" in wanted and logger is not None:
        if isinstance(logger, Uniform):
            out["pseudo"] = uniform_weights(placed(target, columns), logger.mask.sum(1))
        elif listable(logger, total) or total == 0:
            out["pseudo"] = general_weights(logger, target.slot_marginals(), columns)
    return out


def _shown(piece: _Piece) -> Float[Tensor, "round slot"] | None:
    """Return what the logger's table says of what was logged.

    Raises:
        BadInput: if it is no chance at all, or not what the log says.
    """
    if piece.table is None:
        return None
    said = piece.table.gather(2, piece.columns.unsqueeze(2)).squeeze(2)
    if bool((said == 0).any()):
        row, slot = (int(x) for x in (said == 0).nonzero()[0])
        raise BadInput(f"row {piece.first + row}: the table gives what was logged at slot {slot} no chance")
    if piece.marginal is not None:
        agree("slot_propensity", piece.marginal, said, piece.first)
    return said


def _marginal(
    piece: _Piece, said: Float[Tensor, "round slot"] | None
) -> tuple[Float[Tensor, "round slot"], Float[Tensor, "round slot"]]:
    """Return π(a_k at k) / π_0(a_k at k) and its standard error where one of them is an estimate."""
    columns = piece.columns
    above, noise = piece.target.marginals(columns).double(), _noise(piece.target, columns)
    square = torch.where(above > 0, noise / above, 0.0).square()
    doubt = torch.zeros_like(noise)
    if piece.logger is not None:
        said, doubt = piece.logger.marginals(columns).double(), _noise(piece.logger, columns)
    below = piece.marginal
    if below is None:
        assert said is not None
        below = said
        square = square + (doubt / below).square()
    elif piece.logger is not None and said is not None and not bool(doubt.any()):
        agree("slot_propensity", below, said, piece.first)
    weight = above / below
    return weight, weight * square.sqrt()


def _noise(
    distribution: SlateDistribution, columns: Int[Tensor, "round slot"]
) -> Float[Tensor, "round slot"]:
    """Return the standard error of `marginals`: zero, unless a distribution that draws them says more."""
    if isinstance(distribution, Mixture):
        parts = zip(distribution.parts, distribution.chances, strict=True)
        squares = [(chance * _noise(part, columns)).square() for part, chance in parts]
        return torch.stack(squares).sum(0).sqrt()
    said = getattr(distribution, "marginals_error", None)
    if said is None:
        return torch.zeros(columns.shape, dtype=torch.float64, device=columns.device)
    error: Tensor = said(columns)
    return error.double()


def _known(fields: Iterable[str]) -> tuple[str, ...]:
    chosen = tuple(fields)
    for name in chosen:
        if name not in FIELDS:
            raise BadInput(f"there are no weights {name}{nearest(name, FIELDS)}")
    return chosen
