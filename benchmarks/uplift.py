"""Speed of uplift learners beside EconML alone and causalml 0.18.0 in the same run: CPU seconds, one core.

- Learners at 64,000 x 9 and 1,000,000 x 20 rows, two arms, a number as outcome: fit on all rows and the
  effect of each. Nuisances are the same on all sides: scikit-learn's HistGradientBoostingRegressor (50 trees
  of 15 leaves), logistic regression for the arm, 3 folds. "Alone" is EconML's own class with the same
  settings, in turns with ours in one process; the answers must agree. Causal forests (100 trees) at 64,000.
  The overhead of our face is the time of our fit and effect that is spent outside of EconML's own methods,
  over the time inside them, in the same call: two runs apart differ by more than it on a shared machine.
- causalml's meta-learners take the same models; its chances of arms are fitted by the same logistic
  regression, in its time. Its DR-learner has 3 folds fixed, too. Its intervals are bootstraps and left out.
- Deep learners: rows trained on x epochs per CPU second, 20 features, default networks (a tenth of the rows
  is held out and not counted). "Training" is 5 epochs less 1; "whole fit" is all of 5. Measured once.
- Metrics with standard errors at 1,000,000 rows, from scores in memory; causalml's have none.

    python benchmarks/uplift.py                # half an hour of one core
    python benchmarks/uplift.py --quick        # 5,000 x 9, and metrics at 100,000
    python benchmarks/uplift.py --device cuda  # the deep learners alone, wall seconds, synchronised
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.harness import (
    Row,
    arguments,
    finish,
    machine,
    peer_environment,
    peer_json,
    write_json,
    write_page,
)

ROOT = Path(__file__).resolve().parent.parent
CAUSALML = (("--no-deps", "causalml==0.18.0"),
            ("numpy==2.4.6", "scipy==1.17.1", "scikit-learn==1.9.1", "pandas==3.1.1", "statsmodels", "tqdm",
             "matplotlib", "seaborn", "dill", "pathos", "packaging", "pydot", "graphviz", "lightgbm", "shap"),
            ("--no-deps", "xgboost-cpu", "forestci==0.6"))  # fmt: skip
"""causalml imports them all; xgboost-cpu is xgboost without the libraries for GPUs."""

PEER_META = {"S-learner": "S", "T-learner": "T", "X-learner": "X", "R-learner": "R", "DR-learner": "DR"}
DEEP = ("tarnet", "cfr", "dragonnet", "descn")

_DATA = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
rows, columns = int(sys.argv[1]), int(sys.argv[2])
g = np.random.default_rng(1)
x = g.normal(size=(rows, columns))
chance = 1 / (1 + np.exp(-.5 * x[:, 0]))
t = (g.random(rows) < chance).astype(np.int64)
tau = .5 + .5 * (x[:, 1] > 0)
y = np.abs(x[:, 2]) + .5 * x[:, 0] + tau * t + g.normal(size=rows)
outcome = lambda: HistGradientBoostingRegressor(max_iter=50, max_leaf_nodes=15, early_stopping=False,
                                                random_state=0)
arm = lambda: make_pipeline(StandardScaler(), LogisticRegression())
"""

