"""The views of the action: the same world behind each, and exactly the slates that were meant."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import envs.sb3_views as views
from envs.registry import ids
from envs.sb3 import WorldVecEnv, make_sb3
from envs.sb3_views import SlotsVecEnv
from envs.spaces import columns_of
from simlab.errors import BadInput

SIZE: dict[str, Any] = {"items": 20, "slots": 3, "topics": 4, "horizon": 5, "churn": 0.0}
# The whole catalogue, one whose items come and go, and candidates; no world has both of these.
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("Feed-v0", SIZE),
    "mask": ("Feed-v0", SIZE | {"lifetime": 4.0, "unborn": 0.3, "horizon": 9}),
    "candidates": ("Feed-v0", SIZE | {"candidates": 7}),
}
EVERY = pytest.mark.parametrize("world", WORLDS)


def pair(world: str, view: str, n: int = 4, **more: Any) -> tuple[Any, Any]:
    """Return a world in a view, and the same world as slates of columns; both with the same users."""
    name, settings = WORLDS[world]
    found = make_sb3(name, n, view=view, **settings, **more), make_sb3(name, n, **settings)
    for env in found:
        env.seed(3)
    return found


def allowed(seen: Any, n: int, count: int) -> Any:
    return seen["mask"].astype(bool) if "mask" in seen else np.ones((n, count), dtype=bool)


def without(seen: Any, keys: set[str]) -> Any:
    return {key: value for key, value in seen.items() if key not in keys}


def same(a: Any, b: Any) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def same_step(a: Any, b: Any) -> None:
    """Compare what two steps returned; seconds apart."""
    same(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])
    np.testing.assert_array_equal(a[2], b[2])
    for mine, theirs in zip(a[3], b[3], strict=True):
        assert mine.keys() == theirs.keys()
        if mine:
            same(mine["terminal_observation"], theirs["terminal_observation"])
            assert mine["TimeLimit.truncated"] == theirs["TimeLimit.truncated"]
            assert mine["episode"]["r"] == theirs["episode"]["r"]
            assert mine["episode"]["l"] == theirs["episode"]["l"]


# Scores ----------------------------------------------------------------------------------------------


@EVERY
def test_scores_show_the_best_that_may_be_shown(world: str) -> None:
    env, plain = pair(world, "scores")
    luck = np.random.default_rng(0)
    other: Any = plain.reset()
    same(env.reset(), other)
    count, ended = columns_of(env.batch.world), 0
    assert env.action_space.shape == (count,)
    for _ in range(12):
        action = luck.integers(-9, 9, (4, count)).astype(np.float32)  # with ties, and beyond the Box
        columns = np.zeros((4, 3), dtype=int)
        for row, may in enumerate(allowed(other, 4, count)):
            order = sorted(np.flatnonzero(may), key=lambda c: (-action[row, c], c))
            columns[row] = order[:3]
        found, wanted = env.step(action), plain.step(columns)
        same_step(found, wanted)
        other = wanted[0]
        ended += found[2].sum()
        assert env.invalid.tolist() == [0] * 4
    assert ended >= 4


def test_scores_leave_slots_empty_where_too_little_may_be_shown() -> None:
    env = make_sb3("Feed-v0", 2, view="scores", **SIZE)
    env.reset()
    state = env.batch._state
    assert state is not None
    here = torch.zeros(20, dtype=torch.bool)
    here[[4, 9]] = True
    env.batch._state = replace(state, market=replace(state.market, available=here))
    seen: Any = env.step(np.linspace(-1, 1, 40).reshape(2, 20))[0]
    np.testing.assert_array_equal(seen["history"][:, -3:], [[9, 4, -1]] * 2)
    assert env.invalid.tolist() == [1, 1]


def test_scores_of_a_large_catalogue_are_refused() -> None:
    large: dict[str, Any] = {"items": 100_001, "slots": 2, "topics": 1}
    with pytest.raises(BadInput, match=r'100,001 columns .* take view "protos"'):
        make_sb3("Feed-v0", 1, view="scores", **large)
    assert make_sb3("Feed-v0", 1, view="scores", candidates=50, **large).action_space.shape == (50,)
    env: Any = make_sb3("Feed-v0", 3, view="protos", **large)
    env.reset()
    wish = np.random.default_rng(0).normal(size=(3, *env.action_space.shape)).astype(np.float32)
    env.step_async(wish)
    inner = torch.einsum("bkd,id->bki", torch.from_numpy(wish), env.vectors)
    np.testing.assert_array_equal(env._actions[:, 0], inner[:, 0].argmax(1))


# Proto-vectors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [None, 40])
@pytest.mark.parametrize("view", ["protos", "proto"])
@EVERY
def test_wishes_are_answered_by_the_nearest_items(
    world: str, view: str, room: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a plain loop in float64; in one block, and in blocks of very few users."""
    if room is not None:
        monkeypatch.setattr(views, "ROOM", room)
    env, plain = pair(world, view)
    luck = np.random.default_rng(1)
    known = env.batch.world.catalog.features.double().numpy()
    width, count = known.shape[1], columns_of(env.batch.world)
    assert env.action_space.shape == ((3, width) if view == "protos" else (width,))
    other: Any = plain.reset()
    env.reset()
    for _ in range(11):
        action = luck.uniform(-1, 1, (4, *env.action_space.shape)).astype(np.float32)
        if view == "protos":
            action[0] = action[0, 0]  # three times the same wish: three different items
        columns = np.zeros((4, 3), dtype=int)
        may = allowed(other, 4, count)
        for row in range(4):
            items = other["candidates"][row] if "candidates" in other else np.arange(count)
            for slot in range(3):
                wish = action[row, slot] if view == "protos" else action[row]
                inner = np.where(may[row], known[items] @ wish.astype(float), -np.inf)
                inner[columns[row, :slot]] = -np.inf
                columns[row, slot] = inner.argmax()
        found, wanted = env.step(action), plain.step(columns)
        same_step(found, wanted)
        other = wanted[0]
        assert env.invalid.tolist() == [0] * 4


