"""Speed of off-policy evaluation, beside obp 0.5.7 in the same run: CPU seconds and peak memory, one core.

- Eight estimators (IPS, SNIPS, clipped IPS, DM, DR, SNDR, Switch-DR, DRos), one policy, 10 actions, each
  with a percentile interval of 1,000 bootstrap replicates. Both sides start from the same arrays in memory.
- The same from a Parquet file that is never whole in memory, up to 10,000,000 rounds. obp has no such way.
- Intervals of slates: SIPS, IIPS and RIPS at 100,000 slates of 10, and propensities of ranked slates.
- A stream of slates from Parquet, clipped per-position IPS (`_ope_stream.py`).

Each figure is from a process of its own; memory is the peak beyond what the imports take.

    python benchmarks/ope.py                # about twelve minutes, most of them obp's
    python benchmarks/ope.py --quick
    python benchmarks/ope.py --device cuda  # ours alone, wall seconds, synchronised
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import _ope_stream
from benchmarks.harness import Row, arguments, finish, machine, peer_environment, peer_json, write_page

ACTIONS, REPLICATES, SLOTS, ITEMS = 10, 1000, 10, 1000
OBP = (("--no-deps", "--ignore-requires-python", "obp==0.5.7"),
       ("numpy==2.4.6", "scipy==1.17.1", "scikit-learn==1.9.1", "pandas==3.1.1", "pyyaml", "tqdm",
        "matplotlib", "seaborn"),
       ("torch==2.13.0",))  # fmt: skip
"""obp's own requirements want numpy 1; its code runs with numpy 2."""

_DATA = """
import json, resource, sys, time
import numpy as np
def made(n):
    random = np.random.default_rng(1)
    q = random.random((n, 10)); pi = random.random((n, 10)) + .1; pi /= pi.sum(1, keepdims=True)
    action = random.integers(0, 10, n); p = np.full(n, .1)
    reward = (random.random(n) < q[np.arange(n), action]).astype(int)
    return action, reward, p, pi, (q + .5) / 2
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
n = int(sys.argv[1])
"""

OBP_BANDIT = (
    _DATA
    + """
import warnings; warnings.filterwarnings("ignore")
from obp.ope import *
import obp.ope
action, reward, p, pi, q = made(n)
feedback = dict(n_rounds=n, n_actions=10, context=np.zeros((n, 1)), action=action, reward=reward, pscore=p,
                position=np.zeros(n, int))
every = [InverseProbabilityWeighting(), SelfNormalizedInverseProbabilityWeighting(),
         InverseProbabilityWeighting(lambda_=5., estimator_name="clip"), DirectMethod(), DoublyRobust(),
         SelfNormalizedDoublyRobust(), SwitchDoublyRobust(lambda_=5.),
         DoublyRobustWithShrinkage(lambda_=100.)]
before, start = peak(), time.process_time()
ope = OffPolicyEvaluation(bandit_feedback=feedback, ope_estimators=every)
found = ope.estimate_intervals(action_dist=pi[:, :, None], estimated_rewards_by_reg_model=q[:, :, None],
                               n_bootstrap_samples=int(sys.argv[2]), random_state=1)
cpu = time.process_time() - start
values = ope.estimate_policy_values(action_dist=pi[:, :, None], estimated_rewards_by_reg_model=q[:, :, None])
print(json.dumps(dict(cpu=cpu, megabytes=peak() - before, values={k: float(v) for k, v in values.items()})))
"""
)

OUR_BANDIT = (
    _DATA
    + """
import torch
device, replicates = sys.argv[3], int(sys.argv[2])
torch.set_num_threads(1)
from benchmarks.ope import eight
from causal.evaluation import evaluate
from causal.rounds import tabular
from simlab.seeds import Seed
action, reward, p, pi, q = (torch.from_numpy(x).to(device) for x in made(n))
def work():
    rounds = tabular(action, reward, p, pi, q)
    return evaluate(rounds, eight(), sys.argv[4], seed=Seed(n), replicates=replicates)
clock = time.process_time
if device != "cpu":
    work(); torch.cuda.synchronize(); clock = time.perf_counter
before, start = peak(), clock()
found = work()
if device != "cpu": torch.cuda.synchronize()
cpu = clock() - start
print(json.dumps(dict(cpu=cpu, megabytes=peak() - before, values={e.name: e.value for e in found},
                      widths={e.name: e.interval.width / e.stderr for e in found})))
"""
)

