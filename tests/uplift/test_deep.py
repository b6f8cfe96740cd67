"""Deep uplift learners: distances and losses by hand, targeting exactly, and worlds whose effect is known."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.base import clone
from torch import Tensor

from causal.uplift._deep import DeepLearner
from causal.uplift._influence import average, scores, targeted
from causal.uplift._ipm import DISTANCES, mmd_linear, mmd_rbf, sinkhorn
from causal.uplift._net import Batch, Heads, Net
from causal.uplift._outcomes import OUTCOMES, chosen
from causal.uplift._rows import dealt, held_out
from causal.uplift.cfr import CFR
from causal.uplift.contract import Trial
from causal.uplift.descn import DESCN
from causal.uplift.dragonnet import DragonNet
from causal.uplift.tarnet import TARNet
from simlab.adapters._columns import Columns
from simlab.errors import BadInput
from simlab.parts import all_parts
from simlab.rankers.contract import Ranker, Sizes
from simlab.seeds import Seed

LEARNERS: tuple[type[DeepLearner], ...] = (TARNet, CFR, DragonNet, DESCN)
QUICK: dict[str, Any] = {"epochs": 2, "shared": (8,), "heads": (4,)}


def sample(rows: int, seed: int, dim: int = 3) -> Tensor:
    return torch.randn(rows, dim, generator=Seed(seed).torch(), dtype=torch.float64)


def ones(rows: int) -> Tensor:
    return torch.ones(rows, dtype=torch.float64)


# ---------------------------------------------------------------- distances


@pytest.mark.parametrize("name", DISTANCES)
def test_equal_samples_are_at_distance_0_in_any_order(name: str) -> None:
    a, u = sample(9, 0), torch.rand(9, generator=Seed(1).torch(), dtype=torch.float64) + 0.1
    order = torch.randperm(9, generator=Seed(2).torch())
    assert float(DISTANCES[name](a, a[order], u, 3 * u[order])) == pytest.approx(0, abs=1e-9)
    assert float(DISTANCES[name](a, a + 1, u, u)) > 0.1


@pytest.mark.parametrize("name", DISTANCES)
def test_a_weight_is_a_number_of_copies(name: str) -> None:
    a, b, u = sample(4, 3), sample(5, 4), torch.tensor([1, 3, 2, 1])
    copies = a.repeat_interleave(u, 0)
    weighed = DISTANCES[name](a, b, u.double(), ones(5))
    assert float(weighed) == pytest.approx(float(DISTANCES[name](copies, b, ones(7), ones(5))), rel=1e-6)


def test_linear_mmd_is_the_distance_of_means() -> None:
    a, b = torch.tensor([[0.0, 0.0], [2.0, 4.0]]), torch.tensor([[4.0, 6.0]])
    assert float(mmd_linear(a, b, torch.ones(2), torch.ones(1))) == (1 - 4) ** 2 + (2 - 6) ** 2
    assert float(mmd_linear(a, b, torch.tensor([1.0, 3.0]), torch.ones(1))) == 2.5**2 + 3**2


def test_rbf_mmd_is_its_double_sum() -> None:
    a, b = sample(4, 5), sample(6, 6)

    def k(x: Tensor, y: Tensor) -> float:
        return float(np.mean([[np.exp(-float((p - q) @ (p - q)) / (2 * 0.7**2)) for q in y] for p in x]))

    found = float(mmd_rbf(a, b, ones(4), ones(6), 0.7))
    assert found == pytest.approx(k(a, a) + k(b, b) - 2 * k(a, b), rel=1e-12)


def test_sinkhorn_tends_to_exact_optimal_transport() -> None:
    """Equal weights: the exact plan is an assignment. The error falls with the blur."""
    a, b = sample(12, 7), sample(12, 8) + 0.5
    cost = cdist(a.numpy(), b.numpy())
    exact = cost[linear_sum_assignment(cost)].mean()
    errors = [
        abs(float(sinkhorn(a, b, ones(12), ones(12), blur, 1000)) - exact) for blur in (0.2, 0.05, 0.01)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.002 * exact
    in_use = float(sinkhorn(a, b, ones(12), ones(12)))
    assert in_use == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("name", DISTANCES)
def test_gradients_of_distances(name: str) -> None:
    a, b = sample(4, 9).requires_grad_(), sample(5, 10).requires_grad_()
    more = {"steps": 500, "blur": 0.2} if name == "wasserstein" else {}
    distance: Callable[..., Tensor] = DISTANCES[name]
    assert torch.autograd.gradcheck(lambda p, q: distance(p, q, ones(4), ones(5), **more), (a, b), atol=1e-5)


# ---------------------------------------------------------------- outcomes, heads and losses


@pytest.mark.parametrize("name", OUTCOMES)
def test_an_outcome_s_loss_has_the_residual_as_its_derivative(name: str) -> None:
    kind = OUTCOMES[name]
    eta = torch.tensor([-1.2, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    kind.loss(eta, y).sum().backward()  # type: ignore[no-untyped-call]
    mean = kind.inverse(eta.detach())
    assert eta.grad is not None
    assert torch.allclose(eta.grad, mean - y)
    assert torch.allclose(kind.link(mean), eta.detach())
    assert torch.allclose(kind.loss_of_mean(mean, y), kind.loss(eta.detach(), y))


def test_heads_are_small_networks_each() -> None:
    heads, phi = Heads(3, (5, 4), 2).double(), sample(6, 11)
    for k in range(2):
        x = phi
        for layer, (weight, bias) in enumerate(zip(heads.weights, heads.biases, strict=True)):
            x = (torch.nn.functional.elu(x) if layer else x) @ weight[k] + bias[k]
        assert torch.allclose(heads(phi)[:, k], x[:, 0])


def built(learner: DeepLearner, arms: int, x: Any) -> tuple[Net, Tensor]:
    columns = Columns.of(x, np.ones(len(x)), None, None, None, ())
    net = learner._build(columns, arms, Seed(3)).double()
    context = columns.rows(x, arms, torch.float64, torch.device("cpu")).context(torch.arange(len(x)))
    return net, net.encode(context)


def batch(name: str, rows: int, arms: int) -> Batch:
    arm = torch.arange(rows) % arms
    y = (sample(rows, 12, 1)[:, 0] > 0).double() if name == "binary" else sample(rows, 12, 1)[:, 0].abs()
    return Batch(arm, y, ones(rows), None, OUTCOMES[name])


@pytest.mark.parametrize("arms", [2, 3])
@pytest.mark.parametrize("kind", OUTCOMES)
@pytest.mark.parametrize("learner", LEARNERS)
def test_gradients_of_losses(learner: type[DeepLearner], kind: str, arms: int) -> None:
    """By every parameter of the heads and the layers, against finite differences."""
    made = learner("mlp", spec={"dim": 3, "layers": [4]}, shared=(4,), heads=(3,))
    made.arms_ = tuple(range(arms))
    net, phi = built(made, arms, np.random.default_rng(0).normal(size=(8, 2)))
    rows = batch(kind, 8, arms)
    net.epsilon.data += 0.1
    phi = phi.detach().requires_grad_()
    parts = [p for p in (*net.heads.parameters(), net.epsilon)]

    def loss(phi: Tensor, *_: Tensor) -> Tensor:
        return made._loss(net, phi, rows).mean()

    assert torch.autograd.gradcheck(loss, (phi, *parts))


def test_cfr_s_penalty_is_its_distance_at_any_scale() -> None:
    made = CFR(distance="linear", alpha=0.5)
    made.arms_ = (0, 1, 2)
    phi, rows = sample(9, 13), batch("number", 9, 3)
    scaled = phi / phi.square().sum(1).mean().sqrt()
    means = [scaled[rows.arm == a].mean(0) for a in range(3)]
    by_hand = 0.5 * np.mean([float((means[0] - m).square().sum()) for m in means[1:]])
    net = built(made, 3, np.ones((2, 1)))[0]
    assert float(made._penalty(net, phi, rows)) == pytest.approx(by_hand)
    assert float(made._penalty(net, 7 * phi, rows)) == pytest.approx(by_hand)
    alone = Batch(torch.zeros(9, dtype=torch.long), rows.y, rows.weight, None, rows.kind)
    assert float(made._penalty(net, phi, alone)) == 0


def test_dragonnet_s_loss_by_hand() -> None:
    made = DragonNet(alpha=0.3, beta=0.7)
    net, phi = built(made, 2, np.random.default_rng(1).normal(size=(6, 2)))
    rows = batch("binary", 6, 2)
    net.epsilon.data.copy_(torch.tensor([0.2, -0.4]))
    net.requires_grad_(False)
    phi = phi.detach()
    eta, g = net.heads["outcome"](phi), net.heads["propensity"](phi).softmax(1)
    for i in range(6):
        a, y = int(rows.arm[i]), rows.y[i]

        def cross(logit: Tensor, y: Tensor = y) -> Tensor:
            p = logit.sigmoid()
            return -(y * p.log() + (1 - y) * (1 - p).log())

        moved = eta[i, a] + net.epsilon[a] / g[i, a]
        by_hand = cross(eta[i, a]) - 0.3 * g[i, a].log() + 0.7 * cross(moved)
        assert float(made._loss(net, phi, rows)[i]) == pytest.approx(float(by_hand))


def test_descn_s_loss_by_hand() -> None:
    made = DESCN(propensity=0.3, entire=0.7, cross=1.1, own=0.2)
    net, phi = built(made, 2, np.random.default_rng(2).normal(size=(6, 2)))
    rows = batch("binary", 6, 2)
    net.requires_grad_(False)
    phi = phi.detach()
    eta, tau = net.heads["outcome"](phi), net.heads["effect"](phi)[:, 0]
    pi = net.heads["propensity"](phi).softmax(1)

    def cross(p: Tensor, y: float) -> float:
        return float(-(y * p.log() + (1 - y) * (1 - p).log()))

    found = made._loss(net, phi, rows)
    for i in range(6):
        t, y = int(rows.arm[i]), float(rows.y[i])
        estr = cross(pi[i, 1] * eta[i, 1].sigmoid(), t * y)
        escr = cross(pi[i, 0] * eta[i, 0].sigmoid(), (1 - t) * y)
        crossed = eta[i, 0] + tau[i] if t else eta[i, 1] - tau[i]
        by_hand = -0.3 * float(pi[i, t].log()) + 0.7 * (estr + escr) + 1.1 * cross(crossed.sigmoid(), y)
        assert float(found[i]) == pytest.approx(by_hand + 0.2 * cross(eta[i, t].sigmoid(), y))


# ---------------------------------------------------------------- average effects


def drawn(name: str, rows: int = 400, arms: int = 3) -> tuple[Any, Any, Any, Any, Any]:
    g = np.random.default_rng(5)
    arm, weight = g.integers(0, arms, rows), g.uniform(0.5, 2, rows)
    chance = g.dirichlet(np.full(arms, 5.0), rows)
    mean = g.uniform(0.2, 0.8, (rows, arms))
    y = (g.uniform(size=rows) < 0.6).astype(float) if name == "binary" else g.poisson(1.3, rows).astype(float)
    return y, arm, mean, chance, weight


@pytest.mark.parametrize("name", OUTCOMES)
def test_after_targeting_the_influence_has_mean_0(name: str) -> None:
    y, arm, mean, chance, weight = drawn(name)
    moved, epsilon = targeted(y, arm, mean, chance, weight, OUTCOMES[name])
    for a in range(3):
        here = (arm == a) / chance[:, a]
        assert weight @ (here * (y - moved[:, a])) == pytest.approx(0, abs=1e-8)
        assert abs(weight @ (here * (y - mean[:, a]))) > 1
    plain = weight @ (moved[:, 1:] - moved[:, :1]) / weight.sum()
    assert weight @ scores(y, arm, moved, chance) / weight.sum() == pytest.approx(plain, abs=1e-10)
    assert np.abs(epsilon).min() > 1e-3
    assert name != "binary" or bool(((moved > 0) & (moved < 1)).all())


def test_targeting_an_arm_without_any_success_ends() -> None:
    y, arm, mean, chance, weight = drawn("binary")
    moved, epsilon = targeted(y * (arm != 1), arm, mean, chance, weight, OUTCOMES["binary"])
    assert np.isfinite(epsilon).all()
    assert moved[arm == 1, 1].max() < 1e-3


def test_scores_are_unbiased_where_either_nuisance_is_right() -> None:
    """Over a listed population: means wrong and chances right, and the reverse, give the exact effect."""
    truth, chance = np.array([[1.0, 3.0], [0.0, 5.0]]), np.array([[0.3, 0.7], [0.8, 0.2]])
    rows = [(x, a) for x in (0, 1) for a in (0, 1)]
    x, a = (np.array(v) for v in zip(*rows, strict=True))
    share = 0.5 * chance[x, a]
    for mean, guess in ((truth + np.array([1.0, -2.0]), chance), (truth, np.full((2, 2), 0.5))):
        found = share @ scores(truth[x, a], a, mean[x], guess[x])
        assert found == pytest.approx((2.0 + 5.0) / 2)


def test_clustered_errors_by_hand() -> None:
    score, user = np.array([[1.0], [2.0], [6.0], [3.0]]), np.array([0, 0, 7, 9])
    found = average(score, None, user, (0, 1), "so")
    by_hand = np.sqrt(((-3.0) ** 2 + 3**2 + 0**2) * 3 / 2) / 4
    assert (found.value, found.how, found.arms) == ((3.0,), "so, clustered by user", (1,))
    assert found.stderr[0] == pytest.approx(by_hand)
    assert average(score, None, None, (0, 1), "so").stderr[0] == pytest.approx(score.std(ddof=1) / 2)
    doubled = average(score, np.array([2.0, 1, 1, 0]), user, (0, 1), "so")
    assert doubled.value[0] == pytest.approx((2 + 2 + 6) / 4)


def test_folds_and_held_out_rows_keep_users_whole_and_arms_even() -> None:
    g = np.random.default_rng(6)
    user = g.integers(0, 100, 300)
    trial = Trial.of(np.ones((300, 1)), user % 3 == 0, np.ones(300), user=user)
    fold = dealt(trial, 4, Seed(1))
    assert all(len(set(fold[user == u])) == 1 for u in set(user))
    treated = [sum(trial.arm[fold == k]) for k in range(4)]
    assert min(treated) > 0
    train, held = (v.numpy() for v in held_out(trial, 0.2, Seed(2)))
    assert sorted((*train, *held)) == list(range(300))
    assert not set(user[train]) & set(user[held])
    assert abs(len(set(user[held])) - 0.2 * len(set(user))) <= 2
    few = held_out(trial.rows(user < 30), 0.2, Seed(2))
    assert len(few[1]) == 0


# ---------------------------------------------------------------- learners


def linear(rows: int, arms: int, seed: int, noise: float = 0.1) -> tuple[Any, Any, Any, Any]:
    """x, arm, y and the effects, where each arm's outcome is linear in x and chances depend on x."""
    g = np.random.default_rng(seed)
    x = g.normal(size=(rows, 3))
    lean = np.exp(0.5 * x[:, :1] * np.arange(arms))
    arm = ((lean / lean.sum(1, keepdims=True)).cumsum(1) < g.uniform(size=(rows, 1))).sum(1)
    mean = (
        10 + x @ np.array([[2.0, 1.0, -1.0], [1.0, -1.0, 0.5], [0.0, 0.5, 1.5]])[:, :arms] + np.arange(arms)
    )
    y = mean[np.arange(rows), arm] + noise * g.normal(size=rows)
    return x, arm, y, mean[:, 1:] - mean[:, :1]


