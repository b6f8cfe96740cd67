"""Fit any ranker to a log: batches, early stopping, checkpoints, several processes."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers.contract import Ranker
from simlab.seeds import Seed
from simlab.splits import warn_if_restarted
from simlab.training import parallel
from simlab.training.checkpoint import Progress, fingerprint
from simlab.training.examples import Source
from simlab.training.judge import ranks
from simlab.training.settings import FitResult, FitSettings
from simlab.training.units import Rounds, Unit, unit_of
from simlab.training.watch import Watch, bar

__all__ = ["FitResult", "FitSettings", "fit"]


def fit(
    ranker: Ranker,
    log: Log,
    *,
    seed: Seed,
    weight: Float[Tensor, "round slot"] | None = None,
    click_weight: Float[Tensor, "round slot"] | None = None,
    outcomes: Mapping[str, Float[Tensor, "round slot"]] | None = None,
    held: Bool[Tensor, " round"] | None = None,
    settings: FitSettings | None = None,
    checkpoint: Path | None = None,
    watch: Path | None = None,
    progress: bool = False,
) -> FitResult:
    """Train a ranker on the clicks of a log and leave it in eval mode with its best weights.

    Every (round, slot) is an example; with `settings.negatives`, every click and some drawn non-clicks are;
    `settings.unit` says what else a row can be. Ids stay on the device and a batch is a slice of them.
    The same seed, log and settings give the same bits on one kind of device and number of threads.

    Two weights, for two purposes:
        - `weight` multiplies an example's loss, click or not: for importance weights and reweighted samples.
        - `click_weight` multiplies the click itself: 1 / P(examined) turns a click into an unbiased estimate
          of relevance, and with it the loss into the one without position bias (Joachims, Swaminathan and
          Schnabel 2017; Saito et al. 2020). Weighting non-clicks by 1 / P(examined) too would not: within a
          slot it changes nothing, and an item that is always shown low would stay low.

    Under `torchrun` every process calls `fit` with the same arguments: each takes its share of a batch that
    is as many times larger, and all end with the same weights. The first one writes the files.

    Args:
        ranker: is changed in place. A family that counts adds this log to its counts.
        log: with clicks. Its rows may be in any order: a user's are sorted by session and step, and rows of
            one step stay as they stand.
        seed: of the split, the order, the negatives and any dropout.
        weight: how much each example counts.
        click_weight: what each click is worth.
        outcomes: what else came back, by the name of a multi-task family's task; NaN where unknown.
        held: which rounds are held out for early stopping, instead of `settings.validation`. They are the
            history of later rounds, but neither trained on nor prepared from.
        settings: how; by default what suits the family.
        checkpoint: a file that is written whole after every epoch. If it is there, training goes on from it
            and ends with the same bits as without the pause; `epochs` and `patience` may have changed.
        watch: a folder for `progress.csv` and, where tensorboard is installed, its event files.
        progress: show a progress bar.

    Raises:
        BadInput: for a log without clicks or of other sizes than the ranker's, for weights that cannot be,
            for a checkpoint of another run, or if the loss stops being finite; then the ranker has the last
            good weights, and the sentence names the step, its rounds and the checkpoint.

    Warns:
        UserWarning: where the steps of a session start again from the first (`warn_if_restarted`).
    """
    settings = FitSettings.of(ranker) if settings is None else settings
    _check_sizes(ranker, log)
    warn_if_restarted(log)
    device = torch.device(settings.device) if settings.device is not None else _device(ranker)
    ranker.to(device)
    source = Source(
        log.to(device),
        ranker.past if settings.past is None else settings.past,
        pairwise=settings.loss == "bpr",
        weight=None if weight is None else weight.to(device),
        click_weight=None if click_weight is None else click_weight.to(device),
        outcomes={k: v.to(device) for k, v in (outcomes or {}).items()},
    )
    if not ranker.trainable:
        return _count(ranker, source, held)
    parallel.join(device)
    loop = _Loop(ranker, source, settings, seed, None if held is None else held.to(device))
    if checkpoint is not None:
        loop.checkpoint = checkpoint
        loop.fingerprint = fingerprint(ranker, log, [weight, click_weight, held], outcomes, settings, seed)
        if checkpoint.exists():
            loop.resume()
    first = parallel.world()[0] == 0
    loop.watch = Watch(watch) if watch is not None and first else None
    # Dropout and the like draw from the global generator: lend it our seed and give it back.
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), bar(progress and first, settings.epochs) as tick:
        try:
            return loop.run(tick)
        finally:
            if loop.watch is not None:
                loop.watch.close()


class _Step(nn.Module):
    """One step's loss, with everything that is trained: the ranker, the slots, the tasks' variances."""

    def __init__(self, ranker: Ranker, unit: Unit, settings: FitSettings, free_slots: int) -> None:
        super().__init__()
        self.ranker, self.unit, self.settings = ranker, unit, settings
        device = _device(ranker)
        self.slots = nn.Parameter(torch.zeros(free_slots, device=device)) if free_slots else None
        learned = settings.task_weights == "uncertainty" and len(ranker.tasks) > 1
        self.task_logs = nn.Parameter(torch.zeros(len(ranker.tasks), device=device)) if learned else None

    def forward(
        self, index: Int[Tensor, " row"], user: Int[Tensor, " round"]
    ) -> tuple[Float[Tensor, " task"], Float[Tensor, " task"], Float[Tensor, ""]]:
        """Return (Σ w ℓ, Σ w) of each task, and the ranker's penalty."""
        if isinstance(self.unit, Rounds):
            self.unit.slots = self.slots
        device = index.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.settings.bf16):
            above, below = self.unit.loss(self.ranker, index, user)
        return above, below, self.ranker.penalty()

    def mean(self, above: Float[Tensor, " task"], below: Float[Tensor, " task"]) -> Float[Tensor, ""]:
        """Return the tasks' mean losses, added up.

        With learned weights a task of log variance s counts exp(-s) ℓ + s / 2 (a value's loss is ½ exp(-s) ℓ,
        Kendall, Gal and Cipolla 2018, equation 10; a class's exp(-s) ℓ).
        """
        each = above / below.clamp(min=torch.finfo(below.dtype).tiny)
        if self.task_logs is None:
            return each.sum()
        kinds = getattr(self.ranker, "kinds", ("binary",) * len(each))
        half = torch.tensor([0.5 if k == "value" else 1.0 for k in kinds], device=each.device)
        return (half * (-self.task_logs).exp() * each + self.task_logs / 2).sum()


