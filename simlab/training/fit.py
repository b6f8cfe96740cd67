"""Fit any ranker to a log: batches, early stopping, checkpoints."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers.contract import Ranker
from simlab.seeds import Seed
from simlab.training.checkpoint import Progress, fingerprint
from simlab.training.examples import Examples, Source
from simlab.training.losses import LOSSES
from simlab.training.settings import FitResult, FitSettings

__all__ = ["FitResult", "FitSettings", "fit"]


def fit(
    ranker: Ranker,
    log: Log,
    *,
    seed: Seed,
    weight: Float[Tensor, "round slot"] | None = None,
    click_weight: Float[Tensor, "round slot"] | None = None,
    settings: FitSettings = FitSettings(),  # noqa: B008 (frozen)
    checkpoint: Path | None = None,
    progress: bool = False,
) -> FitResult:
    """Train a ranker on the clicks of a log and leave it in eval mode with its best weights.

    Every (round, slot) is an example; with `settings.negatives`, every click and some drawn non-clicks are.
    Ids and histories stay on the device and a batch is a slice of them; keep [round past] in mind for memory.
    The same seed, log and settings give the same bits on one kind of device and number of threads.

    Two weights, for two purposes:
        - `weight` multiplies an example's loss, click or not: for importance weights and reweighted samples.
        - `click_weight` multiplies the click itself: 1 / P(examined) turns a click into an unbiased estimate
          of relevance, and with it the loss into the one without position bias (Joachims, Swaminathan and
          Schnabel 2017; Saito et al. 2020). Weighting non-clicks by 1 / P(examined) too would not: within a
          slot it changes nothing, and an item that is always shown low would stay low.

    Args:
        ranker: is changed in place. A family that counts adds this log to its counts.
        log: with clicks.
        seed: of the split, the order, the negatives and any dropout.
        weight: how much each example counts.
        click_weight: what each click is worth.
        settings: how.
        checkpoint: a file that is written whole after every epoch. If it is there, training goes on from it
            and ends with the same bits as without the pause; `epochs` and `patience` may have changed.
        progress: show a progress bar.

    Raises:
        BadInput: for a log without clicks or of other sizes than the ranker's, for weights that cannot be,
            for a checkpoint of another run, or if the loss stops being finite.
    """
    _check_sizes(ranker, log)
    device = torch.device(settings.device) if settings.device is not None else _device(ranker)
    ranker.to(device)
    past = ranker.past if settings.past is None else settings.past
    source = Source(
        log.to(device),
        past,
        pairwise=settings.loss == "bpr",
        weight=None if weight is None else weight.to(device),
        click_weight=None if click_weight is None else click_weight.to(device),
    )
    if not ranker.trainable:
        return _count(ranker, source)
    loop = _Loop(ranker, source, settings, seed)
    if checkpoint is not None:
        loop.checkpoint = checkpoint
        loop.fingerprint = fingerprint(ranker, log, weight, click_weight, settings, seed)
        if checkpoint.exists():
            loop.resume()
    # Dropout and the like draw from the global generator: lend it our seed and give it back.
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), _bar(progress, settings.epochs) as tick:
        return loop.run(tick)


class _Loop:
    """The state of one training run."""

    checkpoint: Path | None = None
    fingerprint: str = ""

    def __init__(self, ranker: Ranker, source: Source, settings: FitSettings, seed: Seed) -> None:
        self.ranker, self.source, self.settings, self.seed = ranker, source, settings, seed
        self.loss = LOSSES[settings.loss]
        train, held, by_user = _split(source.log, settings, seed.split("validation"))
        self.train_rounds, self.held_rounds = train, held
        # A held-out user has no trained vector, and is judged as the new user that every policy meets.
        self.held_user = (
            torch.full_like(source.log.user, ranker.sizes.n_users) if by_user else source.log.user
        )
        self.negatives = source.negatives() if settings.negatives else None
        groups: list[dict[str, object]] = [{"params": list(ranker.parameters())}]
        self.slots: nn.Parameter | None = None
        if settings.position_bias:
            if source.slot is None:
                raise BadInput("position_bias needs slates or a column position: this log has one slot")
            free = int(source.slot.max())  # slot 0 is the origin: only differences can be told apart
            self.slots = nn.Parameter(torch.zeros(free, device=source.slot.device))
            groups.append({"params": [self.slots], "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.progress = Progress()

    def run(self, tick: Callable[[str, float], None]) -> FitResult:
        """Train until the epochs or the patience are used up."""
        settings, progress = self.settings, self.progress
        tick("resumed" if progress.train else "", float(len(progress.train)))
        held = self._examples(self.held_rounds, self.seed.split("held")) if len(self.held_rounds) else None
        begin, seen = time.perf_counter(), 0
        while len(progress.train) < settings.epochs and not progress.stopped(settings.patience):
            epoch = self.seed.split(f"epoch {len(progress.train)}")
            examples = self._examples(self.train_rounds, epoch.split("negatives"))
            if not progress.train and settings.loss == "bce":
                self._start(examples)
            loss = self._epoch(examples, epoch, tick)
            seen += examples.items.numel()
            if not torch.isfinite(torch.tensor(loss)):
                number = len(progress.train) + 1
                raise BadInput(f"the loss of epoch {number} is {loss}: try a smaller learning_rate")
            judged = None if held is None else self._judge(held)
            progress.add(loss, judged, self._weights())
            if self.checkpoint is not None:
                progress.save(self.checkpoint, self.fingerprint, self._weights(), self.optimizer)
            tick(f"loss {loss:.4f}" + ("" if judged is None else f", held out {judged:.4f}"), 0.0)
        seconds = time.perf_counter() - begin
        self._restore(progress.best)
        self.ranker.eval()
        slots = () if self.slots is None else (0.0, *self.slots.tolist())
        return FitResult(
            train=tuple(progress.train),
            validation=tuple(progress.validation),
            best_epoch=progress.best_epoch,
            seconds=seconds,
            rows_per_second=seen / seconds if seen else 0.0,
            slot_logits=slots,
        )

    def resume(self) -> None:
        """Go on from the checkpoint."""
        assert self.checkpoint is not None
        self.progress, weights = Progress.load(self.checkpoint, self.fingerprint, self.optimizer)
        self._restore(weights)

    def _examples(self, rounds: Int[Tensor, " round"], seed: Seed) -> Examples:
        if self.negatives is None:
            return self.source.logged(rounds)
        return self.source.sampled(rounds, self.negatives, self.settings.negatives, seed)

    def _logits(self, examples: Examples, user: Int[Tensor, " round"]) -> Float[Tensor, "row pick"]:
        logits = self.ranker.score(self.source.context(examples, user[examples.round]))
        if self.slots is not None and examples.slot is not None:
            logits = logits + torch.cat([self.slots.new_zeros(1), self.slots])[examples.slot]
        return logits

    @torch.no_grad()
    def _start(self, examples: Examples) -> None:
        """Start at the base rate: else an item that is rarely shown stays near a probability of one half."""
        weight = examples.weight.double()
        rate = float((weight * examples.target).sum() / weight.sum().clamp(min=1e-300))
        rate = min(max(rate, 1e-4), 1 - 1e-4)
        self.ranker.start(math.log(rate / (1 - rate)))

    def _epoch(self, examples: Examples, seed: Seed, tick: Callable[[str, float], None]) -> float:
        """Take one pass of gradient steps and return its mean loss."""
        self.ranker.train()
        torch.manual_seed(seed.split("dropout").value)
        device = examples.items.device
        order = torch.randperm(len(examples), generator=seed.split("order").torch()).to(device)
        total = torch.zeros(2, dtype=torch.float64, device=device)
        small = max(64, examples.items.numel() // self.settings.min_steps)
        size = min(self.settings.batch_size, small)
        for index in torch.split(order, max(1, size // examples.items.shape[1])):
            batch = examples.rows(index)
            above, below = self.loss(self._logits(batch, self.source.log.user), batch.target, batch.weight)
            self.optimizer.zero_grad()
            torch.autograd.backward(above / below.clamp(min=torch.finfo(below.dtype).tiny))
            self.optimizer.step()
            total += torch.stack([above.detach(), below])
            tick("", len(index) / len(examples))
        return float(total[0] / total[1].clamp(min=1e-300))

    @torch.no_grad()
    def _judge(self, held: Examples) -> float:
        """Return the mean loss of the held-out part."""
        self.ranker.eval()
        total = torch.zeros(2, dtype=torch.float64, device=held.items.device)
        every = torch.arange(len(held), device=held.items.device)
        for index in torch.split(every, max(1, 4 * self.settings.batch_size // held.items.shape[1])):
            batch = held.rows(index)
            total += torch.stack(self.loss(self._logits(batch, self.held_user), batch.target, batch.weight))
        return float(total[0] / total[1].clamp(min=1e-300))

    def _weights(self) -> dict[str, Tensor]:
        """Return a copy of everything that is trained."""
        weights = {f"ranker.{k}": v.detach().clone() for k, v in self.ranker.state_dict().items()}
        return weights if self.slots is None else weights | {"slots": self.slots.detach().clone()}

    def _restore(self, weights: dict[str, Tensor]) -> None:
        own = {k.removeprefix("ranker."): v for k, v in weights.items() if k.startswith("ranker.")}
        self.ranker.load_state_dict(own)
        if self.slots is not None:
            self.slots.data.copy_(weights["slots"])


def _split(
    log: Log, settings: FitSettings, seed: Seed
) -> tuple[Int[Tensor, " train"], Int[Tensor, " held"], bool]:
    """Return the rounds to train on, the rounds held out, and whether whole users were held out."""
    unit = torch.arange(len(log), device=log.user.device)
    users, group = torch.unique(log.user, return_inverse=True)
    by_user = settings.split == "user" and len(users) > 1
    if by_user:
        unit = group
    n = int(unit.max()) + 1
    held = min(max(round(settings.validation * n), 1), n - 1) if settings.validation > 0 else 0
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.randperm(n, generator=seed.torch())[:held]] = True
    out = chosen.to(unit.device)[unit]
    return (~out).nonzero().squeeze(1), out.nonzero().squeeze(1), by_user


def _count(ranker: Ranker, source: Source) -> FitResult:
    """Show all logged examples to a ranker that counts; nothing is held out, since nothing is tuned."""
    begin = time.perf_counter()
    seen = source.interactions(torch.arange(len(source.log), device=source.log.user.device))
    ranker.prepare(seen)
    ranker.eval()
    seconds = time.perf_counter() - begin
    return FitResult((), (), 0, seconds, len(seen) / seconds)


def _check_sizes(ranker: Ranker, log: Log) -> None:
    """Refuse a log of other sizes than the ranker's.

    Raises:
        BadInput: naming both sizes.
    """
    if log.n_items != ranker.sizes.n_items:
        raise BadInput(
            f"the log has {log.n_items} items, but the ranker was built for {ranker.sizes.n_items}"
        )
    width = 0 if log.features is None else log.features.shape[1]
    if width != ranker.sizes.n_features:
        raise BadInput(
            f"the log has {width} features, but the ranker was built for {ranker.sizes.n_features}"
        )


def _device(ranker: Ranker) -> torch.device:
    """Return where the ranker is."""
    for tensor in (*ranker.parameters(), *ranker.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextlib.contextmanager
def _bar(show: bool, epochs: int) -> Iterator[Callable[[str, float], None]]:
    """Yield a function (text, epochs done since) that moves a progress bar, if there is one to show."""
    if not show:
        yield lambda text, done: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=epochs)

        def tick(text: str, done: float) -> None:
            bar.update(task, advance=done, description=f"training: {text}" if text else None)

        yield tick
