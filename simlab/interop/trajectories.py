"""Trajectories of other libraries as logs: flat arrays such as D4RL's, and Minari data sets.

An episode becomes a user with one session; its steps are rounds of one item, the action. What was seen before
the action is the round's context. The probability of each logged action is needed: off-policy evaluation
divides by it, and such data sets do not carry it. Ask the logging policy, or estimate it with a model of
actions given observations (`simlab.adapters.propensity`), and pass it in.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from simlab.errors import BadInput
from simlab.log import Log

Array = NDArray[Any]
Chance = ArrayLike | Callable[[Array, Array], ArrayLike] | None
"""Probabilities of the logged actions [row], or a function of (observations, actions) that returns them."""

NO_PROPENSITY = (
    "the probabilities of the logged actions are missing: give propensity=, as the logging policy says it "
    "or as a model of the actions estimates it"
)


def from_numpy_trajectories(
    observations: ArrayLike,
    actions: ArrayLike,
    rewards: ArrayLike,
    terminations: ArrayLike,
    truncations: ArrayLike | None = None,
    *,
    propensity: Chance = None,
    n_actions: int | None = None,
    n_observations: int | None = None,
    policy: str = "unknown",
) -> Log:
    """Return the log of episodes that lie one after the other in flat arrays, as in D4RL.

    An episode ends where it is terminated or truncated. If the last rows have no end, the last of them counts
    as truncated: there the record stops. Observations after the last action have no row and are left out.

    Args:
        observations: [row feat], what was seen before each action; or [row], whole numbers from 0, which
            become a category. More axes are flattened.
        actions: [row], or [row 1], whole numbers from 0.
        rewards: [row].
        terminations: [row], D4RL's `terminals`.
        truncations: [row], D4RL's `timeouts`.
        propensity: of each logged action, in (0, 1]: [row], or a function of (observations, actions).
        n_actions: how many actions there are; by default the largest logged one + 1.
        n_observations: how many whole-number observations there are; by default the largest + 1.
        policy: the name of the logging policy.

    Raises:
        BadInput: without propensities, and for anything that is not one value per row, naming field, row and
            value.
    """
    action = _whole("actions", _flat("actions", actions))
    n = len(action)
    if n == 0:
        raise BadInput("the trajectories are empty: there are no actions")
    reward = _numbers("rewards", _sized("rewards", _flat("rewards", rewards), n))
    terminated = _flags("terminations", terminations, n)
    truncated = np.zeros(n, dtype=np.bool_) if truncations is None else _flags("truncations", truncations, n)
    seen = _sized("observations", np.asarray(observations), n)
    ended = terminated | truncated
    if not ended[-1]:
        truncated = truncated.copy()
        truncated[-1] = True
    episode = np.concatenate([[0], ended[:-1].cumsum()]).astype(np.int64)
    start = np.concatenate([[0], np.flatnonzero(episode[1:] != episode[:-1]) + 1])
    chance = _chance(propensity, seen, action)
    size = int(action.max()) + 1 if n_actions is None else n_actions
    if int(action.max()) >= size:
        row = int((action >= size).argmax())
        raise BadInput(f"field actions, row {row}: {action[row]} is not one of {size} actions, from 0")
    return Log(
        user=torch.from_numpy(episode),
        session=torch.zeros(n, dtype=torch.int64),
        step=torch.from_numpy(np.arange(n) - start[episode]),
        slate=torch.from_numpy(action)[:, None],
        propensity=torch.from_numpy(chance),
        reward=torch.from_numpy(reward),
        terminated=torch.from_numpy(terminated),
        truncated=torch.from_numpy(truncated),
        n_items=size,
        policy=(policy,),
        **_context(seen, n_observations),
    )


def from_minari(
    dataset: Any,
    *,
    propensity: Chance = None,
    n_actions: int | None = None,
    policy: str | None = None,
) -> Log:
    """Return the log of a Minari data set with discrete actions.

    Args:
        dataset: a `minari.MinariDataset`, or the id of one that is on this machine (`minari download ID`).
            Whatever has `iterate_episodes()` will do, whose episodes have `observations [step+1 ...]`,
            `actions`, `rewards`, `terminations` and `truncations [step]`. Spaces of dictionaries and tuples
            are laid out flat, in the order of their keys.
        propensity: as for `from_numpy_trajectories`; rows are the steps of the episodes, one after the other.
        n_actions: how many actions there are; by default what the data set's action space says.
        policy: the name of the logging policy; by default the data set's id.

    Raises:
        BadInput: as `from_numpy_trajectories`; if Minari is not installed or has no such data set; and for
            actions that are not discrete.
    """
    if propensity is None:
        raise BadInput(NO_PROPENSITY)
    if isinstance(dataset, str):
        dataset = _load(dataset)
    space = getattr(dataset, "action_space", None)
    first = 0
    if space is not None:
        if not hasattr(space, "n") or getattr(space, "shape", ()) not in ((), None):
            raise BadInput(f"the data set's actions are {space}, but a log's are discrete")
        n_actions, first = n_actions or int(space.n), int(getattr(space, "start", 0))
    parts = [_episode(index, episode) for index, episode in enumerate(dataset.iterate_episodes())]
    if not parts:
        raise BadInput("the data set is empty: it has no episodes")
    seen, action, reward, terminated, truncated = (np.concatenate(x) for x in zip(*parts, strict=True))
    observed = getattr(dataset, "observation_space", None)
    discrete = hasattr(observed, "n") and np.issubdtype(seen.dtype, np.integer) and seen.ndim == 1
    begin = int(getattr(observed, "start", 0)) if discrete else 0
    name = policy or str(getattr(dataset, "id", None) or getattr(dataset, "dataset_id", None) or "unknown")
    return from_numpy_trajectories(
        seen - begin if discrete else seen,
        action - first,
        reward,
        terminated,
        truncated,
        # A function is asked about what the data set holds, not about ids from 0.
        propensity=propensity(seen, action) if callable(propensity) else propensity,
        n_actions=n_actions,
        n_observations=int(getattr(observed, "n")) if discrete else None,  # noqa: B009 (no such attribute elsewhere)
        policy=name,
    )


def _load(name: str) -> Any:
    """Load a data set by its id.

    Raises:
        BadInput: if that cannot be done.
    """
    try:
        minari = importlib.import_module("minari")
    except ImportError:
        raise BadInput("reading a Minari data set by its id needs minari: pip install minari") from None
    try:
        return minari.load_dataset(name)
    except Exception as error:  # Minari raises bare and various exceptions for an id that it does not know.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise BadInput(f"Minari cannot load {name}: {lines[0].rstrip('.')}") from None


def _episode(index: int, episode: Any) -> tuple[Array, Array, Array, Array, Array]:
    """Return observations, actions, rewards, terminations and truncations, a row for each action."""
    action = np.asarray(episode.actions)
    n = len(action)
    seen = _laid_out(episode.observations)
    if len(seen) not in (n, n + 1):
        raise BadInput(f"episode {index} has {len(seen)} observations, but {n} actions")
    ends = []
    for field in ("rewards", "terminations", "truncations"):
        found = np.asarray(getattr(episode, field))
        if len(found) != n:
            raise BadInput(f"episode {index} has {len(found)} {field}, but {n} actions")
        ends.append(found)
    reward, terminated, truncated = ends
    if n and not (terminated[-1] or truncated[-1]):
        truncated = truncated.copy()
        truncated[-1] = True
    early = np.flatnonzero((terminated | truncated)[:-1])
    if len(early):
        raise BadInput(f"episode {index} ends at step {early[0]}, but has {n} steps")
    return seen[:n], action, reward, terminated, truncated


def _laid_out(seen: Any) -> Array:
    """Return observations of any space as one array [step ...]."""
    leaves = list(_leaves(seen))
    if len(leaves) == 1:
        return leaves[0]
    return np.concatenate([leaf.reshape(len(leaf), -1).astype(np.float64) for leaf in leaves], axis=1)


def _leaves(seen: Any) -> Iterable[Array]:
    """Yield the arrays of nested dictionaries and tuples, in the order of the keys."""
    if isinstance(seen, Mapping):
        for key in sorted(seen):
            yield from _leaves(seen[key])
    elif isinstance(seen, tuple):
        for part in seen:
            yield from _leaves(part)
    else:
        found = np.asarray(seen)
        if found.dtype.kind not in "biuf":
            raise BadInput(f"observations hold {found.dtype}, not numbers")
        yield found


def _context(seen: Array, size: int | None) -> dict[str, Any]:
    """Return observations as features, or as a category where they are whole numbers."""
    if seen.dtype.kind not in "biuf":
        raise BadInput(f"field observations holds {seen.dtype}, not numbers")
    if seen.ndim == 1 and seen.dtype.kind in "iu":
        ids = _whole("observations", seen)
        count = int(ids.max()) + 1 if size is None else size
        coded = {"categories": torch.from_numpy(ids)[:, None], "category_names": ("observation",)}
        return {**coded, "category_sizes": (count,)}
    flat = seen.reshape(len(seen), -1)
    floats = flat if flat.dtype in (np.float32, np.float64) else flat.astype(np.float64)
    return {"features": torch.from_numpy(np.array(floats))}


def _chance(propensity: Chance, seen: Array, action: Array) -> NDArray[np.float64]:
    """Return the probabilities of the logged actions."""
    if propensity is None:
        raise BadInput(NO_PROPENSITY)
    found = _flat("propensity", propensity(seen, action) if callable(propensity) else propensity)
    return _numbers("propensity", _sized("propensity", found, len(action)))


def _sized(field: str, values: Array, n: int) -> Array:
    if values.shape[:1] != (n,):
        raise BadInput(f"field {field} has {values.shape[0] if values.ndim else 0} rows, but actions has {n}")
    return values


def _flat(field: str, values: ArrayLike) -> Array:
    """Return one value per row."""
    try:
        found = np.asarray(values)
    except ValueError:
        raise BadInput(f"field {field} is ragged") from None
    if found.dtype.kind not in "biuf":
        raise BadInput(f"field {field} holds {found.dtype}, not numbers")
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        raise BadInput(f"field {field} has shape {found.shape}, but one value per row is needed")
    return found


def _numbers(field: str, values: Array) -> NDArray[np.float64]:
    found = np.array(values, dtype=np.float64)
    if not np.isfinite(found).all():
        row = int((~np.isfinite(found)).argmax())
        raise BadInput(f"field {field}, row {row}: {found[row]} is not a finite number")
    return found


def _whole(field: str, values: Array) -> NDArray[np.int64]:
    """Return whole numbers from 0."""
    wrong = (values != np.floor(values)) | (values < 0)
    if wrong.any():
        row = int(wrong.argmax())
        raise BadInput(f"field {field}, row {row}: {values[row]} is not a whole number from 0")
    return values.astype(np.int64)


def _flags(field: str, values: ArrayLike, n: int) -> NDArray[np.bool_]:
    found = _sized(field, _flat(field, values), n)
    wrong = (found != 0) & (found != 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise BadInput(f"field {field}, row {row}: {found[row]} is not true or false")
    return found.astype(np.bool_)
