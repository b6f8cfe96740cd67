"""The faces of every world keep Gymnasium's contracts, and show one and the same world."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from envs.faces import WorldEnv, WorldVectorEnv, make_env, make_vector
from envs.registry import ids
from envs.spaces import fill_slates, repeated
from envs.users.feed import Feed
from simlab.errors import BadInput
from simlab.seeds import Seed

SIZE: dict[str, Any] = {"items": 30, "slots": 4, "topics": 5}
FEW = SIZE | {"candidates": 9}
EVERY = pytest.mark.parametrize("name", ids())
OLDER = pytest.mark.filterwarnings(
    "ignore:.*is out of date:DeprecationWarning"
)  # a faithful v0 stays, beside v1


def FeedEnv(**settings: Any) -> WorldEnv:  # noqa: N802
    return WorldEnv(Feed(Feed.Spec.of(**settings)))


def FeedVectorEnv(num_envs: int = 1, *, tensors: bool = False, **settings: Any) -> WorldVectorEnv:  # noqa: N802
    return WorldVectorEnv(Feed(Feed.Spec.of(**settings)), num_envs, tensors=tensors)


def small(name: str) -> WorldEnv:
    return make_env(name, **ids()[name].small)


def small_batch(name: str, num_envs: int, **more: Any) -> WorldVectorEnv:
    return make_vector(name, num_envs, **more, **ids()[name].small)


def a_slate(env: WorldEnv | WorldVectorEnv, seen: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the first columns of the first row that may be shown."""
    columns = len(seen["popularity"]) if seen["popularity"].ndim == 1 else seen["popularity"].shape[1]
    mask = seen.get("mask", np.ones(columns))
    return np.flatnonzero(mask if mask.ndim == 1 else mask[0])[: env.world.slots]


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


# Every world ---------------------------------------------------------------------------------------


@OLDER
@EVERY
def test_every_id_passes_check_env(name: str) -> None:
    assert envs.__doc__
    check_env(gym.make(name, **ids()[name].small).unwrapped)  # warnings are errors here


@pytest.mark.slow
@OLDER
@EVERY
def test_every_id_passes_check_env_at_its_default_settings(name: str) -> None:
    check_env(gym.make(name).unwrapped)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("simlab/Feed-v0", {}), ("simlab/Feed-v0", {"candidates": 20}), ("simlab/ColdStart-v0", {})],
)
def test_check_env_at_default_settings(name: str, settings: dict[str, Any]) -> None:
    check_env(gym.make(name, **settings).unwrapped)


@EVERY
def test_vector_face_stays_in_its_spaces_beyond_the_end_of_episodes(name: str) -> None:
    vector = small_batch(name, 5)
    seen, info = vector.reset(seed=3)
    assert info == {}
    assert seen in vector.observation_space
    vector.action_space.seed(1)
    ended = 0
    for _ in range(vector.world.horizon + 3):
        seen, reward, terminated, truncated, info = vector.step(vector.action_space.sample())
        assert seen in vector.observation_space
        assert reward.shape == terminated.shape == truncated.shape == info["invalid"].shape == (5,)
        assert reward.dtype == np.float64
        assert np.isfinite(reward).all()
        assert terminated.dtype == truncated.dtype == np.bool_
        assert info["click"].shape == (5, vector.world.slots)
        if "final_obs" in info:
            np.testing.assert_array_equal(info["_final_obs"], terminated | truncated)
            ended += int(info["_final_obs"].sum())
            for row in np.flatnonzero(info["_final_obs"]):
                assert info["final_obs"][row] in vector.single_observation_space
    assert ended >= 5


@EVERY
def test_the_same_seed_repeats_and_another_does_not(name: str) -> None:
    """Of the batch; `check_env` sees to the single face."""

    def run(seed: int) -> list[Any]:
        vector = small_batch(name, 3)
        seen, _ = vector.reset(seed=seed)
        vector.action_space.seed(1)
        kept = [seen]
        for _ in range(3):
            seen, reward, *_ = vector.step(vector.action_space.sample())
            kept.append(seen | {"reward": reward})
        return kept

    first, again, another = run(3), run(3), run(4)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not all(same(a, b) for a, b in zip(first, another, strict=True))


