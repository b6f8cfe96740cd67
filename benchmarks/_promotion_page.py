"""The page of the promotion world: tables of what the logs say, and what to see in them."""

import textwrap
from collections.abc import Mapping, Sequence

from benchmarks._promotion_cells import GROUPS, SETTINGS, SLOTS, STEPS, USERS, Found
from benchmarks._promotion_counts import POPULATION, Cell, averages, deciles, gains, gaps
from benchmarks.harness import machine
from simlab.statistics import Summary, mean_interval

LOW, HIGH = 0.92, 0.98
ENOUGH = 100
"""Logs from which on a coverage is judged."""


def text(words: str) -> list[str]:
    """Wrap a paragraph."""
    return [*textwrap.wrap(words, 118, break_on_hyphens=False), ""]


def percent(share: float, logs: int) -> str:
    """Return a coverage, marked where it is out of the band and known to a few per cent."""
    said = f"{100 * share:.1f}"
    if logs < ENOUGH:
        return said
    return f"**{said}**" if share < LOW else f"*{said}*" if share > HIGH else said


def lines(cells: Sequence[Cell]) -> list[str]:
    """Return the rows of a table of averages."""
    return [
        f"| {c.name} | {c.logs:,} | {c.bias:+.4f} ± {1.96 * c.bias_stderr:.4f} | {c.spread:.4f} | "
        f"{c.stderr:.4f} | {percent(c.population, c.logs)} | {percent(c.sample, c.logs)} |"
        for c in cells
    ]


def interval(s: Summary, digits: int = 4) -> str:
    """Return a mean with its interval."""
    return f"{s.mean:.{digits}f} ({s.low:.{digits}f} to {s.high:.{digits}f})"


HEAD = (
    "| estimator | logs | bias ± 95 % | spread | claimed | population | sample |",
    "|---|---:|---:|---:|---:|---:|---:|",
)


def page(found: Mapping[tuple[str, str], dict[int, Found]], command: str, whole: bool) -> list[str]:
    """Write the page from the logs that are there.

    Args:
        found: logs by cell and setting.
        command: that made them.
        whole: whether all logs of the plan are there.
    """

    def of(cell: str, setting: str) -> dict[int, Found]:
        return found.get((cell, setting), {})

    out = ["# Uplift in a world whose truth is known", ""]
    out += text(
        f"Made by `{command}` ({machine()}). Logs are trials of 3,000 fresh users of "
        "`Promotion-v0` at its default settings, item 0: 19 of 100 users buy if it is not shown, the mean "
        "effect of showing it is exactly .075 purchases a user, and effects run from -.15 to .30: 41 of 100 "
        "users are put off. Numbers are of this world alone."
    )
    if not whole:
        out += text(
            "The run was stopped before all logs of its plan were made; tables say how many there are."
        )
    out += text(WORDS)
    for s in SETTINGS.values():
        out += [f"- **{s.name}**: {s.words}" if len(s.words) < 90 else _bullet(s.name, s.words)]
    out += ["", "## Average effect", "", *text(AVERAGE_WORDS)]
    for name in SETTINGS:
        cells = [c for kind in ("scores", "learners", "dear") for c in averages(of(kind, name), POPULATION)]
        out += [f"### {name.capitalize()}", "", *HEAD, *lines(cells), ""]
        out += text(NOTES[name])
    some = averages(of("clustered", "experiment"), POPULATION)
    out += ["### Users with several rows", "", *text(CLUSTERED), *HEAD, *lines(some), ""]
    out += ["## Effects by decile", "", *text(DECILE_WORDS)]
    out += [f"| setting | learner | logs | {' | '.join(map(str, range(1, 11)))} | mean |"]
    out += ["|---|---|---:|" + "---:|" * (GROUPS + 1)]
    for name in SETTINGS:
        for d in deciles(of("fresh", name)):
            each = " | ".join(percent(c, d.logs) for c in d.covered)
            out += [
                f"| {name} | {d.name} | {d.logs:,} | {each} | {percent(float(d.covered.mean()), d.logs)} |"
            ]
    out += ["", *text(DECILE_NOTES), "## Whom to treat", "", *text(POLICY_WORDS)]
    out += ["| setting | random | by probability | by effect, T | by effect, linear DR | oracle |"]
    out += ["|---|---:|---:|---:|---:|---:|"]
    for name in SETTINGS:
        g = gains(of("fresh", name))
        order = ("random", "probability", "T-learner", "linear DR", "oracle")
        if g:
            out += [f"| {name} | " + " | ".join(f"{g[k].mean:.4f}" for k in order) + " |"]
    out += ["", *text(GAP_WORDS)]
    out += ["| setting | learner | true gap (95 %) | won | estimate | claimed | coverage | surely above 0 |"]
    out += ["|---|---|---:|---:|---:|---:|---:|---:|"]
    for name in SETTINGS:
        for gap in gaps(of("fresh", name)):
            out += [
                f"| {name} | {gap.name} | {interval(gap.truth)} | {100 * gap.won:.1f} | {gap.estimate:.4f} | "
                f"{gap.stderr:.4f} | {percent(gap.covered, gap.logs)} | {100 * gap.sure:.0f} |"
            ]
    out += ["", *text(POLICY_NOTES), "## Slates", "", *text(SLATE_WORDS)]
    out += [
        "| learned from | policy | logs | purchases a step above random | exact |",
        "|---|---|---:|---:|---:|",
    ]
    for name in SETTINGS:
        out += slate_lines(name, of("slates", name))
    return [*out, "", *text(SLATE_NOTES)[:-1]]