OUR_STREAM = """
import json, resource, sys, time
import torch
torch.set_num_threads(1)
from benchmarks.ope import eight, weighed
from causal.stream import Columns, stream
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.process_time()
names = ("action", "reward", "pscore", "pi", "q")
found = stream(sys.argv[1], Columns(names, weighed), eight(), group=None)
said = found.estimates("poisson")
cpu = time.process_time() - start
print(json.dumps(dict(cpu=cpu, megabytes=peak() - before, values={e.name: e.value for e in said})))
"""

_SLATES = """
import json, sys, time
import numpy as np
n, slots = int(sys.argv[1]), 10
random = np.random.default_rng(2)
target = random.uniform(.07, .14, (n, slots)); logger = np.full((n, slots), .1)
w, cascade = target / logger, (target / logger).cumprod(1)
reward = (random.random((n, slots)) < .2).astype(float)
"""

OBP_SLATES = (
    _SLATES
    + """
import warnings; warnings.filterwarnings("ignore")
from obp.ope import SlateStandardIPS, SlateIndependentIPS, SlateRewardInteractionIPS
ids, position, flat = np.repeat(np.arange(n), slots), np.tile(np.arange(slots), n), reward.reshape(-1)
common = dict(slate_id=ids, reward=flat, position=position, n_bootstrap_samples=int(sys.argv[2]))
down = lambda p: p.cumprod(1)
whole = lambda p: np.repeat(p.cumprod(1)[:, -1:], slots, 1)
cpu = {}
for name, make, chance, key in (
    ("SIPS", SlateStandardIPS, whole, ""),
    ("IIPS", SlateIndependentIPS, lambda p: p, "_item_position"),
    ("RIPS", SlateRewardInteractionIPS, down, "_cascade")):
    given = {"pscore" + key: chance(logger).reshape(-1),
             "evaluation_policy_pscore" + key: chance(target).reshape(-1)}
    start = time.process_time()
    make(len_list=slots).estimate_interval(**common, **given)
    cpu[name] = time.process_time() - start
print(json.dumps(cpu))
"""
)

OUR_SLATES = (
    _SLATES
    + """
import torch
torch.set_num_threads(1)
from causal.contract import Slates
from causal.evaluation import estimate
from causal.slate.iips import IIPS
from causal.slate.rips import RIPS
from causal.slate.sips import SIPS
from simlab.seeds import Seed
ours = [torch.from_numpy(x) for x in (reward, w, cascade)]
cpu = {}
for number, make in enumerate((SIPS, IIPS, RIPS)):
    start = time.process_time()
    data = Slates(ours[0], joint=ours[2][:, -1], marginal=ours[1], cascade=ours[2])
    estimate(make(), data, "poisson", seed=Seed(number), replicates=int(sys.argv[2]))
    cpu[make.name] = time.process_time() - start
print(json.dumps(cpu))
"""
)

OBP_PROPENSITY = """
import json, sys, time
import numpy as np
import warnings; warnings.filterwarnings("ignore")
from obp.dataset import SyntheticSlateBanditDataset, logistic_reward_function, linear_behavior_policy_logit
n = int(sys.argv[1])
data = SyntheticSlateBanditDataset(n_unique_action=10, len_list=3, dim_context=2, random_state=1,
    base_reward_function=logistic_reward_function, behavior_policy_function=linear_behavior_policy_logit)
feedback = data.obtain_batch_bandit_feedback(n_rounds=n, return_pscore_item_position=False)
logit = np.random.default_rng(1).normal(size=(n, 10))
start = time.process_time()
data.obtain_pscore_given_evaluation_policy_logit(action=feedback["action"], evaluation_policy_logit_=logit,
                                                 return_pscore_item_position=True)
print(json.dumps(n / (time.process_time() - start)))
"""

OUR_PROPENSITY = """
import json, sys, time
import torch
torch.set_num_threads(1)
from simlab.slates import PlackettLuce
n = int(sys.argv[1])
logit = torch.randn(n, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
columns = torch.rand(n, 10).topk(3).indices
def work():
    for rows in torch.arange(n).split(4096):
        d = PlackettLuce(logit[rows], 3)
        d.slot_log_probs(columns[rows]); d.log_prob(columns[rows]); d.marginals(columns[rows])
work()
start = time.process_time()
work()
print(json.dumps(n / (time.process_time() - start)))
"""