@EVERY
def test_a_row_of_the_batch_is_the_single_environment(name: str) -> None:
    """Where users do not share a market that moves, row i is the single environment at user i."""
    vector = small_batch(name, 2)
    settings: dict[str, Any] = {}
    if vector.world.market.shared or "mask" in vector.reset(seed=9)[0]:
        if not hasattr(vector.world.spec, "popularity_feedback"):
            pytest.skip("the market of this world moves")
        settings = {"popularity_feedback": 0.0, "unborn": 0.0, "lifetime": 0.0, "provider_patience": 0.0}
        vector = small_batch(name, 2, **settings)
    vector.reset(seed=9)
    singles = [make_env(name, **settings, **ids()[name].small) for _ in range(2)]
    for row, env in enumerate(singles):
        _, info = env.reset(seed=9, options={"user": row})
        assert info == {"user": row}
    vector.action_space.seed(0)
    there = np.ones(2, dtype=bool)
    for _ in range(4):
        action = vector.action_space.sample()
        seen, reward, terminated, truncated, info = vector.step(action)
        for row in np.flatnonzero(there).tolist():
            alone, one, *ends, about = singles[row].step(action[row])
            assert one == reward[row]
            assert ends == [terminated[row], truncated[row]]
            assert about["invalid"] == info["invalid"][row]
            np.testing.assert_array_equal(about["click"], info["click"][row])
            there[row] = not any(ends)
            of_row = {k: v[row] for k, v in seen.items()} if there[row] else info["final_obs"][row]
            assert same(alone, of_row)
    assert there.any()


@EVERY
def test_strict_refuses_repeats_and_the_default_counts_them(name: str) -> None:
    settings = ids()[name].small
    for vector in (False, True):
        make: Any = make_vector if vector else make_env
        strict, loose = make(name, strict=True, **settings), make(name, **settings)
        seen, _ = strict.reset(seed=0)
        loose.reset(seed=0)
        good = a_slate(strict, seen)
        if len(good) < 2:
            pytest.skip("slates of one item")
        bad = good.copy()
        bad[1] = bad[0]
        item = int(seen["candidates"].reshape(-1)[bad[0]]) if "candidates" in seen else int(bad[0])
        shape = (1, -1) if vector else (-1,)
        with pytest.raises(BadInput, match=f"row 0, slot 1: item {item} stands higher up already"):
            strict.step(bad.reshape(shape))
        *_, info = loose.step(bad.reshape(shape))
        assert info["invalid"] == loose.invalid_actions == 1
        *_, info = loose.step(good.reshape(shape))
        assert info["invalid"] == 0
        assert loose.invalid_actions == 1
        *_, info = strict.step(good.reshape(shape))
        assert info["invalid"] == strict.invalid_actions == 0


@pytest.mark.parametrize("name", ["simlab/Feed-v0", "simlab/Return-v0", "simlab/Drift-v0"])
def test_a_finished_episode_says_so(name: str) -> None:
    """Whether it was terminated or truncated."""
    env = small(name)
    env.reset(seed=0)
    for _ in range(env.world.horizon):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            break
    with pytest.raises(BadInput, match="the episode is over: call reset"):
        env.step(env.action_space.sample())
    env.reset()
    env.step(env.action_space.sample())


@EVERY
def test_what_is_handed_out_is_the_callers_own(name: str) -> None:
    """Writing into observations, clicks and actions changes neither the world nor what was given before."""
    for env, twin in ((small(name), small(name)), (small_batch(name, 3), small_batch(name, 3))):
        seen, _ = env.reset(seed=2)
        twin.reset(seed=2)
        env.action_space.seed(0)
        for _ in range(3):
            for value in seen.values():
                if value.flags.writeable:
                    value[...] = 0
            action = env.action_space.sample()
            shown = action.copy()
            seen, reward, *_, info = env.step(shown)
            kept = {k: v.copy() for k, v in seen.items()}
            other, same_reward, *_ = twin.step(action)
            np.testing.assert_array_equal(reward, same_reward)
            assert same(seen, other)
            shown[...] = 0
            info["click"][...] = 0
            assert same(seen, kept)


