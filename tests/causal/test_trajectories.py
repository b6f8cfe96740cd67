"""From logs and arrays to trajectories; marginal ratios; the reference case, and where a library is wrong."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from causal.contract import Estimator, Trajectories, stderr, value
from causal.evaluation import evaluate
from causal.occupancy import by_counts, counted_propensity, finished, minimax
from causal.paths import Paths
from causal.rl.dm import TrajectoryDM
from causal.rl.dr import TrajectoryDR
from causal.rl.drl import DRL
from causal.rl.mdr import MDR
from causal.rl.mis import MIS
from causal.rl.pdis import PDIS
from causal.rl.sa_mis import SAMIS
from causal.rl.sn_mis import SNMIS
from causal.rl.sn_sa_mis import SNSAMIS
from causal.rl.tis import TIS
from causal.rl.wdr import WDR
from causal.rl.wis import WIS
from causal.rl.wpdis import WPDIS
from causal.tabular_trajectories import tabular_trajectories
from causal.trajectories import trajectories
from simlab.errors import BadInput
from simlab.log import Log
from simlab.slates import PlackettLuce
from tests.causal.test_reference import case
from tests.sequential import END, bare, chain, wrong
from tests.worlds import Softmax, population_value, table

EXACT = 1e-10


def plain(data: Trajectories) -> dict[str, float]:
    """Return what estimators say, in loops over trajectories and steps."""
    n, steps = data.reward.shape
    r, rho, valid = data.reward.tolist(), data.ratio.tolist(), data.valid.tolist()
    q, v = data.need("q_logged").tolist(), data.need("v_target").tolist()
    mu, g = data.need("state_action").tolist(), data.discount
    out = dict.fromkeys(("tis", "wis", "pdis", "wpdis", "dm", "dr", "wdr", "sa_mis", "drl", "sn_sa_mis"), 0.0)
    weights = []
    for i in range(n):
        w, ws = 1.0, []
        for t in range(steps):
            if valid[i][t]:
                w *= rho[i][t]
            ws.append(w)
        weights.append(ws)
    total = sum(ws[-1] for ws in weights)
    for i in range(n):
        back = 0.0
        for t in reversed(range(steps)):
            if valid[i][t]:
                back = v[i][t] + rho[i][t] * (r[i][t] + g * back - q[i][t])
        out["dr"] += back / n
        out["dm"] += v[i][0] / n
        out["wdr"] += v[i][0] / n
        out["drl"] += v[i][0] / n
        for t in range(steps):
            if not valid[i][t]:
                break
            w, later = weights[i][t], v[i][t + 1] if t + 1 < steps else 0.0
            out["tis"] += weights[i][-1] * g**t * r[i][t] / n
            out["wis"] += weights[i][-1] * g**t * r[i][t] / total
            out["pdis"] += w * g**t * r[i][t] / n
            step = sum(ws[t] for ws in weights)
            out["wpdis"] += w * g**t * r[i][t] / step
            out["wdr"] += w * g**t * (r[i][t] + g * later - q[i][t]) / step
            out["sa_mis"] += mu[i][t] * g**t * r[i][t] / n
            out["sn_sa_mis"] += mu[i][t] * g**t * r[i][t] / sum(m[t] for m in mu)
            out["drl"] += mu[i][t] * g**t * (r[i][t] + g * later - q[i][t]) / n
    return out


ALL: dict[str, Estimator[Trajectories]] = {
    "tis": TIS(),
    "wis": WIS(),
    "pdis": PDIS(),
    "wpdis": WPDIS(),
    "dm": TrajectoryDM(),
    "dr": TrajectoryDR(),
    "wdr": WDR(),
    "sa_mis": SAMIS(),
    "sn_sa_mis": SNSAMIS(),
    "drl": DRL(),
}


def test_estimators_agree_with_their_plain_twins() -> None:
    world = chain()
    every = world.listed()
    data = world.trajectories(every, wrong(world.q())).rows(every.pick(60, 1))
    wanted = plain(data)
    for name, estimator in ALL.items():
        assert value(estimator.score(data)) == pytest.approx(wanted[name], rel=1e-12), name


def test_a_denominator_of_survivors_would_be_wrong() -> None:
    """Dividing by the weights of those still running is the survivors' mean, not the value."""
    world = chain()
    every = world.listed()
    data = world.trajectories(every)
    p, w = every.probability, data.prefix * data.valid
    survivors = (data.gammas * (p @ (w * data.reward)) / (p @ w)).sum()
    assert float(survivors) > world.value() + 0.1
    assert abs(population_value(WPDIS().score(data), p) - world.value()) < EXACT


