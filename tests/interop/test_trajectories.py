"""Episodes of other libraries are users whose sessions are the steps."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from causal.contract import value
from causal.rl.pdis import PDIS
from causal.trajectories import trajectories
from simlab.errors import BadInput
from simlab.interop import from_minari, from_numpy_trajectories

HALF = np.full(6, 0.5)


def arrays(**change: Any) -> dict[str, Any]:
    """Three episodes of 3, 1 and 2 steps: one terminates, one runs out of time, one is cut by the record."""
    found: dict[str, Any] = {
        "observations": np.arange(12.0).reshape(6, 2),
        "actions": np.array([0, 2, 1, 2, 0, 1]),
        "rewards": np.array([1.0, 0.0, 2.5, -1.0, 0.25, 0.0], dtype=np.float32),
        "terminations": np.array([0, 0, 1, 0, 0, 0]),
        "truncations": np.array([False, False, False, True, False, False]),
        "propensity": np.array([0.5, 0.25, 0.5, 1.0, 0.125, 0.5]),
    }
    return found | change


def test_flat_arrays_are_cut_into_episodes() -> None:
    log = from_numpy_trajectories(**arrays(), n_actions=4, policy="mix")
    assert log.user.tolist() == [0, 0, 0, 1, 2, 2]
    assert log.step is not None
    assert log.step.tolist() == [0, 1, 2, 0, 0, 1]
    assert log.slate[:, 0].tolist() == [0, 2, 1, 2, 0, 1]
    assert log.reward.tolist() == [1.0, 0.0, 2.5, -1.0, 0.25, 0.0]
    assert log.reward.dtype == log.propensity.dtype == torch.float64
    assert log.terminated is not None
    assert log.truncated is not None
    assert log.terminated.tolist() == [False, False, True, False, False, False]
    assert log.truncated.tolist() == [False, False, False, True, False, True], "the record stops there"
    assert log.features is not None
    assert log.features.tolist() == np.arange(12.0).reshape(6, 2).tolist()
    assert (log.n_items, log.policy) == (4, ("mix",))
    assert from_numpy_trajectories(**arrays(), n_actions=4, policy="mix") == log


def test_whole_numbers_are_a_category_and_pictures_are_flattened() -> None:
    log = from_numpy_trajectories(**arrays(observations=np.array([3, 0, 1, 2, 2, 0])), n_observations=16)
    assert log.categories is not None
    assert log.categories[:, 0].tolist() == [3, 0, 1, 2, 2, 0]
    assert log.category_sizes == (16,)
    assert log.features is None
    picture = from_numpy_trajectories(**arrays(observations=np.zeros((6, 2, 2, 3), dtype=np.uint8)))
    assert picture.features is not None
    assert picture.features.shape == (6, 12)


def test_estimators_take_the_log_as_it_is() -> None:
    """Per-decision weights of the three episodes by hand; the one cut after a step is left out first."""
    flat = arrays(terminations=np.array([0, 0, 1, 0, 0, 1]))
    log = from_numpy_trajectories(**flat)
    chance = torch.tensor([0.25, 0.5, 0.25, 1.0, 0.25, 0.25], dtype=torch.float64)
    with pytest.raises(BadInput, match="cut after 1 steps and not terminated"):
        trajectories(log, chance, 0.5)
    keep = log.user != 1
    data = trajectories(log.rows(keep), chance[keep], 0.5)
    # π / propensity is 1/2, 2, 1/2 in the first and 2, 1/2 in the second; γ is 1/2
    first = 0.5 * 1.0 + 0.5 * 2 * 0.5 * 0.0 + 0.25 * (0.5 * 2 * 0.5) * 2.5
    second = 2 * 0.25 + 0.5 * (2 * 0.5) * 0.0
    assert value(PDIS().score(data)) == pytest.approx((first + second) / 2, rel=1e-12)


def test_a_model_may_say_the_propensities() -> None:
    def model(seen: Any, action: Any) -> Any:
        assert seen.shape == (6, 2)
        return np.where(action == 2, 0.25, 0.5)

    log = from_numpy_trajectories(**arrays(propensity=model, actions=arrays()["actions"][:, None]))
    assert log.propensity.tolist() == [0.5, 0.25, 0.5, 0.25, 0.5, 0.5]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"propensity": None}, "the probabilities of the logged actions are missing: give propensity="),
    ({"propensity": HALF * 0}, r"column propensity, row 0: 0.0 is not a probability in \(0, 1\]"),
    ({"propensity": HALF[1:]}, "field propensity has 5 rows, but actions has 6"),
    ({"propensity": HALF * np.nan}, "field propensity, row 0: nan is not a finite number"),
    ({"actions": np.array([0, 1, 2, -1, 0, 0])}, "field actions, row 3: -1 is not a whole number from 0"),
    ({"actions": np.array([0, 1, 2, 0.5, 0, 0])}, "field actions, row 3: 0.5 is not a whole number"),
    ({"actions": np.zeros((6, 3))}, r"field actions has shape \(6, 3\), but one value per row"),
    ({"actions": ["up"] * 6}, "field actions holds <U2, not numbers"),
    ({"actions": []}, "the trajectories are empty"),
    ({"n_actions": 2}, "field actions, row 1: 2 is not one of 2 actions"),
    ({"rewards": [0, 1, [2]]}, "field rewards is ragged"),
    ({"rewards": np.array([0, 0, np.inf, 0, 0, 0])}, "field rewards, row 2: inf is not a finite number"),
    ({"terminations": np.array([0, 0, 2, 0, 0, 0])}, "field terminations, row 2: 2 is not true or false"),
    ({"truncations": np.zeros(7)}, "field truncations has 7 rows, but actions has 6"),
    ({"observations": np.zeros((5, 2))}, "field observations has 5 rows, but actions has 6"),
    ({"observations": np.array([0, 1, -2, 0, 0, 0])}, "field observations, row 2: -2 is not a whole number"),
    ({"observations": np.full((6, 1), np.nan)}, "column features, row 0, slot 0: nan is missing"),
    ({"observations": np.array([3] * 6), "n_observations": 2}, "3 is no category"),
]


@pytest.mark.parametrize(("change", "says"), BAD, ids=range(len(BAD)))
def test_nonsense_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        from_numpy_trajectories(**arrays(**change))


@dataclass
class Episodes:
    """A data set that looks like Minari's: one more observation than actions."""

    observations: Any
    action_space: Any = field(default_factory=lambda: SimpleNamespace(n=3, start=0, shape=()))
    observation_space: Any = None
    id: str = "toy/three-v0"
    without_end: bool = False

    def iterate_episodes(self) -> Iterator[Any]:
        flat = arrays()
        bounds = ((0, 3), (3, 4), (4, 6))
        for index, (a, b) in enumerate(bounds):
            truncated = flat["truncations"][a:b].copy()
            truncated[-1] |= index == 2 and not self.without_end
            yield SimpleNamespace(
                observations=self.observations(a, b),
                actions=flat["actions"][a:b],
                rewards=flat["rewards"][a:b],
                terminations=flat["terminations"][a:b].astype(bool),
                truncations=truncated,
            )


