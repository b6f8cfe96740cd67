"""What obp logged and what we read are the same, both ways, and so are the answers."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from causal.bandit.dm import DM
from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.bandit.logger_balanced_dr import LoggerBalancedDR
from causal.bandit.logger_balanced_ips import LoggerBalancedIPS
from causal.bandit.logger_weighted_dr import LoggerWeightedDR
from causal.bandit.logger_weighted_ips import LoggerWeightedIPS
from causal.bandit.sndr import SNDR
from causal.bandit.snips import SNIPS
from causal.contract import Estimator, Rounds, Slates, value
from causal.interop import at_position, continuous_from_obp, rounds_from_obp, slates_from_obp
from causal.slate.cascade_dr import CascadeDR
from causal.slate.iips import IIPS
from causal.slate.rips import RIPS
from causal.slate.sips import SIPS
from causal.slate.sniips import SNIIPS
from causal.slate.snrips import SNRIPS
from causal.slate.snsips import SNSIPS
from simlab.errors import BadInput
from simlab.interop import beside, from_obp, from_obp_slates, to_obp, to_obp_slates
from simlab.tables import read_log

CASES = Path(__file__).parents[2] / "../shared/cases/ope"


@cache
def case(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    if not CASES.is_dir():
        pytest.skip("the reference cases are not here")
    with np.load(CASES / f"{name}.npz") as arrays:
        return dict(arrays), json.loads((CASES / f"{name}.json").read_text("utf-8"))


def feedback(n: int = 60, actions: int = 5, pages: int = 3) -> dict[str, Any]:
    """Everything that obp's generators and data sets put into the dictionary."""
    rng = np.random.default_rng(3)
    pi_b = rng.dirichlet(np.ones(actions), size=(n, pages)).transpose(0, 2, 1)
    position = rng.integers(pages, size=n)
    action = rng.integers(actions, size=n)
    return {
        "n_rounds": n,
        "n_actions": actions,
        "context": rng.normal(size=(n, 4)),
        "action_context": np.eye(actions, dtype=int),
        "action": action,
        "position": position,
        "reward": rng.integers(2, size=n),
        "expected_reward": rng.uniform(size=(n, actions)),
        "pi_b": pi_b,
        "pscore": pi_b[np.arange(n), action, position],
        "n_strata": 3,
        "stratum_idx": rng.integers(2, size=n),
        "pscore_avg": rng.uniform(0.1, 1, size=n),
    }


def slates(n: int = 40, slots: int = 3, actions: int = 6) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    shown = rng.permuted(np.tile(np.arange(actions), (n, 1)), axis=1)[:, :slots]
    down = rng.uniform(0.3, 1, size=(n, slots)).cumprod(1)
    return {
        "n_rounds": n,
        "n_unique_action": actions,
        "slate_id": np.repeat(np.arange(n), slots),
        "context": rng.normal(size=(n, 2)),
        "action_context": np.eye(actions, dtype=int),
        "action": shown.reshape(-1),
        "position": np.tile(np.arange(slots), n),
        "reward": rng.normal(size=n * slots),
        "expected_reward_factual": rng.uniform(size=n * slots),
        "pscore_cascade": down.reshape(-1),
        "pscore": np.repeat(down[:, -1], slots),
        "pscore_item_position": (down[:, -1:] + (1 - down[:, -1:]) * rng.uniform(size=(n, slots))).ravel(),
    }


def same(back: dict[str, Any], first: dict[str, Any]) -> None:
    """The same keys, and every value bit for bit."""
    assert back.keys() == first.keys()
    for key, wanted in first.items():
        np.testing.assert_array_equal(back[key], wanted, err_msg=key)