# The reference case.

ANSWERS: dict[str, Estimator[Trajectories]] = {
    "dm": TrajectoryDM(),
    "tis": TIS(),
    "pdis": PDIS(),
    "dr": TrajectoryDR(),
    "sntis": WIS(),
    "snpdis": WPDIS(),
    "sndr": WDR(),
    "wdr_thomas_brunskill": WDR(),
    "mis_s": MIS(),
    "mis_sa": SAMIS(),
    "sn_mis_sa": SNSAMIS(),
    "sam_dr": MDR(),
    "drl": DRL(),
}


def reference(model: str) -> Trajectories:
    z, _ = case("rl_tabular_1000")
    return tabular_trajectories(
        z["action"],
        z["reward"],
        z["pscore"],
        z["evaluation_policy_action_dist"],
        int(z["step_per_trajectory"]),
        discount=float(z["gamma"]),
        q=z[model],
        state_ratio=z["state_marginal_importance_weight"],
        state_action_ratio=z["state_action_marginal_importance_weight"],
    )


@pytest.mark.parametrize("model", ["q_true", "q_noisy"])
def test_reference_case(model: str) -> None:
    data, answers = reference(model), case("rl_tabular_1000")[1]["independent_numpy"][model]
    assert set(ANSWERS) == set(answers)
    for name, estimator in ANSWERS.items():
        found = estimator.score(data)
        assert value(found) == pytest.approx(answers[name]["value"], rel=1e-9), name
        # The twin's spread holds denominators fixed and divides by N: only plain means are comparable.
        if "se" in answers[name] and not name.startswith("sn"):
            spread = stderr(found) * (999 / 1000) ** 0.5
            assert spread == pytest.approx(answers[name]["se"], rel=1e-3), name
    assert value(SNMIS().score(data)) == pytest.approx(answers["sn_mis_sa"]["value"], rel=1e-9)


def test_reference_case_against_the_exact_value() -> None:
    """The case's own dynamic programming gives the truth; unbiased estimators are within their error."""
    z, answer = case("rl_tabular_1000")
    v = torch.zeros(6, dtype=torch.float64)
    share, logged = z["d0"], z["d0"]
    odds = []
    for t in reversed(range(10)):
        q = z["R"] + float(z["gamma"]) * z["P"] @ v
        assert torch.allclose(q, z["Q_e"][t], atol=1e-12)
        v = (z["pi_e"] * q).sum(1)
    for _ in range(10):
        odds.append(share / logged)
        share, logged = (
            torch.einsum("s,sa,san->n", d, pi, z["P"]) for d, pi in ((share, z["pi_e"]), (logged, z["pi_b"]))
        )
    truth = float(z["d0"] @ v)
    assert truth == pytest.approx(answer["truth"]["V_eval"], rel=1e-12)
    step = torch.arange(10).repeat(1000)
    given = z["state_marginal_importance_weight"]
    assert torch.allclose(torch.stack(odds)[step, z["state"]], given, rtol=1e-9)
    for model in ("q_true", "q_noisy"):
        for name, estimator in ANSWERS.items():
            if estimator.unbiased:
                found = estimator.score(reference(model))
                assert abs(value(found) - truth) < 3 * stderr(found), (model, name)


