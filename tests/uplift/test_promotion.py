"""In the promotion world intervals hold the truth, confounding breaks the naive, and uplift sells more.

The fast tests make a few logs with the functions of `benchmarks/uplift_promotion.py`, so their limits are
wide; the slow ones make enough for the band of 92 to 98 in 100. The page has all cells.
"""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.dummy import DummyClassifier

from benchmarks import _promotion_cells as cells
from benchmarks import _promotion_counts as counts
from benchmarks import uplift_promotion as bench
from benchmarks._promotion_cells import SETTINGS, Found
from benchmarks._promotion_page import HIGH, LOW
from causal.uplift.contract import Trial
from simlab.seeds import Seed

ROWS = 2000
PAGE = Path(__file__).parents[2] / "docs" / "uplift-promotion.md"


def limits(logs: int, low: float = 0.93, high: float = 0.97) -> tuple[float, float]:
    """Return a band that a coverage between `low` and `high` leaves less than once in ten thousand times."""
    least, most = stats.binom.ppf(5e-5, logs, low), stats.binom.ppf(1 - 5e-5, logs, high)
    return float(least) / logs, float(most) / logs


@cache
def scored(setting: str, logs: int) -> dict[str, counts.Cell]:
    found = {log: cells.scored(setting, ROWS, log) for log in range(logs)}
    return {c.name: c for c in counts.averages(found, counts.POPULATION)}


@cache
def fresh(setting: str, logs: int) -> dict[int, Found]:
    return {log: cells.fresh(setting, ROWS, log) for log in range(logs)}


@cache
def slates(logs: int) -> dict[int, Found]:
    return {log: cells.slates("observed confounding", 8000, log) for log in range(logs)}


def test_the_truth_is_the_worlds() -> None:
    ate = cells.world().ate()
    assert abs(ate.double().numpy() - counts.POPULATION).max() < 1e-7  # float32
    x, effects = cells.everybody()
    assert x.shape == (100_000, 6)
    assert abs(effects.mean() - counts.POPULATION) < 4 * effects.std() / 100_000**0.5


def test_a_learner_sees_no_truth() -> None:
    for setting in SETTINGS.values():
        drawn, trial = cells.draw(setting, 500, Seed(1))
        assert trial.x.shape == (500, 6)
        assert trial.effect is None
        assert (trial.propensity is not None) == setting.known
        if trial.propensity is not None:
            assert (trial.propensity[:, 1] == drawn.visible.numpy()).all()
        assert (trial.y == drawn.Y.numpy()).all()
        assert (trial.arm == drawn.T.numpy()).all()


def test_logs_and_settings_share_no_luck() -> None:
    seeds = {
        cells.seed_of(setting, what, log).value
        for setting in SETTINGS
        for what in ("scores", "fresh")
        for log in range(3)
    }
    assert len(seeds) == 2 * 3 * len(SETTINGS)


@pytest.mark.parametrize("setting", ["experiment", "observed confounding"])
def test_intervals_of_the_average_effect_hold(setting: str) -> None:
    logs = 40
    found = scored(setting, logs)["doubly robust scores"]
    low, high = limits(logs)
    assert low <= found.population <= high
    assert low <= found.sample <= high
    assert abs(found.bias) < 4 * found.bias_stderr
    assert 0.6 < found.stderr / found.spread < 1.6


def test_confounding_breaks_the_difference_of_means_alone() -> None:
    naive = scored("observed confounding", 40)["difference of means"]
    assert naive.bias > 0.05
    assert naive.bias > 10 * naive.bias_stderr
    assert naive.population < 0.05
    low, _ = limits(40)
    assert scored("experiment", 40)["difference of means"].population >= low


def test_a_learner_without_an_outcome_model_is_naive_and_dr_and_dml_repair_it() -> None:
    found = {log: cells.averaged("observed confounding", ROWS, log) for log in range(5)}
    by = {c.name: c for c in counts.averages(found, counts.POPULATION)}
    assert by["T-learner, no outcome model"].bias > 0.05
    for name in ("DR-learner", "linear DR", "linear DML", "R-learner"):
        cell = by[f"{name}, no outcome model"]
        assert abs(cell.bias) < 4 * cell.bias_stderr
        assert abs(cell.bias) < 0.04
    assert set(cells.learners(0)) < set(by)


def test_a_learner_without_an_outcome_model_is_the_difference_of_means() -> None:
    _, trial = cells.draw(SETTINGS["heavy confounding"], 1000, Seed(3))
    poor = cells.learners(0, outcome=DummyClassifier(strategy="prior"))["T-learner"]
    assert poor.learn(trial).ate().value[0] == pytest.approx(cells.difference(trial).value[0], abs=1e-12)


def test_the_difference_of_means_by_hand() -> None:
    trial = Trial.of(np.zeros((5, 1)), [0, 0, 1, 1, 1], [0.0, 1, 1, 1, 0])
    found = cells.difference(trial)
    assert found.value[0] == pytest.approx(2 / 3 - 1 / 2)
    assert found.stderr[0] == pytest.approx((0.5 / 2 + (1 / 3) / 3) ** 0.5)


def test_rows_of_a_user_are_counted_once() -> None:
    logs = 10
    found = {log: cells.clustered("experiment", 1800, log) for log in range(logs)}
    by = {c.name: c for c in counts.averages(found, counts.POPULATION)}
    whole, rows = by["clustered by user"], by["rows as independent"]
    assert whole.bias == rows.bias
    assert whole.stderr > 1.25 * rows.stderr
    assert limits(logs)[0] <= whole.population
    assert rows.population <= whole.population