@EVERY
def test_tensor_face_gives_the_same_numbers_as_the_numpy_face(name: str) -> None:
    plain, tensors = small_batch(name, 3), small_batch(name, 3, tensors=True)
    a, _ = plain.reset(seed=1)
    b, _ = tensors.reset(seed=1)
    plain.action_space.seed(5)
    for _ in range(plain.world.horizon + 1):
        assert same(a, {k: v.numpy() for k, v in b.items()})
        action = plain.action_space.sample()
        a, reward, *_, info = plain.step(action)
        b, same_reward, *_, about = tensors.step(torch.as_tensor(action))
        assert isinstance(same_reward, torch.Tensor)
        np.testing.assert_array_equal(reward, same_reward.double().numpy())
        np.testing.assert_array_equal(info["invalid"], about["invalid"].numpy())
        for row in np.flatnonzero(info.get("_final_obs", np.zeros(3))):
            assert same(info["final_obs"][row], {k: v[row].numpy() for k, v in about["final_obs"].items()})
    assert plain.invalid_actions == tensors.invalid_actions > 0


# Made by Gymnasium ---------------------------------------------------------------------------------


def test_vector_face_is_made_by_gymnasium_and_declares_its_autoreset() -> None:
    vector = gym.make_vec("simlab/Feed-v0", num_envs=6, **SIZE)
    assert isinstance(vector.unwrapped, WorldVectorEnv)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert vector.observation_space == gym.vector.utils.batch_space(vector.single_observation_space, 6)
    assert vector.action_space == gym.vector.utils.batch_space(vector.single_action_space, 6)


def test_gymnasiums_own_vectoriser_and_wrappers_take_the_faces() -> None:
    sync = SyncVectorEnv([lambda: FeedEnv(horizon=3, **SIZE) for _ in range(2)])
    sync.reset(seed=0)
    counted = gym.wrappers.vector.RecordEpisodeStatistics(FeedVectorEnv(4, horizon=3, churn=0.0, **SIZE))
    counted.reset(seed=0)
    for _ in range(2):
        sync.step(sync.action_space.sample())
        counted.step(counted.action_space.sample())
    *_, info = counted.step(counted.action_space.sample())
    assert info["episode"]["l"].tolist() == [3, 3, 3, 3]


def test_gymnasium_passes_the_switches_on() -> None:
    env = gym.make("simlab/Feed-v0", strict=True, flat=True, **(SIZE | {"slots": 1}))
    assert env.action_space == gym.spaces.Discrete(30)
    assert env.get_wrapper_attr("strict")
    vector = gym.make_vec("simlab/Feed-v0", num_envs=2, strict=True, **SIZE)
    vector.reset(seed=0)
    with pytest.raises(BadInput, match="row 1, slot 2: item 5"):
        vector.step(np.array([[0, 1, 2, 3], [5, 1, 5, 3]]))


def test_same_step_autoreset_gives_the_last_and_the_first_observation() -> None:
    vector = FeedVectorEnv(3, horizon=2, churn=0.0, **SIZE)
    vector.reset(seed=0)
    slates = np.tile(np.arange(4), (3, 1))
    vector.step(slates)
    seen, _, terminated, truncated, info = vector.step(slates + 4)
    assert truncated.all()
    assert not terminated.any()
    assert info["_final_obs"].all()
    assert (seen["history"] == -1).all()  # the next user has seen nothing
    for row in range(3):
        last = info["final_obs"][row]
        assert (last["history"][-8:] >= 0).all()  # the last user saw two slates
    assert len({tuple(f) for f in seen["features"].tolist()}) == 3


def test_the_tensor_face_copies_nothing_and_can_be_learned_from() -> None:
    vector = FeedVectorEnv(3, tensors=True, **SIZE)
    seen, _ = vector.reset(seed=1)
    assert seen["popularity"].data_ptr() == vector.world.market.start.data_ptr()
    seen, *_ = vector.step(torch.arange(4).repeat(3, 1))
    assert not any(v.is_inference() for v in seen.values())


# What is seen --------------------------------------------------------------------------------------


def test_an_observation_has_only_what_varies() -> None:
    def keys(**settings: Any) -> set[str]:
        env = FeedEnv(**settings)
        seen, _ = env.reset(seed=0)
        assert seen in env.observation_space
        return set(seen)

    always = {"features", "history", "feedback", "popularity"}
    drawn = {"candidates", "candidate_features"}
    assert keys(**SIZE) == always
    assert keys(**FEW) == always | drawn
    assert keys(lifetime=5.0, **SIZE) == always | {"mask"}