def eight() -> list[Any]:
    """Return the estimators that both libraries have."""
    from causal.bandit.clipped_ips import ClippedIPS
    from causal.bandit.dm import DM
    from causal.bandit.dr import DR
    from causal.bandit.dros import DRos
    from causal.bandit.ips import IPS
    from causal.bandit.sndr import SNDR
    from causal.bandit.snips import SNIPS
    from causal.bandit.switch_dr import SwitchDR

    return [IPS(), SNIPS(), ClippedIPS(5.0), DM(), DR(), SNDR(), SwitchDR(5.0), DRos(100.0)]


def weighed(batch: Any) -> Any:
    """Make rounds of a record batch of the file that `write_rounds` writes."""
    import torch

    from causal.rounds import tabular

    def matrix(name: str) -> Any:
        return torch.from_numpy(batch.column(name).flatten().to_numpy().reshape(-1, ACTIONS))

    action, reward, p = (torch.from_numpy(batch.column(n).to_numpy()) for n in ("action", "reward", "pscore"))
    return tabular(action, reward, p, matrix("pi"), matrix("q"))


def write_rounds(path: Path, rounds: int) -> None:
    """Write a log with the whole target policy and the whole reward model, a block at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random, writer = np.random.default_rng(1), None
    for start in range(0, rounds, 131_072):
        n = min(131_072, rounds - start)
        q, pi = random.random((n, ACTIONS)), random.random((n, ACTIONS)) + 0.1
        pi /= pi.sum(1, keepdims=True)
        action = random.integers(0, ACTIONS, n)
        reward = (random.random(n) < q[np.arange(n), action]).astype(np.float64)
        table = pa.table(
            {
                "action": action,
                "reward": reward,
                "pscore": np.full(n, 0.1),
                "pi": pa.FixedSizeListArray.from_arrays(pa.array(pi.reshape(-1)), ACTIONS),
                "q": pa.FixedSizeListArray.from_arrays(pa.array((q.reshape(-1) + 0.5) / 2), ACTIONS),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema, use_dictionary=False, compression="none")
        writer.write_table(table)
    assert writer is not None
    writer.close()


def ours(script: str, *args: str) -> Any:
    """Run a script of ours on one core in a process of its own."""
    root = Path(__file__).resolve().parent.parent
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    got = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, env=env)
    if got.returncode:
        raise RuntimeError(got.stderr)
    return json.loads(got.stdout.strip().splitlines()[-1])


def medians(runs: list[dict[str, Any]]) -> tuple[float, float]:
    """Return median CPU seconds and the largest memory."""
    return statistics.median(r["cpu"] for r in runs), max(r["megabytes"] for r in runs)


def same(mine: dict[str, float], theirs: dict[str, float]) -> float:
    """Return the largest relative difference of the two libraries' values, estimator by estimator."""
    pairs = zip(mine.values(), theirs.values(), strict=True)
    return max(abs(a - b) / abs(b) for a, b in pairs)


def bandit(options: argparse.Namespace, python: Path | None) -> list[Row]:
    """Measure eight estimators with intervals at several sizes."""
    out = []
    sizes = (10_000, 100_000) if options.quick else (10_000, 100_000, 1_000_000)
    if options.device != "cpu":
        sizes = (*sizes, 10_000_000)
    for n in sizes:
        for kind in ("poisson",) if options.quick else ("poisson", "bootstrap"):
            runs = [ours(OUR_BANDIT, str(n), str(REPLICATES), options.device, kind) for _ in range(3)]
            cpu, memory = medians(runs)
            their = None
            if python is not None and kind == "poisson":
                their = peer_json(python, OBP_BANDIT, str(n), str(REPLICATES))
            settings: dict[str, Any] = {"rounds": n, "actions": ACTIONS, "replicates": REPLICATES,
                                        "kind": kind}  # fmt: skip
            if their is not None:
                settings["largest relative difference of values"] = same(runs[0]["values"], their["values"])
            peer, value = (None, None) if their is None else ("obp 0.5.7", their["cpu"])
            name = f"8 estimators, {n:,} rounds, {kind}"
            out.append(Row(name, cpu, "CPU s" if options.device == "cpu" else "s", peer, value,
                           None if value is None else value / cpu, settings, options.device))  # fmt: skip
            if options.device == "cpu":
                more = None if their is None else their["megabytes"]
                ratio = None if more is None else more / max(memory, 1)
                out.append(Row("  peak memory beyond the arrays", memory, "MB", peer, more, ratio, settings))
            print(f"{name}: {cpu:.3g} s" + ("" if value is None else f"; obp {value:.4g}"), flush=True)
    return out


