"""Checkpoints: everything that a paused training run needs to end with the same bits."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers.contract import Ranker
from simlab.seeds import Seed
from simlab.training.settings import FitSettings
from simlab.training.store import read_tensors, write_tensors


@dataclass
class Progress:
    """How far training is, and the best weights so far."""

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    higher: bool = False
    """Whether a higher validation is better."""

    def add(self, train: float, validation: float | None, weights: dict[str, Tensor]) -> None:
        """Note the losses of an epoch; keep its weights if they are the best, or if nothing judges."""
        self.train.append(train)
        if validation is not None:
            self.validation.append(validation)
            if self.best_epoch:
                gain = self.validation[self.best_epoch - 1] - validation
                if not (-gain if self.higher else gain) > 0:
                    return
        self.best_epoch, self.best = len(self.train), weights

    def stopped(self, patience: int) -> bool:
        """Tell whether the validation has not been better for `patience` epochs."""
        return bool(self.validation) and len(self.validation) - self.best_epoch >= patience

    def save(self, path: Path, fingerprint: str, weights: dict[str, Tensor], optimizer: Optimizer) -> None:
        """Write one file: weights, best weights and the optimiser's state, with the facts in its header.

        The batches and negatives of an epoch hang from the seed and the epoch's number alone, so no
        generator has a state to be kept.
        """
        tensors = {f"now.{k}": v for k, v in weights.items()} | {f"best.{k}": v for k, v in self.best.items()}
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
        facts: dict[str, Any] = {
            "fingerprint": fingerprint,
            "train": self.train,
            "validation": self.validation,
            "best_epoch": self.best_epoch,
        }
        write_tensors(path, tensors, facts)

    @classmethod
    def load(
        cls, path: Path, fingerprint: str, optimizer: Optimizer, higher: bool = False
    ) -> tuple["Progress", dict[str, Tensor]]:
        """Read a checkpoint: return the progress and the weights, and give the optimiser its state.

        Raises:
            BadInput: if the file is damaged, or from another ranker, log, seed or setting.
        """
        tensors, facts = read_tensors(path)
        if facts.get("fingerprint") != fingerprint:
            raise BadInput(f"checkpoint {path} is from another ranker, log, seed or setting: remove it")
        now: dict[str, Tensor] = {}
        best: dict[str, Tensor] = {}
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, rest = key.partition(".")
            if kind == "optimizer":
                number, _, name = rest.partition(".")
                state.setdefault(int(number), {})[name] = value
            else:
                (now if kind == "now" else best)[rest] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return cls(facts["train"], facts["validation"], facts["best_epoch"], best, higher), now


def fingerprint(
    ranker: Ranker,
    log: Log,
    per_round: Sequence[Tensor | None],
    outcomes: Mapping[str, Tensor] | None,
    settings: FitSettings,
    seed: Seed,
) -> str:
    """Return a digest of everything that a training run depends on, but for how long it may go on."""
    plain = {k: v for k, v in asdict(settings).items() if k not in ("epochs", "patience", "device")}
    known = [plain, ranker.settings(), seed.value, sorted(outcomes or {})]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    columns = (
        log.user,
        log.session,
        log.step,
        log.slate,
        log.click,
        log.position,
        log.features,
        log.categories,
    )
    for value in (*columns, *per_round, *(v for _, v in sorted((outcomes or {}).items()))):
        if value is None:
            digest.update(b"none")
        else:
            digest.update(f"{list(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
