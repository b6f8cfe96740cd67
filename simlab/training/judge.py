"""Judging a ranker on held-out clicks, over the whole catalogue."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers.contract import Ranker
from simlab.statistics import Summary, mean_interval
from simlab.training.examples import Source

CELLS = 1 << 21
"""How many (row, item) scores are made at once."""


@dataclass(frozen=True)
class Ranks:
    """Where each held-out click stands among the items that its user had not clicked before.

    Attributes:
        round: the log's row of each click.
        above: how many items are scored higher.
        equal: how many other items are scored the same.
        skipped: clicks on items that the user had clicked before: they are masked, so they have no rank.
    """

    round: Int[Tensor, " click"]
    above: Int[Tensor, " click"]
    equal: Int[Tensor, " click"]
    skipped: int

    def ndcg(self, k: int = 10) -> Float[Tensor, " click"]:
        """Return each click's NDCG@k: 1 / log2(rank + 1), the mean over the orders of equal scores."""
        gain = 1 / torch.arange(2, k + 2, dtype=torch.float64, device=self.above.device).log2()
        return self._mean(gain, k)

    def hit(self, k: int = 10) -> Float[Tensor, " click"]:
        """Return whether each click is among the first k, the mean over the orders of equal scores."""
        return self._mean(torch.ones(k, dtype=torch.float64, device=self.above.device), k)

    def mrr(self, k: int = 10) -> Float[Tensor, " click"]:
        """Return each click's reciprocal rank if it is among the first k, the mean over orders."""
        gain = 1 / torch.arange(1, k + 1, dtype=torch.float64, device=self.above.device)
        return self._mean(gain, k)

    def _mean(self, gain: Float[Tensor, " k"], k: int) -> Float[Tensor, " click"]:
        """Return the mean gain over the slots above … above + equal, of which the first k have one."""
        total = torch.cat([gain.new_zeros(1), gain.cumsum(0)])
        first = self.above.clamp(max=k)
        last = (self.above + self.equal + 1).clamp(max=k)
        return (total[last] - total[first]) / (self.equal + 1)

    def summary(self, name: str = "ndcg", k: int = 10) -> Summary:
        """Return the mean of a metric over the clicks, with its standard error and interval."""
        each: Tensor = {"ndcg": self.ndcg, "hit": self.hit, "mrr": self.mrr}[name](k)
        return mean_interval(each.cpu().numpy())


@torch.no_grad()
def ranks(
    ranker: Ranker, source: Source, rounds: Int[Tensor, " row"], user: Int[Tensor, " round"] | None = None
) -> Ranks:
    """Rank each click of these rounds over the whole catalogue.

    Items that the user clicked in earlier rounds are left out. The ranker is asked in eval mode.

    Args:
        ranker: is left in the mode in which it was.
        source: the log; contexts hold what happened before the round.
        rounds: where the clicks are.
        user: who each round of the log belongs to, in the ranker's eyes; as logged by default.
    """
    training = ranker.training
    ranker.eval()
    user = source.log.user if user is None else user
    clicks = source.clicks(rounds)
    size = max(1, CELLS // source.log.n_items)
    above, equal, seen_before = [], [], []
    for start in range(0, len(clicks), size):
        at, item = clicks.round[start : start + size], clicks.items[start : start + size]
        scores = ranker.score_all(source.context(at, user[at])).float()
        if bool(scores.isnan().any()):
            row, column = (int(x) for x in scores.isnan().nonzero()[0])
            raise BadInput(
                f"ranker {ranker.name} gives round {int(at[row])}, item {column} a score that is not a number"
            )
        own = scores.gather(1, item)
        seen = _clicked_before(source, at)
        seen_before.append(seen.gather(1, item)[:, 0])
        scores = scores.masked_fill(seen, -torch.inf)
        above.append((scores > own).sum(1))
        equal.append((scores == own).sum(1) - 1)
    ranker.train(training)
    again = torch.cat(seen_before)
    return Ranks(clicks.round[~again], torch.cat(above)[~again], torch.cat(equal)[~again], int(again.sum()))


def held_out(ranker: Ranker, log: Log, held: Bool[Tensor, " round"]) -> Ranks:
    """Rank the clicks of the marked rounds of a log, whose other rounds are the history.

    Source: the full ranking of Krichene and Rendle (2020), "On sampled metrics for item recommendation", KDD.

    Args:
        ranker: trained on the rounds that are not marked.
        log: all rounds, in order.
        held: which to judge.
    """
    device = next((t.device for t in (*ranker.parameters(), *ranker.buffers())), log.user.device)
    source = Source(log.to(device), max(ranker.past, 1))
    return ranks(ranker, source, held.to(device).nonzero().squeeze(1))


def _clicked_before(source: Source, rounds: Int[Tensor, " row"]) -> Bool[Tensor, "row item"]:
    """Return what each round's user had clicked in earlier rounds."""
    k = source.log.slots
    first, last = source.begin[rounds] * k, source.place[rounds] * k
    count = last - first
    row = torch.arange(len(rounds), device=rounds.device).repeat_interleave(count)
    start = (count.cumsum(0) - count)[row]
    flat = first[row] + torch.arange(len(row), device=rounds.device) - start
    clicked = source.flat_feedback[flat] > 0
    seen = torch.zeros(len(rounds), source.log.n_items, dtype=torch.bool, device=rounds.device)
    seen[row[clicked], source.flat_items[flat][clicked]] = True
    return seen
