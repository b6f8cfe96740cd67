"""What `simlab uplift` reads, and what it refuses before anything is learned."""

import re
import shlex
import warnings
from ast import literal_eval
from collections.abc import Hashable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causal.targeting.overlap import Overlap, overlap
from causal.trials.contract import UnknownFile
from causal.trials.frame import Frame
from causal.trials.guards import Finding
from causal.trials.guards import check as look
from causal.uplift.contract import Trial
from simlab.errors import BadInput, nearest
from simlab.lab.grammar import parse
from simlab.parts import names, part
from simlab.seeds import Seed

if TYPE_CHECKING:
    from simlab.lab.uplift import UpliftConfig

QUICK = ("t_learner", "x_learner", "dr_learner", "linear_dr")
"""What `--learners quick` stands for."""

BOUND = 0.05
"""A chance of an arm below it counts as missing overlap."""

_USERS = 5
"""Folds in which chances are estimated: there are at least as many users."""

_COLUMNS = ("control", "features", "drop", "categories", "user", "weight", "propensity")


@dataclass(frozen=True, eq=False)
class Given:
    """A trial to learn from, and what the reader must know of it.

    Attributes:
        trial: the rows that are left.
        row: the number of each in the table, from 0.
        overlap: the chance of each arm, known or estimated out of fold.
        random: whether the chances are known, or features tell the arm no better than its share does.
        findings: what the guards saw.
        notes: sentences.
        outcome: what the outcome is called.
    """

    trial: Trial
    row: np.ndarray
    overlap: Overlap
    random: bool
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    outcome: str


def check(config: "UpliftConfig") -> None:
    """Refuse options that cannot be, before anything is read.

    Raises:
        BadInput: one sentence with the option and its value.
    """
    learners(config)
    if not 0 < config.level < 1:
        raise BadInput(f"level is {config.level}, but a coverage is between 0 and 1")
    if config.folds < 2:
        raise BadInput(f"folds is {config.folds}, but scoring rows that a learner has not seen takes 2")
    if config.test_share is not None and not 0 < config.test_share < 1:
        raise BadInput(f"test-share is {config.test_share}, but it is between 0 and 1, such as 0.3")
    if not 0 <= config.trim < 0.5:
        raise BadInput(f"trim is {config.trim}, but it is at least 0 and below 0.5")
    if config.groups < 2:
        raise BadInput(f"groups is {config.groups}, but at least 2 can be compared")
    for name in ("cost", "value"):
        if not np.isfinite(getattr(config, name)):
            raise BadInput(f"{name} is {getattr(config, name)}, but it is a finite number")
    if config.value <= 0:
        raise BadInput(
            f"value is {config.value:g}, but rows of the largest effects are treated first, so it is "
            "above 0; turn an outcome that does harm round, such as 1 - churn"
        )
    if config.cost < 0:
        raise BadInput(f"cost is {config.cost:g}, but treating a row costs at least 0")
    if config.budget is not None:
        if not (config.budget > 0 and np.isfinite(config.budget)):
            raise BadInput(f"budget is {config.budget}, but it is a finite number above 0")
        if config.cost <= 0:
            raise BadInput(f"--budget needs a --cost of treating a row above 0, and it is {config.cost:g}")
    data_set = named(config)
    if data_set is None:
        for name in ("treatment", "outcome"):
            if getattr(config, name) is None:
                raise BadInput(f"--{name} is missing: name the column of the {name}")


def learners(config: "UpliftConfig") -> list[str]:
    """Return the names of the learners, each once, in the order given.

    Raises:
        BadInput: for one that is not there, with the nearest.
    """
    found: list[str] = []
    for word in config.learners:
        key = word.replace("-", "_")
        known = names("uplift learner")
        if word in ("quick", "all"):
            found += [n for n in QUICK if n in known] if word == "quick" else known
        elif key in known:
            found.append(key)
        else:
            close = nearest(word, ["quick", "all", *(n.replace("_", "-") for n in known)])
            raise BadInput(f"there is no uplift learner named {word}{close}")
    if not found:
        raise BadInput("--learners is empty; name some, or quick, or all")
    return list(dict.fromkeys(found))


