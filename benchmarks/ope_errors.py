"""How far estimators are off: a table on real logs, and two curves where the truth is known.

- Open Bandit: random logs of each campaign, Bernoulli Thompson sampling as target, the mean of its own log as
  the truth (the table of Open Bandit Pipeline's README).
- Embeddings: IPS, DR and MIPS by the number of items, 10 … 1,000, in the synthetic setting of Saito and
  Joachims (2022), "Off-policy evaluation for large action spaces via embeddings", section 5.1.
- Slates: Cascade-DR beside SIPS, IIPS and RIPS by the length of the slate, where a click depends on the items
  above (Kiyohara et al. 2022, section 5).

    python benchmarks/ope_errors.py --markdown docs/ope-errors.md      # about five minutes
    python benchmarks/ope_errors.py --quick
"""

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.harness import Row, finish, machine, write_page
from causal.bandit.dm import DM
from causal.bandit.dr import DR
from causal.bandit.dros import DRos
from causal.bandit.ips import IPS
from causal.bandit.mips import MIPS
from causal.bandit.sn_mips import SNMIPS
from causal.bandit.sndr import SNDR
from causal.bandit.snips import SNIPS
from causal.bandit.switch_dr import SwitchDR
from causal.cascade_reward import SklearnCascade
from causal.contract import Rounds, value
from causal.evaluation import evaluate
from causal.mips import Categories, marginal_weight
from causal.rounds import rounds, tabular
from causal.sklearn_reward import SklearnReward
from causal.slate.cascade_dr import CascadeDR
from causal.slate.iips import IIPS
from causal.slate.rips import RIPS
from causal.slate.sips import SIPS
from causal.slates import slates
from simlab.context import Context
from simlab.datasets.open_bandit import BernoulliTS, OpenBandit
from simlab.log import Log
from simlab.seeds import Seed
from simlab.slates import PlackettLuce, SlateDistribution

NUMBERS = (10, 30, 100, 300, 1000)
"""Items of the second part."""
LENGTHS = (2, 3, 4, 5, 6, 8)
"""Slots of the third."""
ROUNDS, SLATES, SPREAD, DIM, KINDS, CARDS = 5000, 1000, 2.5, 10, 3, 10


def open_bandit(seed: int) -> list[dict[str, Any]]:
    """Return a row for each campaign and estimator."""
    from sklearn.linear_model import LogisticRegression

    out = []
    for campaign in ("all", "men", "women"):
        data = OpenBandit("random", campaign)
        log, target = data.load(), BernoulliTS(campaign)
        own = OpenBandit("bts", campaign).load().reward.double()
        truth = float(own.mean())
        model = SklearnReward(LogisticRegression(C=100, max_iter=10_000))
        weighed = rounds(log, target, model, seed=Seed(seed), page_slots=data.page_slots)
        every: list[Any] = [IPS(), SNIPS(), DM(), DR(), SNDR(), SwitchDR(), DRos()]
        for e in evaluate(weighed, every, "bca", seed=Seed(seed)):
            off = abs(e.value - truth) / truth
            # The truth is a mean of few clicks, so its own error is part of the relative one.
            noise = math.sqrt(e.stderr**2 + float(own.var()) / len(own)) / truth
            out.append(
                {"campaign": campaign, "estimator": e.name, "value": e.value, "low": e.interval.low,
                 "high": e.interval.high, "truth": truth, "clicks": int(own.sum()), "error": off,
                 "noise": noise}
            )  # fmt: skip
    return out


@dataclass(frozen=True)
class Errors:
    """What many logs say of an estimator: mean squared error, squared bias and variance."""

    mse: float
    bias2: float
    variance: float

    @classmethod
    def of(cls, values: list[float], truth: float) -> "Errors":
        """Sum up the values of many logs."""
        x = torch.tensor(values, dtype=torch.float64)
        bias, spread = float(x.mean()) - truth, float(x.var(correction=0))
        return cls(bias**2 + spread, bias**2, spread)