def test_rounds_go_in_and_out_bit_for_bit() -> None:
    first = feedback()
    log = from_obp(first)
    assert log.features is not None
    assert log.features.dtype == torch.float64, "obp's contexts are float64, and stay so"
    assert set(log.policy) == {"0", "1"}
    same(to_obp(log) | beside(first), first)
    assert sorted(beside(first)) == [
        "action_context",
        "expected_reward",
        "n_strata",
        "pi_b",
        "pscore_avg",
    ]
    alone = {k: v for k, v in first.items() if k not in ("stratum_idx", "n_strata")} | {"position": None}
    assert from_obp(alone).policy == ("unknown",)
    same(to_obp(from_obp(alone)) | beside(alone), alone)


def test_loggers_with_names_get_numbers() -> None:
    log = from_obp({k: v for k, v in feedback(4).items() if k != "stratum_idx"})
    named = type(log)(**(log.__dict__ | {"policy": ("bts", "random", "bts", "random")}))
    out = to_obp(named)
    assert out["stratum_idx"].tolist() == [0, 1, 0, 1]
    assert out["n_strata"] == 2


def test_slates_go_in_and_out_bit_for_bit() -> None:
    first = slates()
    log, rest = from_obp_slates(first)
    assert (len(log), log.slots) == (40, 3)
    assert log.click is not None
    assert log.click.dtype == torch.float64, "an item's reward keeps its precision"
    assert rest["pscore_cascade"].shape == (40, 3)
    assert sorted(rest) == ["expected_reward_factual", "pscore_cascade", "slate_id"]
    same(to_obp_slates(log, rest) | {"action_context": first["action_context"]}, first)