def test_columns_are_the_users_own_candidates() -> None:
    """An action names columns; the history shows the items that stood there."""
    vector = FeedVectorEnv(5, **FEW)
    before, _ = vector.reset(seed=0)
    assert vector.single_action_space == gym.spaces.MultiDiscrete([9] * 4)
    world, rows = vector.world, np.arange(5)[:, None]
    known = world.catalog.features.numpy()
    for action in ([8, 0, 3, 2], [1, 2, 3, 4]):
        np.testing.assert_array_equal(before["candidate_features"], known[before["candidates"]])
        columns = np.tile(action, (5, 1))
        after, *_ = vector.step(columns)
        np.testing.assert_array_equal(after["history"][:, -4:], before["candidates"][rows, columns])
        assert not np.array_equal(after["candidates"], before["candidates"])
        before = after


def test_popularity_is_that_of_the_columns() -> None:
    whole, few = FeedEnv(**SIZE), FeedEnv(**FEW)
    everything, _ = whole.reset(seed=0)
    seen, _ = few.reset(seed=0)
    np.testing.assert_array_equal(seen["popularity"], everything["popularity"][seen["candidates"]])


def test_a_masked_item_is_counted_and_left_out_or_refused() -> None:
    settings = SIZE | {"unborn": 0.6, "base": 20.0, "slope": 0.0, "position_bias": 0.0}
    loose = make_env("Feed-v0", **settings)
    strict = make_env("Feed-v0", strict=True, **settings)
    seen, _ = loose.reset(seed=0)
    strict.reset(seed=0)
    gone, here = np.flatnonzero(seen["mask"] == 0), np.flatnonzero(seen["mask"] == 1)
    assert len(gone)
    action = np.array([here[0], gone[0], here[0], here[1]])
    with pytest.raises(BadInput, match=f"row 0, slot 1: item {gone[0]} may not be shown now: it is masked"):
        strict.step(action)
    *_, info = loose.step(action)
    assert info["click"].tolist() == [1, 0, 0, 1]  # everything is clicked, but an empty slot
    assert info["invalid"] == loose.invalid_actions == 2


def test_a_world_of_one_item_keeps_its_spaces() -> None:
    env = FeedEnv(items=1, slots=1, candidates=1, remember=0, horizon=3)
    seen, _ = env.reset(seed=0)
    assert seen in env.observation_space
    assert env.step(np.array([0]))[0] in env.observation_space


# What is refused -----------------------------------------------------------------------------------


def test_a_repeated_item_can_be_clicked_only_once() -> None:
    env = FeedEnv(**(SIZE | {"base": 20.0, "position_bias": 0.0, "slope": 0.0}))
    env.reset(seed=0)
    *_, info = env.step(np.array([7, 7, 3, 7]))
    assert info["click"].tolist() == [1, 0, 1, 0]
    assert info["invalid"] == 2


@pytest.mark.parametrize("rows", [1, 9, 3000])
def test_repeats_are_found_in_small_and_large_batches(rows: int) -> None:
    g = torch.Generator().manual_seed(rows)
    slate = torch.randint(12, (rows, 5), generator=g)
    slow = [[item in row[:slot] for slot, item in enumerate(row)] for row in slate.tolist()]
    assert repeated(slate).tolist() == slow


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ([0, 1, 2, 30], "row 0, slot 3: item 30 is outside 0..29"),
        ([0, -1, 2, 3], "row 0, slot 1: item -1 is outside 0..29"),
        ([0, 1], r"shape \(2,\), but it is 4 slots \(4,\)"),
        ([[0, 1, 2, 3]], r"shape \(1, 4\), but it is 4 slots"),
        ([[0, 1], [2]], "ragged"),
        ([0.0, 1.0, 2.0, 3.0], "of type float64, but it holds whole numbers"),
        ([True, False, True, False], "of type bool"),
        (["a", "b", "c", "d"], "but it holds whole numbers"),
        (torch.ones(4), "of type float32"),
    ],
)
def test_actions_that_cannot_be_are_refused(action: Any, words: str) -> None:
    env = FeedEnv(**SIZE)
    env.reset(seed=0)
    with pytest.raises(BadInput, match=words):
        env.step(action)
    assert env.invalid_actions == 0


def test_a_batch_of_another_shape_is_refused() -> None:
    vector = FeedVectorEnv(3, **FEW)
    vector.reset(seed=0)
    for shape, words in (((2, 4), "3 rows of 4 slots"), ((3, 5), "3 rows of 4 slots"), ((12,), "3 rows")):
        with pytest.raises(BadInput, match=words):
            vector.step(np.zeros(shape, dtype=int))
    with pytest.raises(BadInput, match=r"row 2, slot 3: column 9 is outside 0..8"):
        vector.step(np.array([[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 9]]))


