"""The same inputs as Open Bandit Pipeline 0.5.7, the same answers to 1e-9."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from causal.bandit.clipped_ips import ClippedIPS
from causal.bandit.dm import DM
from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.bandit.sndr import SNDR
from causal.bandit.snips import SNIPS
from causal.contract import Estimator, Rounds, value
from causal.diagnostics import diagnose, verdict
from causal.rounds import rounds, tabular
from simlab.context import Context
from simlab.log import Log
from simlab.slates import SlateDistribution
from simlab.slates.deterministic import Deterministic

CASES = Path(__file__).parents[2] / "../shared/cases/ope"
WEIGHTS: dict[str, Estimator[Rounds]] = {"ipw": IPS(), "snipw": SNIPS()}
MODELS: dict[str, Estimator[Rounds]] = {"dm": DM(), "dr": DR(), "sndr": SNDR()}


@cache
def case(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not CASES.is_dir():
        pytest.skip("the reference cases are not here")
    with np.load(CASES / f"{name}.npz") as arrays:
        found = {k: torch.from_numpy(np.ascontiguousarray(arrays[k])) for k in arrays.files}
    return found, json.loads((CASES / f"{name}.json").read_text())


def same(estimator: Estimator[Rounds], with_: Any, wanted: float) -> None:
    assert value(estimator.score(with_)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("model", ["logreg", "gbc", "lgbm"])
def test_open_bandit_random_to_bts(model: str) -> None:
    z, answer = case("obd_random_to_bts_men")
    n, place = len(z["action"]), z["position"]
    every = torch.arange(n)
    target = z["action_dist_one_round"][0].T[place]  # [round cand], at the row's position
    q = z[f"q_{model}"][every, :, place]
    with_ = tabular(z["action"], z["reward"], z["pscore"], target, q)
    results = answer["results"]
    for name, estimator in WEIGHTS.items():
        same(estimator, with_, results[name]["value"])
    for name, estimator in MODELS.items():
        same(estimator, with_, results[f"{name}@{model}"]["value"])
    for clip in (2, 5, 10):
        same(ClippedIPS(float(clip)), with_, results[f"ipw_clip{clip}"]["value"])


@dataclass(frozen=True)
class SamePage(SlateDistribution):
    """Every user gets the same slot marginals; which slates they come from is not said."""

    rows: int
    table: Float[Tensor, "slot cand"]

    @property
    def slots(self) -> int:  # type: ignore[override]
        return len(self.table)

    def slot_marginals(self) -> Tensor:
        return self.table.expand(self.rows, -1, -1)

    def log_prob(self, columns: Tensor) -> Tensor:
        raise AssertionError("a log of single places must ask for marginals, not for slates")

    def sample(self, generator: object) -> Tensor:
        raise AssertionError("evaluation must not sample")

    def mode(self) -> Tensor:
        return Deterministic(self.table.argmax(1).expand(self.rows, -1), self.table.shape[1]).mode()


@dataclass(frozen=True)
class Page:
    """A policy that does not look at its users, like the Bernoulli Thompson sampler of Open Bandit."""

    table: Float[Tensor, "slot cand"]
    name: str = "page"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        assert slots == len(self.table)
        return SamePage(len(context), self.table)


def test_open_bandit_through_a_log_and_a_policy() -> None:
    z, answer = case("obd_random_to_bts_men")
    n = len(z["action"])
    log = Log(
        user=torch.arange(n),
        slate=z["action"][:, None],
        propensity=z["pscore"],
        reward=z["reward"].double(),
        n_items=34,
        position=z["position"],
    )
    page = Page(z["action_dist_one_round"][0].T)
    with_ = rounds(log, page, chunk=999)
    for name, estimator in WEIGHTS.items():
        same(estimator, with_, answer["results"][name]["value"])
    d = diagnose(with_, log, page)
    wanted = answer["diagnostics"]
    assert d.ess == pytest.approx(wanted["ess"], rel=1e-9)
    assert d.mean_weight == pytest.approx(wanted["iw_mean"], rel=1e-9)
    assert d.weight_quantiles[1] == pytest.approx(wanted["iw_q"]["90"], rel=1e-9)
    assert d.weight_quantiles[-1] == pytest.approx(wanted["iw_max"], rel=1e-9)
    assert d.unseen_mass == 0
    # The random logger is context-free, 1/34 each, and its draws are what they claim to be.
    assert d.calibration is not None
    assert d.calibration.context_free
    assert d.calibration.p_value is not None
    assert d.calibration.p_value > 0.001
    assert verdict(d).level == "ok"


@pytest.mark.parametrize("policy", ["softmax5", "epsgreedy01"])
def test_synthetic_bandit(policy: str) -> None:
    z, answer = case("synth_bandit_10000")
    with_ = tabular(z["action"], z["reward"], z["pscore"], z[f"action_dist_{policy}"], z["q_logreg"])
    results = answer["results"][policy]["estimates"]
    for name, estimator in (WEIGHTS | MODELS).items():
        same(estimator, with_, results[name]["value"])
    for clip in (2, 10):
        same(ClippedIPS(float(clip)), with_, results[f"ipw_clip{clip}"]["value"])
    assert diagnose(with_).ess == pytest.approx(answer["results"][policy]["diagnostics"]["ess"], rel=1e-9)


def test_several_loggers() -> None:
    z, answer = case("synth_multi_10000")
    with_ = tabular(z["action"], z["reward"], z["pscore"], z["action_dist"], z["q_logreg"])
    results = answer["results"]["estimates"]
    same(IPS(), with_, results["multi_ipw"]["value"])
    same(DR(), with_, results["multi_dr"]["value"])
