"""Logs that are not logs: how each is made, and the sentence that refuses it (without the file's name)."""

# ruff: noqa: E501 (a sentence is easier to read whole)
import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch

from simlab.log import Log
from simlab.tables import ColumnMap, to_arrow

HEADER = "item,propensity,reward\n"


@dataclass(frozen=True)
class Bad:
    """One malformed log.

    Attributes:
        file: its name.
        content: its bytes.
        says: the whole sentence after "<path>: "; what follows … is in the words of Arrow.
        options: what `read_log` is called with.
    """

    file: str
    content: bytes
    says: str
    options: dict[str, Any] = field(default_factory=dict)


def csv(rows: str, says: str, header: str = HEADER, file: str = "log.csv", **options: Any) -> Bad:
    """A CSV file with three columns, unless another header is given."""
    return Bad(file, (header + rows).encode(), says, options)


def parquet(columns: dict[str, Any], says: str, /, **options: Any) -> Bad:
    """A Parquet file of columns."""
    return Bad("log.parquet", _bytes(pa.table(columns)), says, options)


def own(change: Callable[[dict[str, Any]], object], says: str, **options: Any) -> Bad:
    """A file that this library wrote, whose description of itself was changed."""
    about = json.loads(_GOOD.schema.metadata[b"simlab"])
    text = change(about)
    raw = text.encode() if isinstance(text, str) else json.dumps(about).encode()
    return Bad("log.parquet", _bytes(_GOOD.replace_schema_metadata({b"simlab": raw})), says, options)


def slates(slate: Sequence[Any], says: str, **columns: Any) -> Bad:
    """A Parquet file of slates; propensity and reward are in order unless they are given."""
    options = columns.pop("options", {})
    n = len(slate)
    table = {"slate": slate, "propensity": [0.5] * n, "reward": [0.0] * n} | columns
    return parquet(table, says, **options)


def long(rows: str, says: str, header: str = "round,slot,item,click,propensity\n", **options: Any) -> Bad:
    """A CSV file with a row per item."""
    return csv(rows, says, header, **({"layout": "long"} | options))


def _bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pa.parquet.write_table(table, sink)
    return sink.getvalue()


_GOOD = to_arrow(
    Log(
        user=torch.arange(3),
        slate=torch.tensor([[0], [1], [2]]),
        propensity=torch.full((3,), 0.5),
        reward=torch.ones(3),
        n_items=3,
    )
)
_PARQUET = _bytes(_GOOD)
_BROKEN = _bytes(
    pa.table({"item": np.arange(9999), "propensity": np.full(9999, 0.5), "reward": np.zeros(9999)})
)
_OK = "1,0.5,0\n"
_PAIRS = "slate,click,propensity\n"