def scope_drl(data: Trajectories) -> Float[Tensor, " round"]:
    """`DoubleReinforcementLearning` of SCOPE-RL 0.2.1: no discount."""
    mu = data.need("state_action")
    before = torch.cat([torch.ones_like(mu[:, :1]), mu[:, :-1]], dim=1)
    return (mu * (data.reward - data.need("q_logged")) + before * data.need("v_target")).sum(1)


def scope_sam_dr(data: Trajectories, weight: Float[Tensor, "round step"]) -> Float[Tensor, " round"]:
    """`StateActionMarginalDR` and `StateMarginalDR` of SCOPE-RL 0.2.1: the zero is put before the last V."""
    v = data.need("v_target")
    after = torch.cat([v[:, 1:-1], torch.zeros_like(v[:, :1]), v[:, -1:]], dim=1)
    terms = weight * (data.reward + data.discount * after - data.need("q_logged"))
    return v[:, 0] + terms @ data.gammas


@pytest.mark.parametrize("model", ["q_true", "q_noisy"])
def test_where_scope_rl_is_wrong(model: str) -> None:
    """Its own answers come back from its own slips, so these are the slips."""
    data, answers = reference(model), case("rl_tabular_1000")[1]["scope_rl"][model]
    state = data.need("state")
    same = {
        "drl": scope_drl(data),
        "sam_dr@n_step_pdis=0": scope_sam_dr(data, data.need("state_action")),
        "sm_dr@n_step_pdis=0": scope_sam_dr(data, state),
        "sm_is@n_step_pdis=0": (state * data.reward) @ data.gammas,
    }
    for name, each in same.items():
        assert float(each.mean()) == pytest.approx(answers[name]["value"], rel=1e-9), name


def test_on_listed_trajectories_ours_are_right_and_theirs_are_not() -> None:
    world = chain()
    every = world.listed()
    p, truth = every.probability, world.value()
    for q in (world.q(), wrong(world.q())):
        data = world.trajectories(every, q)
        for estimator in (DRL(), MDR(), MIS()):
            assert abs(population_value(estimator.score(data), p) - truth) < EXACT
        assert abs(float(p @ scope_drl(data)) - truth) > 0.02
        assert abs(float(p @ scope_sam_dr(data, data.need("state_action"))) - truth) > 0.02
        state = data.need("state") * data.valid
        assert abs(float(p @ ((state * data.reward) @ data.gammas)) - truth) > 0.02


# Builders.


def steps(
    *rows: tuple[int, int, int], terminated: Tensor | None = None, truncated: Tensor | None = None
) -> Log:
    """Make a log of single items from (user, session, step)."""
    user, session, step = torch.tensor(rows).unbind(1)
    n = len(rows)
    return Log(
        user=user,
        session=session,
        step=step,
        slate=torch.arange(n)[:, None] % 2,
        propensity=torch.full((n,), 0.5, dtype=torch.float64),
        reward=torch.arange(n).double(),
        n_items=2,
        terminated=terminated,
        truncated=truncated,
    )


def test_rounds_become_trajectories() -> None:
    log = steps((3, 0, 1), (5, 2, 0), (3, 0, 0), (5, 1, 0), (3, 0, 2), (5, 1, 1))
    chance = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=torch.float64)
    data = trajectories(log, chance, 0.5)
    assert data.reward.tolist() == [[2, 0, 4], [3, 5, 0], [1, 0, 0]]
    assert data.valid.tolist() == [[True] * 3, [True, True, False], [True, False, False]]
    assert torch.allclose(data.ratio, table([0.6, 0.2, 1.0], [0.8, 1.2, 1.0], [0.4, 1.0, 1.0]))
    assert data.group is not None
    assert data.group.tolist() == [3, 5, 5]
    assert data.cut is not None
    assert not bool(data.cut.any())
    assert torch.allclose(data.returns(), table([3.0, 5.5, 1.0])[0])
    short = trajectories(log, chance, 0.5, horizon=2, group_by_user=False)
    assert short.reward.tolist() == [[2, 0], [3, 5], [1, 0]]
    assert short.cut is not None
    assert short.cut.tolist() == [True, False, False]
    assert short.group is None