@pytest.mark.parametrize("arms", [2, 3])
@pytest.mark.parametrize("learner", LEARNERS)
def test_linear_outcomes_are_recovered(learner: type[DeepLearner], arms: int) -> None:
    """Of the effects' variance 95 % is explained; the average is within four standard errors."""
    x, arm, y, effect = linear(1500, arms, 7)
    made = learner(epochs=30, learning_rate=0.01).fit(x, arm, y)
    found = made.effect(x).reshape(effect.shape)
    assert (((found - effect) ** 2).mean(0) / effect.var(0)).max() < 0.05
    said = made.ate()
    assert np.abs(np.array(said.value) - effect.mean(0)).max() < 4 * max(said.stderr)
    assert said.arms == tuple(range(1, arms))


@pytest.mark.parametrize("learner", LEARNERS)
def test_effects_of_rates_and_counts(learner: type[DeepLearner]) -> None:
    g = np.random.default_rng(8)
    x, arm = g.normal(size=(3000, 2)), g.integers(0, 2, 3000)
    for name, inverse in (("binary", lambda e: 1 / (1 + np.exp(-e))), ("count", np.exp)):
        mean = [inverse(0.8 * x[:, 0] - 0.5 + a * x[:, 1]) for a in (0, 1)]
        m = np.where(arm == 1, mean[1], mean[0])
        y = (g.uniform(size=3000) < m) if name == "binary" else g.poisson(m)
        made = learner(outcome=name, epochs=12, learning_rate=0.01).fit(x, arm, y, propensity=0.5)
        effect = mean[1] - mean[0]
        assert np.corrcoef(made.effect(x), effect)[0, 1] > 0.9
        said = made.ate()
        assert abs(said.value[0] - effect.mean()) < 4 * said.stderr[0]


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_learner_is_cloned_pickled_and_the_same_again(learner: type[DeepLearner]) -> None:
    x, arm, y, _ = linear(200, 2, 9)
    before = torch.random.get_rng_state()
    one = learner(**QUICK, members=2, random_state=4).fit(x, arm, y)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    two = clone(one).fit(x, arm, y)
    assert one.get_params() == two.get_params()
    assert np.array_equal(one.effect(x), two.effect(x))
    assert one.ate() == two.ate()
    assert not np.array_equal(one.effect(x), clone(one).set_params(random_state=5).fit(x, arm, y).effect(x))
    again = pickle.loads(pickle.dumps(one))
    assert np.array_equal(one.effect(x), again.effect(x))
    assert one.ate() == again.ate()
    alone = [clone(one).set_params(members=1).fit(x, arm, y).effect(x)]
    assert not np.array_equal(alone[0], one.effect(x))


