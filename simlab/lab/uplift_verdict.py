"""What an uplift run says in words."""

from typing import TYPE_CHECKING

from causal.diagnostics import Verdict
from simlab.lab.markup import number
from simlab.lab.uplift_data import Given

if TYPE_CHECKING:
    from simlab.lab.uplift import UpliftConfig
    from simlab.lab.uplift_work import Arm


def verdict(given: Given, arms: "tuple[Arm, ...]", config: "UpliftConfig") -> Verdict:
    """Say whether the trial can answer, whether a learner finds whom treatment moves, and whom to treat.

    A learner counts as found only if its AUTOC is above 0 at the level that is left after choosing the best
    of all learners (Bonferroni).
    """
    troubles = [f.text for f in given.findings if f.kind != "constant"]
    doubts: list[str] = []
    facts: list[str] = []
    for arm in arms:
        head = f"arm {arm.label}: " if len(arms) > 1 else ""
        facts += [head + _average(arm, config), head + _ranking(arm, config)]
        shaky = _calibration(arm, config)
        if shaky:
            doubts.append(head + shaky)
    if not given.random:
        doubts.append("arms were not given at random, so all effects rest on the features being enough")
    if any(f.grave for f in given.findings):
        return Verdict("refused", (*troubles, *doubts, *facts))
    return Verdict("caution" if troubles or doubts else "ok", (*troubles, *doubts, *facts))


def found(arm: "Arm", level: float) -> bool:
    """Tell whether the best learner's AUTOC is above 0, the choice of the best counted."""
    best = arm.judged[0]
    return bool(best.autoc.value > 0 and best.autoc.pvalue() < (1 - level) / len(arm.judged))


def _average(arm: "Arm", config: "UpliftConfig") -> str:
    value = arm.average.value[0]
    low, high = arm.average.interval(config.level)[0]
    said = f"treating everybody moves the outcome by {number(value)} ({number(low)} to {number(high)})"
    return said if low > 0 or high < 0 else f"{said}, which may be nothing"


def _ranking(arm: "Arm", config: "UpliftConfig") -> str:
    best = arm.judged[0]
    low, high = best.autoc.interval(config.level)
    if not found(arm, config.level):
        return (
            "no learner surely tells whom the treatment moves more: the best AUTOC is "
            f"{number(best.autoc.value)} ({number(low)} to {number(high)}), so treat all or none"
        )
    at = int(arm.returns.net.argmax())
    few, many = arm.returns.interval(config.level)
    tells = (
        f"{best.name} tells whom the treatment moves: AUTOC {number(best.autoc.value)} ({number(low)} to "
        f"{number(high)})"
    )
    share = f"the top {arm.returns.share[at]:.0%}" if arm.returns.share[at] < 1 else "everybody"
    most = f"{number(arm.returns.net[at])} a row ({number(few[at])} to {number(many[at])})"
    if arm.returns.net[at] <= 0:  # treating nobody returns 0
        return f"{tells}; but at this cost no share returns more than it takes, {share} {most}: treat nobody"
    return f"{tells}; treating {share} returns most, {most}"


def _calibration(arm: "Arm", config: "UpliftConfig") -> str:
    """Return a doubt if the best learner's effects spread otherwise than the true ones, else nothing."""
    best = arm.judged[0]
    if best.blp is None or not found(arm, config.level):
        return ""
    low, high = best.blp.interval(config.level)
    if low <= 1 <= high:
        return ""
    more = "more" if high < 1 else "less"
    return (
        f"{best.name}'s effects spread {more} than the true ones: slope {number(best.blp.slope, 3)} "
        f"({number(low, 3)} to {number(high, 3)}) where 1 is right; its order holds, its sizes do not"
    )
