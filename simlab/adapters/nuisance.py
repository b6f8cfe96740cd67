"""Any ranker as a scikit-learn estimator, so that EconML takes it as a nuisance."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor
from torch.nn import functional

from simlab.adapters._columns import Columns, Rows
from simlab.adapters._descent import Descent, descend
from simlab.errors import BadInput
from simlab.parts import part
from simlab.rankers.contract import Interactions, Ranker
from simlab.seeds import Seed

BLOCK = 1 << 14
"""Rows that are predicted at once."""

UNKNOWN = 0.05
"""Share of each batch whose item is hidden, so that an unknown item has a trained vector."""


class RankerEstimator(BaseEstimator):  # type: ignore[misc]
    """What the regressor and the classifier share.

    A row of X is a context with one candidate for each output or class. Columns that are not ids are numeric
    features, standardised inside. Ids are whole numbers, floats too; an id that was not fitted is unknown: a
    new user has a zero vector, so has an unknown category, and an unknown item has the vector that was
    trained on rows whose item was hidden.

    Weights multiply the rows' losses; rows of weight 0 are left out. float32 in training, float64 after it.
    The same `random_state` gives the same bits, whatever the global generators hold; they are left as they
    were. A pickle holds the weights as arrays and builds the ranker anew.

    As everywhere in scikit-learn, `__init__` takes anything and `fit` refuses what cannot be.

    Args:
        ranker: name of any family that is trained by gradient.
        spec: settings of the family; `past` is 0 where the family allows it, as there is no history.
        user_column: name or index of the column of user ids, if there is one.
        item_column: name or index of the column of item ids, if there is one.
        category_columns: names or indices of columns of categories.
        epochs: passes over the rows at most.
        batch_size: rows per step at most.
        learning_rate: of AdamW.
        weight_decay: of AdamW, decoupled.
        validation: share of the rows held out for early stopping, from 40 rows on.
        patience: epochs without a better held-out loss before training stops.
        device: where to train and predict.
        random_state: seed of everything random; None draws one from the system.
        verbose: show a progress bar.
    """

    def __init__(
        self,
        ranker: Any = "mlp",
        *,
        spec: Any = None,
        user_column: Any = None,
        item_column: Any = None,
        category_columns: Any = (),
        epochs: Any = 100,
        batch_size: Any = 256,
        learning_rate: Any = 0.01,
        weight_decay: Any = 0.3,
        validation: Any = 0.1,
        patience: Any = 10,
        device: Any = "cpu",
        random_state: Any = 0,
        verbose: Any = False,
    ) -> None:
        self.ranker = ranker
        self.spec = spec
        self.user_column = user_column
        self.item_column = item_column
        self.category_columns = category_columns
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation = validation
        self.patience = patience
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _table(self, X: Any, y: Any = None, *, reset: bool = True, **how: Any) -> Any:
        """Return X, or X and y, as scikit-learn checks them.

        Raises:
            BadInput: naming the column and row of a cell that is not finite.
        """
        given = {} if y is None and not reset else {"y": y}
        found = validate_data(self, X, **given, reset=reset, dtype=np.float64, ensure_all_finite=False, **how)
        x = found[0] if given else found
        if not np.isfinite(x.sum()) and not np.isfinite(x).all():
            row, column = np.argwhere(~np.isfinite(x))[0]
            names = getattr(self, "feature_names_in_", range(x.shape[1]))
            value = "NaN" if np.isnan(x[row, column]) else str(x[row, column])
            raise BadInput(f"column {names[column]}, row {row}: {value} is not a finite number")
        return found

    def _train(
        self,
        x: NDArray[np.float64],
        target: NDArray[np.float64],
        weight: NDArray[np.float64],
        heads: int,
        loss: Callable[[Tensor, Tensor], Tensor],
        start: float | None = None,
    ) -> None:
        """Build the ranker and minimise a loss of (logits, target), each [row head], to [row]."""
        seed, device = self._seed(), torch.device(self.device)
        names = ("epochs", "batch_size", "learning_rate", "weight_decay", "validation", "patience", "verbose")
        how = Descent(**{name: getattr(self, name) for name in names})
        titles = list(self.feature_names_in_) if hasattr(self, "feature_names_in_") else None
        asked = (self.user_column, self.item_column, self.category_columns)
        self.columns_ = Columns.of(x, weight, titles, *asked)
        self.heads_ = heads
        ranker = self._build(seed.split("weights")).to(device)
        rows = self.columns_.rows(x, heads, torch.float32, device)
        aim, mass = (torch.from_numpy(v).to(device, torch.float32) for v in (target, weight))
        train, held = how.split(len(x), seed)
        every = torch.arange(len(x), device=device)
        ranker.prepare(_seen(rows, every[train.to(device)], aim, mass))
        if start is not None:
            ranker.start(start)
        coins = seed.split("unknown").torch()

        def each(at: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
            item = None
            if ranker.training and rows.item is not None:
                hidden = torch.rand(len(at), generator=coins).to(device) < UNKNOWN
                item = rows.item.index_select(0, at).masked_fill(hidden, rows.n_items - 1)
            return loss(ranker.score(rows.context(at, item)), aim.index_select(0, at))

        done = descend(ranker, each, mass, train, held, how, seed)
        self.n_iter_ = len(done.train)
        self.train_loss_, self.held_loss_ = done.train, done.held
        self.ranker_ = ranker.double()

    def _build(self, seed: Seed) -> Ranker:
        """Return the untrained ranker.

        Raises:
            BadInput: for a family that is not there, or that is not trained by gradient.
        """
        family: Any = part("ranker", self.ranker)
        spec, sizes = dict(self.spec or {}), self.columns_.sizes(self.heads_)
        try:
            bare = {"past": 0} if "past" in family.Spec.__dataclass_fields__ else {}
            ranker = family.build(sizes, {**bare, **spec}, None, seed)
        except BadInput:  # an autoencoder, say, wants a history, even if it is empty
            ranker = family.build(sizes, spec, None, seed)
        assert isinstance(ranker, Ranker)
        if not ranker.trainable:
            raise BadInput(f"ranker {self.ranker} is not trained by gradient, so it cannot learn a nuisance")
        return ranker

    def _logits(self, X: Any) -> NDArray[np.float64]:
        """Return the ranker's numbers, [row head]."""
        check_is_fitted(self)
        x = self._table(X, reset=False)
        device = torch.device(self.device)
        rows = self.columns_.rows(x, self.heads_, torch.float64, device)
        with torch.no_grad():
            blocks = torch.split(torch.arange(len(x), device=device), BLOCK)
            said = torch.cat([self.ranker_.score(rows.context(at)) for at in blocks])
        found: NDArray[np.float64] = said.double().cpu().numpy()
        return found

    def _weights(self, given: Any, x: NDArray[np.float64]) -> NDArray[np.float64]:
        weight: NDArray[np.float64] = _check_sample_weight(
            given, x, dtype=np.float64, ensure_non_negative=True
        )
        if not weight.any():
            raise BadInput("sample_weight is zero in every row, so there is nothing to learn from")
        return weight

    def _seed(self) -> Seed:
        if isinstance(self.random_state, np.random.RandomState):
            return Seed(int(self.random_state.randint(1 << 31)))
        if self.random_state is None:
            return Seed(int(np.random.SeedSequence().generate_state(1)[0]))
        return Seed(int(self.random_state))

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "ranker_" in state:
            ranker = state["ranker_"]
            weights = {k: v.cpu().numpy() for k, v in ranker.state_dict().items()}
            state["ranker_"] = {"spec": ranker.settings()["spec"], "weights": weights}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if isinstance(state.get("ranker_"), dict):
            kept = state["ranker_"]
            family: Any = part("ranker", self.ranker)
            ranker = family.build(self.columns_.sizes(self.heads_), kept["spec"]).double()
            ranker.load_state_dict({k: torch.tensor(v) for k, v in kept["weights"].items()})
            self.ranker_ = ranker.to(self.device).eval()