FILES = [
    Bad("log.csv", b"", "empty: the file has 0 bytes"),
    Bad("log.parquet", b"", "empty: the file has 0 bytes"),
    Bad("log.csv", b"\n\n", "empty: there is not even a header"),
    csv("", "empty: there are columns but no rows"),
    parquet(
        {"item": pa.array([], pa.int64()), "propensity": [], "reward": []},
        "empty: there are columns but no rows",
    ),
    Bad(
        "log.parquet",
        _PARQUET[: len(_PARQUET) // 2],
        "truncated Parquet: the last bytes are b'\": 1', not b'PAR1'",
    ),
    Bad(
        "log.parquet",
        HEADER.encode() + b"1,0.5,0\n",
        "not Parquet: the first bytes are b'item', not b'PAR1'; it looks like text: let the name end in .csv",
    ),
    Bad(
        "log.parquet",
        b"\x89PNG\r\n\x1a\n" + bytes(99),
        "not Parquet: the first bytes are b'\\x89PNG', not b'PAR1'",
    ),
    Bad("log.parquet", _BROKEN[:100] + bytes(20000) + _BROKEN[20100:], "damaged Parquet: …"),
    Bad("log.parquet", _BROKEN[:-200] + bytes(150) + _BROKEN[-50:], "damaged Parquet: …"),
    Bad("log.csv", _PARQUET, "Parquet, though the name says CSV: let the name end in .parquet"),
    Bad(
        "log.xlsx",
        b"PK",
        ".xlsx is no format of a log; known are .parquet, .pq, .csv, .tsv, .csv.gz, .tsv.gz, .npz",
    ),
    Bad(
        "log",
        b"1",
        "a name without an ending is no format of a log; known are .parquet, .pq, .csv, .tsv, .csv.gz, .tsv.gz, .npz",
    ),
    Bad("log.csv.gz", (HEADER + _OK).encode(), "not gzip, though the name says so"),
    Bad(
        "log.csv.gz",
        gzip.compress(np.random.default_rng(0).bytes(9999), mtime=0)[:500],
        "damaged gzip: it cannot be unpacked",
    ),
    Bad("log.csv.gz", gzip.compress((HEADER + _OK * 99999).encode(), mtime=0)[:-100], "damaged CSV: …"),
    Bad("log.csv", gzip.compress((HEADER + _OK).encode(), mtime=0), "gzip: let the name end in .gz"),
    Bad(
        "log.csv",
        (HEADER + _OK).encode("utf-16"),
        "UTF-16 or binary, not UTF-8 text: save it as CSV in UTF-8",
    ),
    Bad(
        "log.csv",
        (HEADER + _OK).encode("utf-16-le"),
        "UTF-16 or binary, not UTF-8 text: save it as CSV in UTF-8",
    ),
    Bad(
        "log.csv",
        f"user,{HEADER}ana,{_OK}josé,{_OK}".encode("latin-1"),
        "column user, row 1: b'jos\\xe9' is not UTF-8 text",
    ),
    Bad("log.csv", f"usér,{HEADER}1,{_OK}".encode("latin-1"), "the names of the columns are not UTF-8 text"),
    csv(_OK + "1,0.5\n" + _OK, "row 1: '1,0.5' has 2 cells, but the header has 3 columns"),
    csv(_OK + "1,0.5,0,7\n", "row 1: '1,0.5,0,7' has 4 cells, but the header has 3 columns"),
    csv(_OK + '"1,0.5,0\n', "row 1: '\"1,0.5,0' has 1 cell, but the header has 3 columns"),
    csv(
        "1;0.5;0\n",
        "the columns are not separated by commas: the header is 'item;propensity;reward'",
        "item;propensity;reward\n",
    ),
    Bad("log.npz", b"PK nothing", "not a whole .npz file of plain arrays"),
]

COLUMNS = [
    csv("1,0.5,0\n", "column slate or item is missing; did you mean itme?", "itme,propensity,reward\n"),
    csv(
        "1,0.5,0\n",
        "column propensity or slot_propensity is missing; did you mean propensty?",
        "item,propensty,reward\n",
    ),
    csv("1,0.5,0\n", "column reward or click is missing; did you mean rewrad?", "item,propensity,rewrad\n"),
    csv("1,0.5,0\n", "column slate or item is missing; the columns are a, b, c", "a,b,c\n"),
    csv(
        "1,0.5,0,0.5\n",
        "columns propensity and pscore could both be our propensity: say which with propensity=…",
        "item,propensity,reward,pscore\n",
    ),
    csv(
        "1,0.5,0,1\n",
        "columns item and Action could both be our item: say which with item=…",
        "item,propensity,reward,Action\n",
    ),
    csv("1,0.5,0,1\n", "column reward is there twice", "item,propensity,reward,reward\n"),
    csv(
        "1,0.5,0,3 4\n",
        "columns slate and item both say what was shown: leave one out with an empty name, or say layout=long",
        "item,propensity,reward,slate\n",
    ),
    csv(
        _OK,
        "column clicked (our click) is missing; the columns are item, propensity, reward",
        columns=ColumnMap(click="clicked"),
    ),
    csv(
        _OK,
        "column x_* (our features) is missing; the columns are item, propensity, reward",
        columns=ColumnMap(features=("x_*",)),
    ),
    csv(
        _OK,
        "column gender (our categories) is missing; the columns are item, propensity, reward",
        columns=ColumnMap(categories=("gender",)),
    ),
    csv(
        f"0,{_OK}",
        "1 columns of categories have 2 sizes",
        f"gender,{HEADER}",
        columns=ColumnMap(categories=("gender",), category_sizes=(2, 3)),
    ),
    csv(
        "1,0.5,0\n",
        "column reward or click is missing; the columns are item, slot_propensity, user",
        "item,slot_propensity,user\n",
    ),
    csv(
        "1 2,0.5 0.5,0\n",
        "column propensity is missing: a whole slate's probability does not follow from those of its slots",
        "slate,slot_propensity,reward\n",
    ),
    csv(_OK, "n_items is 0, but a catalogue has at least one item", n_items=0),
]

CELLS = [
    csv(_OK + "1,,0\n", "column propensity, row 1: an empty cell where a value is needed"),
    csv(_OK + "1,NaN,0\n", "column propensity, row 1: nan is not a finite number"),
    csv(_OK + "1,NA,0\n", "column propensity, row 1: 'NA' is not a number"),
    csv(_OK + "1,half,0\n", "column propensity, row 1: 'half' is not a number"),
    csv(_OK + '1,"0,5",0\n', "column propensity, row 1: '0,5' is not a number"),
    csv(_OK + "1,-0.25,0\n", "column propensity, row 1: -0.25 is not a probability in (0, 1]"),
    csv(_OK + "1,0,0\n", "column propensity, row 1: 0.0 is not a probability in (0, 1]"),
    csv(_OK + "1,1.5,0\n", "column propensity, row 1: 1.5 is not a probability in (0, 1]"),
    csv(_OK + "1,inf,0\n", "column propensity, row 1: inf is not a finite number"),
    csv(
        _OK + "1,25,0\n",
        "column propensity, row 1: 25.0 is not a probability in (0, 1]; if these are per cent, divide by 100",
    ),
    csv(_OK + "1,0.5,nan\n", "column reward, row 1: nan is not a finite number"),
    csv(_OK + "1,0.5,\n", "column reward, row 1: an empty cell where a value is needed"),
    csv(_OK + "1,0.5,-inf\n", "column reward, row 1: -inf is not a finite number"),
    csv(_OK + "-1,0.5,0\n", "column item, row 1: -1 is negative, but ids count from 0"),
    csv(_OK + "2.5,0.5,0\n", "column item, row 1: 2.5 is not a whole number"),
    csv(_OK + ",0.5,0\n", "column item, row 1: an empty cell where a value is needed"),
    csv(
        _OK + "abc,0.5,0\n",
        "column item, row 1: 'abc' is not a number, but other ids are: say recode=item if all of them are names",
    ),
    csv(
        _OK + "99999999999,0.5,0\n",
        "column item, row 1: 99999999999 is above 2147483647: say recode=item to number such ids from 0",
    ),
    csv(
        _OK + "99999999999999999999,0.5,0\n", "column item, row 1: 1e+20 does not fit a signed 64-bit number"
    ),
    csv(_OK + "7,0.5,0\n", "column item, row 1: 7 is an unknown item: the catalogue has 7", n_items=7),
    csv("b,0.5,0\na,0.5,0\nc,0.5,0\n", "column item has 3 different items, but n_items is 2", n_items=2),
    csv(
        "b,0.5,0\na,0.5,0\nc,0.5,0\n",
        "column item, row 2: 'c' is not one of the 2 known item names",
        item_names=["a", "b"],
    ),
    csv("b,0.5,0\n", "the item names are not all different", item_names=["b", "b"]),
    csv(f"5,{_OK}-2,{_OK}", "column user, row 1: -2 is negative, but ids count from 0", f"user,{HEADER}"),
    csv(
        f"5,{_OK},{_OK}", "column user_id, row 1: an empty cell where a value is needed", f"user_id,{HEADER}"
    ),
    csv(
        f"1,{_OK}2,{_OK}",
        "column position has no 0, its smallest value is 1: say position_from=1 if it counts from 1, or position_from=0",
        f"position,{HEADER}",
    ),
    csv(
        f"1,{_OK}0,{_OK}",
        "column position, row 1: 0 is below position_from=1",
        f"position,{HEADER}",
        columns=ColumnMap(position_from=1),
    ),
    csv(
        f"1,{_OK}maybe,{_OK}",
        "column terminated, row 1: 'maybe' is not true, false, 1 or 0",
        f"terminated,{HEADER}",
    ),
    csv(f"0,{_OK}2,{_OK}", "column done, row 1: 2 is not true, false, 1 or 0", f"done,{HEADER}"),
    csv(f"1,{_OK}1.5,{_OK}", "column treatment, row 1: 1.5 is not a whole number", f"treatment,{HEADER}"),
    csv(
        f"0.1,{_OK}?,{_OK}",
        "column x_0, row 1: '?' is not a number",
        f"x_0,{HEADER}",
        columns=ColumnMap(features=("x_*",)),
    ),
    csv(
        f"0,{_OK}m,{_OK}",
        "column gender, row 1: 'm' is not a number",
        f"gender,{HEADER}",
        columns=ColumnMap(categories=("gender",), category_sizes=(2,)),
    ),
    csv(
        f"0,{_OK}0.5,{_OK}",
        "column gender, row 1: 0.5 is not a whole number",
        f"gender,{HEADER}",
        columns=ColumnMap(categories=("gender",), category_sizes=(2,)),
    ),
    csv(
        f"0,0,{_OK}1,-2,{_OK}",
        "column hour, row 1: -2 is no category: the sizes are (2, 24)",
        f"gender,hour,{HEADER}",
        columns=ColumnMap(categories=("gender", "hour"), category_sizes=(2, 24)),
    ),
    csv(
        f"0,23,{_OK}1,24,{_OK}",
        "column hour, row 1: 24 is no category: the sizes are (2, 24)",
        f"gender,hour,{HEADER}",
        columns=ColumnMap(categories=("gender", "hour"), category_sizes=(2, 24)),
    ),
    csv(f"0,{_OK}2020-01-01,{_OK}", "column step, row 1: '2020-01-01' is not a number", f"step,{HEADER}"),
    parquet(
        {"item": [1, None], "propensity": [0.5, 0.5], "reward": [0, 0]},
        "column item, row 1: an empty cell where a value is needed",
    ),
    parquet(
        {"item": [True, False], "propensity": [0.5, 0.5], "reward": [0, 0]},
        "column item, row 0: True is a truth value, not a whole number",
    ),
    parquet(
        {"item": ["a", ""], "propensity": [0.5, 0.5], "reward": [0, 0]},
        "column item, row 1: '' is not the name of any item",
    ),
    parquet(
        {"item": pa.array([1, 2**64 - 1], pa.uint64()), "propensity": [0.5] * 2, "reward": [0, 0]},
        "column item, row 1: 18446744073709551615 does not fit a signed 64-bit number",
    ),
    parquet(
        {"item": [1], "propensity": [[0.5]], "reward": [0]},
        "column propensity, row 0: [0.5] is a list, not a number",
    ),
    parquet(
        {"item": [1], "propensity": [{"p": 0.5}], "reward": [0]},
        "column propensity, row 0: {'p': 0.5} is of type struct<p: double>, not a number",
    ),
    parquet(
        {"item": [1], "propensity": pa.array([0], pa.timestamp("s")), "reward": [0]},
        "column propensity, row 0: 1970-01-01 00:00:00 is of type timestamp[ms], not a number",
    ),
    parquet(
        {"item": [b"ok", b"caf\xe9"], "propensity": [0.5] * 2, "reward": [0, 0]},
        "column item, row 1: b'caf\\xe9' is not UTF-8 text",
    ),
    parquet(
        {"item": [1], "propensity": pa.nulls(1), "reward": [0]},
        "column propensity, row 0: an empty cell where a value is needed",
    ),
]

SLATES = [
    slates([[1, 2], [3, 3]], "column slate, row 1, slot 1: 3 is in the slate twice"),
    slates([[1, 2], [3]], "column slate, row 1: [3] has length 1, but row 0 has 2"),
    slates([[1, 2], None], "column slate, row 1: an empty cell where a value is needed"),
    slates([[1, 2], [None, 3]], "column slate, row 1, slot 0: an empty cell where a value is needed"),
    slates([[], []], "column slate, row 0: [] is an empty slate"),
    slates([[1, 2], [3, -4]], "column slate, row 1, slot 1: -4 is negative, but ids count from 0"),
    slates(
        [[1, 2], [3, 9]],
        "column slate, row 1, slot 1: 9 is an unknown item: the catalogue has 9",
        options={"n_items": 9},
    ),
    slates([[1.0, 2.0], [3.5, 4.0]], "column slate, row 1, slot 0: 3.5 is not a whole number"),
    slates([[[1], [2]]], "column slate, row 0: [[1], [2]] is a list of lists, not a list of values"),
    slates([["a", "b"], ["c", "c"]], "column slate, row 1, slot 1: 'c' is in the slate twice"),
    slates(
        [[1, 2], [3, 4]], "column click, row 1: [1] has length 1, but column slate has 2", click=[[0, 1], [1]]
    ),
    slates([[1, 2], [3, 4]], "column click, row 0: [0] has length 1, but column slate has 2", click=[0, 1]),
    slates(
        [[1, 2], [3, 4]],
        "column click, row 1, slot 0: nan is not a finite number",
        click=[[0, 1], [float("nan"), 1]],
    ),
    slates(
        [[1, 2], [3, 4]], "column click, row 1: an empty cell where a value is needed", click=[[0, 1], None]
    ),
    slates(
        [[1, 2], [3, 4]],
        "column slot_propensity, row 1, slot 1: 1.5 is not a probability in (0, 1]",
        slot_propensity=[[0.5, 0.5], [0.5, 1.5]],
    ),
    slates(
        [[1, 2], [3, 4]],
        "column slot_propensity, row 1, slot 0: 0.0 is not a probability in (0, 1]",
        slot_propensity=[[0.5, 0.5], [0.0, 0.5]],
    ),
    slates([[1, 2], [3, 4]], "column position is for one item a row, but slate has 2 slots", position=[0, 1]),
    slates(
        [[1, 2], [3, 4]],
        "column slate, row 1, slot 1: 4 is not among the row's candidates",
        candidates=[[1, 2, 3], [1, 2, 3]],
    ),
    slates(
        [[1, 2], [3, 4]],
        "column candidates, row 1, slot 2: 4 is a candidate twice",
        candidates=[[1, 2], [3, 4, 4]],
    ),
    slates(
        [["a"], ["b"]],
        "column slate, row 1: 'b' is not among the row's candidates",
        candidates=[["a", "b"], ["a"]],
    ),
    slates(
        [[1, 2], [3, 4]],
        "column features, row 1: [0.1] has length 1, but row 0 has 2",
        features=[[0.1, 0.2], [0.1]],
    ),
    slates(
        [[1, 2], [3, 4]],
        "column features, row 1, slot 1: inf is not a finite number",
        features=[[0.1, 0.2], [0.1, float("inf")]],
    ),
    slates(
        [[1, 2], [3, 4]],
        "column categories, row 1: [0] has length 1, but row 0 has 2",
        categories=[[0, 1], [0]],
        options={"columns": ColumnMap(category_sizes=(1, 2))},
    ),
    slates(
        [[1, 2], [3, 4]],
        "column categories, row 1, slot 1: 2 is no category: the sizes are (1, 2)",
        categories=[[0, 1], [0, 2]],
        options={"columns": ColumnMap(category_sizes=(1, 2))},
    ),
    slates(
        [[1, 2], [3, 4]],
        "column categories, row 1, slot 1: -2 is no category: the sizes are (1, 2)",
        categories=[[0, None], [0, -2]],
        options={"columns": ColumnMap(category_sizes=(1, 2))},
    ),
    csv(
        "1 2,0 1,0.5\n3 x,0 1,0.5\n",
        "column slate, row 1: '3 x' is not a list of numbers, and names in a list are separated by | or ; or ,",
        _PAIRS,
    ),
    csv(
        "1|2,0|1,0.5\n3|4,0|1|1,0.5\n",
        "column click, row 1: ['0', '1', '1'] has length 3, but column slate has 2",
        _PAIRS,
    ),
    csv('"[1, 2]",0 1,0.5\n"[]",0 1,0.5\n', "column slate, row 1: '[]' is an empty list", _PAIRS),
    csv(
        '"[1, 2]",0 1,0.5\n"[2, 2]",0 1,0.5\n', "column slate, row 1, slot 1: 2 is in the slate twice", _PAIRS
    ),
]

LONGS = [
    long(
        "a,0,1,0,0.5,0,1\na,1,2,0,0.5,0,2\n",
        "column hour, row 1: 2 differs from 1 in row 0 of the same round",
        "round,slot,item,click,propensity,gender,hour\n",
        columns=ColumnMap(categories=("gender", "hour")),
    ),
    long(
        "a,0,1,0,0.5,0,1\na,1,2,0,0.5,0,1\nb,0,1,0,0.5,0,9\nb,1,2,0,0.5,0,9\n",
        "column hour, row 2: 9 is no category: the sizes are (2, 9)",
        "round,slot,item,click,propensity,gender,hour\n",
        columns=ColumnMap(categories=("gender", "hour"), category_sizes=(2, 9)),
    ),
    long(
        "a,0,1,0,0.5\na,1,2,0,0.5\nb,0,3,0,0.5\n",
        "column round, row 2: 'b' is a round of 1 items, but round 'a' has 2",
    ),
    long("a,0,1,0,0.5\na,2,2,0,0.5\n", "column slot, row 1: 2 comes before slot 1 is filled in round 'a'"),
    long("a,0,1,0,0.5\na,1,2,0,0.5\na,1,3,0,0.5\n", "column slot, row 2: 1 is there twice in round 'a'"),
    long(
        "a,1,1,0,0.5\na,2,2,0,0.5\n",
        "column slot has no 0, its smallest value is 1: say position_from=1 if it counts from 1, or position_from=0",
    ),
    long("a,0,1,0,0.5\na,1,1,0,0.5\n", "column item, row 1: 1 is in the slate twice"),
    long(
        "a,0,1,0,0.5\na,1,2,0,0.4\n",
        "column propensity, row 1: 0.4 differs from 0.5 in row 0 of the same round",
    ),
    long("a,1,2,0,1.5\na,0,1,0,1.5\n", "column propensity, row 1: 1.5 is not a probability in (0, 1]"),
    long("a,1,2,0,0.5\na,0,-3,0,0.5\n", "column item, row 1: -3 is negative, but ids count from 0"),
    long(
        "a,1,9,0,0.5\na,0,3,0,0.5\n",
        "column item, row 0: 9 is an unknown item: the catalogue has 9",
        n_items=9,
    ),
    long("a,0,1,0,0.5\n,1,2,0,0.5\n", "column round, row 1: an empty cell where a value is needed"),
    long("a,0,1,0,0.5\na,1.5,2,0,0.5\n", "column slot, row 1: 1.5 is not a whole number"),
    long("a,0,1,0,0.5\na,1,2,yes,0.5\n", "column click, row 1: 'yes' is not a number"),
    long(
        "a,1,0,0.5\na,2,0,0.5\n",
        "column slot is missing; the columns are round, item, click, propensity",
        "round,item,click,propensity\n",
    ),
    long(
        "0,1,0,0.5\n1,2,0,0.5\n",
        "column round is missing; the columns are slot, item, click, propensity",
        "slot,item,click,propensity\n",
    ),
    long(
        "a,0,1,0,0.5\na,1,2,0,0.5\n",
        "column propensity is missing: a whole slate's probability does not follow from those of its slots",
        "round,slot,item,click,slot_propensity\n",
    ),
    long(
        "a,0,0,0.5\na,1,0,0.5\n",
        "column item is missing; the columns are round, slot, click, propensity",
        "round,slot,click,propensity\n",
    ),
    long(
        "a,0,1,0.5\na,1,2,0.5\n",
        "column click or reward is missing; the columns are round, slot, item, propensity",
        "round,slot,item,propensity\n",
    ),
    long(
        "a,0,1,0,0.5,ana\na,1,2,0,0.5,bob\n",
        "column user, row 1: 'bob' differs from 'ana' in row 0 of the same round",
        "round,slot,item,click,propensity,user\n",
    ),
    long(
        "a,0,1,1,0.5\n",
        "columns slot and position could both be our slot: say which with slot=…",
        "round,slot,item,position,propensity\n",
    ),
]

OWN = [
    own(
        lambda about: about.update(version=99),
        "version 99 of the log format is newer than 1: update simlab to read it",
    ),
    own(lambda about: "{nonsense", "the metadata under simlab is not the JSON that a log has"),
    own(lambda about: "[]", "the metadata under simlab is not the JSON that a log has"),
    own(lambda about: about.pop("items"), "the metadata under simlab has no items"),
    own(
        lambda about: about["dtypes"].update(categories="int64"),
        "the metadata under simlab has no categories",
    ),
    own(
        lambda about: about.update(
            dtypes=about["dtypes"] | {"categories": "int64"}, categories=["g"], category_sizes=["2"]
        ),
        "the metadata under simlab has \"['2']\" for category_sizes",
    ),
    own(
        lambda about: about["dtypes"].update(categories="float32"),
        "the metadata under simlab has no categories",
    ),
    own(
        lambda about: about["dtypes"].update(reward="tensor"),
        "the metadata under simlab has dtype 'tensor' for reward",
    ),
    own(
        lambda about: about["dtypes"].update(user="float32"),
        "the metadata under simlab has dtype 'float32' for user",
    ),
    own(lambda about: about.update(users=[1, 2, 3]), "the metadata under simlab has '[1, 2, 3]' for users"),
    own(lambda about: about.update(n_items=-2), "the metadata under simlab has '-2' for n_items"),
    own(lambda about: about.update(n_items="many"), "the metadata under simlab has 'many' for n_items"),
    own(
        lambda about: about.update(n_items=2),
        "column slate, row 2: 2 is an unknown item: the catalogue has 2",
    ),
    own(lambda about: None, "n_items is 4, but the file was written with 3", n_items=4),
]

ALL = [*FILES, *COLUMNS, *CELLS, *SLATES, *LONGS, *OWN]
