"""Settings that cannot be, tables that do not fit, and steps that contradict the rows: one sentence each."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor

from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.parts import all_parts, part
from simlab.rankers import _memory
from simlab.rankers.contract import Ranker, Sizes
from simlab.rankers.markov import Markov
from simlab.seeds import Seed
from simlab.training.fit import FitSettings, fit
from tests.contracts.rankers import SIZES, interactions

FAMILIES = all_parts("ranker")
QUICK = FitSettings(epochs=1, validation=0.0, negatives=2)


def family(name: str) -> type[Ranker]:
    kind = FAMILIES[name]
    assert issubclass(kind, Ranker)
    return kind


def typed(kind: type) -> list[tuple[str, type[Ranker], str]]:
    """Return each setting of this type, with its family."""
    return [
        (f"{name}.{f.name}", family(name), f.name)
        for name in FAMILIES
        for f in fields(family(name).Spec)
        if get_type_hints(family(name).Spec)[f.name] == kind
    ]


INTS, FLOATS = typed(int), typed(float)
BOOLS, WORDS = typed(bool), typed(str)
LISTS = typed(tuple[int, ...])
NAMES = typed(tuple[str, ...])


def said(kind: type[Ranker], *sizes: Sizes, **settings: Any) -> str:
    """Return the sentence with which a family refuses these settings."""
    with pytest.raises(BadInput) as caught:
        kind.build(sizes[0] if sizes else SIZES, settings)
    return str(caught.value)


def test_every_setting_of_every_family_is_of_a_type_that_is_checked() -> None:
    assert len(FAMILIES) >= 32
    known = sum(map(len, (INTS, FLOATS, BOOLS, WORDS, LISTS, NAMES)))
    assert known == sum(len(fields(family(name).Spec)) for name in FAMILIES)
    assert min(map(len, (INTS, FLOATS, BOOLS, WORDS, LISTS, NAMES))) > 0


FROM_ZERO = {
    *(
        f"{n}.past"
        for n in ("mf", "bpr", "gmf", "mlp", "neumf", "fm", "nfm", "wide_deep", "deepfm", "xdeepfm")
    ),
    *(f"{n}.past" for n in ("bilinear", "dcn_v2", "din", "dien", "lightgcn", "two_tower", "youtube_dnn")),
    *(f"{n}.past" for n in ("shared_bottom", "soft_sharing", "esmm", "mmoe")),
    *("dcn_v2.experts", "wide_deep.crosses", "lightgcn.edges", "user_knn.kept"),
}
"""Whole numbers that may be 0: no history, none of a part, and what `prepare` counts."""


@pytest.mark.parametrize(("word", "kind", "name"), INTS, ids=[x[0] for x in INTS])
def test_a_whole_number_is_named(word: str, kind: type[Ranker], name: str) -> None:
    least = 0 if word in FROM_ZERO else 1
    for low in (-1, -(10**30), least - 1):
        assert said(kind, **{name: low}) == f"{name} of {kind.name} is at least {least}, not {low}"
    for wrong in (True, 2.0, "8", None, float("nan")):
        assert said(kind, **{name: wrong}) == f"{name} of {kind.name} is a whole number, not {wrong!r}"
    ranker = kind.build(SIZES, {name: np.int64(2)})
    assert type(getattr(ranker.spec, name)) is int
    if least == 0 and name != "crosses":
        kind.build(SIZES, {name: 0})


ALLOWED = {
    "dropout": "a share in [0, 1)",
    "auxiliary": "finite and at least 0",
    "beta": "finite and at least 0",
    "damping": "finite",
    "regularisation": "finite and above 0",
    "shrinkage": "finite and at least 0",
    "smoothing": "finite and above 0",
    "spread": "finite and above 0",
    "temperature": "finite and above 0",
    "tie": "finite and at least 0",
}


@pytest.mark.parametrize(("word", "kind", "name"), FLOATS, ids=[x[0] for x in FLOATS])
def test_a_number_is_named(word: str, kind: type[Ranker], name: str) -> None:
    allowed = ALLOWED[name]
    wrong = [float("nan"), float("inf"), -float("inf")]
    if allowed != "finite":
        wrong.append(-0.5)
    if "above 0" in allowed:
        wrong += [0.0]
    if name == "dropout":
        wrong += [1.0, 2.0]
    for value in wrong:
        assert said(kind, **{name: value}) == f"{name} of {kind.name} is {allowed}, not {value}"
    assert said(kind, **{name: 10**400}).startswith(f"{name} of {kind.name} is {allowed}, not 1000")
    for text in (True, "0.1", None, [0.1]):
        assert said(kind, **{name: text}) == f"{name} of {kind.name} is a number, not {text!r}"
    whole = 0 if name == "dropout" else 1
    ranker = kind.build(SIZES, {name: whole})
    assert getattr(ranker.spec, name) == whole
    assert type(getattr(ranker.spec, name)) is float


@pytest.mark.parametrize(("word", "kind", "name"), LISTS, ids=[x[0] for x in LISTS])
def test_a_list_of_widths_is_named(word: str, kind: type[Ranker], name: str) -> None:
    each = f"{name} of {kind.name} is a list, each of which is"
    value: Any
    for value in ([8, 0], (-1,), [8, -3, 4]):
        assert said(kind, **{name: value}) == f"{each} at least 1, not {value}"
    for value in ([8, True], [8.0], ["8"], [[8]]):
        assert said(kind, **{name: value}) == f"{each} a whole number, not {value}"
    for value in (8, "88", None):
        assert said(kind, **{name: value}) == f"{name} of {kind.name} is a list, not {value!r}"
    listed, paired = (kind.build(SIZES, {name: same}).spec for same in ([8, 4], (8, 4)))
    assert listed == paired
    assert getattr(listed, name) == (8, 4)


@pytest.mark.parametrize(("word", "kind", "name"), BOOLS + WORDS + NAMES)
def test_other_settings_are_named(word: str, kind: type[Ranker], name: str) -> None:
    hint = get_type_hints(kind.Spec)[name]
    allowed = {bool: "True or False", str: "a word"}.get(hint, "a list")
    for value in (1, None, 0.5):
        assert said(kind, **{name: value}) == f"{name} of {kind.name} is {allowed}, not {value}"
    if allowed == "a list":
        assert said(kind, **{name: "click"}) == f"{name} of {kind.name} is a list, not 'click'"
        both = f"{name} of {kind.name} is a list, each of which is a word, not ['click', 3]"
        assert said(kind, **{name: ["click", 3]}) == both


def test_what_goes_together_is_named() -> None:
    for name in ("sasrec", "bert4rec"):
        kind = family(name)
        sentence = f"heads of {name} divides dim, which is 64, so it is not 3"
        assert said(kind, heads=3) == sentence
        kind.build(SIZES, {"heads": 4})
    long = said(family("mlp"), layers=[10**9] * 20 + [0])
    assert long.startswith("layers of mlp is a list, each of which is at least 1, not [1000000000, ")
    assert long.endswith("...")
    assert len(long) < 150


def test_a_family_of_ones_own_says_what_it_takes() -> None:
    class Mine(Markov):
        @dataclass(frozen=True)
        class Spec(Markov.Spec):
            width: int | None = None
            shift: int = -3
            scale: float | int = 2.0
            extra: object = None

        least: ClassVar[Mapping[str, int]] = {"past": 5}
        name: ClassVar[str] = "mine"

    kept = {"width": None, "shift": -3, "scale": 2, "extra": [1], "past": 5}
    spec = Mine.build(Sizes(2, 3), kept).spec
    assert (spec.width, spec.shift, spec.scale, spec.extra, spec.past) == (None, -3, 2, [1], 5)
    assert type(spec.scale) is int
    assert said(Mine, width=0) == "width of mine is at least 1, not 0"
    assert said(Mine, shift=-4) == "shift of mine is at least -3, not -4"
    assert said(Mine, scale=float("nan")) == "scale of mine is finite, not nan"
    assert said(Mine, past=4) == "past of mine is at least 5, not 4"
    assert all(f.default is not MISSING for f in fields(Mine.Spec))


def test_fit_names_steps_that_start_again() -> None:
    user, step = torch.arange(4).repeat_interleave(6), torch.tensor([0, 1, 2, 0, 1, 2]).repeat(4)
    g = Seed(0).torch()

    def log(step: Tensor) -> Log:
        return Log(
            user=user,
            slate=torch.randint(0, 9, (24, 1), generator=g),
            propensity=torch.ones(24),
            reward=torch.ones(24),
            click=torch.ones(24, 1),
            step=step,
            n_items=9,
        )

    for name in ("markov", "mf"):  # what counts and what is trained
        backwards = torch.arange(24).flip(0)  # out of order, but no step twice: sorted, and nothing is said
        fit(family(name).build(Sizes(4, 9)), log(backwards), seed=Seed(0), settings=QUICK)
        with pytest.warns(UserWarning, match="goes back") as caught:
            fit(family(name).build(Sizes(4, 9)), log(step), seed=Seed(0), settings=QUICK)
        assert [str(w.message) for w in caught] == [
            "user 0, row 3: step goes back from 2 to 0, which row 0 of the same session has too, so sorting "
            "by step mixes two visits: give each its own session, or steps that go on"
        ]


def test_a_step_below_zero_is_named() -> None:
    ones = torch.ones(2)
    with pytest.raises(BadInput) as caught:
        Log(torch.arange(2), torch.zeros(2, 1).long(), ones, ones, 3, step=torch.tensor([0, -4]))
    assert str(caught.value) == "column step, row 1: -4 is negative, but ids count from 0"


GIB = 1024**3
MANY = 1_000_000


@pytest.mark.parametrize(
    ("name", "items", "has", "sentence"),
    [
        ("ease", MANY, 16, "the weights between all pairs of 1,000,000 items: that needs 3,725.3"),
        ("markov", MANY, 16, "the counts of all pairs of 1,000,000 items: that needs 3,725.3"),
        ("item_knn", 10 * MANY, 8, "the neighbours of 10,000,000 items: that needs 14.9"),
        ("user_knn", 1000 * MANY, 8, "the clicks and scores of 1,000,000,000 items: that needs 11.2"),
        ("autorec", MANY, 1, "the weights of 1,000,000 items: that needs 1.5"),
        ("multvae", MANY, 4, "the weights of 1,000,000 items: that needs 4.5"),
    ],
)
def test_a_table_that_does_not_fit_is_named(
    name: str, items: int, has: int, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_memory, "room", lambda device="cpu": has * GIB)
    expected = f"{name} cannot hold {sentence} GiB of memory, and there are {has}.0 GiB"
    assert said(family(name), Sizes(0, items)) == expected


@pytest.mark.parametrize(
    ("name", "needs", "what"),
    [
        ("ease", 28 * 30 * 30, "and invert the table of all pairs"),
        ("item_knn", 8 * 30 * 30 + 8 * 30 * (4 * 30 + 21), "and search the neighbours"),
        ("autorec", 16 * 30 * 401, "and train the weights"),
        ("multvae", 16 * 30 * 1201, "and train the weights"),
    ],
)
def test_work_that_does_not_fit_is_named(
    name: str, needs: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = family(name).build(SIZES)
    monkeypatch.setattr(_memory, "room", lambda device="cpu": needs)
    ranker.prepare(interactions())
    monkeypatch.setattr(_memory, "room", lambda device="cpu": needs - 1)
    with pytest.raises(BadInput) as caught:
        ranker.prepare(interactions())
    assert str(caught.value) == (
        f"{name} cannot hold {what} of 30 items: that needs {needs / GIB:,.1f} GiB of memory, and there are "
        f"{(needs - 1) / GIB:,.1f} GiB"
    )


def test_too_many_users_at_once_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = part("ranker", "user_knn").build(SIZES)  # type: ignore[attr-defined]
    ranker.prepare(interactions())
    c = Context.of(torch.arange(1000), SIZES.n_items)
    monkeypatch.setattr(_memory, "room", lambda device="cpu": 12 * 30 * 999)
    ranker(c.rows(slice(0, 999)))
    with pytest.raises(
        BadInput, match=r"^user_knn cannot hold the scores for 1,000 users of 30 items: that "
    ):
        ranker(c)


def test_the_memory_of_this_machine_is_known_or_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _memory.room()
    assert found is None or found > 2**28
    monkeypatch.setattr(_memory, "room", lambda device="cpu": None)
    _memory.check_room("ease", "the table", 10, 10**30)
