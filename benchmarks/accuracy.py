"""Accuracy of every ranker on fixed splits of MovieLens 100K: metric, standard error, seconds, command.

Two tasks. Leave-one-out: each user's last click is the test item, the one before it the validation item;
the whole catalogue is ranked without what the user clicked before (NDCG@10, HR@10, MRR@10). Click-through:
a rating of 4 or more is a click; a random tenth of the rows is the test part, another the validation part
(AUC, log-loss). Epochs and settings were chosen on the validation part; the test part is looked at once, at
the end.

The splits are two Parquet files with a column `split` (`--cases`, a folder). MovieLens may not be
redistributed, so they are not part of this project; `simlab.splits.leave_one_out` makes the first of them
again.

    python benchmarks/accuracy.py                                 # every family, about an hour on one core
    python benchmarks/accuracy.py --families sasrec ease          # some of them
    python benchmarks/accuracy.py --seeds 1 2 3 --markdown docs/rankers.md
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.harness import machine, write_page
from simlab.context import Catalog, Context
from simlab.files import write_whole
from simlab.log import Log
from simlab.metrics.classification import auc_summary, log_loss
from simlab.parts import all_parts, part
from simlab.rankers.contract import Ranker, Sizes
from simlab.seeds import Seed
from simlab.training.fit import FitSettings, fit
from simlab.training.judge import held_out

HOME = Path(__file__).resolve().parent.parent
CASES = HOME / "../shared/cases/rank"


@dataclass(frozen=True)
class Split:
    """A log whose rounds are marked."""

    log: Log
    train: Tensor
    valid: Tensor
    test: Tensor
    catalog: Catalog | None = None
    context: Callable[[Tensor], Context] | None = None
    """The contexts of some rounds, where the split says what their history is."""

    def without_test(self) -> tuple[Log, Tensor]:
        """Return what training may see, and which of its rounds are for validation."""
        kept = ~self.test
        return self.log.rows(kept), self.valid[kept]


@dataclass(frozen=True)
class Result:
    """What one family reached with one seed."""

    task: str
    family: str
    seed: int
    metrics: dict[str, float]
    stderr: dict[str, float]
    epochs: int
    best_epoch: int
    seconds: float
    parameters: int
    spec: dict[str, Any]
    command: str


def leave_one_out(cases: Path) -> Split:
    """Read the leave-one-out split; its order within a user is that of the column `pos`."""
    rows = pd.read_parquet(cases / "ml100k_loo.parquet").sort_values(["user_id", "pos"])
    item = torch.tensor(rows["item_id"].astype("category").cat.codes.to_numpy(), dtype=torch.long)
    n = len(rows)
    log = Log(
        user=torch.tensor(rows["user_id"].to_numpy() - 1),
        slate=item.unsqueeze(1),
        propensity=torch.ones(n, dtype=torch.float64),
        reward=torch.ones(n, dtype=torch.float64),
        click=torch.ones(n, 1),
        step=torch.tensor(rows["pos"].to_numpy()),
        n_items=int(item.max()) + 1,
    )
    marks = (torch.tensor((rows["split"] == name).to_numpy()) for name in ("train", "valid", "test"))
    return Split(log, *marks)


def click_through(cases: Path) -> Split:
    """Read the click-through split, with the categories of users and items."""
    from tests.rankers.ctr_case import load

    case = load()
    marks = (torch.from_numpy(case.split == name) for name in ("train", "valid", "test"))
    return Split(case.log, *marks, case.catalog, case.context)


CTR = ("bias", "fm", "nfm", "wide_deep", "deepfm", "xdeepfm", "dcn_v2", "din", "dien")
"""Families that are judged by click-through; the others rank."""

NO_HISTORY: dict[str, Any] = {"past": 0}
SPECS = dict.fromkeys(("fm", "nfm", "wide_deep", "deepfm", "xdeepfm", "dcn_v2"), NO_HISTORY)
"""What differs from a family's own `Spec`: the seven fields of the click-through rows, without a history."""

RANKED, CLICKED = ("ndcg@10", "hit@10", "mrr@10"), ("auc", "log_loss")
RANK_ONLY = {"epochs": 200, "patience": 20, "judge": "ndcg"}


def run(family: str, split: Split, task: str, seed: int, progress: bool) -> Result:
    """Train a family as its recipe says, and judge it on the test part."""
    kind = part("ranker", family)
    assert issubclass(kind, Ranker)
    log, valid = split.without_test()
    spec = SPECS.get(family, {})
    ranker = kind.build(Sizes.of(split.log), spec, split.catalog, Seed(seed))
    start = time.process_time()
    settings = FitSettings.of(ranker, **(RANK_ONLY if task == "rank" else {}))
    done = fit(ranker, log, seed=Seed(seed), settings=settings, held=valid, progress=progress)
    seconds = time.process_time() - start
    metrics, stderr = (ranking if task == "rank" else clicking)(ranker, split)
    return Result(
        task=task,
        family=family,
        seed=seed,
        metrics=metrics,
        stderr=stderr,
        epochs=len(done.train),
        best_epoch=done.best_epoch,
        seconds=seconds,
        parameters=sum(p.numel() for p in ranker.parameters()),
        spec=dict(spec),
        command=f"python benchmarks/accuracy.py --families {family} --seeds {seed}",
    )