OURS = (
    _DATA
    + """
from sklearn.model_selection import StratifiedKFold
from econml.dml import CausalForestDML, LinearDML as EconLinearDML, NonParamDML
from econml.dr import DRLearner as EconDR, LinearDRLearner
from econml.metalearners import SLearner as EconS, TLearner as EconT, XLearner as EconX
from causal.uplift.causal_forest import CausalForest
from causal.uplift.dr_learner import DRLearner
from causal.uplift.linear_dml import LinearDML
from causal.uplift.linear_dr import LinearDR
from causal.uplift.r_learner import RLearner
from causal.uplift.s_learner import SLearner
from causal.uplift.t_learner import TLearner
from causal.uplift.x_learner import XLearner
name, repeat = sys.argv[3], int(sys.argv[4])
folds = lambda: StratifiedKFold(3, shuffle=True, random_state=0)
cross = lambda: dict(cv=folds(), random_state=0)
residual = lambda: dict(model_y=outcome(), model_t=arm(), discrete_treatment=True, **cross())
robust = lambda: dict(model_regression=outcome(), model_propensity=arm(), **cross())
ours = dict(outcome_model=outcome(), propensity_model=arm(), folds=3)
BOTH = {
    "S-learner": (lambda: SLearner(**ours), lambda: EconS(overall_model=outcome())),
    "T-learner": (lambda: TLearner(**ours), lambda: EconT(models=outcome())),
    "X-learner": (lambda: XLearner(effect_model=outcome(), **ours),
                  lambda: EconX(models=outcome(), cate_models=outcome(), propensity_model=arm())),
    "R-learner": (lambda: RLearner(effect_model=outcome(), **ours),
                  lambda: NonParamDML(model_final=outcome(), **residual())),
    "DR-learner": (lambda: DRLearner(effect_model=outcome(), **ours),
                   lambda: EconDR(model_final=outcome(), **robust())),
    "linear DR": (lambda: LinearDR(**ours), lambda: LinearDRLearner(**robust())),
    "linear DML": (lambda: LinearDML(**ours), lambda: EconLinearDML(**residual())),
    "causal forest": (lambda: CausalForest(trees=100, leaf=50, **ours),
                      lambda: CausalForestDML(n_estimators=100, min_samples_leaf=50, n_jobs=1, **residual())),
}
from causal.uplift._econml import EconMLLearner
inside = [0.0]
def watched(call):
    def timed_call(*args, **more):
        start = time.process_time()
        try: return call(*args, **more)
        finally: inside[0] += time.process_time() - start
    return timed_call
class Watched:  # EconML's estimator with a stop watch on what our face asks of it
    def __init__(self, model): self.model = model
    def __getattr__(self, name):
        found = getattr(self.model, name)
        return watched(found) if callable(found) else found
def mine():
    learner = BOTH[name][0]()
    make = learner._make
    learner._make = lambda trial: Watched(make(trial))
    learner.fit(x, t, y)
    return learner.effect(x)
def alone():
    learner = BOTH[name][1]()
    learner.fit(y, t, X=x)
    return learner.effect(x).reshape(-1)
def timed(work):
    start = time.process_time()
    found = work()
    return time.process_time() - start, found
whole, (x, t, y) = (x, t, y), (x[:500], t[:500], y[:500])
mine(), alone()  # what is imported or compiled at the first call
x, t, y = whole
pairs, outside = [], []
for i in range(repeat):
    first, second = (mine, alone) if i % 2 == 0 else (alone, mine)
    inside[0] = 0.0
    a, b = timed(first), timed(second)
    (cpu, effect), (peer, other) = (a, b) if i % 2 == 0 else (b, a)
    del a, b
    pairs.append((cpu, peer))
    outside.append((cpu - inside[0]) / inside[0])
print(json.dumps(dict(pairs=pairs, outside=outside, apart=float(np.abs(effect - other).max()),
                      spread=float(other.std()), error=float(np.sqrt(np.mean((effect - tau) ** 2))))))
"""
)

PEER = (
    _DATA
    + """
from causalml.inference.meta import (BaseSRegressor, BaseTRegressor, BaseXRegressor, BaseRRegressor,
                                     BaseDRRegressor)
def run(kind):
    p = arm().fit(x, t).predict_proba(x)[:, 1] if kind in "XRDR" else None
    if kind == "S": return BaseSRegressor(outcome(), control_name=0).fit_predict(x, t, y)
    if kind == "T": return BaseTRegressor(outcome(), control_name=0).fit_predict(x, t, y)
    if kind == "X":
        return BaseXRegressor(outcome(), control_name=0).fit_predict(x, t, y, p=p)
    if kind == "R":
        learner = BaseRRegressor(outcome_learner=outcome(), effect_learner=outcome(), control_name=0,
                                 n_fold=3, random_state=0)
        return learner.fit_predict(x, t, y, p=p, verbose=False)
    return BaseDRRegressor(outcome(), control_name=0).fit_predict(x, t, y, p=p)
cpu = []
for _ in range(int(sys.argv[4])):
    start = time.process_time()
    effect = run(sys.argv[3])
    cpu.append(time.process_time() - start)
error = float(np.sqrt(np.mean((np.asarray(effect).reshape(-1) - tau) ** 2)))
print(json.dumps(dict(cpu=sorted(cpu)[len(cpu) // 2], error=error)))
"""
)

