"""Guards see leaks, missing overlap and small arms, and are silent on a clean experiment."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from causal.targeting.overlap import overlap
from causal.trials.guards import Finding, balance, check, sentences
from causal.trials.hillstrom import Hillstrom
from causal.uplift.contract import Array, Trial
from simlab.errors import BadInput
from simlab.seeds import Seed

DATA = Path(__file__).parents[2] / "../shared/data/hillstrom"


def trial(rows: int = 4000, seed: int = 0, chance: float = 0.5) -> Trial:
    """An experiment whose arms know nothing."""
    luck = np.random.default_rng(seed)
    x = np.column_stack([luck.normal(size=(rows, 3)), luck.integers(0, 5, rows)])
    arm = (luck.random(rows) < chance).astype(int)
    y = (luck.random(rows) < 0.2 + 0.1 * arm).astype(float)
    return Trial.of(x, arm, y, names=("a", "b", "c", "d"), propensity=chance)


def with_(made: Trial, name: str, column: Array) -> Trial:
    return replace(made, x=np.column_stack([made.x, column]), names=(*made.names, name))


def about(made: Trial, kind: str, column: str) -> Finding:
    found = [f for f in check(made) if f.kind == kind and f.column == column]
    assert len(found) == 1, check(made)
    return found[0]


def test_a_clean_experiment_is_clean() -> None:
    """Twenty of them: the guards' false alarms are rarer than that."""
    for seed in range(20):
        made = trial(2000, seed)
        assert check(made) == ()
        assert check(replace(made, propensity=None)) == ()


def test_hillstrom_is_clean_until_an_outcome_is_a_feature() -> None:
    if not DATA.is_dir():
        pytest.skip("the file of hillstrom is not here")
    clean = Hillstrom("all", "conversion", path=DATA).load()
    assert [f.kind for f in check(clean, few=100)] == []
    visit = Hillstrom("all", "visit", path=DATA).load().y
    dirty = with_(clean, "visit", visit)
    assert about(dirty, "name", "visit").text.startswith("feature visit has the name of an outcome")
    said = about(dirty, "leak", "visit").text
    assert said.startswith(f"the outcome is 0 in all {(visit == 0).sum():,} rows whose visit is 0, though")
    told = [f for f in check(dirty) if f.kind == "balance"]
    assert [f.grave for f in told] == [True, True]
    assert told[0].text.startswith(
        "feature visit has mean 0.1828 in arm 'Mens E-Mail' and 0.1062 in control (z = 22"
    )


def test_a_copy_of_the_outcome_or_the_arm_is_grave() -> None:
    made = trial()
    said = about(with_(made, "bought", made.y), "leak", "bought")
    assert said == Finding("leak", "bought", "feature bought equals the outcome in every row", True)
    said = about(with_(made, "code", made.arm), "leak", "code")
    assert said.text == "feature code equals arm 1 in every row"
    said = about(with_(made, "worth", 3 - 2 * made.y), "leak", "worth")
    assert said.text == "feature worth tells the outcome: its values explain 100.0 % of it"
    assert said.grave
    said = about(
        with_(made, "later", made.arm * 5.0 + np.random.default_rng(3).random(4000)), "leak", "later"
    )
    assert said.text.startswith("feature later tells arm 1: its values explain")


def test_a_copy_is_seen_in_few_rows_and_of_numbers() -> None:
    made = trial(80)
    assert about(with_(made, "bought", made.y), "leak", "bought").grave
    luck = np.random.default_rng(5)
    numbers = replace(trial(3000), y=luck.normal(size=3000))
    assert about(with_(numbers, "double", 2 * numbers.y + 1), "leak", "double").grave
    hazy = with_(numbers, "hazy", numbers.y + luck.normal(size=3000))
    assert not [f for f in check(hazy) if f.kind == "leak"]


def test_a_value_that_settles_the_outcome_is_a_hint() -> None:
    made = trial()
    bought = made.y * (np.random.default_rng(1).random(4000) < 0.2)
    said = about(with_(made, "order", bought), "leak", "order")
    assert not said.grave
    count = int(bought.sum())
    assert said.text.startswith(f"the outcome is 1 in all {count} rows whose order is 1, though its mean is")


def test_a_value_that_settles_the_arm_is_grave() -> None:
    made = replace(trial(), propensity=None)
    exposed = made.arm * (np.random.default_rng(1).random(4000) < 0.5)
    said = about(with_(made, "seen", exposed), "leak", "seen")
    assert said.grave
    assert said.text.startswith(f"all of the {exposed.sum():,} rows whose seen is 1 got arm 1, though 5")


