"""Rankers as scikit-learn estimators: its own checks, exact cases, refusals, and how good they are."""

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.metrics import log_loss, r2_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from simlab.adapters.nuisance import RankerClassifier, RankerRegressor
from simlab.errors import BadInput
from simlab.parts import all_parts
from simlab.rankers.contract import Ranker, Sizes

WEIGHTS = (
    "training goes by small batches and judges by held-out rows, which repeating a row changes; "
    "test_a_weight_is_a_number_of_copies shows it on whole batches"
)


def declared(estimator: object) -> dict[str, str]:
    """The checks that are expected to fail."""
    return {"check_sample_weight_equivalence_on_dense_data": WEIGHTS}


@pytest.mark.filterwarnings("ignore")  # the checks ask for warnings themselves
@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [RankerRegressor(epochs=4, learning_rate=0.05), RankerClassifier(epochs=4, learning_rate=0.05)],
    expected_failed_checks=declared,
)
def test_scikit_learn_finds_nothing_to_complain_about(estimator: Any, check: Any) -> None:
    check(estimator)


def friedman(n: int, seed: int, noise: float = 0.5) -> tuple[Any, Any, Any]:
    """Friedman's first function with five idle columns: X, y, E[y | x]; E has variance 1."""
    g = np.random.default_rng(seed)
    x = g.uniform(size=(n, 10))
    mean = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    mean = (mean - 14.4) / 4.9
    return x, mean + noise * g.normal(size=n), mean


def test_a_regressor_is_no_worse_than_boosted_trees() -> None:
    x, y, _ = friedman(1000, 0)
    fresh, _, truth = friedman(4000, 1)
    ours = r2_score(truth, RankerRegressor().fit(x, y).predict(fresh))
    trees = r2_score(truth, GradientBoostingRegressor().fit(x, y).predict(fresh))
    assert ours > 0.88
    assert ours > trees - 0.03


def test_a_classifier_is_no_worse_than_boosted_trees() -> None:
    """The least log-loss there is, is 0.45; the base rate alone has 0.67."""
    g = np.random.default_rng(2)
    x, _, mean = friedman(1500, 3)
    fresh, _, truth = friedman(4000, 4)
    label = (g.uniform(size=len(x)) < 1 / (1 + np.exp(-2 * mean))).astype(int)
    chance = 1 / (1 + np.exp(-2 * truth))

    def cost(said: Any) -> float:
        said = np.clip(said, 1e-6, 1 - 1e-6)
        return float(-(chance * np.log(said) + (1 - chance) * np.log(1 - said)).mean())

    ours = cost(RankerClassifier().fit(x, label).predict_proba(fresh)[:, 1])
    trees = cost(GradientBoostingClassifier().fit(x, label).predict_proba(fresh)[:, 1])
    assert ours < cost(chance) + 0.05
    assert ours < trees + 0.01


def test_more_classes_and_more_outputs() -> None:
    """Three classes by a known softmax; two outputs, each as good as alone."""
    g = np.random.default_rng(5)
    x = g.normal(size=(1500, 4))
    logits = np.stack([x[:, 0], -x[:, 0] + x[:, 1], 0.5 * x[:, 2]], 1)
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    label = np.array(["a", "b", "c"])[(chance.cumsum(1) < g.uniform(size=(1500, 1))).sum(1)]
    model = RankerClassifier().fit(x, label)
    said = model.predict_proba(x)
    assert list(model.classes_) == ["a", "b", "c"]
    assert log_loss(label, said) < log_loss(label, chance) + 0.015
    assert np.abs(said - chance).mean() < 0.05
    assert np.abs(said.sum(1) - 1).max() < 1e-12
    both = np.stack([100 + 20 * x[:, 0], np.sin(x[:, 1])], 1)
    found = RankerRegressor().fit(x, both).predict(x)
    assert found.shape == (1500, 2)
    assert r2_score(both, found, multioutput="raw_values").min() > 0.98


@pytest.mark.parametrize("kind", [RankerRegressor, RankerClassifier])
def test_a_weight_is_a_number_of_copies(kind: Any) -> None:
    """On whole batches without held-out rows, integer weights say what copies say, and 0 says nothing."""
    g = np.random.default_rng(6)
    x = g.normal(size=(16, 3))
    y = (x[:, 0] + 0.3 * g.normal(size=16) > 0).astype(float)
    weight = g.integers(0, 3, 16).astype(float)
    model = kind(epochs=30, validation=0.0)
    weighed = model.fit(x, y, sample_weight=weight)
    copies = clone(model).fit(np.repeat(x, weight.astype(int), 0), np.repeat(y, weight.astype(int)))
    ask = "predict" if kind is RankerRegressor else "decision_function"
    one, two = getattr(weighed, ask)(x), getattr(copies, ask)(x)
    assert np.abs(one - two).max() < 1e-3 * np.abs(one).max()
    assert np.abs(one - getattr(clone(model).fit(x, y), ask)(x)).max() > 0.1