def test_shuffled_rows_and_odd_ids_are_put_in_order() -> None:
    first = slates()
    first["slate_id"] = first["slate_id"] * 7 + 5
    order = np.random.default_rng(0).permutation(120)
    mixed = {k: v[order] if np.shape(v)[:1] == (120,) else v for k, v in first.items()}
    log, rest = from_obp_slates(mixed)
    plain, wanted = from_obp_slates(first)
    back = torch.from_numpy(rest["slate_id"] // 7)
    assert torch.equal(log.slate, plain.slate[back])
    assert torch.equal(log.propensity, plain.propensity[back])
    assert log.features is not None
    assert plain.features is not None
    assert torch.equal(log.features, plain.features[back])
    np.testing.assert_array_equal(rest["pscore_cascade"], wanted["pscore_cascade"][back])
    one = slates_from_obp(first, evaluation_policy_pscore_cascade=first["pscore_cascade"] ** 2)
    two = slates_from_obp(mixed, evaluation_policy_pscore_cascade=mixed["pscore_cascade"] ** 2)
    assert one.cascade is not None
    assert two.cascade is not None
    assert torch.equal(two.cascade, one.cascade[back])
    assert torch.equal(two.reward, one.reward[back])


def test_the_cascade_of_the_last_slot_is_the_whole_slate() -> None:
    first = slates()
    whole, _ = from_obp_slates(first)
    without, _ = from_obp_slates({k: v for k, v in first.items() if k != "pscore"})
    assert torch.equal(without.propensity, whole.propensity)


def test_single_items_are_slates_too() -> None:
    log = from_obp({k: v for k, v in feedback(5).items() if k not in ("position", "stratum_idx")})
    again, _ = from_obp_slates(to_obp_slates(log))
    assert torch.equal(again.slate, log.slate)
    assert torch.equal(again.propensity, log.propensity)


WEIGHTS: dict[str, Estimator[Rounds]] = {"ipw": IPS(), "snipw": SNIPS()}
MODELS: dict[str, Estimator[Rounds]] = {"dm": DM(), "dr": DR(), "sndr": SNDR()}


def test_open_bandit_at_its_positions() -> None:
    """[round action position] arrays as obp takes them give obp's numbers to 1e-9."""
    z, answer = case("obd_random_to_bts_men")
    n = len(z["action"])
    dist = np.broadcast_to(z["action_dist_one_round"], (n, *z["action_dist_one_round"].shape[1:]))
    keys = ("action", "reward", "pscore", "position", "context")
    got = {k: z[k] for k in keys} | {"n_rounds": n, "n_actions": dist.shape[1]}
    with_ = rounds_from_obp(got, dist, z["q_logreg"])
    for name, estimator in WEIGHTS.items():
        wanted = answer["results"][name]["value"]
        assert value(estimator.score(with_)) == pytest.approx(wanted, rel=1e-9)
    for name, estimator in MODELS.items():
        wanted = answer["results"][f"{name}@logreg"]["value"]
        assert value(estimator.score(with_)) == pytest.approx(wanted, rel=1e-9)


def test_several_loggers_of_a_case() -> None:
    z, answer = case("synth_multi_10000")
    wanted = answer["results"]["estimates"]
    with_ = rounds_from_obp(z | {"n_actions": 10}, z["action_dist"][:, :, None], z["q_logreg"][:, :, None])
    assert with_.logger is not None
    assert with_.mixture is not None
    assert with_.logger.tolist() == z["stratum_idx"].tolist()
    several: dict[str, Estimator[Rounds]] = {
        "multi_ipw": IPS(),
        "multi_bal_ipw": LoggerBalancedIPS(),
        "multi_weighted_ipw": LoggerWeightedIPS(leave_one_out=False),
        "multi_dr": DR(),
        "multi_bal_dr": LoggerBalancedDR(),
        "multi_weighted_dr": LoggerWeightedDR(leave_one_out=False, variance_of="score"),
    }
    for name, estimator in several.items():
        assert value(estimator.score(with_)) == pytest.approx(wanted[name]["value"], rel=1e-9), name


@pytest.mark.parametrize("target", ["softmax3", "antisoftmax3"])
def test_slates_of_a_case(target: str) -> None:
    """Sums over slots of the weighted rewards are obp's SIPS, IIPS, RIPS and Cascade-DR."""
    z, answer = case("slate_cascade_additive_linear_1000")
    data = slates_from_obp(
        z,
        z[f"{target}_pscore"],
        z[f"{target}_pscore_item_position"],
        z[f"{target}_pscore_cascade"],
        z[f"{target}_action_dist"],
        z[f"{target}_q_hat"],
    )
    found: dict[str, Estimator[Slates]] = {
        "sips": SIPS(),
        "iips": IIPS(),
        "rips": RIPS(),
        "snsips": SNSIPS(),
        "sniips": SNIIPS(),
        "snrips": SNRIPS(),
        "cascade-dr": CascadeDR(),
    }
    for name, estimator in found.items():
        wanted = answer["results"][target]["estimates"][name]["value"]
        assert value(estimator.score(data)) == pytest.approx(wanted, rel=1e-9), name


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "triangular", "cosine"])
def test_continuous_actions_of_a_case(kernel: str) -> None:
    z, answer = case("synth_continuous_10000")
    kernels: dict[str, Estimator[Rounds]] = {"ipw": IPS(), "snipw": SNIPS(), "dr": DR()}
    target = z["action_by_evaluation_policy"]
    for h in (0.02, 0.1, 0.5):
        with_ = continuous_from_obp(z, target, z["q_hat_at_eval_action"], bandwidth=h, kernel=kernel)
        for name, estimator in kernels.items():
            wanted = answer["results"]["estimates"][f"kernelized_{name}@{kernel}@{h}"]["value"]
            assert value(estimator.score(with_)) == pytest.approx(wanted, rel=1e-9)
    with pytest.raises(BadInput, match="key pscore is missing"):
        continuous_from_obp({"action": target, "reward": target}, target, bandwidth=1.0)
    with pytest.raises(BadInput, match="pscore has shape"):
        continuous_from_obp(z | {"pscore": np.ones((5, 2))}, target, bandwidth=1.0)