def test_the_vectors_of_items_may_be_given() -> None:
    """One-hot vectors make a wish a score for each item."""
    env, plain = pair("plain", "proto", vectors=torch.eye(20))
    scores, _ = pair("plain", "scores")
    for e in (env, plain, scores):
        e.reset()
    action = np.random.default_rng(2).uniform(-1, 1, (4, 20)).astype(np.float32)
    same_step(env.step(action), scores.step(action))


def test_items_without_features_want_vectors() -> None:
    small = ids()["simlab/OrganicBandit-v1"].small
    with pytest.raises(BadInput, match="nothing is known of the items of simlab/OrganicBandit-v1"):
        make_sb3("OrganicBandit-v1", 1, view="protos", **small)
    env = make_sb3("OrganicBandit-v1", 1, view="protos", vectors=torch.randn(30, 5), **small)
    assert env.action_space.shape == (4, 5)
    with pytest.raises(BadInput, match=r"vectors have shape \(29, 5\), but 30 items have a row each"):
        make_sb3("OrganicBandit-v1", 1, view="proto", vectors=torch.randn(29, 5), **small)
    bad = torch.zeros(30, 5).index_fill(0, torch.tensor([2]), torch.nan)
    with pytest.raises(BadInput, match="vectors, row 2: what is not finite"):
        make_sb3("OrganicBandit-v1", 1, view="proto", vectors=bad, **small)


# Slot by slot ------------------------------------------------------------------------------------------


