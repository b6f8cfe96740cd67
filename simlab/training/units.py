"""Units of training: what a row of a batch is, and its loss.

A unit says three things: the rows of an epoch, how large a row is, and the loss of some rows. Losses come as
(above, below), one entry for each task, so that batches, processes and epochs add up exactly.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from simlab.context import PAD
from simlab.errors import BadInput
from simlab.rankers._sequence import SequenceRanker
from simlab.rankers.contract import Ranker
from simlab.seeds import Seed
from simlab.training import losses
from simlab.training.examples import Examples, Source
from simlab.training.full_softmax import full_softmax
from simlab.training.negatives import POWER, Negatives
from simlab.training.settings import FitSettings

Parts = tuple[Float[Tensor, " task"], Float[Tensor, " task"]]
"""(Σ w ℓ, Σ w) of each task."""

HARD_POOL = 4
"""How many candidates a hard negative is the best of."""


@runtime_checkable
class Unit(Protocol):
    """One way to cut a log into rows."""

    examples: int
    """How many examples a row has, for `batch_size`."""

    def lay(self, rounds: Int[Tensor, " round"], seed: Seed) -> int:
        """Lay out the rows of an epoch over these rounds; return how many there are."""
        ...

    def order(self, seed: Seed, rows: int) -> list[Tensor]:
        """Return the epoch's batches of at most about `rows` rows."""
        ...

    def rounds_of(self, index: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """Return the log's round of each row, the newest where a row has several."""
        ...

    def loss(self, ranker: Ranker, index: Int[Tensor, " row"], user: Int[Tensor, " round"]) -> Parts:
        """Return the loss of some rows, whose log rounds belong to these users."""
        ...


def shuffled(count: int, rows: int, seed: Seed, device: torch.device) -> list[Tensor]:
    """Return batches of a random order."""
    return list(torch.split(torch.randperm(count, generator=seed.torch()).to(device), rows))


class Rounds:
    """A row is a logged slate; or a click beside drawn items; or a click against the whole catalogue.

    Args:
        source: the log.
        settings: of training.
        held: whether it judges: then no click of the log is drawn as a non-click, of training or held out,
            and popularity is that of the whole log.
    """

    def __init__(self, source: Source, settings: FitSettings, held: bool = False) -> None:
        self.source, self.settings, self.held = source, settings, held
        self.drawn = settings.negatives > 0
        self.against_all = settings.loss == "softmax" and not self.drawn
        self.in_batch = settings.sampler == "in-batch"
        self.negatives: Negatives | None = None
        self.slots: Tensor | None = None
        self.rows = source.logged(torch.zeros(0, dtype=torch.long, device=source.log.slate.device))
        one = self.against_all or self.in_batch
        self.examples = 1 if one else settings.negatives + 1 if self.drawn else source.log.slots
        if one and settings.unit == "round" and source.outcomes:
            raise BadInput(f"loss {settings.loss} is of clicks alone: it takes no outcomes")
        if self.drawn and source.outcomes:
            raise BadInput("outcomes are of what was shown: they do not go with drawn negatives")

    def lay(self, rounds: Int[Tensor, " round"], seed: Seed) -> int:
        """Cut the rounds, and draw the epoch's negatives."""
        settings = self.settings
        if self.against_all or self.in_batch:
            self.rows = self.source.clicks(rounds)
        elif self.drawn:
            if self.negatives is None:
                self.negatives = self.source.negatives(None if self.held else rounds)
            hard = settings.sampler == "hard"
            self.rows = self.source.sampled(
                rounds,
                self.negatives,
                settings.negatives * (HARD_POOL if hard else 1),
                seed,
                log_q=settings.log_q and settings.loss == "softmax" and not hard,
                popular=settings.sampler == "popularity",
            )
        else:
            self.rows = self.source.logged(rounds)
        if self.in_batch:
            every = torch.arange(len(self.source.log), device=rounds.device)
            shown = self.source.clicks(every) if self.held else self.rows
            counts = torch.bincount(shown.items[:, 0], minlength=self.source.log.n_items)
            self.log_share = (counts / counts.sum()).log()
        elif not (self.drawn or self.against_all or self.held):
            self._check_classes()
        return len(self.rows)

    def _check_classes(self) -> None:
        """Refuse logged slates that teach nothing.

        Raises:
            BadInput: where every target is the same, or no slate has a click beside a non-click.
        """
        loss, counted = self.settings.loss, self.rows.weight > 0
        clicked = (self.rows.target > 0) & counted
        if loss == "bce" and bool((clicked == counted).all()) and not bool((self.rows.target % 1).any()):
            hint = "set negatives above 0 to draw some"
            raise BadInput(f"every logged item was clicked, so there is no non-click to learn from: {hint}")
        if loss == "bce" and not bool(clicked.any()):
            raise BadInput("no logged item was clicked, so there is nothing to learn from")
        if loss in ("bpr", "listwise") and not bool((clicked.any(1) & (counted & ~clicked).any(1)).any()):
            raise BadInput(f"no slate has a click beside a non-click, and loss {loss} compares the two")

    def rounds_of(self, index: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """Return the log's round of each row."""
        return self.rows.round[index]

    def order(self, seed: Seed, rows: int) -> list[Tensor]:
        """Shuffle the rows."""
        return shuffled(len(self.rows), rows, seed, self.rows.items.device)

    def loss(self, ranker: Ranker, index: Int[Tensor, " row"], user: Int[Tensor, " round"]) -> Parts:
        """Score the rows' items and ask the loss."""
        batch = self.rows.rows(index)
        settings = self.settings
        if self.in_batch:
            return self._in_batch(ranker, batch, user)
        if self.against_all:
            context = self.source.context(batch.round, user[batch.round])
            logits = ranker.score_all(context).float() / settings.temperature
            weight = (batch.weight * batch.target)[:, 0]
            return one(losses.softmax_at(logits, batch.items[:, 0], weight))
        if settings.sampler == "hard" and self.drawn:
            batch = self._hardest(ranker, batch, user)
        context = self.source.context(batch.round, user[batch.round], batch.items)
        if ranker.tasks:
            return self._tasks(ranker, batch, ranker.score_tasks(context).float())
        logits = ranker.score(context).float()
        if self.slots is not None and batch.slot is not None:
            logits = logits + torch.cat([self.slots.new_zeros(1), self.slots])[batch.slot]
        if settings.loss in ("softmax", "infonce", "listwise"):
            logits = logits / settings.temperature
        if batch.shift is not None:
            logits = logits + batch.shift
        if settings.loss == "gbce":
            rate = settings.negatives / max(self.source.log.n_items - 1, 1)
            found = losses.gbce(logits, batch.target, batch.weight, rate, settings.calibration)
            return one(found)
        return one(losses.LOSSES[settings.loss](logits, batch.target, batch.weight))

    def _hardest(self, ranker: Ranker, batch: Examples, user: Int[Tensor, " round"]) -> Examples:
        """Keep the best scored of each row's drawn items."""
        training = ranker.training
        ranker.eval()
        with torch.no_grad():
            scores = ranker.score(self.source.context(batch.round, user[batch.round], batch.items))
        ranker.train(training)
        best = scores[:, 1:].topk(self.settings.negatives, dim=1).indices + 1
        columns = torch.cat([torch.zeros_like(best[:, :1]), best], dim=1)
        return Examples(
            batch.round,
            batch.items.gather(1, columns),
            batch.target.gather(1, columns),
            batch.weight.gather(1, columns),
            None,
        )

    def _in_batch(self, ranker: Ranker, batch: Examples, user: Int[Tensor, " round"]) -> Parts:
        """Compare each click with the other rows' clicks.

        Source: Yi et al. (2019), "Sampling-bias-corrected neural modeling for large corpus item
        recommendations", RecSys, equations 3 to 5; q is the item's share of the clicks, which is counted.
        """
        item = batch.items[:, 0]
        context = self.source.context(batch.round, user[batch.round], item.expand(len(item), -1))
        logits = ranker.score(context).float() / self.settings.temperature
        if self.settings.log_q and self.settings.loss == "softmax":
            logits = logits - self.log_share[item]
        # Another row's click on the same item is no negative.
        same = (item.unsqueeze(0) == item.unsqueeze(1)).fill_diagonal_(False)
        logits = logits.masked_fill(same, -torch.inf)
        weight = (batch.weight * batch.target)[:, 0]
        column = torch.arange(len(item), device=item.device)
        return one(losses.softmax_at(logits, column, weight))

    def _tasks(self, ranker: Ranker, batch: Examples, said: Float[Tensor, "row pick task"]) -> Parts:
        """Ask a loss for each head: bce of a logit, mse of a value; NaN outcomes do not count."""
        kinds = getattr(ranker, "kinds", ("binary",) * len(ranker.tasks))
        found = []
        for number, (task, kind) in enumerate(zip(ranker.tasks, kinds, strict=True)):
            target, weight = batch.target, batch.weight  # the first task is the click
            if task in self.source.outcomes:
                target = self.source.outcomes[task][batch.round].float()
                weight = weight * ~target.isnan()
                target = target.nan_to_num()
            ask = losses.mse if kind == "value" else losses.bce
            found.append(ask(said[:, :, number], target, weight))
        return torch.stack([a for a, _ in found]), torch.stack([b for _, b in found])


class Tokens:
    """A row is a window of a user's clicks, with a target at every token.

    Args:
        source: the log.
        settings: of training.
        past: inputs of a window.
        held: whether it judges: then every click is an input, and only what is held out is a target.
    """

    def __init__(self, source: Source, settings: FitSettings, past: int, held: bool = False) -> None:
        self.source, self.settings, self.past, self.held = source, settings, past, held
        self.examples = 1
        self.counts = torch.zeros(0)
        device = source.log.slate.device
        self.items = torch.zeros(0, 0, dtype=torch.long, device=device)  # [row past + 1]
        self.rounds, self.weight, self.length = self.items, self.items.float(), self.items[:, 0:0]
        self.luck: torch.Generator | None = None

    def lay(self, rounds: Int[Tensor, " round"], seed: Seed) -> int:
        """Cut each user's clicks into windows from the newest back; every click but the first is a target.

        A window has `past` inputs, and its first target's input is the click before it. Returns the targets.
        """
        if self.items.numel() == 0:
            self._cut(rounds)
        self.luck = seed.torch(self.items.device)
        return int(self.counts.sum())

    def rounds_of(self, index: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """Return the log's round of each window's newest click."""
        return self.rounds[index][:, -1]

    def _cut(self, rounds: Int[Tensor, " round"]) -> None:
        source, past = self.source, self.past
        kept = torch.zeros(len(source.log), dtype=torch.bool, device=rounds.device)
        kept[rounds] = True
        order = source.order if self.held else source.order[kept[source.order]]
        clicked = source.clicked[order].reshape(-1)
        slots = source.log.slots
        item = source.log.slate[order].reshape(-1)[clicked]
        at = order.repeat_interleave(slots)[clicked]
        weight = (source.weight * source.target)[order].reshape(-1)[clicked].float()
        user = source.log.user[at]
        n = len(item)
        place = torch.arange(n, device=item.device)
        fresh = torch.ones(n, dtype=torch.bool, device=item.device)
        fresh[1:] = user[1:] != user[:-1]
        begin = torch.where(fresh, place, 0).cummax(0).values
        last = torch.ones_like(fresh)
        last[:-1] = fresh[1:]
        end = torch.where(last, place, n).flip(0).cummin(0).values.flip(0)
        # A window ends at every past-th click, counted back from the user's newest, unless it has no target.
        closes = ((end - place) % past == 0) & (place > begin)
        end_at = place[closes].unsqueeze(1)
        span = end_at + torch.arange(-past, 1, device=item.device)
        known = span >= begin[closes].unsqueeze(1)
        span = span.clamp(min=0)
        self.items = item[span].where(known, PAD)
        self.rounds = at[span]
        # The first column is only ever an input, so that each click is a target once.
        self.weight = weight[span] * known
        self.length = known.sum(1)
        is_target = known.clone()
        is_target[:, 0] = False
        is_target[:, 1:] &= known[:, :-1]
        is_target &= kept[self.rounds]
        some = is_target.any(1)
        if not bool(some.any()):
            raise BadInput("no user clicked twice, so no token has a next one: unit token has no targets")
        self.items, self.rounds, self.weight = self.items[some], self.rounds[some], self.weight[some]
        self.length, self.is_target = self.length[some], is_target[some]
        self.counts = self.is_target.sum(1)

    def order(self, seed: Seed, rows: int) -> list[Tensor]:
        """Return batches of windows of about the same length, with about `rows` targets each.

        A random order is cut into pieces of eight batches, each sorted by length: little is padded, and
        still the batches differ from epoch to epoch.
        """
        mixed = torch.randperm(len(self.items), generator=seed.torch()).to(self.items.device)
        per_batch = max(1, round(rows * len(self.items) / max(int(self.counts.sum()), 1)))
        batches: list[Tensor] = []
        for piece in torch.split(mixed, 8 * per_batch):
            ordered = piece[self.length[piece].argsort(stable=True)]
            total = self.counts[ordered].cumsum(0)
            cut = ((total - 1).div(rows, rounding_mode="floor")).clamp(min=0)
            _, sizes = torch.unique_consecutive(cut, return_counts=True)
            batches += torch.split(ordered, sizes.tolist())
        again = torch.randperm(len(batches), generator=seed.split("batches").torch()).tolist()
        return [batches[i] for i in again]

    def loss(self, ranker: Ranker, index: Int[Tensor, " row"], user: Int[Tensor, " round"]) -> Parts:
        """Encode the windows once, and ask the loss of every target."""
        assert isinstance(ranker, SequenceRanker)
        width = int(self.length[index].max())
        if ranker.cloze:
            width = min(width, self.past)
        window = self.items[index][:, -width:]
        rounds, weight = self.rounds[index][:, -width:], self.weight[index][:, -width:]
        if ranker.cloze:
            inputs, there = self._masked(ranker, window, self.is_target[index][:, -width:])
            states = ranker.hidden(inputs)[there]
        else:
            there = self.is_target[index][:, -width:]
            states = ranker.hidden(window[:, :-1])[there[:, 1:]]
        target, weight = window[there], weight[there]
        at = rounds[there]
        log = self.source.log
        side = self.source.features
        features = states.new_zeros(len(at), 0) if side is None else side[at]
        categories = None if log.categories is None else log.categories[at]
        states = states + ranker.side(features, categories)
        return self._against(ranker, states, target, weight)

    def _masked(
        self, ranker: Ranker, window: Int[Tensor, "row past"], target: Bool[Tensor, "row past"]
    ) -> tuple[Int[Tensor, "row past"], Bool[Tensor, "row past"]]:
        """Hide a share of the targets; of one row in ten the newest alone, as it will be asked."""
        hide = (torch.rand(window.shape, device=window.device) < self.settings.masked) & target
        place = torch.arange(window.shape[1], device=window.device)
        newest = place == (place * target).amax(1, keepdim=True)
        only = torch.rand(len(window), 1, device=window.device) < 0.1
        hide = torch.where(only | ~hide.any(1, keepdim=True), newest, hide)  # every row has something to say
        return window.masked_fill(hide, ranker.sizes.n_items), hide

    def _against(
        self,
        ranker: Ranker,
        states: Float[Tensor, "target dim"],
        target: Int[Tensor, " target"],
        weight: Float[Tensor, " target"],
    ) -> Parts:
        """Compare each target with the whole catalogue, or with items that the batch shares."""
        settings, vectors = self.settings, ranker.item_vectors()
        if settings.negatives == 0:
            states = states / settings.temperature
            if settings.bf16 and states.device.type == "cpu":
                return one((full_softmax(states, vectors, target, weight), weight.sum()))
            logits = states @ vectors.T
            each = functional.cross_entropy(logits, target, reduction="none")
            return one(((weight * each.float()).sum(), weight.sum()))
        drawn, log_q = self._shared(vectors.device)
        positive = (states * functional.embedding(target, vectors)).sum(1, keepdim=True).float()
        logits = (states @ functional.embedding(drawn, vectors).T).float()
        logits = torch.cat([positive, logits], dim=1)
        hit = drawn.unsqueeze(0) == target.unsqueeze(1)  # the target itself is no negative
        if settings.loss in ("softmax", "infonce"):
            logits = logits / settings.temperature
            if settings.log_q and settings.loss == "softmax":
                shift = -(log_q + torch.tensor(float(len(drawn))).log())
                logits = logits + torch.cat([shift.new_zeros(1), shift])
            logits[:, 1:] = logits[:, 1:].masked_fill(hit, -torch.inf)
            column = torch.zeros(len(target), dtype=torch.long, device=target.device)
            return one(losses.softmax_at(logits, column, weight))
        labels = torch.zeros_like(logits)
        labels[:, 0] = 1.0
        each = weight.unsqueeze(1) * torch.cat([torch.ones_like(positive), (~hit).float()], dim=1)
        if settings.loss == "bpr":
            gap = logits[:, :1] - logits[:, 1:]
            pair = each[:, 1:]
            return one(((pair * functional.softplus(-gap)).sum(), pair.sum()))
        if settings.loss == "gbce":
            rate = len(drawn) / max(ranker.sizes.n_items - 1, 1)
            above, _ = losses.gbce(logits, labels, each, rate, settings.calibration)
        else:
            above, _ = losses.bce(logits, labels, each)
        return one((above, weight.sum()))

    def _shared(self, device: torch.device) -> tuple[Int[Tensor, " drawn"], Float[Tensor, " drawn"]]:
        """Draw the negatives that a batch shares, with replacement, and the log probability of each."""
        n = self.source.log.n_items
        if self.settings.sampler == "popularity":
            items = self.source.log.slate[self.source.clicked] if self.held else self.items[self.is_target]
            share = torch.bincount(items, minlength=n).double().clamp(min=0.5) ** POWER
        else:
            share = torch.ones(n, dtype=torch.float64, device=device)
        share = share / share.sum()
        drawn = torch.multinomial(share, self.settings.negatives, replacement=True, generator=self.luck)
        return drawn, share[drawn].log().float()


class Users:
    """A row is a user: all of the user's clicks are the input, and the target over the whole catalogue.

    Args:
        source: the log.
        settings: of training.
        past: clicks of an input at most.
        held: whether it judges: then the target is what is held out, and the input the user's other clicks,
            if there are any.
    """

    def __init__(self, source: Source, settings: FitSettings, past: int, held: bool = False) -> None:
        self.source, self.settings, self.past, self.held = source, settings, past, held
        self.examples = 1
        device = source.log.slate.device
        self.history = torch.zeros(0, 0, dtype=torch.long, device=device)
        self.target, self.weight = self.history, torch.zeros(0, 0, device=device)
        self.round = torch.zeros(0, dtype=torch.long, device=device)

    def lay(self, rounds: Int[Tensor, " round"], seed: Seed) -> int:
        """Gather each user's clicks, the newest `past` of them; return how many users there are."""
        kept = torch.zeros(len(self.source.log), dtype=torch.bool, device=rounds.device)
        kept[rounds] = True
        self.target, self.weight, self.round = self._gather(kept)
        self.history = self.target
        if self.held and not bool(kept.all()):
            user = self.source.log.user
            others, _, at = self._gather(~kept & torch.isin(user, user[self.round]))
            where = torch.searchsorted(user[at], user[self.round]).clamp(max=len(at) - 1)
            known = user[at][where] == user[self.round]
            wide = max(others.shape[1], self.target.shape[1])
            self.target, others = _widened(self.target, wide), _widened(others, wide)
            self.weight = functional.pad(self.weight, (wide - self.weight.shape[1], 0))
            self.history = torch.where(known.unsqueeze(1), others[where], self.target)
        return len(self.round)

    def rounds_of(self, index: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """Return the log's round of each user's newest click."""
        return self.round[index]

    def _gather(
        self, kept: Bool[Tensor, " round"]
    ) -> tuple[Int[Tensor, "row past"], Float[Tensor, "row past"], Int[Tensor, " row"]]:
        """Return each user's clicks in these rounds, their weights, and the newest's round; by user id."""
        source = self.source
        order = source.order[kept[source.order]]
        clicked = source.clicked[order].reshape(-1)
        item = source.log.slate[order].reshape(-1)[clicked]
        at = order.repeat_interleave(source.log.slots)[clicked]
        weight = (source.weight * source.target)[order].reshape(-1)[clicked].float()
        if len(item) == 0 and not self.held:
            n = int(kept.sum())
            raise BadInput(f"nothing was clicked in {n} rounds, so there is nothing to learn from")
        if len(item) == 0:
            return self.history[:0], self.weight[:0], self.round[:0]
        _, row, count = torch.unique_consecutive(source.log.user[at], return_inverse=True, return_counts=True)
        width = min(int(count.max()), self.past)
        column = torch.arange(len(item), device=item.device) - (count.cumsum(0) - count)[row]
        column = column + width - count[row]  # the newest at the right end
        keep = column >= 0
        found = torch.full((len(count), width), PAD, device=item.device)
        weights = torch.zeros(len(count), width, device=item.device)
        found[row[keep], column[keep]] = item[keep]
        weights[row[keep], column[keep]] = weight[keep]
        return found, weights, at[count.cumsum(0) - 1]

    def order(self, seed: Seed, rows: int) -> list[Tensor]:
        """Shuffle the users."""
        return shuffled(len(self.history), rows, seed, self.history.device)

    def loss(self, ranker: Ranker, index: Int[Tensor, " row"], user: Int[Tensor, " round"]) -> Parts:
        """Reconstruct the users' clicks: a sum over the catalogue for each user, so that penalties match."""
        history, aim, at = self.history[index], self.target[index], self.round[index]
        context = self.source.context(at, user[at])
        known = history >= 0
        context = type(context)(
            user=context.user,
            features=context.features,
            history=history,
            feedback=known.float(),
            candidates=context.candidates,
            mask=context.mask,
            categories=context.categories,
        )
        logits = ranker.score_all(context).float()
        target = torch.zeros_like(logits)
        target.scatter_reduce_(1, aim.clamp(min=0), self.weight[index] * (aim >= 0), "amax")
        above, _ = losses.LOSSES[self.settings.loss](logits, target, torch.ones_like(target))
        return one((above, above.new_tensor(float(len(index)))))


def _widened(ids: Int[Tensor, "row past"], wide: int) -> Int[Tensor, "row wide"]:
    """Return ids with -1 to the left."""
    return functional.pad(ids, (wide - ids.shape[1], 0), value=PAD)


def one(found: tuple[Tensor, Tensor]) -> Parts:
    """Return the parts of a single task."""
    return found[0].reshape(1), found[1].reshape(1)


def unit_of(ranker: Ranker, source: Source, settings: FitSettings, held: bool = False) -> Unit:
    """Return the unit that the settings name, to train or to judge what is held out.

    Raises:
        BadInput: if the family cannot be trained so.
    """
    makers: dict[str, Callable[[], Unit]] = {
        "round": lambda: Rounds(source, settings, held),
        "token": lambda: Tokens(source, settings, source.past, held),
        "user": lambda: Users(source, settings, max(source.past, 1), held),
    }
    if settings.unit == "token" and not isinstance(ranker, SequenceRanker):
        raise BadInput(f"unit token is for sequence families, and {ranker.name} is none")
    if ranker.tasks and settings.unit != "round":
        raise BadInput(f"{ranker.name} has several heads, which unit {settings.unit} does not train")
    if source.outcomes and not ranker.tasks:
        raise BadInput(f"{ranker.name} has one head, so it takes no outcomes: choose a multi-task family")
    for name in source.outcomes:
        if name not in ranker.tasks:
            raise BadInput(f"outcome {name} is no task of {ranker.name}: it has {', '.join(ranker.tasks)}")
    missing = [task for task in ranker.tasks[1:] if task not in source.outcomes]
    if missing:
        raise BadInput(f"{ranker.name} has a task {missing[0]}, and no outcome of that name was given")
    return makers[settings.unit]()