def test_only_the_logged_position_is_looked_at() -> None:
    table = np.arange(2 * 3 * 2, dtype=float).reshape(2, 3, 2)
    assert at_position(table, [1, 0]).tolist() == [[1, 3, 5], [6, 8, 10]]
    assert at_position(table[:, :, :1]).tolist() == [[0, 2, 4], [6, 8, 10]]
    assert at_position(table[:, :, 0], [1, 0]).tolist() == [[0, 2, 4], [6, 8, 10]]
    assert at_position(torch.from_numpy(table), [1, 0]).tolist() == [[1, 3, 5], [6, 8, 10]]


def uniform(first: dict[str, Any]) -> Any:
    return np.full((first["n_rounds"], first["n_actions"], 3), 1 / first["n_actions"])


def test_targets_that_are_none_are_refused() -> None:
    first = feedback()
    good = uniform(first)
    assert rounds_from_obp(first, good).weight.min() > 0
    bad = good.copy()
    bad[7, 2, first["position"][7]] += 0.25
    with pytest.raises(BadInput, match=r"action_dist, row 7: the probabilities sum to 1\.25, not to 1"):
        rounds_from_obp(first, bad)
    bad = good.copy()
    bad[7, 2, first["position"][7]] -= 0.5
    with pytest.raises(BadInput, match=r"action_dist, row 7, action 2: -0\.3.* is negative"):
        rounds_from_obp(first, bad)
    bad[7, 0, 0] = np.nan
    with pytest.raises(BadInput, match="action_dist, row 7: nan is not a finite number"):
        rounds_from_obp(first, bad)
    with pytest.raises(BadInput, match="action_dist has 3 positions, and the feedback does not say"):
        rounds_from_obp(first | {"position": None}, good)
    with pytest.raises(BadInput, match="row 1: 2, but action_dist has 2 positions"):
        at_position(good[:2, :, :2], [0, 2])
    with pytest.raises(BadInput, match=r"\(60, 4\) rounds and actions, but the feedback has \(60, 5\)"):
        rounds_from_obp(first, good[:, 1:])
    with pytest.raises(BadInput, match="estimated_rewards_by_reg_model has shape"):
        rounds_from_obp(first, good, good[:, 1:])
    with pytest.raises(BadInput, match="has shape"):
        at_position(np.ones(3))
    with pytest.raises(BadInput, match="does not hold numbers"):
        at_position([["a"]])
    wrong = first["pscore_avg"].copy()
    wrong[3] = 0
    with pytest.raises(BadInput, match=r"pscore_avg, row 3: 0\.0 is not a probability"):
        rounds_from_obp(first | {"pscore_avg": wrong}, good)
    with pytest.raises(BadInput, match="slates_from_obp reads those"):
        rounds_from_obp(slates(), good)


BAD_SLATES: list[tuple[str, Any, str]] = [
    ("slate_id", None, "key slate_id is missing"),
    ("position", lambda x: x + 1, "position"),
    ("position", lambda x: np.where(np.arange(120) == 4, 2, x), "position, row"),
    ("slate_id", lambda x: np.where(np.arange(120) == 4, 0, x), "round"),
    ("pscore", lambda x: np.where(np.arange(120) == 4, 0.5, x), "row 4: 0.5 differs from"),
    ("pscore_cascade", lambda x: x * 0, "pscore_cascade, row 0: 0.0 is not a probability"),
    ("evaluation_policy_pscore", lambda x: np.where(np.arange(120) == 4, 0.7, 0.5), "of slate 1$"),
    ("evaluation_policy_pscore", lambda x: np.where(np.arange(120) == 4, -0.5, x), r"row 4: -0.5 is not"),
    ("evaluation_policy_pscore", lambda x: x[1:], "has shape"),
]


