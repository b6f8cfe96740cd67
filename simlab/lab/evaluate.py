"""`simlab evaluate`: what another policy would have earned on a log, and how sure that is.

Importing this file is light: `--help` reads the options from it. The work is in `evaluation.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class EvaluateConfig:
    """Say from a log what another policy would have earned, and how sure that is.

    Writes a folder with one row for each estimator in results.parquet, diagnostics.json and report.html.
    A log that cannot answer is refused (exit code 2), and an earlier run's folder is then left as it was.
    """

    log: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="LOG")]
    """The log: a Parquet, CSV or Open Bandit file, or open-bandit:random/men for the packaged sample; with
    --stream a folder of Parquet files, too."""
    policy: str
    """The policy to evaluate: uniform, bernoulli-ts, "greedy(mf)", "softmax(popularity, temperature=0.5)",
    "epsilon(greedy(popularity), 0.1)", saved:FOLDER, or column:NAME for a column of the file that holds the
    policy's probability of what was shown. Rankers learn from half of the users; the others judge."""
    more: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[MORE ...]")] = ()
    """With --stream, further Parquet files and folders of the same log."""
    versus: str | None = None
    """Another policy, in the words of --policy: the difference of the two, paired on the same rounds."""
    estimators: tuple[str, ...] = ("all",)
    """Estimators, such as ips snips dr, or all that apply; simlab list estimators, slate-estimators and
    trajectory-estimators show them."""
    unit: Literal["auto", "round", "slate", "trajectory"] = "auto"
    """What is weighed: a round as a whole, the slots of a slate, or a user's session of rounds. auto is slate
    where a row shows several items, and else round."""
    logger: str | None = None
    """With slates, the policy that logged them, in the words of --policy: what it would have shown below or
    beside each item opens the cascade, document and pseudo-inverse estimators."""
    examination: tuple[float, ...] = ()
    """With slates and --logger, the chance that each slot is examined, for pbm: --examination 1 0.5 0.3."""
    discount: float = 1.0
    """With trajectories, what a reward one step later is worth."""
    horizon: int | None = None
    """With trajectories, the steps that count; by default as many as the longest session has."""
    reward_range: tuple[float, float] | None = None
    """The lowest and the highest reward that a row can have. Rewards outside are refused, and the verdict
    says how far what was never shown can move the value."""
    tune: Literal["none", "slope", "paired", "mse", "cv"] = "none"
    """How clips, thresholds and shrinkages are chosen: none keeps each estimator's default; the others choose
    on the log itself, cross-fitted, and the estimator's name says the choice of each fold."""
    interval: str = "student-t"
    """Kind of interval: normal, student-t, bootstrap, bca, bernstein, cluster, poisson, empirical-likelihood
    or anytime (it holds however often you look)."""
    level: float = 0.95
    """Level of the intervals, between 0 and 1."""
    reward_model: str = "auto"
    """Reward model of the estimators that need one: logistic, ridge, gradient-boosting, the name of a ranker,
    the import path of a scikit-learn estimator, or none. auto is logistic for rewards of 0 and 1, ridge for
    others, and for large catalogues the ranker popularity."""
    folds: int = 3
    """Folds of cross-fitting: no row is scored by a reward model that has seen it."""
    columns: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Which column of the file is which field, as FIELD=COLUMN, such as propensity=pscore; may be repeated.
    features takes several columns or patterns, joined by commas: features=age,x_*."""
    layout: Literal["auto", "wide", "long", "obp"] = "auto"
    """wide is a row for each slate, long a row for each item shown, obp the Open Bandit Dataset's files."""
    items: int | None = None
    """Number of items in the catalogue; by default the largest id + 1."""
    position_from: Literal[0, 1] | None = None
    """Where the file starts to count positions."""
    recode: tuple[Literal["user", "item"], ...] = ()
    """Number these ids from 0: they are sparse."""
    truth: float | None = None
    """The policy's known value, to be drawn beside the estimates."""
    stream: bool = False
    """Read Parquet files batch by batch and keep sums alone, for a log that does not fit in memory. Nothing
    can learn from it but a reward model that --reward-model names, on a sample of the users."""
    workers: int = 1
    """With --stream, processes that add up parts of the log; the results do not depend on it. -1 is one for
    each core."""
    checkpoint: Path | None = None
    """With --stream, a file that keeps the sums so far. If it is there, the run goes on from it, and files
    that were added at the end are all that is read."""
    force: bool = False
    """Print and write the estimates even if the diagnostics refuse them."""
    seed: int = 0
    """Root of all randomness: the same seed gives the same results, bit for bit."""
    out: Path | None = None
    """Folder to write; by default runs/evaluate-<time>-<hash>."""
    overwrite: bool = False
    """Replace an earlier run in --out, once this run has succeeded."""
    config: Path | None = None
    """YAML file with options of this command; what the command line says wins."""


def run_evaluate(config: EvaluateConfig) -> int:
    """Evaluate from the command line, and write the run's folder."""
    from simlab.lab.evaluation import check, evaluate_log
    from simlab.lab.evaluation_report import print_result, write
    from simlab.lab.evaluation_stream import evaluate_stream
    from simlab.lab.runs import open_run

    check(config)
    with open_run("evaluate", config, out=config.out, overwrite=config.overwrite) as run:
        result = evaluate_stream(config) if config.stream else evaluate_log(config)
        write(run, result, config)
    print_result(result, run.target)
    return 0