def named(config: "UpliftConfig") -> Any:
    """Return the data set that NAME:PATH or NAME(SETTING=VALUE):PATH names, or None for a file.

    Raises:
        BadInput: for a name or a setting that is not there, or an option that a data set does not take.
    """
    text = config.data
    known = [n.replace("_", "-") for n in names("trial") if n != "frame"]
    head, colon, path = text.partition("):") if "(" in text.partition(":")[0] else text.partition(":")
    head = f"{head})" if "(" in head and colon else head
    word = head.partition("(")[0].strip()
    if Path(text).exists() or word.replace("_", "-") not in known:
        if colon and not Path(text).exists() and len(word) > 1 and "/" not in word and "\\" not in word:
            raise BadInput(f"there is no file {text} and no data set named {word}{nearest(word, known)}")
        return None
    for name in _COLUMNS:
        if getattr(config, name):
            raise BadInput(f"{text} is a data set, so --{name} does not apply")
    call = parse(head)
    kind: Any = part("trial", word)
    there = [f.name for f in fields(kind) if f.name not in ("path", "seed")]
    settings: dict[str, Any] = {} if not path else {"path": path}
    chosen = [(k.replace("-", "_"), v if isinstance(v, int | float) else str(v)) for k, v in call.named]
    for option, field in (("treatment", "arms"), ("outcome", "outcome")):
        value = getattr(config, option)
        if value is not None and field not in there:
            raise BadInput(f"{word} has no choice of {option}, so --{option} does not apply")
        if value is not None:
            chosen.append((field, value))
    for field, value in chosen:
        if field not in there:
            raise BadInput(f"{word} has no setting {field}{nearest(field, there)}")
        settings[field] = value
    return kind(**settings)


def load(config: "UpliftConfig", seed: Seed) -> Given:
    """Read the trial, trim it if asked, and look for what would spoil it.

    Raises:
        BadInput: for what cannot be read, and for what the guards refuse, unless forced.
    """
    notes: list[str] = []
    data_set = named(config)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UnknownFile)
        trial = _table(config) if data_set is None else data_set.load()
    notes += [f"{w.message}." for w in said if issubclass(w.category, UnknownFile)]
    if np.ptp(trial.y) == 0:
        raise BadInput(f"the outcome is {trial.y[0]:g} in every row, so there is no effect to learn")
    findings = look(trial, seed=seed.split("guards"), bound=BOUND)
    _refuse([f for f in findings if f.kind != "overlap"], config, data_set is not None)
    seen, row = _seen(trial, seed), np.arange(len(trial))
    if config.trim > 0:
        keep = np.flatnonzero((seen.chance >= config.trim).all(1))
        notes.append(
            f"{len(trial) - len(keep):,} of {len(trial):,} rows, whose chance of some arm is below "
            f"{config.trim:g}, are left out: the effects are those of the other rows."
        )
        if not np.isin(np.arange(len(trial.arms)), trial.arm[keep]).all():
            raise BadInput(f"with --trim {config.trim:g} an arm has no rows left")
        trial, row = trial.rows(keep), row[keep]
        findings = look(trial, seed=seed.split("guards"), bound=BOUND)
        seen = _seen(trial, seed)
    _refuse([f for f in findings if f.kind == "overlap"], config, True)
    return Given(
        trial=trial,
        row=row,
        overlap=seen,
        random=seen.known or not told_by_features(trial, seen),
        findings=findings,
        notes=tuple(notes),
        outcome=config.outcome or getattr(data_set, "outcome", None) or "outcome",
    )


def told_by_features(trial: Trial, seen: Overlap) -> bool:
    """Tell whether features know the arm: whether estimated chances explain it better than its share.

    The mean difference of the two log losses, out of fold, is compared with three of its standard errors.
    """
    every = np.arange(len(trial))
    weight = np.ones(len(trial)) if trial.weight is None else trial.weight
    share = np.bincount(trial.arm, weight, len(trial.arms)) / weight.sum()
    gain = np.log(seen.chance[every, trial.arm].clip(1e-12)) - np.log(share[trial.arm])
    part = weight / weight.sum() * (gain - np.average(gain, weights=weight))
    part = part if trial.user is None else np.bincount(trial.user, part)
    return bool(np.average(gain, weights=weight) > 3 * np.sqrt((part**2).sum()))


def _seen(trial: Trial, seed: Seed) -> Overlap:
    return overlap(trial, seed=seed.split("judge"), bound=min(BOUND, 0.5 / len(trial.arms)))