def test_without_sessions_and_steps_a_user_is_one_trajectory() -> None:
    log = replace(steps((1, 0, 0), (0, 0, 0), (1, 0, 1)), session=None, step=None)
    data = trajectories(log, torch.full((3,), 0.5, dtype=torch.float64))
    assert data.reward.tolist() == [[1, 0], [0, 2]]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            ((0, 0, 0), (0, 0, 2)),
            "column step, row 1: 2 follows step 0 in session 0 of user 0: a step is miss",
        ),
        (((4, 1, 1), (4, 1, 2)), "column step, row 0: 1 is the first step of session 1 of user 4"),
        (((0, 0, 0), (1, 0, 0), (0, 0, 0)), "column step, row 2: 0 is there twice in session 0 of user 0"),
    ],
)
def test_gaps_and_repeats_are_refused(rows: tuple[tuple[int, int, int], ...], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        trajectories(steps(*rows), torch.full((len(rows),), 0.5, dtype=torch.float64))


def test_ends_are_looked_at() -> None:
    rows = ((0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1), (1, 0, 2))
    half = torch.full((5,), 0.5, dtype=torch.float64)

    def flags(*at: int) -> Tensor:
        out = torch.zeros(5, dtype=torch.bool)
        out[list(at)] = True
        return out

    fine = trajectories(steps(*rows, terminated=flags(1), truncated=flags(4)), half)
    assert fine.cut is not None
    assert fine.cut.tolist() == [False, True]
    cut = steps(*rows, terminated=flags(4), truncated=flags(1))
    with pytest.raises(BadInput, match="row 1: session 0 of user 0 is cut after 2 steps and not terminated"):
        trajectories(cut, half)
    two = trajectories(cut, half, horizon=2)
    assert two.cut is not None
    assert two.cut.tolist() == [True, True]
    with pytest.raises(BadInput, match="row 1: session 0 of user 0 is cut after 2"):
        trajectories(cut, half, horizon=3)
    with pytest.raises(
        BadInput, match="column terminated, row 0: True ends session 0 of user 0, but it goes"
    ):
        trajectories(steps(*rows, terminated=flags(0, 1, 4)), half)
    with pytest.raises(BadInput, match="horizon is 0"):
        trajectories(cut, half, horizon=0)
    with pytest.raises(BadInput, match=r"discount is 1.5"):
        trajectories(cut, half, 1.5, horizon=2)


def test_a_policy_is_asked_for_whole_slates() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    target, n = Softmax(logits), 12
    state = torch.arange(n) % 2
    slate = torch.stack([torch.randperm(4, generator=generator)[:2] for _ in range(n)])
    log = Log(
        user=torch.arange(n) // 4,
        session=torch.zeros(n, dtype=torch.long),
        step=torch.arange(n) % 4,
        slate=slate,
        propensity=torch.full((n,), 1 / 12, dtype=torch.float64),
        reward=torch.randn(n, generator=generator, dtype=torch.float64),
        n_items=4,
        features=state[:, None].double(),
    )
    data = trajectories(log, target, 0.9)
    want = 12 * PlackettLuce(logits[state], 2).log_prob(slate).exp()
    assert torch.allclose(data.ratio, want.reshape(3, 4))
    frame = evaluate(data)
    assert {e.name for e in frame} == {"TIS", "WIS", "PDIS", "WPDIS"}


def test_one_step_is_the_bandit() -> None:
    world = replace(chain(), horizon=1)
    every = world.listed()
    data = world.trajectories(every, wrong(world.q())).rows(every.pick(50, 2))
    w, r = data.ratio[:, 0], data.reward[:, 0]
    q, v = data.need("q_logged")[:, 0], data.need("v_target")[:, 0]
    assert value(PDIS().score(data)) == pytest.approx(float((w * r).mean()))
    assert value(WPDIS().score(data)) == pytest.approx(float((w * r).sum() / w.sum()))
    assert value(TrajectoryDR().score(data)) == pytest.approx(float((v + w * (r - q)).mean()))
    assert value(WDR().score(data)) == pytest.approx(float(v.mean() + (w * (r - q)).sum() / w.sum()))


def test_arrays_become_the_same_trajectories() -> None:
    """Flat arrays, ragged, as tensors or NumPy, against the listed chain."""
    world = chain()
    every = world.listed()
    some = every.pick(40, 3)
    want = world.trajectories(every, wrong(world.q())).rows(some)
    s, a = every.state[some], every.action[some]
    at = want.valid
    step = torch.arange(3).expand(40, 3)
    flat: dict[str, Tensor] = {
        "action": a[at],
        "reward": want.reward[at],
        "pscore": world.logger[s[at], a[at]],
        "action_dist": world.target[s[at]],
        "step_per_trajectory": at.sum(1),
        "q": wrong(world.q())[step[at], s[at]],
        "state_ratio": want.need("state")[at],
    }
    for arrays in (flat, {k: v.numpy() for k, v in flat.items()}):
        got = tabular_trajectories(**arrays, discount=0.9)
        for name in ("reward", "ratio", "q_logged", "v_target"):
            assert torch.allclose(getattr(got, name), getattr(want, name)), name
        assert torch.equal(got.valid, at)
        assert torch.allclose(got.need("state")[at], want.need("state")[at])
        assert torch.allclose(got.need("state")[~at], finished(want.ratio, at).expand(40, 3)[~at])
        assert torch.allclose(got.need("state_action"), got.by_state)


def test_arrays_that_cannot_be_are_refused() -> None:
    action, reward = torch.tensor([0, 1, 1, 0]), torch.zeros(4)
    half, dist = torch.full((4,), 0.5), torch.full((4, 2), 0.5)
    column, sides = action.unsqueeze(1), torch.tensor([-1.0, 1.0])
    refused: list[tuple[tuple[Any, ...], str]] = [
        ((action, reward, half, dist, 3), "4 rows are no whole number of trajectories of 3 steps"),
        ((action, reward, half, dist, torch.tensor([1, 2])), "3 steps together, but there are 4 rows"),
        ((action, reward, half, dist, torch.tensor([4, 0])), "trajectory 1 has 0 steps"),
        ((action, reward, half[:3], dist, 2), "pscore has 3 rows, but there are 4"),
        (
            (action, reward, half * torch.tensor([1, 0, 1, 1]), dist, 2),
            "column pscore, row 1: 0.0 is not a prob",
        ),
        ((action + 1, reward, half, dist, 2), "column action, row 1: 2 is none of 2 columns"),
        ((action, reward, half, dist * 2, 2), "column action_dist, row 0: 2.0 is what the row sums to"),
        ((action, reward / 0, half, dist, 2), "column reward, row 0: nan is not finite"),
        ((action, reward, half, dist, -2), "4 rows are no whole number of trajectories of -2 steps"),
        ((action, reward, half, dist, torch.tensor(3)), "no whole number of trajectories of 3 steps"),
        (
            (action, reward, half, dist, torch.tensor([1.5, 2.5])),
            "column step_per_trajectory, row 0: 1.5 is not",
        ),
        ((action, reward, half, dist, torch.tensor([5, -1])), "trajectory 1 has -1 steps"),
        ((action + 0.5, reward, half, dist, 2), "column action, row 0: 0.5 is not a whole number"),
        ((-action, reward, half, dist, 2), "column action, row 1: -1 is none of 2 columns"),
        ((column, reward, half, dist, 2), r"column action is \[row\], not of shape \(4, 1\)"),
        ((action, reward, half, dist[:, 0], 2), r"action_dist is \[row action\], not of shape \(4,\)"),
        ((action, reward, half, dist[:, :0], 2), r"action_dist is \[row action\], not of shape \(4, 0\)"),
        ((action, reward, half, dist + sides, 2), "column action_dist, row 0, action 0: -0.5 is not a prob"),
        ((action, reward, half / 0, dist, 2), "column pscore, row 0: inf is not finite"),
        ((action, np.array(["a"] * 4), half, dist, 2), "column reward is no array of numbers"),
    ]
    for given, words in refused:
        with pytest.raises(BadInput, match=words):
            tabular_trajectories(*given)
    with pytest.raises(BadInput, match="state has 3 rows, but there are 4"):
        tabular_trajectories(action, reward, half, dist, 2, state=torch.zeros(3))
    with pytest.raises(BadInput, match="trajectory 0, step 1: state -3 is negative"):
        tabular_trajectories(action, reward, half, dist, 2, state=torch.tensor([0, -3, 0, 0]))
    bad = torch.tensor([1.0, torch.nan, -1.0, 1.0])
    more: list[tuple[dict[str, Any], str]] = [
        ({"q": dist[:, :1]}, "q has 1 columns, but action_dist has 2"),
        ({"q": torch.stack([half, bad], 1)}, "column q, row 1, action 1: nan is not finite"),
        ({"state": half}, "column state, row 0: 0.5 is not a whole number"),
        ({"state_ratio": bad}, "column state_ratio, row 1: nan is not finite"),
        ({"state_ratio": -half}, "column state_ratio, row 0: -0.5 is no ratio of chances"),
        ({"state_action_ratio": bad[2:].repeat(2)}, "column state_action_ratio, row 0: -1.0 is no ratio of"),
        ({"group": action}, "group has 4 rows, but there are 2"),
        ({"group": half[:2]}, "column group, row 0: 0.5 is not a whole number"),
        ({"discount": float("nan")}, "discount is nan"),
    ]
    for settings, words in more:
        with pytest.raises(BadInput, match=words):
            tabular_trajectories(action, reward, half, dist, 2, **settings)
    nothing = (action[:0], reward[:0], half[:0], dist[:0], 2)
    with pytest.raises(BadInput, match="there are no trajectories: action has no rows"):
        tabular_trajectories(*nothing)
    with pytest.raises(BadInput, match="there are no trajectories"):
        Paths.of_lengths(torch.zeros(0, dtype=torch.long))


# Marginal ratios.


def test_counts_are_exact_on_the_population() -> None:
    world = chain()
    every = world.listed()
    data = world.trajectories(every)
    seen = every.probability > 0
    found = by_counts(every.state, data.ratio, data.valid, every.probability)
    assert torch.allclose(found[seen], data.need("state")[seen], atol=EXACT)
    gone = finished(data.ratio, data.valid, every.probability)
    assert torch.allclose(gone.expand_as(found)[~data.valid], data.need("state")[~data.valid], atol=EXACT)
    counted = counted_propensity(every.state, every.action, data.valid, every.probability)
    s, a = every.state.clamp(min=0), every.action.clamp(min=0)
    assert torch.allclose(counted[data.valid], world.logger[s, a][data.valid], atol=EXACT)


def test_counts_are_the_model_that_they_make() -> None:
    """With counted propensities, marginalised IS is dynamic programming in the counted model."""
    world = chain()
    every = world.listed()
    some = every.pick(500, 4)
    data = world.trajectories(every).rows(some)
    s, a, valid = every.state[some], every.action[some], data.valid
    chance = torch.where(valid, world.target[s.clamp(min=0), a.clamp(min=0)], 1.0)
    ratio = chance / counted_propensity(s, a, valid)
    counted = replace(bare(data), ratio=ratio, state=by_counts(s, ratio, valid))
    v = torch.zeros(3, dtype=torch.float64)  # of the last one: the end
    for t in reversed(range(3)):
        q = torch.zeros(2, 2, dtype=torch.float64)
        for state in range(2):
            for action in range(2):
                here = (s[:, t] == state) & (a[:, t] == action)
                later = v[s[here, t + 1]].mean() if t < 2 else torch.zeros(())  # END is the last one
                q[state, action] = data.reward[here, t].mean() + 0.9 * later
        v = torch.cat([(world.target * q).sum(1), torch.zeros(1, dtype=torch.float64)])
    assert END == -1
    assert value(MIS().score(counted)) == pytest.approx(float(v[s[:, 0]].mean()), rel=1e-12)


def test_a_given_state_is_counted() -> None:
    world = chain()
    every = world.listed()
    some = every.pick(3000, 5)
    data = world.trajectories(every).rows(some)
    s, a, at = every.state[some], every.action[some], data.valid
    got = tabular_trajectories(
        a[at],
        data.reward[at],
        world.logger[s[at], a[at]],
        world.target[s[at]],
        at.sum(1),
        discount=0.9,
        state=s[at],
        q=world.q()[torch.arange(3).expand(3000, 3)[at], s[at]],
    )
    assert torch.allclose(got.need("state"), by_counts(s, data.ratio, at))
    found = DRL().score(got)
    assert abs(value(found) - world.value()) < 3 * stderr(found)


def lstdq(
    feature: Float[Tensor, "round step feat"], aimed: Float[Tensor, "round step feat"], data: Trajectories
) -> float:
    """Return the value of least-squares temporal differences, in loops."""
    wide = feature.shape[2]
    a, c, b = np.zeros((wide, wide)), np.zeros(wide), np.zeros(wide)
    for i in range(len(data)):
        b += aimed[i, 0].numpy()
        for t in range(data.reward.shape[1]):
            if not data.valid[i, t]:
                break
            more = t + 1 < data.reward.shape[1] and bool(data.valid[i, t + 1])
            after = aimed[i, t + 1].numpy() if more else np.zeros(wide)
            phi = feature[i, t].numpy()
            a += data.discount**t * np.outer(phi, phi - data.discount * after)
            c += data.discount**t * phi * float(data.reward[i, t])
    return float(np.linalg.solve(a, c) @ b) / len(data)


def test_minimax_weights_are_least_squares_temporal_differences() -> None:
    world = chain()
    every = world.listed()
    some = every.pick(200, 6)
    data = world.trajectories(every).rows(some)
    generator = torch.Generator().manual_seed(0)
    form = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    s, a = every.state[some].clamp(min=0), every.action[some].clamp(min=0)
    feature, aimed = form[s, a], torch.einsum("sa,saf->sf", world.target, form)[s]
    weight = minimax(feature, aimed, data.valid, 0.9)
    weighed = replace(bare(data), state_action=weight)
    assert value(SAMIS().score(weighed)) == pytest.approx(lstdq(feature, aimed, data), rel=1e-9)
    with pytest.raises(BadInput, match="linearly dependent"):
        minimax(feature.repeat(1, 1, 2), aimed.repeat(1, 1, 2), data.valid, 0.9)
    assert bool(
        minimax(feature.repeat(1, 1, 2), aimed.repeat(1, 1, 2), data.valid, 0.9, 0.01).isfinite().all()
    )


def test_minimax_weights_with_indicators_are_the_ratio_of_occupancies() -> None:
    """Indicators of (step, state, action) make the class right: then the ratios are exact in expectation."""
    world = chain()
    every = world.listed()
    many = torch.tensor([round(float(p) * 20000) for p in every.probability])
    some = torch.arange(len(many)).repeat_interleave(many)
    data = world.trajectories(every).rows(some)
    s, a = every.state[some].clamp(min=0), every.action[some].clamp(min=0)
    eye = torch.eye(12, dtype=torch.float64).reshape(3, 2, 2, 12)
    step = torch.arange(3)
    feature = eye[step, s, a]
    aimed = torch.einsum("sa,tsaf->tsf", world.target, eye)[step, s]
    weight = minimax(feature, aimed, data.valid, 0.9)
    # The exact ratio of the counted model: by counts, with counted propensities.
    chance = torch.where(data.valid, world.target[s, a], 1.0)
    ratio = chance / counted_propensity(every.state[some], every.action[some], data.valid)
    exact = by_counts(every.state[some], ratio, data.valid) * ratio
    assert torch.allclose(weight[data.valid], exact[data.valid], atol=1e-9)
