"""Fitted-Q evaluation: what the target would earn from here on, by regression, one step after the other."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.paths import Paths
from causal.q_models import FittedQ, QModel
from causal.rounds import rounds
from causal.same_rows import hashes
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policy import Policy
from simlab.rankers.contract import Sizes
from simlab.seeds import Seed

_CELLS = 1 << 23
"""Cells of [row, pick, slot] held at once: 64 MB of columns and as much of weights at most."""

_FAR = 10.0
"""How many times the largest value that rewards allow a model may claim before it counts as diverged."""


@dataclass(frozen=True, eq=False)
class FQE:
    """Q̂ of every row of a log, each from a model that was not fitted on its trajectory.

    Attributes:
        q_logged: Q̂_t(s_t, a_t) of each row; 0 at and after the horizon.
        v_target: V̂_t(s_t) = Σ_a π(a|s_t) Q̂_t(s_t, a) of each row.
        discount: γ.
        horizon: how many steps count.
        stationary: whether one Q̂ stands for all steps.
        values: mean V̂ of the first states that each iteration says, by fold; of steps backward if not
            stationary.
        changes: root-mean-square change of V̂ by each iteration, by fold; empty if not stationary.
        converged: whether the last change of every fold was within the tolerance.
        models: of each fold, the last one, or that of each step.
        fold: of each row; -1 at and after the horizon.
        chance: the target's probability of what each row logs.
        log: a hash of each column of the log (`causal.same_rows`).
    """

    q_logged: Float[Tensor, " row"]
    v_target: Float[Tensor, " row"]
    discount: float
    horizon: int
    stationary: bool
    values: tuple[tuple[float, ...], ...]
    changes: tuple[tuple[float, ...], ...]
    converged: bool
    models: tuple[tuple[FittedQ, ...], ...] = field(repr=False)
    fold: Int[Tensor, " row"] = field(repr=False)
    chance: Float[Tensor, " row"] = field(repr=False)
    log: Mapping[str, str] = field(repr=False)


def fqe(
    log: Log,
    target: Policy,
    model: QModel,
    discount: float = 1.0,
    *,
    horizon: int | None = None,
    stationary: bool = False,
    iterations: int = 100,
    tolerance: float = 1e-4,
    folds: int = 3,
    past: int = 0,
    group_by_user: bool = True,
    draws: int = 32,
    seed: Seed = Seed(0),
) -> FQE:
    """Fit Q̂ of a target policy, cross-fitted by trajectory.

    - By steps (the default): backward from the horizon, Q̂_t is the regression of r_t + γ V̂_{t+1}(s_{t+1})
      on what was logged at step t, with 0 after the end. A model for every step, no iteration, so nothing
      can diverge.
    - Stationary: one Q̂ for all steps, iterated Q̂ ← regression of r + γ V̂(s') on all rows, from V̂ = 0,
      until V̂ moves by less than `tolerance` of its size. Iteration k is the value of k more steps. Steps
      whose next state is not known (the last of a trajectory that was cut) are left out. It may diverge:
      regression is no contraction under another policy than the logger's.

    With one item a round, V̂ sums over all candidates. With slates, V̂ is the mean over `draws` slates that
    the target would show: unbiased given the context, so DR stays unbiased, and the draws are the same in
    every iteration.

    Source: Le, Voloshin and Yue (2019), "Batch policy learning under constraints", ICML (fitted-Q
    evaluation); cross-fitting as in Kallus and Uehara (2020), "Double reinforcement learning for efficient
    off-policy evaluation in Markov decision processes", JMLR 21.

    Args:
        log: the rounds; see `causal.paths.Paths.of` for what makes a trajectory.
        target: the policy.
        model: the recipe: `RankerQ`, `SklearnQ` or any `QModel`.
        discount: γ, in [0, 1].
        horizon: steps that count; by default as many as the longest session has.
        stationary: one Q̂ for all steps.
        iterations: of the stationary form, at most.
        tolerance: of the stationary form, as a share of the root mean square of V̂.
        folds: of cross-fitting; at least 2.
        past: how many items of history the target wants in its context.
        group_by_user: keep all trajectories of a user in one fold.
        draws: slates of the target for each row, where slates have several items.
        seed: of folds, fits and draws.

    Raises:
        BadInput: if the iteration diverges, a fold has no trajectory that reaches a step, there are fewer
            trajectories (or users) than folds, or the log has positions.
    """
    if not 0 <= discount <= 1:
        raise BadInput(f"discount is {discount}, but it is in [0, 1]")
    for name, value, least in (("iterations", iterations, 1), ("draws", draws, 1), ("past", past, 0)):
        if value < least:
            raise BadInput(f"{name} is {value}, but it is at least {least}")
    if not tolerance >= 0:
        raise BadInput(f"tolerance is {tolerance}, but it is at least 0")
    if log.position is not None:
        raise BadInput("fitted-Q evaluation needs whole slates, and this log has one place of a page a row")
    paths = Paths.of(log, horizon)
    fold = _folds(paths, folds, group_by_user, seed.split("folds"))
    chance = rounds(log, target, past=past, group_by_user=False).weight * log.propensity
    aim = _Aim(target, log.context(past), log.slots, draws, seed.split("draws"))
    task = _Task.of(log, paths, model, discount, aim)
    q = torch.zeros(len(log), dtype=torch.float64, device=log.user.device)
    v = q.clone()
    found = []
    for number in range(folds):
        train, held, key = fold != number, fold == number, seed.split(f"fold {number}")
        if stationary:
            found.append(_iterate(task, train, key, iterations, tolerance))
        else:
            found.append(_backward(task, train, held, number, key))
        _answer(task, found[-1], held, q, v)
    where = torch.full_like(log.user, -1)
    where[paths.row[paths.valid]] = fold.unsqueeze(1).expand_as(paths.valid)[paths.valid]
    return FQE(
        q_logged=q,
        v_target=v,
        discount=discount,
        horizon=paths.steps,
        stationary=stationary,
        values=tuple(f.values for f in found),
        changes=tuple(f.changes for f in found),
        converged=all(f.converged for f in found),
        models=tuple(f.models for f in found),
        fold=where,
        chance=chance,
        log=hashes(log),
    )


@dataclass(frozen=True, eq=False)
class _Aim:
    """Which slates the target would show in each row, and how often.

    One item a round: every candidate with its chance. Slates: some draws, keyed by row, so that they do not
    depend on the block.
    """

    target: Policy
    context: Context
    slots: int
    draws: int
    seed: Seed

    def picks(self) -> int:
        """Return P, how many slates stand for a row's distribution."""
        return self.context.candidates.shape[1] if self.slots == 1 else self.draws

    def of(self, rows: Int[Tensor, " row"]) -> tuple[Int[Tensor, "row pick slot"], Float[Tensor, "row pick"]]:
        """Return slates of columns, and weights that sum to one."""
        seen = self.context.rows(rows)
        distribution = self.target.distribution(seen, self.slots)
        if self.slots == 1:
            every = torch.arange(seen.candidates.shape[1], device=rows.device)
            return every.expand(len(rows), -1).unsqueeze(2), distribution.slot_marginals()[:, 0].double()
        drawn = [distribution.sample(self.seed.at(rows, torch.full_like(rows, d))) for d in range(self.draws)]
        weight = torch.full((len(rows), self.draws), 1 / self.draws, dtype=torch.float64, device=rows.device)
        return torch.stack(drawn, dim=1), weight


@dataclass(frozen=True, eq=False)
class _Task:
    """What all folds share."""

    model: QModel
    discount: float
    paths: Paths
    context: Context
    columns: Int[Tensor, "row slot"]
    reward: Float[Tensor, " row"]
    sizes: Sizes
    aim: _Aim
    kept: tuple[Int[Tensor, "row pick slot"], Float[Tensor, "row pick"]] | None

    @classmethod
    def of(cls, log: Log, paths: Paths, model: QModel, discount: float, aim: _Aim) -> "_Task":
        """Prepare a log; the target's choices are asked for once where they are few."""
        context = log.context(model.past)
        every = torch.arange(len(log), device=log.user.device)
        size = max(1, _CELLS // (log.slots * context.candidates.shape[1]))
        columns = torch.cat(
            [context.rows(part).columns(log.slate[part]) for part in torch.split(every, size)]
        )
        with torch.no_grad():
            kept = aim.of(every) if len(log) * aim.picks() * log.slots <= _CELLS else None
        return cls(model, discount, paths, context, columns, log.reward.double(), Sizes.of(log), aim, kept)

    def fit(self, rows: Int[Tensor, " row"], target: Float[Tensor, " row"], seed: Seed) -> FittedQ:
        """Regress targets on what was logged."""
        return self.model.fit(self.context.rows(rows), self.columns[rows], target, self.sizes, seed)

    def expected(self, fitted: FittedQ, rows: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        """Return V̂ of rows."""
        size = max(1, _CELLS // (self.aim.picks() * self.aim.slots))
        out = []
        with torch.no_grad():
            for part in torch.split(rows, size):
                if self.kept is None:
                    columns, weight = self.aim.of(part)
                else:
                    columns, weight = (x[part] for x in self.kept)
                said = fitted.value(self.context.rows(part), columns)
                out.append(torch.where(weight > 0, weight * said, 0.0).sum(1))
        return torch.cat(out)

    def logged(self, fitted: FittedQ, rows: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        """Return Q̂ of what was logged."""
        return fitted.value(self.context.rows(rows), self.columns[rows].unsqueeze(1)).squeeze(1)


@dataclass(frozen=True, eq=False)
class _Found:
    """What one fold gave. One model stands for all steps, or there is one for each."""

    models: tuple[FittedQ, ...]
    values: tuple[float, ...]
    changes: tuple[float, ...] = ()
    converged: bool = True


def _backward(task: _Task, train: Tensor, held: Tensor, number: int, seed: Seed) -> _Found:
    """Fit a model for every step, the last one first."""
    paths = task.paths
    after = torch.zeros_like(task.reward)  # V̂ of the rows of the step that was fitted before
    models: list[FittedQ] = []
    values: list[float] = []
    for t in range(paths.steps - 1, -1, -1):
        here = train & paths.valid[:, t]
        if not bool(here.any()):
            if bool((held & paths.valid[:, t]).any()):
                raise BadInput(
                    f"no trajectory outside fold {number} reaches step {t}: give a horizon of at most {t}, "
                    "fewer folds, or stationary=True"
                )
            models.append(_NOTHING)
            continue
        rows, following = paths.row[here, t], paths.after[here, t]
        target = task.reward[rows] + task.discount * torch.where(following >= 0, after[following], 0.0)
        models.append(task.fit(rows, target, seed.split(t)))
        after[rows] = task.expected(models[-1], rows)
        values.append(float(after[rows].mean()))
    return _Found(tuple(reversed(models)), tuple(values))


def _iterate(task: _Task, train: Tensor, seed: Seed, iterations: int, tolerance: float) -> _Found:
    """Fit one model again and again, until V̂ stays.

    Raises:
        BadInput: if V̂ leaves what rewards allow: the k-th iteration is worth at most max |r| Σ_{j<k} γ^j.
    """
    paths = task.paths
    valid = paths.valid[train]
    rows, following = paths.row[train][valid], paths.after[train][valid]
    open_end = paths.cut[train].unsqueeze(1).expand_as(valid)[valid] & (following < 0)
    if bool(open_end.all()):
        raise BadInput("every step is the last of a trajectory that was cut, so no step has a known sequel")
    usable, follow = rows[~open_end], following[~open_end]
    v = torch.zeros_like(task.reward)
    most, reach = float(task.reward[rows].abs().max()), 0.0
    values: list[float] = []
    changes: list[float] = []
    model: FittedQ = _NOTHING
    for k in range(iterations):
        reach = most + task.discount * reach
        target = task.reward[usable] + task.discount * torch.where(follow >= 0, v[follow], 0.0)
        model = task.fit(usable, target, seed)
        new = task.expected(model, rows)
        size, change = _rms(new), _rms(new - v[rows])
        v[rows] = new
        if not size <= _FAR * reach + 1e-12:
            raise BadInput(
                f"fitted-Q evaluation diverges: after iteration {k + 1} its values are of size {size:.3g}, "
                f"and rewards of at most {most:.3g} allow {reach:.3g}; regularise the model, lower the "
                "discount, or fit by steps (stationary=False)"
            )
        values.append(float(v[paths.row[train, 0]].mean()))
        changes.append(change)
        if change <= tolerance * max(size, 1e-300) or size == 0:
            return _Found((model,), tuple(values), tuple(changes))
    return _Found((model,), tuple(values), tuple(changes), converged=False)


def _answer(
    task: _Task, found: _Found, held: Tensor, q: Float[Tensor, " row"], v: Float[Tensor, " row"]
) -> None:
    """Write Q̂ and V̂ of the held-out trajectories."""
    paths = task.paths
    for t in range(paths.steps):
        here = held & paths.valid[:, t]
        if bool(here.any()):
            rows, model = paths.row[here, t], found.models[min(t, len(found.models) - 1)]
            q[rows], v[rows] = task.logged(model, rows), task.expected(model, rows)


@dataclass(frozen=True)
class _Nothing:
    """A model where there is nothing to model."""

    def value(self, context: Context, columns: Int[Tensor, "user pick slot"]) -> Float[Tensor, "user pick"]:
        """Return zeros."""
        return torch.zeros(columns.shape[:2], dtype=torch.float64, device=columns.device)


_NOTHING = _Nothing()


def _rms(x: Float[Tensor, " row"]) -> float:
    return float(x.square().mean().sqrt())


def _folds(paths: Paths, folds: int, by_user: bool, seed: Seed) -> Int[Tensor, " round"]:
    """Deal users (or trajectories) to folds at random, as many to each."""
    if folds < 2:
        raise BadInput(f"folds is {folds}, but a model that scores rows it has not seen needs at least 2")
    key = paths.user if by_user else torch.arange(len(paths), device=paths.user.device)
    names, where = torch.unique(key, return_inverse=True)
    if len(names) < folds:
        what = "users" if by_user else "trajectories"
        raise BadInput(f"the log has {len(names)} {what}, too few for {folds} folds")
    order = torch.randperm(len(names), generator=seed.torch()).to(key.device)
    return (order % folds)[where]