@pytest.mark.parametrize("setting", ["experiment", "observed confounding"])
def test_intervals_of_deciles_hold(setting: str) -> None:
    logs = 12
    for found in counts.deciles(fresh(setting, logs)):
        low, high = limits(logs * cells.GROUPS)
        assert low <= found.covered.mean() <= high
        assert (np.diff(found.truth) > 0).all()
        assert found.truth[0] < -0.1
        assert found.truth[-1] > 0.25


def test_treating_by_effect_gains_more_than_by_probability() -> None:
    found = fresh("experiment", 12)
    for gap in counts.gaps(found):
        assert gap.truth.low > 0
        assert gap.won > 0.8
        assert limits(12)[0] <= gap.covered
        assert abs(gap.estimate - gap.truth.mean) < 4 * gap.stderr / 12**0.5
    gains = {name: s.mean for name, s in counts.gains(found).items()}
    assert gains["random"] < gains["probability"] < gains["T-learner"] <= gains["oracle"]
    assert gains["probability"] < gains["linear DR"] <= gains["oracle"]


def test_a_gain_by_hand() -> None:
    priority, effect = np.arange(10.0), np.array([0, 0, 0, 0, 0, 0, 9.0, 1, 2, 3])
    assert cells.gain(priority, effect) == pytest.approx((1 + 2 + 3) / 10)


def test_slates_by_effect_sell_more_than_by_probability() -> None:
    for found in slates(3).values():
        exact = found["exact"]
        assert exact["random"] < exact["probability"] < exact["effect"] <= exact["oracle"]
        mean, stderr = found["users"]  # users meet the same luck under both policies
        assert abs(mean - (exact["effect"] - exact["probability"])) < 4 * stderr
        assert mean > 3 * stderr
        assert found["returns"]["effect"] - found["returns"]["probability"] == pytest.approx(mean)


def test_products_of_covariates_and_directions() -> None:
    x, item = np.array([[2.0, 3.0]]), np.array([[1.0, 10.0, 5.0, 7.0, 0.5]])
    assert cells.crossed(x, item).tolist() == [[2, 30, 10, 21, 0.5]]


def test_what_is_counted_of_a_cell_by_hand() -> None:
    value, stderr = np.array([0.0, 1.0, 2.0]), np.array([0.6, 0.4, 0.6])
    cell = counts.Cell.of("x", value, stderr, np.array([0.0, 1.0, 3.5]), 1.0)
    assert (cell.bias, cell.spread, cell.logs) == (0.0, 1.0, 3)
    assert cell.population == 1.0
    assert cell.sample == pytest.approx(2 / 3)
    assert cell.bias_stderr == pytest.approx(3**-0.5)


def test_a_run_makes_only_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = bench.Plan("scores", "experiment", 100, 2)
    kept = {log: cells.scored("experiment", 100, log) for log in range(2)}
    (tmp_path / plan.file).write_text(json.dumps(kept))
    monkeypatch.setattr(bench, "made", lambda *given: pytest.fail("there is nothing to make"))
    bench.run([plan], tmp_path, 1, 1.0)
    assert bench.read(tmp_path, plan) == kept
    assert bench.read(tmp_path, bench.Plan("scores", "experiment", 100, 1)) == {0: kept[0]}
    assert bench.read(tmp_path, bench.Plan("scores", "experiment", 101, 2)) == {}
    names = [row.name for row in bench.rows([plan], tmp_path)]
    assert names == ["difference of means, experiment", "doubly robust scores, experiment"]


def test_a_page_is_made_of_what_is_there(tmp_path: Path) -> None:
    plans = [bench.Plan("scores", "experiment", 100, 4), bench.Plan("fresh", "experiment", 2000, 3)]
    kept = {log: cells.scored("experiment", 100, log) for log in range(4)}
    (tmp_path / plans[0].file).write_text(json.dumps(kept))
    (tmp_path / plans[1].file).write_text(json.dumps({k: fresh("experiment", 12)[k] for k in range(3)}))
    page = "\n".join(bench.paged(plans, tmp_path))
    assert "| doubly robust scores | 4 |" in page
    assert "| experiment | linear DR | 3 |" in page
    assert "TARNet |" not in page


def test_the_page_says_what_was_measured() -> None:
    text = PAGE.read_text("utf-8")
    for name in [*SETTINGS, *cells.learners(0), *cells.dear(0, False)]:
        assert name in text, name
    for line in text.splitlines():
        assert len(line) <= 120 or line.startswith("|"), line
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (PAGE.parent / link).exists(), link


# The full bars -----------------------------------------------------------------------------------

UNBIASED = ("experiment", "experiment, chances estimated", "observed confounding")


@pytest.mark.slow
@pytest.mark.parametrize("setting", UNBIASED)
def test_average_effects_are_covered_in_92_to_98_of_100(setting: str) -> None:
    found = scored(setting, 600)["doubly robust scores"]
    assert LOW <= found.population <= HIGH
    assert LOW <= found.sample <= HIGH


@pytest.mark.slow
@pytest.mark.parametrize("setting", UNBIASED)
def test_each_decile_is_covered_in_92_to_98_of_100(setting: str) -> None:
    for found in counts.deciles(fresh(setting, 600)):
        assert LOW <= found.covered.mean() <= HIGH
        low, high = limits(600, LOW, HIGH)
        assert (found.covered >= low).all()
        assert (found.covered <= high).all()
    for gap in counts.gaps(fresh(setting, 600)):
        assert LOW <= gap.covered <= HIGH
        assert gap.truth.low > 0


@pytest.mark.slow
def test_no_adjustment_helps_against_a_hidden_cause() -> None:
    found = {log: cells.averaged("hidden confounding", 3000, log) for log in range(60)}
    for cell in counts.averages(found, counts.POPULATION):
        assert cell.bias > 0.03
        assert cell.population < 0.5