def parquet(options: argparse.Namespace) -> list[Row]:
    """Measure the same eight from a file."""
    out = []
    for n in (100_000,) if options.quick else (1_000_000, 10_000_000):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "log.parquet"
            write_rounds(path, n)
            runs = [ours(OUR_STREAM, str(path)) for _ in range(1 if n > 1_000_000 else 3)]
        cpu, memory = medians(runs)
        settings = {"rounds": n, "actions": ACTIONS, "replicates": REPLICATES, "file": "Parquet, plain"}
        out.append(Row(f"8 estimators, {n:,} rounds from Parquet", cpu, "CPU s", settings=settings))
        out.append(Row("  peak memory beyond imports", memory, "MB", settings=settings))
        print(f"{n:,} rounds from Parquet: {cpu:.3g} s, {memory:.0f} MB", flush=True)
    return out


def slates(options: argparse.Namespace, python: Path | None) -> list[Row]:
    """Measure intervals of slates, and propensities of Plackett–Luce slates."""
    n = 10_000 if options.quick else 100_000
    out = []
    mine = ours(OUR_SLATES, str(n), str(REPLICATES))
    their = None if python is None else peer_json(python, OBP_SLATES, str(n), str(REPLICATES))
    for name, cpu in mine.items():
        value = None if their is None else their[name]
        settings = {"slates": n, "slots": SLOTS, "replicates": REPLICATES}
        peer = None if value is None else "obp 0.5.7"
        ratio = None if value is None else value / cpu
        out.append(Row(f"{name} with interval, {n:,} slates", cpu, "CPU s", peer, value, ratio, settings))
    rate = ours(OUR_PROPENSITY, "20000")
    value = None if python is None else peer_json(python, OBP_PROPENSITY, "300")
    peer = None if value is None else "obp 0.5.7"
    ratio = None if value is None else rate / value
    out.append(Row("joint, cascade and slot propensities, 3 of 10 items", rate, "slates / CPU s", peer,
                   value, ratio, {"slates": 20_000}))  # fmt: skip
    return out


def main() -> None:
    """Measure everything, and print the table."""
    options = arguments(__doc__ or "")
    python = None
    if not options.no_peer and options.device == "cpu":
        python = peer_environment("obp", OBP)
    rows = bandit(options, python)
    if options.device == "cpu":
        rows += parquet(options)
        rows += slates(options, python)
        size, layouts = (100_000 if options.quick else 10_000_000), _ope_stream.LAYOUTS[:1]
        plain = tuple(_ope_stream.ENCODINGS)[: 1 if options.quick else 3]
        rows += _ope_stream.rows(size, layouts, plain, repeat=1 if options.quick else 3)
    finish("off-policy evaluation", rows, options.json)
    if options.markdown:
        write_page(options.markdown, page(rows, options.device))


def page(rows: list[Row], device: str) -> list[str]:
    """Return the lines of the page."""
    day = time.strftime("%Y-%m-%d")
    lines = ["# Speed of off-policy evaluation", "", "Made by `python benchmarks/ope.py`: " + machine() + ","]
    lines += [
        f"device {device}, {day}; one core, medians of CPU seconds, the peer in the same run. What is",
        "",
    ]
    lines[-1] = (
        "measured stands at the top of the script. A bootstrap of ours resamples 8,192 buckets of rows"
    )
    lines += ["(`causal/sums.py`), obp's resamples rows; with as many rows as buckets both are the same."]
    lines += ["", "| what | value | unit | obp 0.5.7 | ratio |", "|---|---:|---|---:|---:|"]
    for r in rows:
        peer = "" if r.peer_value is None else f"{r.peer_value:,.4g}"
        ratio = "" if r.ratio is None else f"{r.ratio:,.0f} ×" if r.ratio >= 10 else f"{r.ratio:.1f} ×"
        lines.append(f"| {r.name.strip()} | {r.value:,.3g} | {r.unit} | {peer} | {ratio} |")
    worst = [r.settings.get("largest relative difference of values") for r in rows]
    known = [x for x in worst if x is not None]
    if known:
        lines += ["", f"The eight values of both agree to {max(known):.0e}, relatively."]
    return lines


if __name__ == "__main__":
    main()