def after(a: int, b: int) -> Any:
    return np.concatenate([arrays()["observations"][a:b], np.full((1, 2), -9.0)])


def test_a_data_set_is_its_arrays_laid_end_to_end() -> None:
    chance = arrays()["propensity"]
    wanted = from_numpy_trajectories(**arrays(), n_actions=3, policy="toy/three-v0")
    assert from_minari(Episodes(after), propensity=chance) == wanted
    assert from_minari(Episodes(after, without_end=True), propensity=chance) == wanted
    nested = Episodes(lambda a, b: {"b": after(a, b)[:, 1:], "a": (after(a, b)[:, :1],)})
    assert from_minari(nested, propensity=chance) == wanted


def test_discrete_observations_and_actions_may_start_elsewhere() -> None:
    one = Episodes(
        lambda a, b: np.arange(a, b + 1) % 4 + 5,
        action_space=SimpleNamespace(n=3, start=0, shape=()),
        observation_space=SimpleNamespace(n=4, start=5),
    )
    asked = []

    def model(seen: Any, action: Any) -> Any:
        asked.append(seen.tolist())
        return HALF

    log = from_minari(one, propensity=model, policy="mine")
    assert log.categories is not None
    assert log.categories[:, 0].tolist() == [0, 1, 2, 3, 0, 1]
    assert log.category_sizes == (4,)
    assert log.policy == ("mine",)
    assert asked == [[5, 6, 7, 8, 5, 6]], "a model is asked about what the data set holds"


