"""The work of `simlab evaluate --stream`: one pass over files of any size, and sums that say the rest.

`stream_options.py` says which options go with a stream, `stream_files.py` what is read, `stream_source.py`
how each target weighs it, and `stream_verdict.py` whether to believe it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from causal.contract import MODEL, Scored, Slates, lacking
from causal.evaluation import Estimate, to_frame
from causal.slates import marginals_error
from causal.stream import Streamed, stream
from causal.stream.run import applicable
from causal.stream.weigh import Weigh, narrowed
from simlab.errors import BadInput
from simlab.lab.evaluation import LogMean, Result, given
from simlab.lab.evaluation_choice import KINDS, Unit, check_estimators, whole_note
from simlab.lab.evaluation_units import COLUMN, check_unit
from simlab.lab.stream_files import Files, open_files
from simlab.lab.stream_options import NO_MODEL, command_of
from simlab.lab.stream_progress import count, watched
from simlab.lab.stream_source import fit_model, unit_of, weigher
from simlab.lab.stream_verdict import judged, weight_rows
from simlab.parts import part
from simlab.seeds import Seed

if TYPE_CHECKING:
    from simlab.lab.evaluate import EvaluateConfig

MINE, OTHER = "policy", "versus"
"""The targets' names in the sums."""

UNMEASURED = (
    "A stream keeps no rows, so what the log never shows and whether items are shown as often as their "
    "propensities say is not measured; a sample of the log evaluated without --stream says it."
)


def evaluate_stream(config: "EvaluateConfig") -> Result:
    """Evaluate files that do not have to fit in memory.

    Raises:
        BadInput: for files, columns or a policy that cannot be, and for a log that cannot answer, unless
            forced.
        KeyboardInterrupt: with a sentence on how to go on.
    """
    seed = Seed(config.seed)
    files = open_files(config)
    unit = unit_of(config, files)
    check_unit(config, unit)
    words = {MINE: config.policy} | ({} if config.versus is None else {OTHER: config.versus})
    users = files.knows_users(tuple(words.values()))
    if config.interval == "cluster" and not users:
        raise BadInput("--interval cluster takes users as the units, and the log has no column user")
    notes: list[str] = []
    model = None
    if unit == "slate" and config.reward_model not in NO_MODEL:
        raise BadInput(f"--reward-model {config.reward_model}: a stream models rounds, and these are slates")
    for name in words.values():  # a policy that cannot be is refused before a model is fitted
        weigher(config, files, name, unit, None)
    check_estimators(config.estimators, unit)
    if config.reward_model not in NO_MODEL:
        model = fit_model(config, files, seed.split("folds"))
        notes.append(
            f"The reward model {config.reward_model} was fitted on {model.rows:,} of {files.rows:,} rows, of "
            f"whole users, in {config.folds} folds: no row is scored by a model that has seen its user."
        )
    named = {key: weigher(config, files, name, unit, model) for key, name in words.items()}
    rows = files.rows if "all" in config.estimators else 1  # what is asked for by name may take long
    first = {key: _first(files, make, rows) for key, (_, make) in named.items()}
    chosen = _estimators(config, unit, tuple(first.values()))
    makes = {key: make for key, (_, make) in named.items()}

    found, took = _summed(config, files, makes, [LogMean(), *chosen], users, seed.split("intervals"))
    one = len(makes) == 1

    def name_of(key: str, estimator: Any) -> str:
        return estimator.name if one else f"{key}: {estimator.name}"

    kept, said = judged(found, unit, chosen, [name_of(MINE, e) for e in chosen], force=config.force)
    kind, level = config.interval, config.level
    mean = name_of(MINE, LogMean())
    estimates = [
        replace(e, name=own.name)
        for own, e in zip(
            kept, found.estimates(kind, level, names=[name_of(MINE, e) for e in kept]), strict=True
        )
    ]
    frame = to_frame(estimates)
    lifts = [found.difference(name_of(MINE, e), mean, kind, level) for e in kept]
    _put(frame, "lift", lifts)
    if config.versus is not None:
        try:
            fit, _ = judged(found, unit, chosen, [name_of(OTHER, e) for e in chosen], force=config.force)
        except BadInput as reason:
            raise BadInput(f"--versus {named[OTHER][0]}: {reason}") from None
        both = {e.name for e in fit}
        gains = [
            found.difference(name_of(MINE, e), name_of(OTHER, e), kind, level) if e.name in both else None
            for e in kept
        ]
        _put(frame, "versus", gains)
        notes.append(
            f"versus is the difference to {named[OTHER][0]}, paired on the same {len(found):,} rows."
        )
    notes += _remarks(config, unit, first[MINE], model is not None)
    counts = {"files": found.files, "rows": files.rows}
    return Result(
        policy=named[MINE][0],
        frame=frame,
        estimates=estimates,
        logged=replace(found.estimates(kind, level, names=[mean])[0], name="logged"),
        rounds=None,
        diagnostics=None,
        verdict=said,
        truth=None if config.truth is None else given(config.truth),
        notes=tuple(notes),
        item_names=(),
        unit=unit,
        short=tuple(e.name for e in kept),
        grouped=users,
        weights=weight_rows(found, {key: name for key, (name, _) in named.items()}),
        read=f"{count(found.files, 'file')} with {count(files.rows, 'row')}, {took}.",
        counts=counts,
    )