@dataclass(frozen=True)
class Synthetic:
    """Contexts, items that are drawn categories, and a reward that hangs on the categories alone."""

    chance: Float[Tensor, "item dim category"]
    taste: Float[Tensor, "feat dim category"]
    base: Float[Tensor, "dim category"]

    @classmethod
    def of(cls, items: int, seed: Seed) -> "Synthetic":
        """Draw a world."""
        g = seed.torch()
        chance = torch.randn(items, KINDS, CARDS, generator=g, dtype=torch.float64).softmax(2)
        taste = torch.randn(DIM, KINDS, CARDS, generator=g, dtype=torch.float64) / DIM**0.5
        return cls(chance, taste, torch.randn(KINDS, CARDS, generator=g, dtype=torch.float64))

    def of_category(self, x: Float[Tensor, "round feat"]) -> Float[Tensor, "round dim category"]:
        """Return what each category of each dimension adds to the reward."""
        return (torch.einsum("nf,fdc->ndc", x, self.taste) + self.base) / KINDS

    def policies(
        self, x: Float[Tensor, "round feat"]
    ) -> tuple[Float[Tensor, "round item"], Float[Tensor, "round item"], Float[Tensor, "round item"]]:
        """Return the mean reward of every item, the logger and the target."""
        q = torch.einsum("ndc,adc->na", self.of_category(x), self.chance)
        logger = (-q * 4).softmax(1)
        target = torch.full_like(q, 0.05 / q.shape[1])
        target.scatter_add_(1, q.argmax(1, keepdim=True), torch.full((len(q), 1), 0.95, dtype=q.dtype))
        return q, logger, target


def embeddings(seed: int, logs: int, numbers: tuple[int, ...]) -> dict[int, dict[str, Errors]]:
    """Return the errors of IPS, SNIPS, DR and MIPS for each number of items."""
    out = {}
    for items in numbers:
        key = Seed(seed).split(f"{items} items")
        world = Synthetic.of(items, key.split("world"))
        g = key.split("truth").torch()
        total = 0.0
        for _ in range(20):
            q, _, target = world.policies(torch.randn(5000, DIM, generator=g, dtype=torch.float64))
            total += float((q * target).sum(1).mean()) / 20
        said: dict[str, list[float]] = {}
        for number in range(logs):
            g = key.split(f"log {number}").torch()
            for name, found in one_log(world, items, g).items():
                said.setdefault(name, []).append(found)
        out[items] = {name: Errors.of(values, total) for name, values in said.items()}
    return out


def one_log(world: Synthetic, items: int, g: torch.Generator) -> dict[str, float]:
    """Draw a log, and return what each estimator says of the target."""
    x = torch.randn(ROUNDS, DIM, generator=g, dtype=torch.float64)
    _, logger, target = world.policies(x)
    item = torch.multinomial(logger, 1, generator=g).squeeze(1)
    shown = torch.multinomial(world.chance[item].reshape(-1, CARDS), 1, generator=g).view(-1, KINDS)
    worth = world.of_category(x).gather(2, shown.unsqueeze(2)).sum((1, 2))
    reward = worth + SPREAD * torch.randn(ROUNDS, generator=g, dtype=torch.float64)
    propensity = logger.gather(1, item.unsqueeze(1)).squeeze(1)
    log = Log(torch.arange(ROUNDS), item[:, None], propensity, reward, items, features=x)
    e = marginal_weight(log, target, logger, Categories(world.chance, shown))
    # A linear reward model of one's own half for the other half: context and categories' chances.
    weighed = tabular(item, reward, propensity, target, linear(x, world.chance, item, reward))
    weighed = Rounds(**{**vars(weighed), "embedding": e})
    return {m.name: value(m.score(weighed)) for m in (IPS(), SNIPS(), DM(), DR(), MIPS(), SNMIPS())}


