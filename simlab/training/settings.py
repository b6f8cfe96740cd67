"""How a ranker is fitted, and what came of it."""

from dataclasses import dataclass, fields
from typing import Any

from simlab.errors import BadInput, nearest
from simlab.rankers.contract import Ranker
from simlab.training.losses import LOSSES

UNITS = ("round", "token", "user")
SAMPLERS = ("uniform", "popularity", "in-batch", "hard")
DRAWN = ("gbce", "infonce")
"""Losses that have no meaning without drawn negatives."""
ROWS = ("listwise",)
"""Losses that have no meaning but within a logged slate."""


@dataclass(frozen=True)
class FitSettings:
    """How a ranker is fitted.

    Attributes:
        epochs: passes over the data at most.
        batch_size: examples per step at most, in each process; slates and negatives are not split. For
            `unit="token"` an example is a target, for `unit="user"` a user.
        min_steps: steps of an epoch at least, as long as each still has 64 examples: a few thousand rows in
            one batch would hardly move. 1 leaves `batch_size` alone.
        learning_rate: of AdamW.
        weight_decay: of AdamW, decoupled (Loshchilov and Hutter 2019).
        clip: largest norm of the gradient; None does not clip.
        unit: what a row is. "round": a logged slate, or a click beside drawn negatives. "token": a user's
            clicks in order, a target for each (sequence families). "user": all of a user's clicks, which are
            input and target at once (autoencoders).
        loss: bce, mse, bpr, softmax, listwise, gbce or infonce. softmax without negatives is over the whole
            catalogue; listwise is over the slate.
        negatives: items drawn for each click, 0 to learn from the logged non-clicks instead. For
            `unit="token"` they are shared by a batch.
        sampler: how negatives are drawn. "uniform": evenly from what the user did not click. "popularity": by
            clicks to the power of .75 (Mikolov et al. 2013). "in-batch": the other rows' clicks, whatever
            `negatives` says. "hard": the best scored `negatives` of four times as many (Zhang et al. 2013).
        log_q: correct the softmax's drawn logits for how they were drawn.
        temperature: logits are divided by it in softmax and infonce.
        calibration: t of gbce.
        masked: share of the tokens that a family with `cloze` fills in.
        task_weights: "equal", or "uncertainty": learned (Kendall, Gal and Cipolla 2018, equation 10).
        validation: share held out for early stopping; 0 trains on all of it for all epochs.
        split: hold out whole users, who are then scored as new users, or single rounds. What memorises user
            ids needs rounds; what must serve new users needs users. One user alone is split by rounds.
        judge: what early stopping looks at: the held-out "loss", or "ndcg", the NDCG@10 of each held-out
            click over the whole catalogue without what the user had clicked before.
        patience: epochs without a better validation before training stops.
        past: H, how many earlier items are in each context; the ranker's own wish if None.
        position_bias: also learn an additive logit per slot, which soaks up position bias in training and
            is no part of the ranker's score (Zhao et al. 2019, "Recommending what video to watch next",
            RecSys).
        bf16: run the forward pass in bfloat16 where that is safe (autocast); weights stay float32.
        compile: compile the step with `torch.compile`.
        device: where to train; where the ranker is if None.

    Raises:
        BadInput: naming the setting and its value.
    """

    epochs: int = 20
    batch_size: int = 4096
    min_steps: int = 64
    learning_rate: float = 0.01
    weight_decay: float = 0.01
    clip: float | None = None
    unit: str = "round"
    loss: str = "bce"
    negatives: int = 0
    sampler: str = "uniform"
    log_q: bool = True
    temperature: float = 1.0
    calibration: float = 0.75
    masked: float = 0.2
    task_weights: str = "equal"
    validation: float = 0.1
    split: str = "user"
    judge: str = "loss"
    patience: int = 3
    past: int | None = None
    position_bias: bool = False
    bf16: bool = False
    compile: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise BadInput(f"there is no loss named {self.loss}{nearest(self.loss, LOSSES)}")
        for name, words in (
            ("unit", UNITS),
            ("sampler", SAMPLERS),
            ("split", ("user", "round")),
            ("judge", ("loss", "ndcg")),
            ("task_weights", ("equal", "uncertainty")),
        ):
            value = getattr(self, name)
            if value not in words:
                known = " or ".join((", ".join(words[:-1]), words[-1]))
                raise BadInput(f"{name} is {known}, not {value}{nearest(value, words)}")
        for name in ("epochs", "batch_size", "min_steps", "patience"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is at least 1, not {getattr(self, name)}")
        for name in ("negatives", "weight_decay", "past"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise BadInput(f"{name} is at least 0, not {value}")
        for name in ("learning_rate", "temperature", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadInput(f"{name} is above 0, not {value}")
        if not 0 <= self.validation < 1:
            raise BadInput(f"validation is a share in [0, 1), not {self.validation}")
        if not 0 < self.masked < 1:
            raise BadInput(f"masked is a share in (0, 1), not {self.masked}")
        if not 0 <= self.calibration <= 1:
            raise BadInput(f"calibration is in [0, 1], not {self.calibration}")
        self._check_together()

    def _check_together(self) -> None:
        """Refuse settings that contradict each other."""
        drawn = self.negatives > 0 or self.sampler == "in-batch"
        if self.position_bias and (drawn or self.unit != "round"):
            raise BadInput("position_bias needs the logged non-clicks: a drawn negative was at no slot")
        if self.loss in DRAWN and not drawn:
            raise BadInput(f"loss {self.loss} needs drawn negatives: set negatives above 0")
        if self.loss in ROWS and (drawn or self.unit != "round"):
            raise BadInput(f"loss {self.loss} is over a logged slate: it takes no negatives and unit round")
        if self.sampler == "in-batch" and self.loss not in ("softmax", "infonce"):
            raise BadInput(f"in-batch negatives go with softmax or infonce, not with {self.loss}")
        if self.sampler == "in-batch" and self.unit != "round":
            raise BadInput(f"in-batch negatives go with unit round, not {self.unit}")
        if self.unit == "token" and self.loss in ("mse",):
            raise BadInput("a target per token is a click: unit token does not go with loss mse")
        if self.unit == "token" and self.loss in ("bce", "bpr") and not drawn:
            raise BadInput(f"unit token with loss {self.loss} needs drawn negatives: set negatives above 0")
        if self.unit == "user" and (drawn or self.loss not in ("softmax", "bce", "mse")):
            raise BadInput("unit user takes softmax, bce or mse over the whole catalogue, without negatives")

    @classmethod
    def of(cls, ranker: Ranker | type[Ranker], **changes: Any) -> "FitSettings":
        """Return the settings that suit a family, with changes.

        Raises:
            BadInput: for a setting that there is not, with the nearest one.
        """
        known = [f.name for f in fields(cls)]
        for key in changes:
            if key not in known:
                raise BadInput(f"training has no setting {key}{nearest(key, known)}")
        return cls(**{**ranker.recipe, **changes})


@dataclass(frozen=True)
class FitResult:
    """What training did.

    Attributes:
        train: loss of each epoch, measured while training.
        validation: of the held-out part after each epoch, the loss or the NDCG@10; empty if nothing was held.
        best_epoch: the epoch, from 1, whose weights the ranker has; 0 if nothing was trained.
        seconds: of training in this call.
        rows_per_second: examples per second of this call, 0 if it had nothing to train.
        slot_logits: the learned position bias, slot 0 = 0; empty if it was not asked for.
        task_logs: the learned log variance of each task; empty if it was not asked for.
    """

    train: tuple[float, ...]
    validation: tuple[float, ...]
    best_epoch: int
    seconds: float
    rows_per_second: float
    slot_logits: tuple[float, ...] = ()
    task_logs: tuple[float, ...] = ()