@pytest.mark.parametrize("learner", LEARNERS)
def test_rows_of_weight_0_say_nothing(learner: type[DeepLearner]) -> None:
    x, arm, y, _ = linear(200, 2, 10)
    weight = np.where(np.arange(200) % 3 == 0, 0.0, 2.0)
    kept = weight > 0
    one = learner(**QUICK).fit(x, arm, np.where(kept, y, 1e6), sample_weight=weight)
    two = learner(**QUICK).fit(x[kept], arm[kept], y[kept], sample_weight=weight[kept])
    assert np.array_equal(one.effect(x), two.effect(x))
    assert one.ate() == two.ate()


@pytest.mark.parametrize("learner", LEARNERS)
def test_cross_fitting_and_what_is_said_of_it(learner: type[DeepLearner]) -> None:
    x, arm, y, _ = linear(600, 2, 11, noise=1.0)
    user = np.arange(600) // 2
    made = learner(epochs=20, learning_rate=0.01, folds=2).fit(x, arm, y, groups=user, propensity=0.5)
    said = made.ate()
    assert said.how.endswith("known propensity, 2 folds, clustered by user")
    other = learner(epochs=20, learning_rate=0.01).fit(x, arm, y, groups=user, propensity=0.5).ate()
    assert other.how.endswith("known propensity, fitted in-sample, clustered by user")
    assert other.value != said.value
    assert said.stderr[0] > 0