def _first(files: Files, make: Weigh, rows: int) -> Scored:
    """Weigh the first rows, with all that can be had of so many."""
    with files.blamed(), torch.no_grad():
        return narrowed(make, rows, None)(files.first(make.columns(files.schema)))


def _estimators(config: "EvaluateConfig", unit: Unit, first: Sequence[Scored]) -> list[Any]:
    """Return the estimators that were asked for, or all that apply, the simplest first."""
    if "all" not in config.estimators:
        chosen = [part(KINDS[unit], name)() for name in dict.fromkeys(config.estimators)]
        for e in chosen:
            if not e.streams:
                raise BadInput(f"{e.name} needs all rows at once, so it cannot stream")
            if set(e.needs) & set(MODEL) and config.reward_model in NO_MODEL:
                raise BadInput(f"{e.name} needs a reward model: a stream fits one if --reward-model names it")
            for missing in filter(None, (lacking(e, data) for data in first)):
                raise BadInput(f"{e.name} needs {missing}")
        return chosen
    return sorted(applicable(first), key=lambda e: (len(e.needs), len(e.name)))


def _summed(
    config: "EvaluateConfig",
    files: Files,
    makes: dict[str, Weigh],
    estimators: list[Any],
    users: bool,
    seed: Seed,
) -> tuple[Streamed, str]:
    """Make the pass, and return its sums and in words how long it took.

    Raises:
        KeyboardInterrupt: saying how to go on.
    """
    with watched(files.rows, len(files.pieces), config.checkpoint) as watch:
        try:
            found = stream(
                files.paths,
                makes,
                estimators,
                group="user" if users else None,
                workers=config.workers,
                checkpoint=config.checkpoint,
                seed=seed,
                progress=watch.tell,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(watch.stopped(command_of(config))) from None
    return found, watch.took()


def _put(frame: pd.DataFrame, name: str, gains: Sequence[Estimate | None]) -> None:
    """Add a difference with its interval as three columns."""
    nan = math.nan
    frame[name] = [nan if d is None else d.value for d in gains]
    frame[f"{name}_low"] = [nan if d is None else d.interval.low for d in gains]
    frame[f"{name}_high"] = [nan if d is None else d.interval.high for d in gains]


def _remarks(config: "EvaluateConfig", unit: Unit, first: Scored, modelled: bool) -> list[str]:
    """Return what the reader must know, in sentences."""
    out = []
    if config.policy.startswith(COLUMN):
        name = config.policy.removeprefix(COLUMN).strip()
        out.append(
            f"Column {name} says how likely the policy is to do what was logged, and nothing of the rest."
        )
    elif unit == "round" and not modelled:
        out.append(
            "Estimators with a reward model are left out: a stream fits one if --reward-model names it."
        )
    elif isinstance(first, Slates):
        if first.marginal_error is not None:
            out.append(f"In the first batch, {marginals_error(first)}.")
        out += whole_note(config, first)
        if config.logger is None:
            out.append("Say with --logger who logged the slates, and more estimators apply.")
    return [*out, UNMEASURED]