def test_least_squares_is_weighted() -> None:
    """Where nothing can be told apart, the prediction is the weighted mean."""
    x = np.zeros((60, 1))
    y, weight = np.arange(60.0), np.linspace(1, 5, 60)
    found = RankerRegressor().fit(x, y, weight).predict(x[:1])
    assert found[0] == pytest.approx(np.average(y, weights=weight), abs=0.3)


def test_a_column_of_targets_comes_back_as_a_column() -> None:
    x, y, _ = friedman(80, 7)
    flat, column = RankerRegressor(epochs=3).fit(x, y), RankerRegressor(epochs=3).fit(x, y[:, None])
    assert flat.predict(x).shape == (80,)
    assert column.predict(x).shape == (80, 1)
    assert np.array_equal(flat.predict(x), column.predict(x)[:, 0])


def people(n: int, seed: int) -> pd.DataFrame:
    """y = effect of the user + of the item + of the town + age."""
    g = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "who": g.integers(0, 12, n) * 10.0,  # ids may be floats with gaps
            "age": g.normal(size=n),
            "what": g.integers(100, 108, n).astype(float),
            "town": g.integers(-2, 3, n).astype(float),
        }
    )
    effect = np.sin(table.who) + np.cos(3 * table.what) + 0.5 * table.town**2 + table.age
    return table.assign(y=effect + 0.1 * g.normal(size=n))


COLUMNS: dict[str, Any] = {"user_column": "who", "item_column": "what", "category_columns": ["town"]}


@pytest.mark.parametrize("ranker", ["mlp", pytest.param("deepfm", marks=pytest.mark.slow)])
def test_ids_are_ids(ranker: str) -> None:
    """Effects of ids that no line could follow are found; unknown ids are answered near the mean."""
    table, fresh = people(1500, 8), people(1000, 9)
    x = ["who", "age", "what", "town"]
    model = RankerRegressor(ranker, **COLUMNS).fit(table[x], table.y)
    assert r2_score(fresh.y, model.predict(fresh[x])) > 0.95
    by_index = RankerRegressor(ranker, user_column=0, item_column=2, category_columns=[-1], epochs=2)
    by_name = RankerRegressor(ranker, **COLUMNS, epochs=2).fit(table[x], table.y)
    array = by_index.fit(table[x].to_numpy(), table.y).predict(fresh[x].to_numpy())
    assert np.array_equal(array, by_name.predict(fresh[x]))
    # An unknown item scores like the average item for the same user, age and town.
    unknown = fresh[x].assign(what=999.0)
    every = np.mean([model.predict(fresh[x].assign(what=float(i))) for i in range(100, 108)], 0)
    assert np.abs(model.predict(unknown) - every).mean() < 0.4
    assert np.isfinite(model.predict(fresh[x].assign(who=5.0, town=77.0))).all()


def test_ids_of_a_classifier_with_three_classes() -> None:
    """The likeliest class is item mod 3: each (item, class) is a candidate of its own."""
    g = np.random.default_rng(10)
    item = g.integers(0, 9, 1500)
    label = np.where(g.uniform(size=1500) < 0.8, item % 3, g.integers(0, 3, 1500))
    x = np.stack([item.astype(float), g.normal(size=1500)], 1)
    model = RankerClassifier(item_column=0).fit(x, label)
    assert (model.predict(x) == item % 3).all()
    right = model.predict_proba(x)[np.arange(1500), item % 3]
    assert right.mean() == pytest.approx(0.8 + 0.2 / 3, abs=0.03)


def trained() -> list[str]:
    """Families that learn by gradient."""
    found = []
    for name, family in all_parts("ranker").items():
        assert issubclass(family, Ranker)
        if family.build(Sizes(3, 4, 2)).trainable:
            found.append(name)
    return found


@pytest.mark.parametrize("ranker", trained())
def test_every_family_serves(ranker: str) -> None:
    """A pickle holds arrays and says the same; rows are answered one by one."""
    g = np.random.default_rng(11)
    x = np.concatenate([g.normal(size=(60, 2)), g.integers(0, 5, (60, 2))], 1)
    model = RankerClassifier(ranker, user_column=2, item_column=3, epochs=1).fit(x, x[:, 0] > 0)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(model.predict_proba(x), again.predict_proba(x))
    assert all(isinstance(v, np.ndarray) for v in model.__getstate__()["ranker_"]["weights"].values())
    assert np.abs(model.predict_proba(x)[::-1] - model.predict_proba(x[::-1])).max() < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("ranker", sorted({*trained()} - {"autorec", "lightgcn", "multvae"}))