class RankerRegressor(RegressorMixin, RankerEstimator):  # type: ignore[misc]
    """A ranker's output as E[y | x]: least squares, for one output or several.

    y is standardised for training. It may be [row], [row 1] or [row output]; predictions have its shape.

    Args: those of `RankerEstimator`.

    Raises:
        BadInput: for X with NaN or infinity, ids that are not whole numbers, or settings that cannot be.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "RankerRegressor":
        """Fit to rows X [row column] and targets y."""
        x, y = self._table(X, y, multi_output=True, y_numeric=True)
        weight = self._weights(sample_weight, x)
        y = np.asarray(y, np.float64)
        self._shape = y.shape[1:]
        x, y, weight = (v[weight > 0] for v in (x, y.reshape(len(y), -1), weight))
        self.mean_ = np.average(y, axis=0, weights=weight)
        spread = np.sqrt(np.average((y - self.mean_) ** 2, axis=0, weights=weight))
        self.spread_ = np.where(spread > 0, spread, 1.0)
        self._train(x, (y - self.mean_) / self.spread_, weight, y.shape[1], _squares)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return E[y | x] of each row."""
        value = self._logits(X) * self.spread_ + self.mean_
        return value.reshape(len(value), *self._shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class RankerClassifier(ClassifierMixin, RankerEstimator):  # type: ignore[misc]
    """A ranker's logits as P(class | x): two classes by a sigmoid, more by a softmax.

    With more than two classes each (item, class) is a candidate, and the classes' logits are its scores.

    Args: those of `RankerEstimator`.

    Raises:
        BadInput: for one class alone, X with NaN or infinity, ids that are not whole numbers, or settings
            that cannot be.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "RankerClassifier":
        """Fit to rows X [row column] and labels y [row]."""
        x, y = self._table(X, y)
        check_classification_targets(y)
        weight = self._weights(sample_weight, x)
        x, y, weight = (v[weight > 0] for v in (x, y, weight))
        self.classes_, label = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise BadInput(f"y has one class, {self.classes_[0]}, in all {len(y)} rows of weight above 0")
        if len(self.classes_) > 2:
            target = np.eye(len(self.classes_))[label]
            self._train(x, target, weight, len(self.classes_), _softmax)
            return self
        rate = float(np.average(label, weights=weight))
        self._train(x, label[:, None].astype(float), weight, 1, _sigmoid, float(np.log(rate / (1 - rate))))
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return logits: of the second of two classes [row], or of each class [row class]."""
        logits = self._logits(X)
        return logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class, [row class]."""
        logits = self._logits(X)
        if len(self.classes_) == 2:
            logits = np.concatenate([np.zeros_like(logits), logits], 1)
        return _shares(logits)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the likeliest class of each row."""
        chance = self.predict_proba(X)
        likeliest: NDArray[Any] = self.classes_[chance.argmax(1)]
        return likeliest


def _squares(said: Float[Tensor, "row head"], target: Float[Tensor, "row head"]) -> Float[Tensor, " row"]:
    return (said - target).square().mean(1)


def _sigmoid(said: Float[Tensor, "row 1"], target: Float[Tensor, "row 1"]) -> Float[Tensor, " row"]:
    return (functional.softplus(said) - target * said)[:, 0]


def _softmax(said: Float[Tensor, "row head"], target: Float[Tensor, "row head"]) -> Float[Tensor, " row"]:
    return -(target * said.log_softmax(1)).sum(1)


def _shares(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weight = np.exp(logits - logits.max(1, keepdims=True))
    shares: NDArray[np.float64] = weight / weight.sum(1, keepdims=True)
    return shares


def _seen(rows: Rows, at: Int[Tensor, " row"], target: Tensor, weight: Tensor) -> Interactions:
    """Return the rows as a ranker's `prepare` wants them: flat, by user."""
    at = at[rows.user[at].argsort(stable=True)]
    context = rows.context(at)
    return Interactions(
        user=context.user.repeat_interleave(rows.heads),
        item=context.candidates.reshape(-1),
        target=target[at].reshape(-1),
        weight=weight[at].repeat_interleave(rows.heads),
    )