OUR_DEEP = """
import json, sys, time
import numpy as np
import torch
torch.set_num_threads(1)
from simlab.parts import part
rows, name, device = int(sys.argv[1]), sys.argv[2], sys.argv[3]
g = np.random.default_rng(1)
x = g.normal(size=(rows, 20))
t = g.integers(0, 2, rows)
y = np.abs(x[:, 2]) + (.5 + .5 * (x[:, 1] > 0)) * t + g.normal(size=rows)
if name == "descn":
    y = (y > 1).astype(float)
make = part("uplift learner", name)
make(epochs=1, patience=99, device=device).fit(x[:5000], t[:5000], y[:5000])
clock = time.process_time if device == "cpu" else time.perf_counter
def fitted(epochs):
    start = clock()
    make(epochs=epochs, patience=99, device=device).fit(x, t, y)
    if device != "cpu": torch.cuda.synchronize()
    return clock() - start
short, long = fitted(1), fitted(5)
trained = .9 * rows  # a tenth is held out by default
print(json.dumps(dict(marginal=4 * trained / (long - short), whole=5 * trained / long)))
"""

_SCORED = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np
rows = int(sys.argv[1])
g = np.random.default_rng(2)
effect = g.normal(.1, .1, rows)
t = g.integers(0, 2, rows)
y = (g.random(rows) < np.clip(.3 + effect * t, 0, 1)).astype(float)
score = effect + g.normal(0, .1, rows)
"""

OUR_METRICS = (
    _SCORED
    + """
from causal.targeting.calibration import blp, group_effects
from causal.targeting.curves import Ranked, auuc, qini, uplift_at
from causal.targeting.rate import autoc, rate_qini, toc
from causal.targeting.ranks import Ranks
from causal.targeting.scores import aipw
from causal.uplift.contract import Trial
trial = Trial.of(np.zeros((rows, 1)), t, y)
gamma = aipw(trial, mu=np.full((rows, 2), .3), e=.5)[:, 0]
def curves():
    ranked = Ranked.of(trial, score)
    return qini(ranked), auuc(ranked), uplift_at(ranked, .3)
def rates():
    ranks = Ranks.of(-score, np.ones(rows))
    return autoc(ranks, gamma), rate_qini(ranks, gamma), toc(ranks, gamma)
def fits():
    return blp(gamma, score), group_effects(gamma, score, 10)
cpu = {}
for name, work in (("curves", curves), ("rates", rates), ("fits", fits)):
    taken = []
    for _ in range(3):
        start = time.process_time()
        found = work()
        taken.append(time.process_time() - start)
    cpu[name] = sorted(taken)[1]
print(json.dumps(cpu))
"""
)

PEER_METRICS = (
    _SCORED
    + """
import pandas as pd
from causalml.metrics import auuc_score, qini_score
frame = pd.DataFrame(dict(y=y, w=t, score=score))
start = time.process_time()
auuc_score(frame, outcome_col="y", treatment_col="w"), qini_score(frame, outcome_col="y", treatment_col="w")
print(json.dumps(time.process_time() - start))
"""
)


def ours(script: str, *args: str) -> Any:
    """Run a script of ours in a process of its own on one core; return the JSON of its last line, or None."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    got = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, env=env, cwd=ROOT
    )
    if got.returncode:
        print(f"{' '.join(args)} failed: {got.stderr.strip().splitlines()[-1]}")
        return None
    return json.loads(got.stdout.strip().splitlines()[-1])


def learners(
    options: argparse.Namespace, python: Path | None, keep: Callable[[list[Row]], None]
) -> list[Row]:
    """Time learners through our face, EconML alone, and causalml; what is done is kept."""
    sizes = ((5_000, 9, 3),) if options.quick else ((64_000, 9, 3), (1_000_000, 20, 1))
    names = [*PEER_META, "linear DR", "linear DML", "causal forest"]
    out: list[Row] = []
    for rows, columns, repeat in sizes:
        size = f"{rows:,} x {columns}"
        for name in names:
            if name == "causal forest" and rows > 100_000:
                continue
            turns = 1 if name == "causal forest" else max(repeat, 3 * (name in ("S-learner", "T-learner")))
            found = ours(OURS, str(rows), str(columns), name, str(turns))
            if found is None:
                continue
            mine = statistics.median(a for a, _ in found["pairs"])
            alone = statistics.median(b for _, b in found["pairs"])
            over = 100 * statistics.median(found["outside"])
            known = {"rows": rows, "columns": columns, "turns": turns}
            settings = known | {k: found[k] for k in ("apart", "spread", "error")}
            out.append(Row(f"{name}, {size}", mine, "CPU s", "EconML 0.17", alone, alone / mine, settings))
            out.append(Row(f"  overhead of our face, {name}, {size}", over, "% of EconML", settings=known))
            print(f"{name}, {size}: {mine:.2f} s, EconML {alone:.2f} s, {over:.2f} % outside", flush=True)
            keep(out)
            if python is None or name not in PEER_META:
                continue
            their = peer_json(python, PEER, str(rows), str(columns), PEER_META[name], str(turns))
            if their is not None:
                more = settings | {"error of the peer": their["error"]}
                peer = ("causalml 0.18.0", their["cpu"], their["cpu"] / mine)
                out.append(Row(f"  {name} beside causalml, {size}", mine, "CPU s", *peer, more))
    return out