def test_out_of_range_is_refused_before_anything_happens() -> None:
    """A refused action leaves the environment where it was."""
    env, twin = FeedEnv(**SIZE), FeedEnv(**SIZE)
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(BadInput):
        env.step([0, 1, 2, 99])
    assert same(env.step([0, 1, 2, 3])[0], twin.step([0, 1, 2, 3])[0])


def test_a_step_before_reset_and_a_typo_are_refused() -> None:
    for env in (FeedEnv(**SIZE), FeedVectorEnv(**SIZE)):
        with pytest.raises(BadInput, match="reset"):
            env.step(np.zeros(4, dtype=int))
    with pytest.raises(BadInput, match="did you mean boredom"):
        FeedEnv(bordom=1.0)
    with pytest.raises(BadInput, match="num_envs is 0"):
        FeedVectorEnv(0, **SIZE)


# Seeds, users, one item ----------------------------------------------------------------------------


def test_reset_goes_on_to_the_next_user_or_to_the_one_asked_for() -> None:
    env = FeedEnv(**SIZE)
    first = [env.reset(seed=5), env.reset(), env.reset(), env.reset()]
    assert [info["user"] for _, info in first] == [0, 1, 2, 3]
    again, info = env.reset(options={"user": 2})
    assert info == {"user": 2}
    assert same(again, first[2][0])
    assert env.reset()[1] == {"user": 3}
    vector = FeedVectorEnv(2, **SIZE)
    seen, _ = vector.reset(seed=5, options={"user": 2})
    np.testing.assert_array_equal(seen["features"][0], first[2][0]["features"])
    np.testing.assert_array_equal(seen["features"][1], first[3][0]["features"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"usr": 1}, "no option usr of reset; did you mean user"),
        ({"user": -1}, "option user is -1"),
        ({"user": 1.0}, "option user is 1.0"),
        ({"user": True}, "option user is True"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    for env in (FeedEnv(**SIZE), FeedVectorEnv(2, **SIZE)):
        with pytest.raises(BadInput, match=words):
            env.reset(seed=0, options=options)


def test_without_a_seed_every_environment_has_its_own() -> None:
    for make in (FeedEnv, FeedVectorEnv):
        a, b = (make(**SIZE).reset()[0]["features"] for _ in range(2))
        assert not np.array_equal(a, b)
        c, d = (make(**SIZE).reset(seed=s)[0]["features"] for s in (1, 2))
        assert not np.array_equal(c, d)


def test_a_list_of_seeds_is_one_seed() -> None:
    vector = FeedVectorEnv(2, **SIZE)
    seeds: list[list[int | None]] = [[1, 2], [1, 2], [1, 3]]
    a, b, c = (vector.reset(seed=s)[0]["features"] for s in seeds)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    with pytest.raises(BadInput, match="seed has 3 entries, but there are 2 rows"):
        vector.reset(seed=[1, 2, 3])


def test_a_flat_action_is_the_slate_of_one_item() -> None:
    size = SIZE | {"slots": 1, "candidates": 9}
    for flat, plain in (
        (make_env("Feed-v0", flat=True, **size), make_env("Feed-v0", **size)),
        (make_vector("Feed-v0", 3, flat=True, **size), make_vector("Feed-v0", 3, **size)),
    ):
        flat.reset(seed=0)
        plain.reset(seed=0)
        for _ in range(4):
            action = flat.action_space.sample()
            assert same(flat.step(action)[0], plain.step(np.asarray(action)[..., None])[0])
    check_env(gym.make("simlab/Feed-v0", flat=True, **size).unwrapped)
    with pytest.raises(BadInput, match="flat is for slates of one item, but the slate has 4 slots"):
        make_env("Feed-v0", flat=True, **SIZE)


def test_the_action_space_holds_every_slate_and_nothing_else_is_asked_of_a_learner() -> None:
    """Why repeats are not refused by default: a uniform draw of ten of a thousand repeats one in 25."""
    world = Feed(Feed.Spec.of(**SIZE))
    state = world.reset(1000, Seed(0))
    columns = torch.randint(30, (1000, 4), generator=torch.Generator().manual_seed(0))
    slate, invalid = fill_slates(columns, state, world, strict=False)
    assert torch.equal(invalid, (slate == world.blank).sum(1))
    assert 0.1 < float((invalid > 0).float().mean()) < 0.3  # 1 - 29·28·27/30³ = .19