def linear(
    x: Float[Tensor, "round feat"],
    chance: Float[Tensor, "item dim category"],
    item: Tensor,
    reward: Float[Tensor, " round"],
) -> Float[Tensor, "round item"]:
    """Fit ridge on context and the item's chances, each half for the other; return q̂ of all items."""
    known = chance.flatten(1)
    out = torch.empty(len(x), len(chance), dtype=torch.float64)
    half = torch.arange(len(x)) % 2
    for side in (0, 1):
        train, held = half != side, half == side
        z = torch.cat([x[train], known[item[train]], torch.ones(int(train.sum()), 1, dtype=x.dtype)], 1)
        w = torch.linalg.solve(z.T @ z + torch.eye(z.shape[1], dtype=x.dtype), z.T @ reward[train])
        out[held] = (x[held] @ w[:DIM]).unsqueeze(1) + known @ w[DIM:-1] + w[-1]
    return out


@dataclass(frozen=True)
class Linear:
    """Plackett–Luce over logits that are linear in the context."""

    weight: Float[Tensor, "feat item"]
    name: str = "linear"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the policy's slates."""
        logits = context.features.double() @ self.weight
        return PlackettLuce(logits.gather(1, context.candidates), slots, context.mask)


def cascade(seed: int, logs: int, lengths: tuple[int, ...]) -> dict[int, dict[str, Errors]]:
    """Return the errors of slate estimators for each length, where clicks depend on the items above."""
    from sklearn.linear_model import Ridge

    items, feats = 10, 4
    key = Seed(seed).split("cascade")
    g = key.torch()
    base = torch.randn(feats, items, generator=g, dtype=torch.float64)
    pairs = 2 * torch.randn(items, items, generator=g, dtype=torch.float64)
    policies = {n: Linear(torch.randn(feats, items, generator=g, dtype=torch.float64) * s) for n, s in
                (("logger", 0.3), ("target", 0.9))}  # fmt: skip

    def draw(
        policy: Linear, n: int, slots: int, seed: Seed
    ) -> tuple[Tensor, Tensor, SlateDistribution, Tensor]:
        g = seed.torch()
        x = torch.randn(n, feats, generator=g, dtype=torch.float64)
        chosen = policy.distribution(Context.of(torch.arange(n), items, features=x.float()), slots)
        slate = chosen.sample(g)
        logit = (x @ base).gather(1, slate) - 1
        for k in range(1, slots):
            above = pairs[slate[:, :k], slate[:, k : k + 1]] / torch.arange(k, 0, -1)
            logit[:, k] += above.sum(1)
        return x, slate, chosen, logit.sigmoid()

    out = {}
    for slots in lengths:
        _, _, _, chance = draw(policies["target"], 400_000, slots, key.split(f"truth {slots}"))
        truth = float(chance.sum(1).mean())
        said: dict[str, list[float]] = {}
        for number in range(logs):
            luck = key.split(f"{slots} slots, log {number}")
            x, slate, chosen, p = draw(policies["logger"], SLATES, slots, luck)
            click = torch.bernoulli(p, generator=luck.split("clicks").torch())
            log = Log(torch.arange(SLATES), slate, chosen.log_prob(slate).exp(), click.sum(1), items,
                      features=x, slot_propensity=chosen.marginals(slate), click=click)  # fmt: skip
            data = slates(
                log,
                policies["target"],
                logger=policies["logger"],
                reward_model=SklearnCascade(Ridge(1.0)),
                fields=("joint", "marginal", "cascade"),
                seed=luck,
            )
            for estimator in (SIPS(), IIPS(), RIPS(), CascadeDR()):
                said.setdefault(estimator.name, []).append(value(estimator.score(data)))
        out[slots] = {name: Errors.of(values, truth) for name, values in said.items()}
    return out