def deep(options: argparse.Namespace) -> list[Row]:
    """Time the training of deep learners."""
    rows = 10_000 if options.quick else 200_000
    unit = "rows / CPU s" if options.device == "cpu" else "rows / s"
    out = []
    for name in DEEP:
        found = ours(OUR_DEEP, str(rows), name, options.device)
        if found is not None:
            settings = {"rows": rows, "epochs": 5, "whole fit": found["whole"]}
            out.append(
                Row(f"{name}, training", found["marginal"], unit, settings=settings, device=options.device)
            )
            out.append(Row(f"  {name}, whole fit of 5 epochs", found["whole"], unit, device=options.device))
    return out


def metrics(options: argparse.Namespace, python: Path | None) -> list[Row]:
    """Time the metrics with their standard errors."""
    rows = 100_000 if options.quick else 1_000_000
    found = ours(OUR_METRICS, str(rows))
    if found is None:
        return []
    said = {
        "curves": "Qini, AUUC and uplift at 30 %",
        "rates": "AUTOC, RATE-Qini and TOC at 20 shares",
        "fits": "calibration: BLP and ten groups",
    }
    out = [Row(f"{said[key]}, {rows:,} rows", found[key], "CPU s") for key in said]
    their = None if python is None else peer_json(python, PEER_METRICS, str(rows))
    if their is not None:
        peer = ("causalml 0.18.0, no standard errors", their, their / found["curves"])
        first = out[0]
        out[0] = Row(first.name, first.value, first.unit, *peer)
    out.append(Row(f"all metrics, {rows:,} rows", sum(found.values()), "CPU s"))
    return out


def main() -> None:
    """Measure everything, and print the table."""
    options = arguments(__doc__ or "")
    cpu = options.device == "cpu"
    python = peer_environment("causalml", CAUSALML) if cpu and not options.no_peer else None
    rows: list[Row] = []

    def keep(more: list[Row]) -> None:
        if options.json:
            write_json(options.json, [*rows, *more])
        if options.markdown:
            write_page(options.markdown, page([*rows, *more], options.device, python is not None))

    for part in (
        lambda: metrics(options, python) if cpu else [],
        lambda: deep(options),
        lambda: learners(options, python, keep) if cpu else [],
    ):
        rows += part()
        keep([])
    finish("uplift", rows, options.json)


def page(rows: list[Row], device: str, peer: bool) -> list[str]:
    """Return the lines of the page."""
    lines = [
        "# Speed of uplift",
        "",
        f"Made by `python benchmarks/uplift.py`: {machine()},",
        f"device {device}, {time.strftime('%Y-%m-%d')}; one core, medians of CPU seconds, peers in the run.",
        "What is measured stands at the top of the script. A ratio above 1 means that the peer takes longer.",
        "",
        "| what | value | unit | peer | its value | ratio |",
        "|---|---:|---|---|---:|---:|",
    ]
    if not peer and device == "cpu":
        lines.insert(5, "causalml did not install here, so EconML is the only peer.")
    for r in rows:
        value = f"{r.value:,.0f}" if r.value >= 1000 else f"{r.value:.3g}"
        their = "" if r.peer_value is None else f"{r.peer_value:.3g}"
        ratio = "" if r.ratio is None else f"{r.ratio:.2f} x"
        lines.append(f"| {r.name.strip()} | {value} | {r.unit} | {r.peer or ''} | {their} | {ratio} |")
    apart = [r.settings["apart"] / r.settings["spread"] for r in rows if "apart" in r.settings]
    if apart:
        lines += [
            "",
            f"Effects through our face and EconML's own differ by {max(apart):.0e} of their spread at most.",
        ]
    return lines


if __name__ == "__main__":
    main()