def test_dragonnet_s_average_is_the_targeted_one() -> None:
    """Its scores' mean is the plain mean of effects moved by ε, as ε is solved for on all rows."""
    x, arm, y, _ = linear(300, 2, 12)
    made = DragonNet(**QUICK).fit(x, arm, y)
    fitted = made.fitted_nets_
    chance = np.maximum(fitted.chance_of(x), 0.01)
    chance /= chance.sum(1, keepdims=True)
    mean = fitted.mean_of(x) + made.epsilon_ * fitted.spread / chance
    assert made.ate().value[0] == pytest.approx((mean[:, 1] - mean[:, 0]).mean(), rel=1e-9)
    assert made.ate().how.startswith("targeted, influence function, estimated propensity")


def test_any_body_that_is_trained_can_be_asked() -> None:
    x, arm, y, _ = linear(60, 2, 13)
    tried = 0
    for name, family in all_parts("ranker").items():
        assert issubclass(family, Ranker)
        if not family.build(Sizes(0, 2, 3)).trainable:
            continue
        made = TARNet(name, epochs=1, shared=(4,), heads=()).fit(x, arm, y, propensity=0.5)
        assert np.isfinite(made.effect(x)).all(), name
        tried += 1
    assert tried > 20


def test_categories_are_known_by_their_ids() -> None:
    """Effects by category in no order of the ids; a category that was not seen has an answer."""
    g = np.random.default_rng(14)
    kind, arm = g.integers(0, 6, 3000), g.integers(0, 2, 3000)
    effect = np.array([3.0, -2.0, 1.0, -3.0, 2.0, 0.0])[kind]
    x = np.stack([g.normal(size=3000), kind], 1)
    made = TARNet(category_columns=(1,), epochs=20, learning_rate=0.01)
    made.fit(x, arm, x[:, 0] + effect * arm, propensity=0.5)
    assert np.abs(made.effect(x) - effect).mean() < 0.2
    assert np.isfinite(made.effect([[0.0, 77.0]])).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TARNet(outcome="counts"), "outcome is auto, number, binary, count, not counts.*count"),
        (lambda: TARNet(outcome="binary"), "column outcome, row 0: .* is not 0 or 1, as a binary outcome is"),
        (lambda: TARNet("popularity"), "ranker popularity is not trained by gradient"),
        (lambda: TARNet(shared=(0,)), r"shared is a tuple of widths of at least 1, not \(0,\)"),
        (lambda: TARNet(members=0), "members is at least 1, not 0"),
        (lambda: TARNet(random_state=None), "random_state is a whole number, not None"),
        (lambda: TARNet(epochs=0), "epochs is at least 1, not 0"),
        (lambda: TARNet(clip=0.5), "clip is above 0 and below one over the number of arms, not 0.5"),
        (lambda: TARNet(learning_rate=1e30), "the loss of epoch . is not a number"),
        (lambda: CFR(distance="wasserstien"), "distance is linear, rbf, wasserstein, not wasserstien.*"),
        (lambda: CFR(alpha=-1), "alpha is at least 0, not -1"),
        (lambda: DragonNet(beta=-1), "beta is at least 0, not -1"),
        (lambda: DESCN(entire=0, cross=0, own=0), "nothing is learned of the outcome"),
    ],
)
def test_refusals(make: Callable[[], DeepLearner], words: str) -> None:
    x, arm, y, _ = linear(60, 2, 15)
    with pytest.raises(BadInput, match=words):
        make().fit(x, arm, y, propensity=0.5)


def test_a_typo_is_refused() -> None:
    with pytest.raises(TypeError, match="epoch"):
        CFR(epoch=3)
    with pytest.raises(BadInput, match="column outcome, row 1: -1 is not at least 0, as a count outcome is"):
        chosen("count", np.array([0.0, -1.0]))


def test_an_arm_that_only_weight_0_has_is_refused() -> None:
    x, arm, y, _ = linear(60, 2, 16)
    with pytest.raises(BadInput, match="arm 1 has no row among rows of weight above 0"):
        TARNet(**QUICK).fit(x, arm, y, sample_weight=1.0 - arm)