@EVERY
def test_slots_show_the_same_slates_as_whole_ones(world: str) -> None:
    """Rewards, clicks, ends and observations are those of the slate; what stands so far is seen."""
    env, plain = pair(world, "slots")
    luck = np.random.default_rng(4)
    seen: Any = env.reset()
    other: Any = plain.reset()
    features = env.batch.world.catalog.features.numpy()
    extra = {"slate", "slot", "mask", "slate_features"}
    count, ended, rows = columns_of(env.batch.world), 0, np.arange(4)
    for _ in range(12):
        columns = np.zeros((4, 3), dtype=int)
        before = allowed(other, 4, count).copy()
        items = other.get("candidates", np.broadcast_to(np.arange(count), (4, count)))
        for slot in range(3):
            free = before.copy()
            for above in range(slot):
                free[rows, columns[:, above]] = False
            np.testing.assert_array_equal(env.action_masks(), free)
            np.testing.assert_array_equal(np.stack(env.env_method("action_masks")), free)
            np.testing.assert_array_equal(env.env_method("action_masks", indices=[2])[0], free[2])
            # what is seen
            assert {k: v[0] for k, v in seen.items()} in env.observation_space
            same(
                {k: v for k, v in seen.items() if k not in extra},
                {k: v for k, v in other.items() if k != "mask"},
            )
            np.testing.assert_array_equal(seen["mask"], free)
            np.testing.assert_array_equal(seen["slot"], np.eye(3)[[slot] * 4])
            shown = np.full((4, 3), -1)
            shown[:, :slot] = np.take_along_axis(items, columns[:, :slot], 1)
            np.testing.assert_array_equal(seen["slate"], shown)
            np.testing.assert_array_equal(
                seen["slate_features"], np.where(shown[..., None] >= 0, features[shown], 0)
            )
            columns[:, slot] = [luck.choice(np.flatnonzero(f)) for f in free]
            seen, reward, done, infos = env.step(columns[:, slot])
            if slot < 2:
                assert reward.tolist() == [0] * 4
                assert not done.any()
                assert infos == [{}] * 4
        other, wanted, gone, about = plain.step(columns)
        np.testing.assert_array_equal(reward, wanted)
        np.testing.assert_array_equal(done, gone)
        np.testing.assert_array_equal(env.click, plain.click)
        assert env.invalid.tolist() == [0] * 4
        for row in done.nonzero()[0]:
            ended += 1
            mine, theirs = infos[row], about[row]
            assert mine["episode"]["r"] == theirs["episode"]["r"]
            assert mine["episode"]["l"] == 3 * theirs["episode"]["l"]
            assert mine["TimeLimit.truncated"] == theirs["TimeLimit.truncated"]
            last, truth = mine["terminal_observation"], theirs["terminal_observation"]
            assert last in env.observation_space
            same(
                {k: v for k, v in last.items() if k not in extra},
                {k: v for k, v in truth.items() if k != "mask"},
            )
            assert last["slate"].tolist() == [-1] * 3
            assert last["slot"].tolist() == [1, 0, 0]
            np.testing.assert_array_equal(last["mask"], truth.get("mask", np.ones(count)))
    assert ended >= 4


def test_a_slot_that_may_not_be_filled_so_stays_empty() -> None:
    env: Any = make_sb3("Feed-v0", 2, view="slots", **SIZE)
    env.reset()
    env.step(np.array([5, 6]))
    seen: Any = env.step(np.array([5, 7]))[0]
    assert seen["slate"].tolist() == [[5, -1, -1], [6, 7, -1]]
    seen = env.step(np.array([8, 9]))[0]
    assert env.invalid.tolist() == [1, 0]
    np.testing.assert_array_equal(seen["history"][:, -3:], [[5, -1, 8], [6, 7, 9]])
    strict = make_sb3("Feed-v0", 2, view="slots", strict=True, **SIZE)
    strict.reset()
    strict.step(np.array([5, 6]))
    with pytest.raises(BadInput, match="row 1, slot 1: column 6 may not be chosen"):
        strict.step(np.array([4, 6]))


