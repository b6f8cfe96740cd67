"""What deep uplift learners share: settings, training, predictions and the average effect."""

from collections.abc import Mapping
from inspect import signature
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.uplift._influence import average, scores
from causal.uplift._net import Batch, Fitted, Net, Shape
from causal.uplift._outcomes import chosen
from causal.uplift._rows import counted, dealt, every_arm, held_out
from causal.uplift.contract import Array, Average, Trial, UpliftLearner
from simlab.adapters._columns import Columns
from simlab.adapters._descent import Descent, descend
from simlab.adapters.nuisance import RankerClassifier
from simlab.devices import find_device
from simlab.errors import BadInput
from simlab.parts import part
from simlab.rankers.contract import Interactions, Ranker
from simlab.seeds import Seed


class DeepLearner(UpliftLearner):
    """A ranker's body with heads; a learner says which heads, and what the loss is.

    Features are standardised, and so are outcomes that are numbers; 0 or 1 have logits, counts a log link.
    AdamW on shuffled batches in float32, with averaged weights; early stopping on held-out users, the best
    weights are kept (`simlab/adapters/_descent.py`). Predictions and estimates are float64. Rows of weight 0
    are left out. The same `random_state` gives the same bits on the same machine.

    `ate()` is the mean of augmented inverse-weighted scores from the learner's own means, and the known
    propensity or an estimated one; the standard error is theirs, clustered by user. With `folds` each row's
    nuisances come from networks that have not seen its user; without, they are in-sample, and the interval
    may be too short.

    Args:
        ranker: name of any family that is trained by gradient; its `encode` is the body.
        spec: settings of the family; `past` is 0 where the family allows it, as there is no history.
        outcome: auto, number, binary or count; auto takes 0 and 1 for binary, all else for numbers.
        shared: widths of the layers between the body and the heads.
        heads: widths of the layers of each head.
        category_columns: names or indices of features that are categories.
        epochs: passes over the rows at most.
        batch_size: rows per step; None for a thirty-second of them, between 64 and 4,096.
        learning_rate: of AdamW.
        weight_decay: of AdamW, decoupled.
        validation: share of the users held out for early stopping, from 40 users on.
        patience: epochs without a better held-out loss before training stops.
        members: networks with seeds of their own, whose answers are averaged.
        folds: refits for `ate()`; below 2 for none.
        clip: the least estimated chance of an arm; known chances are taken as they are.
        device: where to train and predict.
        random_state: a whole number, the seed of everything random.
        verbose: show a progress bar.

    Raises:
        BadInput: from `fit`, naming the setting and its value, or the row of an outcome that cannot be.
    """

    balanced: ClassVar[bool] = False
    """Whether all arms count alike in training, however many rows they have."""

    def __init__(
        self,
        ranker: Any = "mlp",
        *,
        spec: Any = None,
        outcome: Any = "auto",
        shared: Any = (64,),
        heads: Any = (32,),
        category_columns: Any = (),
        epochs: Any = 50,
        batch_size: Any = None,
        learning_rate: Any = 0.003,
        weight_decay: Any = 0.1,
        validation: Any = 0.1,
        patience: Any = 10,
        members: Any = 1,
        folds: Any = 0,
        clip: Any = 0.01,
        device: Any = "cpu",
        random_state: Any = 0,
        verbose: Any = False,
    ) -> None:
        self.ranker = ranker
        self.spec = spec
        self.outcome = outcome
        self.shared = shared
        self.heads = heads
        self.category_columns = category_columns
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation = validation
        self.patience = patience
        self.members = members
        self.folds = folds
        self.clip = clip
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def _get_param_names(cls) -> list[str]:
        """Return the arguments of this class and those that a learner's own `__init__` adds."""
        inits = (c.__dict__["__init__"] for c in cls.__mro__ if "__init__" in c.__dict__ and c is not object)
        own = (p for f in inits for p in signature(f).parameters.values() if p.kind is p.KEYWORD_ONLY)
        return sorted({"ranker", *(p.name for p in own)})

    def _extra_heads(self, arms: int) -> Mapping[str, Shape]:
        """Return the shapes of heads besides the outcome's."""
        return {}

    def _loss(self, net: Net, phi: Float[Tensor, "row dim"], batch: Batch) -> Float[Tensor, " row"]:
        """Return each row's loss: that of the outcome under its own arm."""
        return batch.kind.loss(batch.own(net.heads["outcome"](phi)), batch.y)

    def _penalty(self, net: Net, phi: Float[Tensor, "row dim"], batch: Batch) -> Float[Tensor, ""]:
        """Return what a batch adds to the mean loss."""
        return torch.zeros(())

    def _fit(self, trial: Trial) -> None:
        trial = counted(trial)
        self._check(trial)
        self.fitted_nets_ = self._train(trial, Seed(int(self.random_state)).split("all"))
        self._weight, self._user = trial.weight, trial.user
        self._scores, self._how = self._estimates(trial)

    def _effect(self, x: Float[Array, "round feat"]) -> Float[Array, "round treated"]:
        mean = self.fitted_nets_.mean_of(x)
        moved: Float[Array, "round treated"] = mean[:, 1:] - mean[:, :1]
        return moved

    def _ate(self) -> Average:
        return average(self._scores, self._weight, self._user, self.arms_, self._how)

    def _estimates(self, trial: Trial) -> tuple[Float[Array, "round treated"], str]:
        """Return each row's scores, and in words how they were made."""
        mean, chance, how = self._nuisances(trial)
        return scores(trial.y, trial.arm, mean, chance), f"augmented inverse weighting, {how}"

    def _nuisances(self, trial: Trial) -> tuple[Float[Array, "round arm"], Float[Array, "round arm"], str]:
        """Return the mean under each arm and the chance of each arm, of each row, and how."""
        known = trial.propensity
        how = "known propensity" if known is not None else "estimated propensity"
        if self.folds < 2:
            fitted, seed = self.fitted_nets_, Seed(int(self.random_state)).split("all")
            chance = self._chance(fitted, trial, trial.x, seed) if known is None else known
            return fitted.mean_of(trial.x), chance, f"{how}, fitted in-sample"
        mean, chance = (np.empty((len(trial), len(trial.arms))) for _ in range(2))
        fold = dealt(trial, self.folds, Seed(int(self.random_state)).split("folds"))
        for k in range(self.folds):
            here, there = trial.rows(fold == k), trial.rows(fold != k)
            every_arm(there, f"without fold {k} of {self.folds}")
            seed = Seed(int(self.random_state)).split(f"fold {k}")
            fitted = self._train(there, seed)
            mean[fold == k] = fitted.mean_of(here.x)
            chance[fold == k] = (
                self._chance(fitted, there, here.x, seed) if known is None else here.propensity
            )
        return mean, chance, f"{how}, {self.folds} folds"

    def _chance(
        self, fitted: Fitted, trial: Trial, x: Float[Array, "round feat"], seed: Seed
    ) -> Float[Array, "round arm"]:
        """Return the estimated chance of each arm: by a head if there is one, else by a ranker of its own."""
        if "propensity" in fitted.nets[0].heads:
            found = fitted.chance_of(x)
        else:
            how = {
                k: getattr(self, k) for k in ("spec", "category_columns", "epochs", "validation", "patience")
            }
            size = self._batch_size(len(trial))
            luck = seed.split("propensity").value % (1 << 31)
            model = RankerClassifier(
                self.ranker, **how, batch_size=size, device=self.device, random_state=luck
            ).fit(trial.x, trial.arm, sample_weight=trial.weight)
            found = model.predict_proba(x)
        found = np.maximum(found, self.clip)
        shares: Float[Array, "round arm"] = found / found.sum(1, keepdims=True)
        return shares

    def _train(self, trial: Trial, seed: Seed) -> Fitted:
        """Train the networks."""
        device, many = find_device(self.device), len(trial.arms)
        kind = chosen(self.outcome, trial.y)
        weight = np.ones(len(trial)) if trial.weight is None else trial.weight
        columns = Columns.of(trial.x, weight, list(trial.names), None, None, self.category_columns)
        mean, spread = 0.0, 1.0
        if kind.name == "number":
            mean = float(np.average(trial.y, weights=weight))
            spread = float(np.sqrt(np.average((trial.y - mean) ** 2, weights=weight))) or 1.0
        level = np.bincount(trial.arm, weight * (trial.y - mean) / spread) / np.bincount(trial.arm, weight)
        if self.balanced:
            share = np.bincount(trial.arm, weight, many) / weight.sum()
            weight = weight / (many * share[trial.arm])

        def here(v: Any) -> Tensor:
            return torch.from_numpy(np.asarray(v)).to(device, torch.float32)

        rows = columns.rows(trial.x, many, torch.float32, device)
        arm, y, mass = torch.from_numpy(trial.arm).to(device), here((trial.y - mean) / spread), here(weight)
        chance = None if trial.propensity is None else here(trial.propensity)
        names = ("epochs", "learning_rate", "weight_decay", "validation", "patience", "verbose")
        how = Descent(
            batch_size=self._batch_size(len(trial)),
            min_steps=1,
            **{name: getattr(self, name) for name in names},
        )
        nets, held_losses, epochs = [], [], []
        for member in range(self.members):
            own = seed.split(f"member {member}")
            train, held = held_out(trial, how.validation, own.split("held out"))
            net = self._build(columns, many, own.split("weights")).to(device)
            aim = y[train.to(device)]
            seen = torch.zeros(len(train), dtype=torch.long, device=device)
            net.body.prepare(Interactions(seen, seen, aim, mass[train.to(device)]))
            net.start_at(kind.link(here(level)))

            def each(at: Int[Tensor, " row"], net: Net = net) -> Float[Tensor, " row"]:
                some = None if chance is None else chance.index_select(0, at)
                picked = [v.index_select(0, at) for v in (arm, y, mass)]
                batch = Batch(picked[0], picked[1], picked[2], some, kind)
                phi = net.encode(rows.context(at))
                if net.training:
                    net.extra = self._penalty(net, phi, batch)
                return self._loss(net, phi, batch)

            done = descend(net, each, mass, train, held, how, own)
            net.extra = torch.zeros(())
            nets.append(net.double())
            held_losses.append(done.held)
            epochs.append(len(done.train))
        return Fitted(tuple(nets), columns, many, kind, mean, spread, tuple(held_losses), tuple(epochs))

    def _build(self, columns: Columns, arms: int, seed: Seed) -> Net:
        """Return an untrained network.

        Raises:
            BadInput: for a family that is not there, or that is not trained by gradient.
        """
        family: Any = part("ranker", self.ranker)
        spec, sizes = dict(self.spec or {}), columns.sizes(arms)
        try:
            bare = {"past": 0} if "past" in family.Spec.__dataclass_fields__ else {}
            body = family.build(sizes, {**bare, **spec}, None, seed)
        except BadInput:  # an autoencoder, say, wants a history, even if it is empty
            body = family.build(sizes, spec, None, seed)
        assert isinstance(body, Ranker)
        if not body.trainable:
            raise BadInput(f"ranker {self.ranker} is not trained by gradient, so it is no body of a learner")
        heads = {"outcome": (arms, tuple(self.heads)), **self._extra_heads(arms)}
        with torch.random.fork_rng(devices=[]):  # modules draw first weights from the global generator
            torch.default_generator.manual_seed(seed.split("heads").value & ((1 << 63) - 1))
            return Net(body, tuple(self.shared), heads)

    def _batch_size(self, rows: int) -> int:
        return min(max(rows // 32, 64), 4096) if self.batch_size is None else int(self.batch_size)

    def _check(self, trial: Trial) -> None:
        """Refuse settings that cannot be."""
        for name in ("shared", "heads"):
            if not isinstance(getattr(self, name), (tuple, list)) or not all(
                w >= 1 for w in getattr(self, name)
            ):
                raise BadInput(f"{name} is a tuple of widths of at least 1, not {getattr(self, name)!r}")
        if not self.members >= 1:
            raise BadInput(f"members is at least 1, not {self.members}")
        if not isinstance(self.random_state, Integral):
            raise BadInput(f"random_state is a whole number, not {self.random_state!r}")
        if not 0 < self.clip < 1 / len(trial.arms):
            raise BadInput(f"clip is above 0 and below one over the number of arms, not {self.clip}")
        if trial.user is not None and 2 <= (users := len(np.unique(trial.user))) < self.folds:
            raise BadInput(f"folds is {self.folds}, but there are {users} users")

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "fitted_nets_" in state:  # some bodies keep tensors of their last forward, which no pickle takes
            fitted = state["fitted_nets_"]
            values = {k: v for k, v in vars(fitted).items() if k not in ("nets", "kind")}
            nets = [{k: v.cpu().numpy() for k, v in net.state_dict().items()} for net in fitted.nets]
            state["fitted_nets_"] = {**values, "nets": nets, "kind": fitted.kind.name}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        kept = state.get("fitted_nets_")
        if isinstance(kept, dict):
            nets = []
            for weights in kept["nets"]:
                net = self._build(kept["columns"], kept["arms"], Seed(0)).double()
                net.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
                nets.append(net.to(self.device).eval())
            kind = chosen(kept["kind"], np.zeros(0))
            self.fitted_nets_ = Fitted(**{**kept, "nets": tuple(nets), "kind": kind})