class _Loop:
    """The state of one training run."""

    checkpoint: Path | None = None
    fingerprint: str = ""
    watch: Watch | None = None

    def __init__(
        self,
        ranker: Ranker,
        source: Source,
        settings: FitSettings,
        seed: Seed,
        held: Bool[Tensor, " round"] | None,
    ) -> None:
        self.ranker, self.source, self.settings, self.seed = ranker, source, settings, seed
        if held is None:
            train, out, by_user = _split(source.log, settings, seed.split("validation"))
        else:
            train, out, by_user = (~held).nonzero().squeeze(1), held.nonzero().squeeze(1), False
            if len(train) == 0:
                raise BadInput(f"all {len(held)} rounds are held out, so there is nothing to learn from")
        self.train_rounds, self.held_rounds = train, out
        # A held-out user has no trained vector, and is judged as the new user that every policy meets.
        self.held_user = (
            torch.full_like(source.log.user, ranker.sizes.n_users) if by_user else source.log.user
        )
        ranker.prepare(source.interactions(train))
        self.unit, self.held_unit = (unit_of(ranker, source, settings, held=h) for h in (False, True))
        free = 0
        if settings.position_bias:
            if source.slot is None:
                raise BadInput("position_bias needs slates or a column position: this log has one slot")
            free = int(source.slot.max())  # slot 0 is the origin: only differences can be told apart
        self.step = _Step(ranker, self.unit, settings, free)
        self.device = _device(ranker)
        run = parallel.wrapped(self.step, self.device)
        self.call: Callable[..., tuple[Tensor, Tensor, Tensor]] = (
            torch.compile(run) if settings.compile else run
        )
        extra = [p for p in (self.step.slots, self.step.task_logs) if p is not None]
        groups: list[dict[str, object]] = [{"params": list(ranker.parameters())}]
        if extra:
            groups.append({"params": extra, "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.progress = Progress(higher=settings.judge == "ndcg")
        self.first = self._weights()

    def run(self, tick: Callable[[str, float], None]) -> FitResult:
        """Train until the epochs or the patience are used up."""
        settings, progress = self.settings, self.progress
        done = len(progress.train)
        tick("resumed" if done else "", float(done))
        if self.watch is not None:
            self.watch.resume(done)
        held = self._held()
        begin, seen = time.perf_counter(), 0
        while len(progress.train) < settings.epochs and not progress.stopped(settings.patience):
            start = time.perf_counter()
            epoch = self.seed.split(f"epoch {len(progress.train)}")
            rows = self.unit.lay(self.train_rounds, epoch.split("negatives"))
            if not progress.train and settings.loss == "bce" and isinstance(self.unit, Rounds):
                self._start(self.unit)
            loss = self._epoch(rows, epoch, tick)
            seen += rows * self.unit.examples
            judged = held() if held is not None else None
            progress.add(loss, judged, self._weights())
            if self.checkpoint is not None and parallel.world()[0] == 0:
                progress.save(self.checkpoint, self.fingerprint, self._weights(), self.optimizer)
            if self.watch is not None:
                seconds = time.perf_counter() - start
                self.watch.epoch(len(progress.train), loss, judged, seconds, rows * self.unit.examples)
            tick(f"loss {loss:.4f}" + ("" if judged is None else f", held out {judged:.4f}"), 0.0)
        parallel.wait()  # nobody reads a checkpoint that is not written yet
        seconds = time.perf_counter() - begin
        self._restore(progress.best)
        self.ranker.eval()
        slots, logs = self.step.slots, self.step.task_logs
        return FitResult(
            train=tuple(progress.train),
            validation=tuple(progress.validation),
            best_epoch=progress.best_epoch,
            seconds=seconds,
            rows_per_second=seen / seconds if seen else 0.0,
            slot_logits=() if slots is None else (0.0, *slots.tolist()),
            task_logs=() if logs is None else tuple(logs.tolist()),
        )

    def resume(self) -> None:
        """Go on from the checkpoint."""
        assert self.checkpoint is not None
        self.progress, weights = Progress.load(
            self.checkpoint, self.fingerprint, self.optimizer, self.progress.higher
        )
        self._restore(weights)

    @torch.no_grad()
    def _start(self, unit: Rounds) -> None:
        """Start at the base rate: else an item that is rarely shown stays near a probability of one half."""
        weight = unit.rows.weight.double()
        rate = float((weight * unit.rows.target).sum() / weight.sum().clamp(min=1e-300))
        rate = min(max(rate, 1e-4), 1 - 1e-4)
        self.ranker.start(math.log(rate / (1 - rate)))

    def _rows(self, count: int) -> int:
        """Return how many rows a batch has, over all processes."""
        each, total = self.unit.examples, count * self.unit.examples
        small = max(64, total // self.settings.min_steps)
        return max(1, min(self.settings.batch_size * parallel.world()[1], small) // each)

    def _epoch(self, count: int, seed: Seed, tick: Callable[[str, float], None]) -> float:
        """Take one pass of gradient steps and return its mean loss."""
        self.ranker.train()
        rank = parallel.world()[0]
        torch.manual_seed(seed.split("dropout" if rank == 0 else f"dropout {rank}").value)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        batches = self.unit.order(seed.split("order"), self._rows(count))
        tasks = max(1, len(self.ranker.tasks))
        total = torch.zeros(2, tasks, dtype=torch.float64, device=self.device)
        size = parallel.world()[1]
        # Which step was the first whose loss is no number; asked once an epoch, so that no step waits.
        bad = torch.full((), len(batches), device=self.device)
        for number, batch in enumerate(batches):
            index, counts = parallel.share(batch)
            above, below, penalty = self.call(index, self.source.log.user)
            if not counts:
                above, below = above * 0, below * 0
            whole = parallel.summed(below)
            loss = size * self.step.mean(above, whole) if size > 1 else self.step.mean(above, below)
            loss = loss + penalty
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            if self.settings.clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip)
            self.optimizer.step()
            bad = torch.where(loss.detach().isfinite(), bad, bad.clamp(max=number))
            total += torch.stack([above.detach(), below.detach()])
            tick("", 1 / len(batches))
        total = parallel.summed(total)
        first = int(parallel.least(bad))
        if first < len(batches):
            self._broken(batches, first)
        return float((total[0] / total[1].clamp(min=1e-300)).sum())

    def _broken(self, batches: list[Tensor], number: int) -> None:
        """Put the last good weights back and say where the loss broke.

        Raises:
            BadInput: always.
        """
        epoch = len(self.progress.train) + 1
        rounds = self.unit.rounds_of(batches[number])
        rows = ", ".join(str(int(x)) for x in rounds[:5])
        self._restore(self.progress.best or self.first)
        good = "its first weights"
        if self.progress.best:
            good = f"the weights of epoch {self.progress.best_epoch}"
        kept = ""
        if self.checkpoint is not None and self.progress.best:
            kept = f" and {self.checkpoint} the last good checkpoint"
        raise BadInput(
            f"the loss of epoch {epoch} is not a number from step {number + 1} of {len(batches)} on "
            f"(rounds {rows}, …): try a smaller learning_rate; the ranker has {good}{kept}"
        )

    def _held(self) -> Callable[[], float] | None:
        """Return what judges the ranker after an epoch, or None if nothing is held out."""
        if len(self.held_rounds) == 0:
            return None
        if self.settings.judge == "ndcg":
            return lambda: ranks(self.ranker, self.source, self.held_rounds, self.held_user).ndcg(10).mean()
        count = self.held_unit.lay(self.held_rounds, self.seed.split("held"))
        rows = max(1, 4 * self.settings.batch_size // self.held_unit.examples)
        batches = self.held_unit.order(self.seed.split("held order"), min(rows, max(count, 1)))
        return lambda: self._judge(batches)

    @torch.no_grad()
    def _judge(self, batches: list[Tensor]) -> float:
        """Return the mean loss of the held-out part."""
        self.ranker.eval()
        total = torch.zeros(2, max(1, len(self.ranker.tasks)), dtype=torch.float64, device=self.device)
        if isinstance(self.held_unit, Rounds):
            self.held_unit.slots = self.step.slots
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.seed.split("held").value)
            for index in batches:
                total += torch.stack(self.held_unit.loss(self.ranker, index, self.held_user))
        return float((total[0] / total[1].clamp(min=1e-300)).sum())

    def _weights(self) -> dict[str, Tensor]:
        """Return a copy of everything that is trained."""
        weights = {f"ranker.{k}": v.detach().clone() for k, v in self.ranker.state_dict().items()}
        for name in ("slots", "task_logs"):
            value = getattr(self.step, name)
            if value is not None:
                weights[name] = value.detach().clone()
        return weights

    def _restore(self, weights: dict[str, Tensor]) -> None:
        own = {k.removeprefix("ranker."): v for k, v in weights.items() if k.startswith("ranker.")}
        self.ranker.load_state_dict(own)
        for name in ("slots", "task_logs"):
            value = getattr(self.step, name)
            if value is not None:
                value.data.copy_(weights[name])


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


def _count(ranker: Ranker, source: Source, held: Bool[Tensor, " round"] | None) -> FitResult:
    """Show the logged examples to a ranker that counts; nothing is tuned, so only `held` is held out."""
    begin = time.perf_counter()
    rounds = torch.arange(len(source.log), device=source.log.user.device)
    seen = source.interactions(rounds if held is None else rounds[~held.to(rounds.device)])
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
    if len(log.category_sizes) != len(ranker.sizes.categories):
        raise BadInput(
            f"the log has {len(log.category_sizes)} columns of categories, but the ranker was built for "
            f"{len(ranker.sizes.categories)}"
        )


def _device(ranker: Ranker) -> torch.device:
    """Return where the ranker is."""
    for tensor in (*ranker.parameters(), *ranker.buffers()):
        return tensor.device
    return torch.device("cpu")