def test_a_reset_in_the_middle_empties_the_slate() -> None:
    env: Any = make_sb3("Feed-v0", 2, view="slots", **SIZE)
    env.reset()
    env.step(np.array([5, 6]))
    seen: Any = env.reset()
    assert (seen["slate"] == -1).all()
    assert env.action_masks().all()
    for _ in range(5):
        for column in range(3):
            *_, done, infos = env.step(np.full(2, column))
    assert done.all()
    assert [info["episode"]["l"] for info in infos] == [15, 15]


def test_sub_steps_give_arrays_of_their_own() -> None:
    """What is written into an observation is seen in no later one, and kept ones do not change."""
    env: Any
    twin: Any
    env, twin = (make_sb3("Feed-v0", 2, view="slots", **SIZE) for _ in range(2))
    for e in (env, twin):
        e.seed(1)
    seen: Any = env.reset()
    other: Any = twin.reset()
    for step in range(7):
        same(seen, other)
        kept = {k: v.copy() for k, v in other.items()}
        action = np.array([step, step + 1])
        following: Any = twin.step(action)[0]
        same(other, kept)
        for value in seen.values():
            value[...] = 0
        env.action_masks()[:] = False
        seen, other = env.step(action)[0], following
    assert env.get_attr("action_masks")[0]().shape == (2, 20)
    assert env.has_attr("action_masks")
    assert not make_sb3("Feed-v0", 2, **SIZE).has_attr("action_masks")


# Keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", views.VIEWS)
def test_keys_are_left_out_and_nothing_else_changes(view: str) -> None:
    small: Any
    whole: Any
    small, whole = (
        make_sb3("Feed-v0", 3, view=view, keys=keys, **SIZE) for keys in (["history", "features"], None)
    )
    for env in (small, whole):
        env.seed(5)
    a, b = small.reset(), whole.reset()
    small.action_space.seed(0)
    assert list(small.observation_space.spaces) == ["features", "history"]
    assert small.get_attr("observation_space") == [small.observation_space] * 3
    assert small.action_space == whole.action_space
    assert isinstance(b, dict)
    width = 0
    for step in range(16):
        same(a, {k: b[k] for k in ("features", "history")})
        action = np.stack([small.action_space.sample() for _ in range(3)])
        a, reward, done, infos = small.step(action)
        b, wanted, gone, about = whole.step(action)
        np.testing.assert_array_equal(reward, wanted)
        np.testing.assert_array_equal(done, gone)
        for mine, theirs in zip(infos, about, strict=True):
            assert mine.keys() == theirs.keys()
            if mine:
                width += 1
                last = theirs["terminal_observation"]
                same(mine["terminal_observation"], {k: last[k] for k in ("features", "history")})
        assert (view == "slots") or bool(width) == (step >= 4)
    assert width >= 3
    assert small.env_is_wrapped(Monitor) == [True] * 3


def test_ids_of_the_history_are_not_one_hot_encoded() -> None:
    """The input of stock networks is as wide as the observation, and popularity is most of it."""
    whole = make_sb3("Feed-v0", 1, items=1000)
    few = make_sb3("Feed-v0", 1, items=1000, keys=["features", "history", "feedback"])
    assert isinstance(whole.observation_space, spaces.Dict)
    assert isinstance(few.observation_space, spaces.Dict)
    widths = [CombinedExtractor(e.observation_space).features_dim for e in (whole, few)]  # type: ignore[arg-type]
    flat = {k: int(np.prod(v.shape or ())) for k, v in whole.observation_space.spaces.items()}
    assert widths == [sum(flat.values()), sum(flat.values()) - 1000]
    assert widths[1] < 200


# Wrappers and bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("view", views.VIEWS)
def test_wrappers_take_every_view(view: str) -> None:
    env = make_sb3("Feed-v0", 2, view=view, **SIZE)
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        wrapped = VecMonitor(VecNormalize(env, norm_obs_keys=["features"], norm_reward=False))
    wrapped.reset()
    per_slate = 3 if view == "slots" else 1
    for _ in range(5 * per_slate):
        action = np.stack([env.action_space.sample() for _ in range(2)])
        _, _, done, infos = wrapped.step(action)
    assert done.all()
    assert [info["episode"]["l"] for info in infos] == [5 * per_slate] * 2
    if view == "slots":
        assert np.stack(wrapped.env_method("action_masks")).shape == (2, 20)