def _bullet(name: str, words: str) -> str:
    return "\n".join(textwrap.wrap(f"- **{name}**: {words}", 118, subsequent_indent="  "))


def slate_lines(setting: str, found: dict[int, Found]) -> list[str]:
    """Return the rows of the table of slates: gains above random, and the gap of effect over probability."""
    logs, out = list(found.values()), []
    if len(logs) < 2:
        return []
    pairs = [(name, "random") for name in ("probability", "effect", "oracle")]
    for first, second in [*pairs, ("effect", "probability")]:
        each = [
            interval(mean_interval([log[kind][first] - log[kind][second] for log in logs]), 3)
            for kind in ("returns", "exact")
        ]
        name = f"**{first} less {second}**" if second == "probability" else first
        out.append(f"| {setting} | {name} | {len(logs)} | {each[0]} | {each[1]} |")
    return out


WORDS = (
    "Learners and scores see six covariates, who was shown the item and who bought it. They never see the "
    "hidden inclination, which moves purchases in all settings but exposure only in the last. Nuisances "
    "are fast ones: logistic regression, cross-fitted in three folds by learners and in five by the "
    "scores. For the chances that is nearly the truth; for outcomes it is near, but not it."
)
AVERAGE_WORDS = (
    "*Bias* is the mean estimate less .075, with its 95 % interval over logs; *spread* the standard "
    "deviation of estimates; *claimed* the mean standard error. *Population* is how often, in per cent, "
    "the 95 % interval holds the mean effect of all users there could be, and *sample* how often it holds "
    "the mean effect of the log's own users. Wanted are 92 to 98; from 100 logs on **bold** is below, "
    "*italic* above. A coverage of 95 is known to ± 0.7 from 1,000 logs, ± 1.3 from 300 and ± 2.2 from 100 "
    "(one standard deviation); fewer logs show bias and spread only. The standard error of EconML's linear "
    "fits (`linear DR`, `linear DML`) takes the users as given, and is for the sample; all others are for "
    "the population. Here that is hardly a difference: effects vary by .165 between users, and a user's "
    "score by .8. *No outcome model* is a model that says the same for every user: the T-learner is then "
    "the difference of means."
)
NOTES = {
    "experiment": "All hold. Covariates narrow the difference of means a little, and no learner is better.",
    "experiment, chances estimated": "Nothing changes where chances are estimated that were known.",
    "observed confounding": (
        "The naive difference of means finds more than twice the effect, with a narrow interval that never "
        "holds it. With chances or outcomes of users, learners repair it. Where outcomes are wrong (no "
        "outcome model), the T-learner is naive again, and DR, R and DML repair it by chances alone. The "
        "X-learner is a little off: its imputed effects lean on each arm's own model. Learners that claim "
        "more than their spread claim the standard error of doubly robust scores, and are steadier than "
        "those, as plain outcome models are until they are wrong, and as weights by estimated chances are."
    ),
    "heavy confounding": (
        "A few users of small chances carry the scores, so their standard error doubles; it is still "
        "honest. The R-learner and linear DML give such users little weight: they are steadier by a third "
        "and more, and right here because the effect is near a line of the covariates. The X-learner "
        "carries each arm's straight line over to users of the other arm, and is off by a third of the "
        "effect; the standard error that it claims is of the scores, and does not know. Logistic "
        "regression cannot follow chances that level off at .02 and takes them for less, so what rests on "
        "chances alone (class transformation, DR without an outcome model) is off by about a quarter; with "
        "the true chances that is gone (-.003 ± .006 in 80 logs), and with outcomes that are nearly right "
        "it hardly matters: doubly robust. Chances below .01 count as .01; with EconML's own bound of 1e-6 "
        "the DR-learner's spread was .076 here, and its interval held in 27 of 30 logs."
    ),
    "hidden confounding": (
        "All are wrong by half of the effect and more, all are sure of it, and no column of the table "
        "could have told: spread and claimed agree. The doubly robust repair is one for what can be seen. "
        "Only an experiment, or knowing who decided on the exposure, helps."
    ),
}
"""What to see in each table. Read it again when the table is made again."""