def test_a_feature_that_moves_with_a_random_arm() -> None:
    made = trial()
    moved = np.random.default_rng(2).normal(size=4000) + 0.5 * made.arm
    said = about(with_(made, "mood", moved), "balance", "mood")
    assert said.grave
    assert "though chances of arms are known and equal for all" in said.text
    unknown = replace(with_(made, "mood", moved), propensity=None)
    assert not [f for f in check(unknown) if f.kind == "balance"]


def test_rows_of_a_user_count_once() -> None:
    """40 users of 100 rows each: what is said of a user is said 100 times, and still is no leak."""
    alarms = {"balance": 0, "leak": 0}
    for seed in range(20):
        luck = np.random.default_rng(seed)
        user = np.repeat(np.arange(40), 100)
        arm, y, x = (luck.integers(0, 2, 40)[user] for _ in range(3))
        made = Trial.of(np.column_stack([x, luck.normal(size=40)[user]]), arm, y, user=user, propensity=0.5)
        assert not [f for f in check(made) if f.kind in alarms]
        for f in check(replace(made, user=None)):
            alarms[f.kind] = alarms.get(f.kind, 0) + 1
    assert alarms["balance"] > 5
    assert alarms["leak"] > 5
    told = balance(replace(trial(), user=np.arange(4000), x=trial().x + trial().arm[:, None]))
    assert len(told) == 4  # each row a user of its own: what is there is seen


def test_overlap_is_known_or_estimated_and_counts_the_trimmed() -> None:
    luck = np.random.default_rng(4)
    x = luck.normal(size=(20000, 2))
    chance = expit(2.5 * x[:, 0])
    arm = (luck.random(20000) < chance).astype(int)
    known = Trial.of(x, arm, luck.random(20000), propensity=chance)
    guess = replace(known, propensity=None)
    truth = float(((chance < 0.05) | (chance > 0.95)).mean())
    for made, how, near in ((known, "known", 1e-12), (guess, "estimated", 0.01)):
        seen = overlap(made, seed=Seed(1))
        assert seen.trimmed == pytest.approx(truth, abs=near)
        assert seen.known == (how == "known")
        assert (~seen.keep).mean() == pytest.approx(seen.trimmed)
        said = [f for f in check(made, seen=seen) if f.kind == "overlap"]
        assert len(said) == 1
        assert said[0].grave
        assert f"the {how} chance of arm" in said[0].text
    np.testing.assert_allclose(overlap(guess).chance[:, 1], chance, atol=0.05)
    heavy = replace(known, weight=np.where((chance < 0.05) | (chance > 0.95), 0.0, 1.0))
    assert overlap(heavy).trimmed == 0
    with pytest.raises(BadInput, match=r"bound is 0\.5"):
        overlap(known, bound=0.5)


def test_small_arms_and_rare_outcomes() -> None:
    made = trial(4000, chance=0.01)
    said = about(made, "arm", "1")
    share = 100 * made.arm.sum() / 4000
    assert said.text == (f"arm 1 has {made.arm.sum()} rows ({share:.2g} %), too few to learn effects from")
    rare = replace(trial(), y=np.where(np.arange(4000) < 30, 1.0, 0.0))
    texts = [f.text for f in check(rare) if f.kind == "arm"]
    assert len(texts) == 2
    assert all("rows with outcome 1 of" in text for text in texts)


def test_what_cannot_be_estimated_is_said() -> None:
    tiny = Trial.of(np.arange(12.0).reshape(12, 1), [0] * 11 + [1], np.arange(12.0))
    texts = [f.text for f in check(tiny)]
    assert "arm 1 has 1 rows (8.3 %), too few to learn effects from" in texts
    assert any(t.startswith("overlap cannot be estimated: arm 1 has no rows outside fold") for t in texts)
    luck = np.random.default_rng(0)
    many = Trial.of(luck.normal(size=(6000, 2)), luck.integers(0, 30, 6000), luck.normal(size=6000))
    assert not [f for f in check(many) if f.grave]


def test_a_feature_that_numbers_the_rows_is_named() -> None:
    made = trial(1000)
    said = about(with_(made, "customer", np.arange(1000.0)[::-1] + 7), "id", "customer")
    assert "another whole number in each row, from 7 to 1006" in said.text
    assert not said.grave
    for fine in (
        np.arange(1000.0) // 2,
        np.arange(1000.0) * 5,
        np.arange(1000.0) / 3,
    ):  # twice, sparse, halves
        assert not [f for f in check(with_(made, "fine", fine)) if f.kind == "id"]


def test_what_does_not_vary() -> None:
    made = trial(1000)
    assert about(with_(made, "one", np.ones(1000)), "constant", "one").text == (
        "feature one is 1 in every row and tells nothing"
    )
    still = replace(made, y=np.zeros(1000))
    assert about(still, "constant", "outcome").grave
    lines = sentences(check(still))
    assert lines[0] == "grave: the outcome is 0 in every row, so every effect is 0"