def test_every_family_that_looks_at_features_learns_from_them(ranker: str) -> None:
    g = np.random.default_rng(11)
    x = g.normal(size=(400, 3))
    y = 2 * x[:, 0] + 0.1 * g.normal(size=400)
    assert r2_score(y, RankerRegressor(ranker).fit(x, y).predict(x)) > 0.8


@pytest.mark.parametrize("spec", [{}, {"dropout": 0.2}])
def test_the_seed_decides_and_nothing_global_moves(spec: dict[str, float]) -> None:
    x, y, _ = friedman(200, 12)
    np.random.seed(1)
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first = RankerRegressor(spec=spec, epochs=4, random_state=3).fit(x, y).predict(x)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]
    torch.manual_seed(2)
    np.random.seed(2)
    assert np.array_equal(RankerRegressor(spec=spec, epochs=4, random_state=3).fit(x, y).predict(x), first)
    assert not np.array_equal(
        RankerRegressor(spec=spec, epochs=4, random_state=4).fit(x, y).predict(x), first
    )
    drawn = [RankerRegressor(epochs=1, random_state=None).fit(x, y).predict(x) for _ in range(2)]
    assert not np.array_equal(drawn[0], drawn[1])


def test_early_stopping_keeps_the_best() -> None:
    """Pure noise: training goes on, the held-out loss does not, and the kept weights say little."""
    g = np.random.default_rng(13)
    x, y = g.normal(size=(400, 20)), g.normal(size=400)
    model = RankerRegressor().fit(x, y)
    assert model.n_iter_ < 40
    assert model.n_iter_ == len(model.train_loss_) == int(np.argmin(model.held_loss_)) + 1 + 10
    assert model.predict(g.normal(size=(1000, 20))).var() < 0.3


def test_refusals() -> None:
    x, y, _ = friedman(50, 14)
    hole = x.copy()
    hole[7, 2] = np.nan
    with pytest.raises(BadInput, match="column 2, row 7: NaN is not a finite number"):
        RankerRegressor().fit(hole, y)
    frame = pd.DataFrame(x, columns=list("abcdefghij"))
    model = RankerRegressor(epochs=1).fit(frame, y)
    with pytest.raises(BadInput, match="column b, row 3: inf is not a finite number"):
        model.predict(frame.assign(b=np.where(np.arange(50) == 3, np.inf, 0)))
    with pytest.raises(BadInput, match="y has one class, 1, in all 50 rows"):
        RankerClassifier().fit(x, np.ones(50, int))
    with pytest.raises(BadInput, match="y has one class, 0, in all 1 rows of weight above 0"):
        RankerClassifier().fit(x, np.arange(50) % 2, sample_weight=np.arange(50) == 0)
    with pytest.raises(ValueError, match=r"(?i)sample.weight.*zero"):
        RankerRegressor().fit(x, y, sample_weight=np.zeros(50))
    with pytest.raises(BadInput, match=r"column 1, row 0: 0\.\d+ is no id, ids are whole numbers"):
        RankerRegressor(user_column=1).fit(x, y)
    with pytest.raises(BadInput, match="X has no column agee; did you mean age"):
        RankerRegressor(user_column="agee").fit(frame.rename(columns={"a": "age"}), y)
    with pytest.raises(BadInput, match="column age is a name, but X has no names"):
        RankerRegressor(item_column="age").fit(x, y)
    with pytest.raises(BadInput, match="X has no column 10: it has 10"):
        RankerRegressor(category_columns=[10]).fit(x, y)
    with pytest.raises(BadInput, match="column 3 can be only one of"):
        RankerRegressor(user_column=3, item_column=-7).fit(np.round(x), y)
    with pytest.raises(BadInput, match="there is no ranker named deepmf; did you mean deepfm"):
        RankerRegressor("deepmf").fit(x, y)
    with pytest.raises(BadInput, match="ranker popularity is not trained by gradient"):
        RankerClassifier("popularity").fit(x, y > 0)
    with pytest.raises(BadInput, match="ranker mlp has no setting dims; did you mean dim"):
        RankerRegressor(spec={"dims": 3}).fit(x, y)
    with pytest.raises(BadInput, match=r"validation is a share in \[0, 1\), not 1"):
        RankerRegressor(validation=1.0).fit(x, y)
    with pytest.raises(BadInput, match="epochs is at least 1, not 0"):
        RankerRegressor(epochs=0).fit(x, y)
    with pytest.raises(BadInput, match="the loss of epoch 1 is not a number: try a smaller learning_rate"):
        RankerRegressor(learning_rate=1e30).fit(x, y)