CLUSTERED = (
    "An experiment on users: each has six rows, of six items, all shown or none. The hidden inclination is "
    "three times as strong here, so a user's rows are alike. Give `user=`, and the standard error counts "
    "users; rows taken as independent claim too little."
)
DECILE_WORDS = (
    "A learner sees 3,000 users; 3,000 fresh ones are put into tenths by its effect, and `group_effects` "
    "of their doubly robust scores says what treatment did in each. The truth is the mean true effect of "
    "the tenth's own 300 users. Coverage in per cent, the lowest tenth first."
)
DECILE_NOTES = (
    "The mean over tenths is what a whole chart of deciles promises. From 600 logs a coverage "
    "of 95 is known to ± 0.9. In heavy confounding some tenths hold less often: in them few "
    "users of small chances carry the effect of 300, and chances that level off are missed. With hidden "
    "confounding every tenth is off; their order is still about right, because the hidden inclination moves "
    "purchases and not the effect."
)
POLICY_WORDS = (
    "Three of ten users may be treated. A campaign that treats who is most likely to buy when treated "
    "(logistic regression on the treated users of the training log) is set against one that treats by "
    "effect. Mean gain above treating nobody, in purchases for each user of all, counted on 100,000 users "
    "by their true effects:"
)
GAP_WORDS = (
    "The gap of the two policies. *True* is counted on the 100,000, with its interval over training logs; "
    "*won*, in how many per cent of them uplift is ahead. *Estimate* is what 3,000 fresh users of the same "
    "kind of log say: `value(by effect).minus(value(by probability))` of `causal/targeting/value.py`, "
    "doubly robust and paired row by row. *Coverage* is how often its 95 % interval holds the true gap of "
    "its two rules, and the last column how often it is above 0, in per cent."
)
POLICY_NOTES = (
    "Treating by probability spends on who would have bought anyway, and on who is put off. The better "
    "policy is certain over many campaigns; one log of 3,000 users shows it about every second time."
)
SLATE_WORDS = (
    f"In a shop of 50 items each user sees a slate of {SLOTS} for {STEPS} steps; slot k is examined with "
    "probability 1/k. Learned from 20,000 single offers of items drawn at random (`trial(item=None)`), on "
    "products of the user's covariates with the item's two directions: `linear DR` for the effect of each "
    "item on each user, logistic regression on shown rows for the probability. Each slate is sorted by one "
    f"of them. {USERS} users of each training log meet both, with the same luck (common random numbers); "
    "intervals are over training logs, pairs of one log together. *Exact* is the world's expected reward "
    "of the same slates, without luck."
)
SLATE_NOTES = (
    "Sorting by effect comes within a hundredth of a purchase of the oracle, which sorts by the true "
    "effect. Sorting by probability is worse where exposure in the log was confounded: the shown rows that "
    "it learns from are then mostly of users who buy anyway. All of it is a small part of what is bought: "
    "some ten purchases a step come without any promotion, and clicks on the slate cannot tell which."
)