def main() -> None:
    """Make all three, and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few logs, few sizes")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--markdown", type=Path, help="write the page")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, quick = time.process_time(), options.quick
    real = open_bandit(options.seed)
    many = embeddings(options.seed, 5 if quick else 100, NUMBERS[:3] if quick else NUMBERS)
    long = cascade(options.seed, 5 if quick else 100, LENGTHS[:3] if quick else LENGTHS)
    seconds = time.process_time() - start
    rows = [Row(f"{r['campaign']}, {r['estimator']}: relative error", r["error"], "") for r in real]
    for title, found in (("items", many), ("slots", long)):
        for size, errors in found.items():
            rows += [Row(f"{size} {title}, {n}: mean squared error", e.mse, "", settings=vars(e))
                     for n, e in errors.items()]  # fmt: skip
    finish("errors of off-policy estimators", rows, options.json)
    if options.markdown:
        write_page(options.markdown, page(real, many, long, 5 if quick else 100, seconds, options.seed))


def page(
    real: list[dict[str, Any]],
    many: dict[int, dict[str, Errors]],
    long: dict[int, dict[str, Errors]],
    logs: int,
    seconds: float,
    seed: int,
) -> list[str]:
    """Return the lines of the page."""
    lines = ["# Errors of off-policy estimators", ""]
    lines += [f"Made by `python benchmarks/ope_errors.py --markdown docs/ope-errors.md --seed {seed}`"]
    lines += [f"({machine()}, {seconds:.0f} CPU seconds).", "", "## Open Bandit", ""]
    lines += [
        "10,000 rounds of each campaign, logged at random; the target is Bernoulli Thompson sampling at its"
    ]
    lines += [
        "priors, and the truth the mean of the 10,000 rounds that it logged itself. The relative error is"
    ]
    lines += [
        "|value - truth| / truth; *noise* is what both logs' own spread makes of it in a standard deviation."
    ]
    lines += [
        "Where an error is within its noise, estimators cannot be told apart by it. DM's interval ignores"
    ]
    lines += ["the error of its model, and so does its noise.", ""]
    lines += [
        "| campaign | estimator | value | 95 % interval (BCa) | truth (clicks) | relative error | noise |"
    ]
    lines += ["|---|---|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {r['campaign']} | {r['estimator']} | {1000 * r['value']:.2f} ‰ | {1000 * r['low']:.2f} … "
        f"{1000 * r['high']:.2f} | {1000 * r['truth']:.2f} ‰ ({r['clicks']}) | {r['error']:.2f} "
        f"| {r['noise']:.2f} |"
        for r in real
    ]
    lines += ["", "## Many items: weights of what items are", ""]
    lines += [
        f"{ROUNDS:,} rounds, {logs} logs, an ε-greedy target (ε = .05) and a logger that likes what the"
    ]
    lines += [
        f"target does not. Items are known by {KINDS} categories of {CARDS}, and the reward hangs on those"
    ]
    lines += ["alone. Mean squared error (in brackets the squared bias's share of it):", ""]
    lines += curve(many, "items")
    lines += ["", "## Slates: a click depends on the items above", ""]
    lines += [
        f"{SLATES:,} slates from 10 items, {logs} logs, Plackett–Luce logger and target. IIPS takes slots to"
    ]
    lines += [
        "answer alone, which is wrong here; SIPS, RIPS and Cascade-DR are unbiased. Mean squared error (in"
    ]
    lines += ["brackets the squared bias's share of it):", ""]
    return lines + curve(long, "slots")


def curve(found: dict[int, dict[str, Errors]], title: str) -> list[str]:
    """Return a table with a row for each size, the smallest error bold."""
    names = list(next(iter(found.values())))
    lines = [f"| {title} | " + " | ".join(names) + " |", "|---:|" + "---:|" * len(names)]
    for size, errors in found.items():
        best = min(e.mse for e in errors.values())
        cells = []
        for name in names:
            e = errors[name]
            words = f"{e.mse:.3g}"
            cells.append(f"{f'**{words}**' if e.mse == best else words} ({e.bias2 / e.mse:.0%})")
        lines.append(f"| {size:,} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