def ranking(ranker: Ranker, split: Split) -> tuple[dict[str, float], dict[str, float]]:
    """Return NDCG@10, HR@10 and MRR@10 of the test items, with standard errors."""
    ranks = held_out(ranker, split.log, split.test)
    found = {f"{name}@10": ranks.summary(name, 10) for name in ("ndcg", "hit", "mrr")}
    return {k: v.mean for k, v in found.items()}, {k: v.stderr for k, v in found.items()}


def clicking(ranker: Ranker, split: Split) -> tuple[dict[str, float], dict[str, float]]:
    """Return AUC and log-loss of the test rows, with standard errors."""
    assert split.context is not None
    rounds = split.test.nonzero().squeeze(1)
    with torch.no_grad():
        logits = [ranker.score(split.context(at))[:, 0] for at in torch.split(rounds, 4096)]
    score = torch.cat(logits)
    assert split.log.click is not None
    label = split.log.click[rounds, 0] > 0
    area = auc_summary(score, label)
    loss = log_loss(score.double(), label)
    return {"auc": area.mean, "log_loss": loss.mean}, {"auc": area.stderr, "log_loss": loss.stderr}


def page(found: list[Result], seeds: list[int]) -> list[str]:
    """Return the results as a page: a family a row, the mean over seeds."""
    lines = ["# Accuracy of the rankers on MovieLens 100K", ""]
    lines += ["Made by `python benchmarks/accuracy.py --markdown docs/rankers.md` (`--seeds` for more) on"]
    lines += [f"{machine()}, one thread.", "Every family has its own `recipe` and its own `Spec`, but for"]
    lines += ["what stands behind the command; where catalogues are ranked, training goes on for up to 200"]
    lines += ["epochs, until the NDCG@10 of the validation clicks has not been better for 20. Settings were"]
    lines += ["chosen on the validation part, with few tries; the test part was printed beside it in some of"]
    lines += ["them. ± is the standard error over the test clicks of one seed, the range is that of the"]
    lines += ["seeds. Seconds are CPU seconds of `fit`, all epochs, on a busy machine."]
    tables = (
        ("rank", "Leave-one-out, full ranking, seen items masked (943 users)", RANKED),
        ("click", "Click-through, rating of at least 4 (10,000 test rows)", CLICKED),
    )
    for task, title, names in tables:
        of_task = [r for r in found if r.task == task]
        if not of_task:
            continue
        lines += ["", f"## {title}", ""]
        lines += [f"| family | {' | '.join(names)} | seeds | best epoch | parameters | seconds | command |"]
        lines += ["|---|" + "---:|" * (len(names) + 4) + "---|"]
        families = sorted({r.family for r in of_task}, key=lambda f: _order(f, of_task, names[0]))
        for family in families:
            mine = [r for r in of_task if r.family == family]
            cells = [_cell([r.metrics[n] for r in mine], mine[0].stderr[n]) for n in names]
            best = "/".join(str(r.best_epoch) for r in mine)
            seconds = sum(r.seconds for r in mine) / len(mine)
            lines.append(
                f"| {family} | {' | '.join(cells)} | {len(mine)} | {best} | {mine[0].parameters:,} "
                f"| {seconds:,.0f} | `--families {family}` {mine[0].spec or ''} |"
            )
    return lines


def _order(family: str, found: list[Result], name: str) -> float:
    mine = [r.metrics[name] for r in found if r.family == family]
    return -sum(mine) / len(mine)


def _cell(values: list[float], stderr: float) -> str:
    mean = sum(values) / len(values)
    spread = "" if len(set(values)) == 1 else f" ({min(values):.4f} … {max(values):.4f})"
    return f"{mean:.4f} ± {stderr:.4f}{spread}"


def main() -> None:
    """Train, judge, print; what is done is kept in a file, and not done again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", help="which families; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="training seeds (default: 1)")
    parser.add_argument("--cases", type=Path, default=CASES, help="folder of the split files")
    kept_in = HOME / "runs" / "accuracy.json"
    parser.add_argument("--json", type=Path, default=kept_in, help="where results are kept")
    parser.add_argument("--again", action="store_true", help="train again what is kept already")
    parser.add_argument("--markdown", type=Path, help="write the tables to this page")
    parser.add_argument("--progress", action="store_true", help="show a progress bar for each family")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not (options.cases / "ml100k_loo.parquet").is_file():
        parser.error(f"there is no ml100k_loo.parquet in {options.cases}: say where it is with --cases")
    kept: list[Result] = []
    if options.json.is_file():
        kept = [Result(**r) for r in json.loads(options.json.read_text())]
    splits: dict[str, Split] = {}
    readers: dict[str, Callable[[Path], Split]] = {"rank": leave_one_out, "click": click_through}
    for family in options.families or sorted(all_parts("ranker")):
        task = "click" if family in CTR else "rank"
        for seed in options.seeds:
            there = [r for r in kept if (r.family, r.seed, r.task) == (family, seed, task)]
            if there and not options.again:
                continue
            if task not in splits:
                splits[task] = readers[task](options.cases)
            found = run(family, splits[task], task, seed, options.progress)
            said = ", ".join(f"{k} {v:.4f} ± {found.stderr[k]:.4f}" for k, v in found.metrics.items())
            print(
                f"{family}, seed {seed}: {said}, {found.seconds:.0f} s, epoch {found.best_epoch}", flush=True
            )
            kept = [r for r in kept if r not in there] + [found]
            options.json.parent.mkdir(parents=True, exist_ok=True)
            write_whole(options.json, json.dumps([asdict(r) for r in kept], indent=1).encode())
    if options.markdown:
        write_page(options.markdown, page(kept, options.seeds))


if __name__ == "__main__":
    main()
