"""How a ranker is fitted, and what came of it."""

from dataclasses import dataclass

from simlab.errors import BadInput, nearest
from simlab.training.losses import LOSSES


@dataclass(frozen=True)
class FitSettings:
    """How a ranker is fitted.

    Attributes:
        epochs: passes over the data at most.
        batch_size: examples per step at most; slates and negatives are not split.
        min_steps: steps of an epoch at least, as long as each still has 64 examples: a few thousand rows in
            one batch would hardly move. 1 leaves `batch_size` alone.
        learning_rate: of AdamW.
        weight_decay: of AdamW, decoupled (Loshchilov and Hutter 2019).
        loss: bce, bpr or mse.
        negatives: items drawn for each click, 0 to learn from the logged non-clicks instead.
        validation: share held out for early stopping; 0 trains on all of it for all epochs.
        split: hold out whole users, who are then scored as new users, or single rounds. What memorises user
            ids needs rounds; what must serve new users needs users. One user alone is split by rounds.
        patience: epochs without a better validation loss before training stops.
        past: H, how many earlier items are in each context; the ranker's own wish if None.
        position_bias: also learn an additive logit per slot, which soaks up position bias in training and
            is no part of the ranker's score (Zhao et al. 2019, "Recommending what video to watch next",
            RecSys).
        device: where to train; where the ranker is if None.

    Raises:
        BadInput: naming the setting and its value.
    """

    epochs: int = 20
    batch_size: int = 4096
    min_steps: int = 64
    learning_rate: float = 0.01
    weight_decay: float = 0.01
    loss: str = "bce"
    negatives: int = 0
    validation: float = 0.1
    split: str = "user"
    patience: int = 3
    past: int | None = None
    position_bias: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise BadInput(f"there is no loss named {self.loss}{nearest(self.loss, LOSSES)}")
        if self.split not in ("user", "round"):
            raise BadInput(
                f"split is user or round, not {self.split}{nearest(self.split, ('user', 'round'))}"
            )
        for name in ("epochs", "batch_size", "min_steps", "patience"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is at least 1, not {getattr(self, name)}")
        for name in ("negatives", "weight_decay", "past"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise BadInput(f"{name} is at least 0, not {value}")
        if not self.learning_rate > 0:
            raise BadInput(f"learning_rate is above 0, not {self.learning_rate}")
        if not 0 <= self.validation < 1:
            raise BadInput(f"validation is a share in [0, 1), not {self.validation}")
        if self.position_bias and self.negatives:
            raise BadInput("position_bias needs the logged non-clicks: a drawn negative was at no slot")


@dataclass(frozen=True)
class FitResult:
    """What training did.

    Attributes:
        train: loss of each epoch, measured while training.
        validation: loss of the held-out part after each epoch; empty if nothing was held out.
        best_epoch: the epoch, from 1, whose weights the ranker has; 0 if nothing was trained.
        seconds: of training in this call.
        rows_per_second: examples per second of this call, 0 if it had nothing to train.
        slot_logits: the learned position bias, slot 0 = 0; empty if it was not asked for.
    """

    train: tuple[float, ...]
    validation: tuple[float, ...]
    best_epoch: int
    seconds: float
    rows_per_second: float
    slot_logits: tuple[float, ...] = ()