def _table(config: "UpliftConfig") -> Trial:
    """Read a file with columns."""
    assert config.treatment is not None
    assert config.outcome is not None
    numbers = [_number(text) for text in config.propensity]
    if 0 < sum(n is None for n in numbers) < len(numbers):
        raise BadInput(f"propensity is {' '.join(config.propensity)}: give numbers or columns, not both")
    given = bool(numbers) and numbers[0] is not None
    columns = () if given else config.propensity
    frame = Frame(
        config.data,
        config.treatment,
        config.outcome,
        features=config.features,
        drop=config.drop,
        categories=config.categories,
        missing=config.missing,
        weight=config.weight,
        user=config.user,
        propensity=columns[0] if len(columns) == 1 else columns or None,
    )
    try:
        trial = _controlled(frame, config.control)
    except BadInput as error:
        raise BadInput(_as_options(str(error))) from None
    words = [str(a) for a in trial.arms]
    if config.control is None and all(isinstance(a, str) and _number(a) is None for a in trial.arms):
        raise BadInput(
            f"{config.data}: column {config.treatment} has the arms {', '.join(words)}, and nothing says "
            f"which of them the others are compared with; name it, such as --control {shlex.quote(words[0])}"
        )
    if trial.user is not None and (many := len(np.unique(trial.user))) < _USERS:
        raise BadInput(
            f"{config.data}: column {config.user} names {many} user{'' if many == 1 else 's'}, but learning "
            f"on some and judging on others takes at least {_USERS}"
        )
    return _chances(trial, [float(n) for n in numbers if n is not None]) if given else trial


def _as_options(text: str) -> str:
    """Return a sentence of `Frame` with its settings as options of the command."""
    text = text.replace("missing='impute'", "--missing impute").replace("take encoding='ordinal', or ", "")
    return re.sub(
        r"drop=\((.+),\) leaves", lambda m: f"--drop {shlex.quote(literal_eval(m[1]))} leaves", text
    )


def _controlled(frame: Frame, control: str | None) -> Trial:
    """Read the table with the control that a word names: a number or a truth value where the arms are."""
    guesses: list[Hashable] = [] if control is None else [control]
    if control is None:
        return frame.load()
    if control.lower() in ("true", "false"):
        guesses.insert(0, control.lower() == "true")
    elif (number := _number(control)) is not None:
        guesses.insert(0, int(number) if number.is_integer() else number)
    for guess in guesses:
        try:
            return replace(frame, control=guess).load()
        except BadInput as wrong:
            said = wrong
            if "control is " not in str(wrong):
                raise
    raise said


def _chances(trial: Trial, given: list[float]) -> Trial:
    """Return the trial with the same known chances in all rows."""
    many = len(trial.arms)
    chance = [1 - given[0], given[0]] if len(given) == 1 and many == 2 else given
    if len(chance) != many:
        raise BadInput(f"propensity has {len(given)} numbers, but there are {many} arms, control first")
    if not all(0 < c < 1 for c in chance) or abs(sum(chance) - 1) > 1e-6:
        said = ", ".join(f"{c:g}" for c in chance)
        raise BadInput(f"propensity is {said}, but chances lie between 0 and 1 and sum to 1")
    return replace(trial, propensity=np.tile(np.array(chance), (len(trial), 1)))


def _refuse(findings: list[Finding], config: "UpliftConfig", curated: bool) -> None:
    """Refuse what would spoil every learner, unless forced.

    A feature that was taken by default is refused for its name alone. One that --features names, or that a
    data set chose, is refused if its values tell the outcome or the arm.
    """
    if config.force:
        return
    meant = set(config.features)
    suspect = {f.column for f in findings if f.kind == "name"}
    for found in findings:
        leaks = found.kind == "leak" and (found.grave or (found.column in suspect and not curated))
        by_name = found.kind == "name" and not curated and found.column.partition("=")[0] not in meant
        if leaks or by_name or found.kind == "balance":
            column = found.column.partition("=")[0].partition(":")[0]
            way = f"leave it out with --drop {column}"
            if found.kind == "name":
                way += ", or name it in --features if it is older"
            raise BadInput(f"{found.text}; {'' if curated else way + ', or '}go on with --force")
        if found.grave and found.kind == "overlap":
            way = f"leave such rows out with --trim {BOUND:g}, or go on with --force"
            if config.trim >= BOUND:  # chances are estimated again among the rows that are left
                way = f"that is after --trim {config.trim:g}; take a larger one, or go on with --force"
            raise BadInput(f"{found.text}; {way}")
        if found.grave:
            raise BadInput(f"{found.text}; go on with --force")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
