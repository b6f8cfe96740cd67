"""The page for those who come from obp: it runs as written, and its numbers are what was measured."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

import causal.bandit
import causal.slate
from causal.bandit.clipped_ips import ClippedIPS
from causal.bandit.ips import IPS
from causal.bandit.logger_balanced_ips import LoggerBalancedIPS
from causal.bandit.snips import SNIPS
from causal.contract import Rounds
from causal.evaluation import estimate
from causal.intervals import KINDS, interval
from causal.sums import BUCKETS
from causal.tuning import family, tune
from simlab.parts import all_parts
from tests.worlds import bandit_world, take

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/coming-from-obp.md").read_text("utf-8")
COVERAGE = ROOT / "../shared/cases/ope/coverage.json"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_the_python_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, Any] = {"__name__": "page"}
    for block in blocks("python"):
        exec(compile(block, "coming-from-obp.md", "exec"), space)
    said = capsys.readouterr().out
    assert said.count("SNIPS") == 2
    assert space["said"].level == "ok"
    # Arrays or policy: the weights are the same, and DR differs only by the folds' luck.
    torch.testing.assert_close(space["again"].weight, space["weighed"].weight, rtol=1e-9, atol=0)
    wanted, arrays = space["weighed"], space["again"]
    assert float((arrays.q_target - wanted.q_target).abs().mean()) < 0.002
    assert json.loads(space["text"])["estimates"][2]["name"] == "DR"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_the_block_of_obp_runs_and_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    """With obp installed: its simulated probabilities agree with ours to their own noise."""
    pytest.importorskip("obp")
    if int(pd.__version__.split(".")[0]) > 2:
        pytest.skip("obp 0.5.7 reads the Open Bandit files with pandas 2 alone")
    space: dict[str, Any] = {"__name__": "page"}
    for block in (*blocks("py"), *blocks("python")[:1]):
        exec(compile(block, "coming-from-obp.md", "exec"), space)
    ours = {e.name: e.value for e in space["found"]}
    assert ours["IPS"] == pytest.approx(space["values"]["ipw"], rel=0.01)
    assert ours["SNIPS"] == pytest.approx(space["values"]["snipw"], rel=0.01)


def test_every_new_name_is_there() -> None:
    table = PAGE[PAGE.index("| obp | here |") : PAGE.index("Estimators of rounds live in")]
    right = " ".join(row.split("|")[2] for row in table.splitlines()[2:] if row.startswith("|"))
    parts = {**all_parts("estimator"), **all_parts("slate estimator")}
    known = {part.__name__ for part in parts.values()}
    said = {word for word in re.findall(r"`([A-Z]\w+)", right)}
    assert said - known == {"BernoulliTS", "Policy"}
    assert known - said <= {"PBM", "PI", "SNPI", "DocumentIPS", "ClippedIIPS"}, "obp has none of these"
    for dotted in set(re.findall(r"`((?:causal|simlab|envs)\.[\w.]+)", right)):
        where, _, name = dotted.rpartition(".")
        module = pytest.importorskip(dotted if _is_module(dotted) else where)
        assert _is_module(dotted) or hasattr(module, name), dotted


def _is_module(dotted: str) -> bool:
    path = ROOT / dotted.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_the_table_of_coverage_is_the_measured_one() -> None:
    if not COVERAGE.is_file():
        pytest.skip("the reference cases are not here")
    found = json.loads(COVERAGE.read_text("utf-8"))["results"]
    rows = re.findall(
        r"^\| ([\d,]+) \| ([\d.]+) % \| ([\d.]+) \| ([\d.]+) % \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.M
    )
    assert len(rows) == 3
    for n, covers, width, ours, narrow, ratio in rows:
        held = found[n.replace(",", "")]
        theirs, delta = held["snipw_obp_boot"], held["snipw_delta"]
        assert float(covers) == pytest.approx(100 * theirs["coverage"], abs=0.05)
        assert float(ours) == pytest.approx(100 * delta["coverage"], abs=0.05)
        assert float(width) == pytest.approx(theirs["mean_width"], abs=5e-5)
        assert float(narrow) == pytest.approx(delta["mean_width"], abs=5e-5)
        assert float(ratio) == pytest.approx(theirs["mean_width"] / delta["mean_width"], abs=5e-3)
    first = found["500"]
    for name in ("sndr_obp_boot", "sndr_delta"):
        assert f"{100 * first[name]['coverage']:.1f} %" in PAGE
        assert f"{first[name]['mean_width']:.4f}" in PAGE


def fixed(rounds: Rounds, random: np.random.Generator) -> tuple[float, float]:
    """obp's interval of snipw: percentiles of means of w r / mean(w), the mean weight never drawn again."""
    each = (rounds.weight * rounds.reward / rounds.weight.mean()).numpy()
    means = each[random.integers(len(each), size=(200, len(each)))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def test_a_denominator_held_fixed_covers_everything() -> None:
    """In the tests' world too: half as wide again, and it all but never misses."""
    world = bandit_world()
    every, probability = world.rounds()
    generator, random = torch.Generator().manual_seed(5), np.random.default_rng(0)
    hits, width = np.zeros(2), np.zeros(2)
    for _ in range(400):
        log = take(every, torch.multinomial(probability, 400, replacement=True, generator=generator))
        ours = interval(SNIPS().score(log))
        for k, (low, high) in enumerate((fixed(log, random), (ours.low, ours.high))):
            hits[k] += low <= world.value() <= high
            width[k] += high - low
    assert hits[0] / 400 > 0.98
    assert 0.92 <= hits[1] / 400 <= 0.98
    assert 1.5 < width[0] / width[1] < 1.7


def weighed(n: int) -> Rounds:
    every, probability = bandit_world().rounds()
    generator = torch.Generator().manual_seed(2)
    return take(every, torch.multinomial(probability, n, replacement=True, generator=generator))


def test_constant_rewards_have_no_spread() -> None:
    log = weighed(1000)
    same = Rounds(torch.ones_like(log.reward), log.weight)
    low, high = fixed(same, np.random.default_rng(0))
    assert high - low > 0.1
    for kind in set(KINDS) & {"normal", "student-t", "bootstrap", "bca", "poisson"}:
        found = interval(SNIPS().score(same), kind)
        assert (found.low, found.high) == pytest.approx((1, 1), abs=1e-12)


def one_sided(x: Float[Tensor, "*log round"], delta: float) -> NDArray[np.float64]:
    """obp's lower bound by Student's t: the whole error on one side."""
    n = x.shape[-1]
    half = x.std(-1) / n**0.5 * float(stats.t(n - 1).ppf(1 - delta))
    return np.atleast_1d((x.mean(-1) - half).numpy())


def test_two_one_sided_bounds_are_a_90_percent_interval() -> None:
    x = torch.randn(4000, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low, high = one_sided(x, 0.05), -one_sided(-x, 0.05)
    assert (low <= 0).mean() == pytest.approx(0.95, abs=0.012)
    assert ((low <= 0) & (high >= 0)).mean() == pytest.approx(0.90, abs=0.015)
    found = interval(IPS().score(Rounds(x[0], torch.ones_like(x[0]))), "student-t")
    assert (found.low, found.high) == pytest.approx((one_sided(x, 0.025)[0], -one_sided(-x, 0.025)[0]))


def test_tuning_keeps_nothing() -> None:
    """What was tuned before does not change what is chosen now."""
    candidates = family(ClippedIPS(), clip=(1.0, 2.0, 10.0))
    few, many = weighed(60), weighed(4000)
    alone = tune(candidates, many, "slope")
    tune(candidates, few, "slope")
    assert tune(candidates, many, "slope").value == alone.value
    assert tune(candidates, many, "slope").choice.index == alone.choice.index


def test_balanced_estimators_have_every_interval() -> None:
    log = weighed(300)
    several = Rounds(log.reward, log.weight, logger=torch.arange(300) % 2, mixture=log.weight)
    found = estimate(LoggerBalancedIPS(), several, ("student-t", "bootstrap", "bca", "poisson"))
    assert all(i.low < found.value < i.high for i in found.intervals)


@pytest.mark.filterwarnings("ignore")
def test_real_obp_does_as_the_page_says() -> None:
    """With obp installed: the cached λ, the constant reward, the interval that raises, the t bound."""
    ope, dataset = pytest.importorskip("obp.ope"), pytest.importorskip("obp.dataset")
    made = dataset.SyntheticBanditDataset(
        n_actions=10,
        dim_context=5,
        reward_function=dataset.logistic_reward_function,
        beta=3,
        random_state=12345,
    )

    def worst(log: dict[str, Any]) -> dict[str, Any]:
        dist = np.zeros((log["n_rounds"], 10, 1))
        dist[np.arange(log["n_rounds"]), log["expected_reward"].argmin(1), 0] = 1
        return {"action_dist": dist, **{k: log[k] for k in ("reward", "action", "pscore")}}

    large = made.obtain_batch_bandit_feedback(100_000)
    truth = made.calc_ground_truth_policy_value(large["expected_reward"], worst(large)["action_dist"])
    grid = {"lambdas": [5.0, 10.0, 50.0, 100.0, 1000.0], "tuning_method": "slope"}
    seen = set()
    for _ in range(6):
        small = made.obtain_batch_bandit_feedback(100)
        kept = ope.InverseProbabilityWeightingTuning(**grid)
        kept.estimate_policy_value(**worst(small))
        seen.add((kept.best_hyperparam, round(float(kept.estimate_policy_value(**worst(large))), 3)))
    new = ope.InverseProbabilityWeightingTuning(**grid)
    fresh = float(new.estimate_policy_value(**worst(large)))
    assert (5.0, 0.038) in seen
    assert (new.best_hyperparam, round(fresh, 3), round(float(truth), 3)) == (50.0, 0.264, 0.263)

    small["reward"] = np.ones(100)
    flat = np.full((100, 10, 1), 0.1)
    meta = ope.OffPolicyEvaluation(
        bandit_feedback=small, ope_estimators=[ope.SelfNormalizedInverseProbabilityWeighting()]
    )
    ends = meta.estimate_intervals(action_dist=flat, n_bootstrap_samples=200, random_state=0)["snipw"]
    assert ends["95.0% CI (upper)"] - ends["95.0% CI (lower)"] > 0.05

    logs = dataset.SyntheticMultiLoggersBanditDataset(
        n_actions=5,
        dim_context=3,
        reward_function=dataset.logistic_reward_function,
        betas=[0, 1],
        rhos=[0.5, 0.5],
        random_state=1,
    ).obtain_batch_bandit_feedback(100)
    balanced = ope.MultiLoggersOffPolicyEvaluation(
        bandit_feedback=logs, ope_estimators=[ope.MultiLoggersBalancedInverseProbabilityWeighting()]
    )
    with pytest.raises(TypeError, match="pscore_avg"):
        balanced.estimate_intervals(action_dist=np.full((100, 5, 1), 0.2), n_bootstrap_samples=10)

    bound = pytest.importorskip("obp.ope.helper").estimate_student_t_lower_bound
    x = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert bound(x.numpy(), delta=0.05) == pytest.approx(one_sided(x, 0.05)[0])


def test_the_lines_are_short_and_the_buckets_counted() -> None:
    assert max(map(len, PAGE.splitlines())) <= 120
    assert f"{BUCKETS:,} buckets" in PAGE
    for name in re.findall(r"`(causal/\w+)`", PAGE):
        assert (ROOT / name).is_dir()
    assert causal.bandit.__path__
    assert causal.slate.__path__
