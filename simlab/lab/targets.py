"""Target policies for a log: the words of the command line, with what can be known without a world.

A ranker inside a policy learns from one half of the log and is judged on the other, never on the same rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from simlab.context import Catalog
from simlab.errors import BadInput, nearest
from simlab.lab.grammar import Call, parse
from simlab.lab.policies import Builder, known, ranker_settings
from simlab.log import Log
from simlab.parts import names, part
from simlab.policy import Policy
from simlab.rankers.contract import Ranker, Sizes
from simlab.seeds import Seed

WORLDLY = {
    "oracle": "knows the truth of a simulated world",
    "far-sighted": "knows the truth of a simulated world",
    "learned": "learns in a simulated world; write greedy(RANKER) for one that learns from the log",
    "softmax-popularity": "reads the popularity of a simulated world; write softmax(popularity)",
}
"""Policies that a log cannot feed, and why."""


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be evaluated, and on which rounds.

    Attributes:
        name: the policy in its canonical words.
        log: the rounds that judge it.
        policy: the policy, or its probability of what each round shows.
        past: how many items of history it wants.
        notes: what the reader must know, in sentences.
    """

    name: str
    log: Log
    policy: Policy | Float[Tensor, " round"]
    past: int = 0
    notes: tuple[str, ...] = ()


def make_target(words: str, log: Log, catalog: Catalog, seed: Seed, campaign: str | None = None) -> Target:
    """Build a policy for a log, and train its rankers on half of it.

    Args:
        words: such as "epsilon(greedy(mf), 0.1)".
        log: all rounds.
        catalog: the items.
        seed: of the halves and of training.
        campaign: of the Open Bandit Dataset, whose priors bernoulli-ts then takes.

    Raises:
        BadInput: for a policy that is not there, or that needs a world.
    """
    call = _for_log(parse(words))
    rankers = [c for c in _inside(call) if c.name.replace("-", "_") in names("ranker")]
    judge, learn = log, log
    notes: tuple[str, ...] = ()
    if rankers:
        learn, judge, what = halves(log, seed.split("halves"))
        taught = " and ".join(dict.fromkeys(map(str, rankers)))
        others = (
            f"the {len(judge):,} rounds of other users" if what == "users" else f"the other {len(judge):,}"
        )
        notes = (f"{taught} learned from {len(learn):,} rounds; {others} judge.",)
    builder = _LogBuilder(_Items(catalog), seed.split("train"), learn=learn, campaign=campaign)
    builder.check(call)
    policy = builder.build(call)
    return Target(str(call), judge, policy, builder.past, notes)


def fixed_policy(words: str, catalog: Catalog) -> tuple[str, Policy]:
    """Build a policy that learns nothing and looks at no history, for rows that come in any order.

    Args:
        words: such as "saved:runs/mf".
        catalog: the items.

    Returns:
        The policy in its canonical words, and the policy.

    Raises:
        BadInput: for a policy that is not there, that would have to learn, or that looks at earlier rounds.
    """
    call = _for_log(parse(words))
    for inner in _inside(call):
        if inner.name.replace("-", "_") in names("ranker"):
            raise BadInput(
                f"{inner} would have to learn from the log, and a stream keeps no rows: train it on a sample "
                "first, and say saved:FOLDER"
            )
    builder = _LogBuilder(_Items(catalog), Seed(0))
    builder.check(call)
    policy = builder.build(call)
    if builder.past:
        raise BadInput(
            f"{call} looks at the last {builder.past} items of a user, and a batch of a stream does not hold "
            "a user's earlier rounds"
        )
    return str(call), policy


def halves(log: Log, seed: Seed) -> tuple[Log, Log, str]:
    """Split a log at random into two halves that share no user, or no round where each user has one.

    Returns:
        One half, the other, and what was dealt out: "users" or "rounds".
    """
    from causal.rewards import assign

    by_user = len(torch.unique(log.user)) < len(log)
    half = assign(log, 2, seed, by_user)
    return log.rows(half == 0), log.rows(half == 1), "users" if by_user else "rounds"


@dataclass(frozen=True)
class _Items:
    """All that a log can offer in place of a world."""

    catalog: Catalog


@dataclass
class _LogBuilder(Builder):
    """Builds policies whose rankers learn from a log."""

    learn: Log | None = None
    campaign: str | None = None
    past: int = 0
    fitted: dict[str, Ranker] = field(default_factory=dict)

    def check(self, call: Call) -> None:
        if call.name != "bernoulli-ts":
            super().check(call)
        elif self._campaign(call) is None:
            raise BadInput("bernoulli-ts needs a campaign of Open Bandit, such as bernoulli-ts(men)")

    def build(self, call: Call) -> Policy:
        if call.name != "bernoulli-ts":
            return super().build(call)
        from simlab.datasets.open_bandit import BernoulliTS

        return BernoulliTS(str(self._campaign(call)))

    def ranker(self, call: Call) -> Ranker:
        ranker = super().ranker(call) if call.name == "saved" else self._fitted(call)
        self.past = max(self.past, ranker.past)
        return ranker

    def _fitted(self, call: Call) -> Ranker:
        from simlab.training.fit import fit

        key = str(call)
        if key not in self.fitted:
            assert self.learn is not None
            log = _clicked(self.learn)
            family: Any = part("ranker", call.name)
            features = 0 if log.features is None else log.features.shape[1]
            sizes = Sizes(int(log.user.max()) + 1, log.n_items, features, log.slots)
            ranker = family.build(sizes, ranker_settings(call), self.world.catalog)
            fit(ranker, log, seed=self.seed.split(key))
            self.fitted[key] = ranker
        return self.fitted[key]

    def _campaign(self, call: Call) -> str | None:
        if call.positional and isinstance(call.positional[0], Call) and len(call.positional) == 1:
            return str(call.positional[0])
        return self.campaign if call.is_word else None


def _clicked(log: Log) -> Log:
    """Return the log with clicks: of one item a row, the reward is the click."""
    if log.click is None and log.slots == 1:
        return replace(log, click=log.reward.float().unsqueeze(1))
    return log


def _for_log(call: Call, *, inside: bool = False) -> Call:
    """Rewrite a policy in words that need no world.

    Raises:
        BadInput: if it does need one.
    """
    if call.name in WORLDLY:
        raise BadInput(f"{call.name} {WORLDLY[call.name]}, so a log cannot say what it would do")
    if call.name == "uniform":
        return replace(call, name="random")
    words = sorted({*known(), "uniform", "bernoulli-ts"} - set(WORLDLY))
    if not inside and call.name not in words:
        raise BadInput(f"there is no policy named {call.name}{nearest(call.name, words)}")
    if call.name == "popularity" and not inside:
        return Call("greedy", (call,))
    if call.name == "bernoulli-ts":  # what stands in it is a campaign
        return call
    # The arguments of a mixture are policies; what stands in greedy and softmax is a ranker.
    ranked = call.name in ("greedy", "softmax")
    return replace(
        call,
        positional=tuple(_for_log(v, inside=ranked) if isinstance(v, Call) else v for v in call.positional),
        named=tuple((k, _for_log(v, inside=ranked) if isinstance(v, Call) else v) for k, v in call.named),
    )


def _inside(call: Call) -> Iterator[Call]:
    """Yield every call inside a call."""
    for value in (*call.positional, *(v for _, v in call.named)):
        if isinstance(value, Call):
            yield value
            yield from _inside(value)