@pytest.mark.parametrize(("key", "change", "says"), BAD_SLATES, ids=range(len(BAD_SLATES)))
def test_malformed_slates_are_refused(key: str, change: Any, says: str) -> None:
    first = slates()
    target = {"evaluation_policy_pscore": first["pscore"] / 2, "evaluation_policy_pscore_cascade": None}
    target["evaluation_policy_pscore_cascade"] = first["pscore_cascade"] / 2
    assert len(slates_from_obp(first, **target)) == 40
    held = target if key in target else first
    held[key] = None if change is None else change(held[key])
    with pytest.raises(BadInput, match=says):
        slates_from_obp(first, **target)


def test_what_a_target_of_slates_needs() -> None:
    first = slates()
    with pytest.raises(BadInput, match="no probability of the target is given"):
        slates_from_obp(first)
    bare = {k: v for k, v in first.items() if k != "pscore_cascade"}
    with pytest.raises(BadInput, match="the feedback has no pscore_cascade"):
        slates_from_obp(bare, evaluation_policy_pscore_cascade=first["pscore_cascade"])
    with pytest.raises(BadInput, match="evaluation_policy_action_dist is not"):
        slates_from_obp(first, first["pscore"], q_hat=np.zeros(120 * 6))
    with pytest.raises(BadInput, match="no multiple of the feedback's 120 rows"):
        slates_from_obp(first, first["pscore"], evaluation_policy_action_dist=np.zeros(7), q_hat=np.zeros(7))
    zero = np.zeros(120 * 6)
    with pytest.raises(BadInput, match="sums to 0, not 1"):
        slates_from_obp(first, first["pscore"], evaluation_policy_action_dist=zero, q_hat=zero)
    log, rest = from_obp_slates(first)
    with pytest.raises(BadInput, match="key pscore_cascade has shape"):
        to_obp_slates(log, rest | {"pscore_cascade": rest["pscore_cascade"][:5]})


def test_the_dictionary_is_a_source_of_logs() -> None:
    assert read_log(feedback()) == from_obp(feedback())


@pytest.mark.filterwarnings("ignore")
def test_real_obp_reads_and_agrees() -> None:
    """With obp installed: its own generator's feedback there and back, and its own answers."""
    ope, dataset = pytest.importorskip("obp.ope"), pytest.importorskip("obp.dataset")
    made = dataset.SyntheticBanditDataset(
        n_actions=5, dim_context=3, reward_function=dataset.logistic_reward_function, random_state=1
    )
    first = made.obtain_batch_bandit_feedback(n_rounds=400)
    same(to_obp(from_obp(first)) | beside(first), first)
    rng = np.random.default_rng(0)
    dist = rng.dirichlet(np.ones(5), size=400)[:, :, None]
    theirs = ope.OffPolicyEvaluation(
        bandit_feedback=to_obp(from_obp(first)),
        ope_estimators=[ope.InverseProbabilityWeighting(), ope.SelfNormalizedInverseProbabilityWeighting()],
    ).estimate_policy_values(action_dist=dist)
    with_ = rounds_from_obp(first, dist)
    for name, estimator in WEIGHTS.items():
        assert value(estimator.score(with_)) == pytest.approx(theirs[name], rel=1e-12)
    logs = dataset.SyntheticSlateBanditDataset(
        n_unique_action=6, len_list=3, dim_context=2, reward_type="binary", random_state=1
    )
    long = logs.obtain_batch_bandit_feedback(n_rounds=50, return_pscore_item_position=True)
    log, rest = from_obp_slates(long)
    same(to_obp_slates(log, rest) | {"action_context": long["action_context"]}, long)
    sips = ope.SlateOffPolicyEvaluation(
        bandit_feedback=to_obp_slates(log, rest), ope_estimators=[ope.SlateStandardIPS(len_list=3)]
    ).estimate_policy_values(evaluation_policy_pscore=long["pscore"] / 2)["sips"]
    weighed = slates_from_obp(long, long["pscore"] / 2)
    assert weighed.joint is not None
    assert float((weighed.joint * weighed.reward.sum(1)).mean()) == pytest.approx(sips, rel=1e-12)