def test_data_sets_that_cannot_be_are_refused() -> None:
    with pytest.raises(BadInput, match="the probabilities of the logged actions are missing"):
        from_minari(Episodes(after))
    with pytest.raises(BadInput, match="the probabilities of the logged actions are missing"):
        from_minari("no/such-v0")
    with pytest.raises(BadInput, match="but a log's are discrete"):
        from_minari(Episodes(after, action_space=SimpleNamespace(shape=(2,))), propensity=HALF)
    with pytest.raises(BadInput, match="episode 0 has 6 observations, but 3 actions"):
        from_minari(Episodes(lambda a, b: np.zeros((6, 1))), propensity=HALF)
    with pytest.raises(BadInput, match="observations hold <U1, not numbers"):
        from_minari(Episodes(lambda a, b: np.array(["x"] * (b - a))), propensity=HALF)
    with pytest.raises(BadInput, match="the data set is empty"):
        from_minari(SimpleNamespace(iterate_episodes=lambda: []), propensity=HALF)
    early = Episodes(after)
    broken = list(early.iterate_episodes())
    broken[0].truncations[1] = True
    with pytest.raises(BadInput, match="episode 0 ends at step 1, but has 3 steps"):
        from_minari(SimpleNamespace(iterate_episodes=lambda: broken), propensity=HALF)


def test_an_id_needs_minari_and_a_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(BadInput, match=r"pip install minari|Minari cannot load no/such-v0"):
        from_minari("no/such-v0", propensity=HALF)


@pytest.mark.filterwarnings("ignore:.*None:UserWarning")
def test_real_minari(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """With minari installed: a data set that it wrote itself, by its id."""
    minari, gymnasium = pytest.importorskip("minari"), pytest.importorskip("gymnasium")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    world = gymnasium.make("CartPole-v1")
    world.action_space.seed(0)
    buffers, lengths = [], []
    for episode in range(4):
        seen: list[Any] = [world.reset(seed=episode)[0]]
        steps: list[tuple[Any, ...]] = []
        while not steps or not (steps[-1][2] or steps[-1][3]):
            action = world.action_space.sample()
            observation, reward, terminated, truncated, _ = world.step(action)
            seen.append(observation)
            steps.append((action, reward, terminated, truncated))
        actions, rewards, ends, cuts = (list(x) for x in zip(*steps, strict=True))
        kept = {"observations": seen, "actions": actions, "rewards": rewards}
        buffers.append(
            minari.data_collector.EpisodeBuffer(id=episode, **kept, terminations=ends, truncations=cuts)
        )
        lengths.append(len(steps))
    spaces = {"action_space": world.action_space, "observation_space": world.observation_space}
    told = {"algorithm_name": "random", "author": "simlab", "author_email": "", "code_permalink": ""}
    made = minari.create_dataset_from_buffers("simlab/cartpole-v0", buffers, **spaces, **told)
    log = from_minari("simlab/cartpole-v0", propensity=lambda seen, action: np.full(len(action), 0.5))
    assert log == from_minari(made, propensity=np.full(sum(lengths), 0.5))
    assert torch.bincount(log.user).tolist() == lengths
    assert log.terminated is not None
    assert log.terminated.sum() == 4
    assert (log.n_items, log.policy) == (2, ("simlab/cartpole-v0",))
    assert float(log.reward.sum()) == sum(lengths)
    first = next(iter(made.iterate_episodes()))
    assert log.features is not None
    np.testing.assert_array_equal(log.features[: lengths[0]].numpy(), first.observations[:-1])
