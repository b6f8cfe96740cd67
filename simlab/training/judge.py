"""Judging a ranker on held-out clicks, over the whole catalogue."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from simlab.errors import BadInput
from simlab.log import Log
from simlab.metrics.means import PerUser, UserSummary
from simlab.metrics.target import CELLS, TargetRank, target_rank
from simlab.rankers.contract import Ranker
from simlab.training.examples import Source


@dataclass(frozen=True)
class Ranks(TargetRank):
    """Where each held-out click stands among the items that its user had not clicked before.

    A click on an item that the user had clicked before is masked, so it has no rank: it is skipped.

    Attributes:
        round: the log's row of each click.
    """

    round: Int[Tensor, " user"]

    def summary(self, name: str = "ndcg", k: int = 10) -> UserSummary:
        """Return the mean of ndcg, hit or mrr over the clicks, with its standard error and interval."""
        how: dict[str, Callable[[int], PerUser]] = {"ndcg": self.ndcg, "hit": self.hit, "mrr": self.mrr}
        return how[name](k).summary()


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
    parts = []
    for start in range(0, len(clicks), size):
        at, item = clicks.round[start : start + size], clicks.items[start : start + size, 0]
        scores = ranker.score_all(source.context(at, user[at])).float()
        if bool(scores.isnan().any()):
            row, column = (int(x) for x in scores.isnan().nonzero()[0])
            raise BadInput(
                f"ranker {ranker.name} gives round {int(at[row])}, item {column} a score that is not a number"
            )
        parts.append(target_rank(scores, item, _clicked_before(source, at)))
    ranker.train(training)
    better, tied, counts = (torch.cat([getattr(p, n) for p in parts]) for n in ("better", "tied", "counts"))
    return Ranks(better, tied, counts, clicks.round)


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