@pytest.mark.parametrize(
    ("view", "action", "says"),
    [
        ("scores", np.zeros((2, 19)), r"shape \(2, 19\), but it is scores of shape \(2, 20\)"),
        ("scores", np.full((2, 20), np.nan), r"row 0 of an action: scores hold nan at \[0\]"),
        ("scores", [[0.0] * 20, [0.0] * 19 + [np.inf]], r"row 1 of an action: scores hold inf at \[19\]"),
        ("scores", [[0.0], [0.0, 1.0]], "an action is ragged"),
        ("scores", np.full((2, 20), "a"), "of type str.*, but it holds numbers: scores"),
        ("proto", np.zeros((2, 3)), r"vectors of shape \(2, 5\)"),
        ("protos", np.zeros((2, 5)), r"vectors of shape \(2, 3, 5\)"),
        ("protos", np.full((2, 3, 5), np.nan), r"vectors hold nan at \[0, 0\]"),
        ("slots", np.zeros((2, 3), dtype=int), r"an action has shape \(2, 3\)"),
        ("slots", np.array([0.0, np.nan]), "of type float64, but it holds whole numbers"),
        ("slots", np.array([0, 20]), r"row 1: column 20 is outside 0..19"),
        ("slots", np.array([-1, 0]), r"row 0: column -1 is outside 0..19"),
        ("slate", np.full((2, 3), np.nan), "of type float64, but it holds whole numbers"),
    ],
)
def test_actions_that_are_none_are_refused(view: str, action: Any, says: str) -> None:
    """And nothing happened: the next step goes on from where the world was."""
    env, twin = (make_sb3("Feed-v0", 2, view=view, **SIZE) for _ in range(2))
    for e in (env, twin):
        e.seed(0)
        e.reset()
    with pytest.raises(BadInput, match=says):
        env.step(action)
    good = np.stack([env.action_space.sample() for _ in range(2)])
    same_step(env.step(good), twin.step(good))


def test_what_does_not_fit_is_refused() -> None:
    def refuse(says: str, **settings: Any) -> None:
        with pytest.raises(BadInput, match=says):
            make_sb3("Feed-v0", 2, **(SIZE | settings))

    refuse("there is no view 'score' of an action.*scores", view="score")
    refuse("there is no key 'histroy' of an observation.*history", keys=["histroy"])
    refuse("keys are 'history', but they are a list", keys="history")
    refuse(r"keys are \[\], but they are a list", keys=[])
    refuse('flat is for view "slate", not for view "slots"', view="slots", flat=True, slots=1)
    refuse(
        'vectors are for the views "protos" and "proto", not for view "scores"',
        view="scores",
        vectors=torch.eye(20),
    )
    for view in ("scores", "protos", "slots"):
        env = make_sb3("Feed-v0", 2, view=view, **SIZE)
        with pytest.raises(BadInput, match="call reset"):
            env.step(np.stack([env.action_space.sample() for _ in range(2)]))
    env = make_sb3("Feed-v0", 2, view="slots", **SIZE)
    assert isinstance(env, SlotsVecEnv)
    with pytest.raises(BadInput, match="call reset"):
        env.action_masks()
    env.reset()
    with pytest.raises(BadInput, match="there are no actions"):
        env.step_wait()


def test_the_default_is_the_plain_batch() -> None:
    """Learners that step worlds on tensors look for this very class."""
    assert type(make_sb3("Feed-v0", 2, **SIZE)) is WorldVecEnv
    assert type(make_sb3("Feed-v0", 2, keys=["features"], **SIZE)) is not WorldVecEnv
