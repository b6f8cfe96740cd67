"""Each loader against what its small files say, written out; and what bad files are told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from simlab.context import Catalog
from simlab.datasets._interactions import dense_rank
from simlab.datasets.frame import Frame
from simlab.datasets.kuairand import KuaiRand
from simlab.datasets.kuairec import KuaiRec
from simlab.datasets.lastfm import LastFM
from simlab.datasets.movielens import MovieLens
from simlab.datasets.recbole import RecBole
from simlab.errors import BadInput
from simlab.log import Log
from tests.contracts import datasets as small

SHARED = Path(__file__).parents[2] / "../shared"


def told(call: Callable[[], object]) -> str:
    with pytest.raises(BadInput) as refusal:
        call()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def words(log: Log, labels: dict[str, tuple[str, ...]]) -> list[list[str | None]]:
    """The categories of each row in the owner's words."""
    assert log.categories is not None
    each = [labels[name] for name in log.category_names]
    return [
        [w[i] if i >= 0 else None for i, w in zip(row, each, strict=True)] for row in log.categories.tolist()
    ]


def field(catalog: Catalog, name: str) -> list[list[str]]:
    """The categories of each item in the owner's words."""
    found = next(f for f in catalog.fields if f.name == name)
    return [[found.labels[i] for i in row if i >= 0] for row in found.values.tolist()]


def test_movielens_100k(tmp_path: Path) -> None:
    data = small.movielens(tmp_path)
    log, catalog = data.load(), data.catalog()
    assert log.user_names == ("1", "2", "3")
    assert log.item_names == ("1", "3", "7", "10")  # as numbers, and the film that nobody rated
    assert log.user.tolist() == [1, 0, 1, 1, 2]
    assert log.slate.tolist() == [[3], [2], [2], [0], [3]]
    assert log.step is not None
    assert log.step.tolist() == [1, 0, 0, 0, 0]
    assert log.order().tolist() == [1, 2, 3, 0, 4]  # rows 2 and 3 share a time: the file's order
    assert log.reward.tolist() == [1] * 5
    assert log.propensity.tolist() == [1] * 5
    assert words(log, data.labels())[:2] == [["F", "0", "other"], ["M", "18", "writer"]]
    assert words(log, data.labels())[4] == ["F", "56", "writer"]
    assert field(catalog, "genre") == [["Western"], [], ["Comedy", "Drama"], ["unknown"]]
    assert field(catalog, "year") == [["1992"], [], ["1990"], ["1991"]]
    assert next(f for f in catalog.fields if f.name == "genre").size == 19
    assert data.times().tolist() == [500, 100, 300, 300, 50]
    assert data.outcomes()["rating"].squeeze(1).tolist() == [4, 5, 1, 3, 2]
    assert MovieLens(root=tmp_path, unseen=False).load().item_names == ("1", "7", "10")
    assert MovieLens(root=tmp_path, unseen=False).catalog().n_items == 3
    bare = MovieLens(root=tmp_path, sides=False)
    assert bare.load().categories is None
    assert bare.catalog().fields == ()


def test_thresholds_and_raw_ratings(tmp_path: Path) -> None:
    small.movielens(tmp_path)
    liked = MovieLens(root=tmp_path, threshold=3).load()
    assert liked.reward.tolist() == [1, 1, 0, 1, 0]
    raw = MovieLens(root=tmp_path, value="rating").load()
    assert raw.click is not None
    assert raw.reward.tolist() == raw.click.squeeze(1).tolist() == [4, 5, 1, 3, 2]
    said = told(MovieLens(root=tmp_path, value="rating", threshold=3).load)
    assert said == "threshold is 3, but value=rating keeps the ratings as they are"


def test_movielens_1m(tmp_path: Path) -> None:
    data = small.movielens_1m(tmp_path)
    log, catalog = data.load(), data.catalog()
    assert log.item_names == ("2", "661", "1193")
    assert log.slate.tolist() == [[2], [1], [2]]
    assert log.step is not None
    assert log.step.tolist() == [0, 1, 0]
    assert words(log, data.labels()) == [["F", "0", "10"], ["F", "0", "10"], ["M", "56", "16"]]
    assert field(catalog, "genre") == [["Drama", "Comedy"], ["Animation", "Children's"], ["Drama"]]
    assert field(catalog, "year") == [[], ["1996"], ["1975"]]


def test_recbole_takes_every_type(tmp_path: Path) -> None:
    data = small.recbole(tmp_path)
    log, catalog = data.load(), data.catalog()
    assert (log.user_names, log.item_names) == (("u1", "u2", "u3"), ("i1", "i2", "i3"))
    assert log.user.tolist() == [1, 0, 1]
    assert log.slate.tolist() == [[0], [2], [2]]
    assert log.step is not None
    assert log.step.tolist() == [1, 0, 0]
    assert log.feature_names == ("age",)
    assert log.features is not None
    assert log.features.tolist() == [[40], [30], [40]]
    assert words(log, data.labels()) == [[None], ["Rome"], [None]]
    assert log.category_sizes == (2,)
    assert field(catalog, "brand") == [[], ["zeta"], ["acme"]]
    assert field(catalog, "words") == [["blue", '"red"'], [], ["red", "small"]]
    assert catalog.feature_names == ("weight",)
    assert catalog.features.tolist() == [[0.25], [0.75], [0.5]]
    assert catalog.vectors is not None
    assert catalog.vectors.tolist() == [[3, 4], [5, 6], [1, 2]]
    more = RecBole(
        name="tiny", root=tmp_path, context=("device", "price"), user_columns=(), item_columns=("brand",)
    )
    log = more.load()
    assert words(log, more.labels()) == [["phone"], ["desk"], [None]]
    assert log.features is not None
    assert log.features.tolist() == [[1.5], [2.5], [3.5]]
    assert [f.name for f in more.catalog().fields] == ["brand"]
    whole, inter = data.load(), tmp_path / "tiny.inter"
    inter.write_bytes(b"\xef\xbb\xbf" + inter.read_bytes())  # as some editors save UTF-8
    assert data.load() == whole
    (tmp_path / "tiny.user").unlink()
    assert data.load().categories is None


@pytest.mark.skipif(not (SHARED / "data/ml-100k").is_dir(), reason="MovieLens-100K is not here")
def test_recbole_against_pandas() -> None:
    """The whole of MovieLens-100K, by another reader."""
    root = SHARED / "data/ml-100k"
    data = RecBole(root=root, threshold=4)
    log, catalog, labels = data.load(), data.catalog(), data.labels()
    rows = pd.read_csv(root / "ml-100k.inter", sep="\t").rename(columns=lambda c: c.split(":")[0])
    users = pd.read_csv(root / "ml-100k.user", sep="\t", dtype=str, index_col=0)
    items = pd.read_csv(root / "ml-100k.item", sep="\t", dtype=str, index_col=0, quoting=3)
    assert np.array_equal(np.array(log.user_names, dtype=int)[log.user], rows["user_id"])
    assert np.array_equal(np.array(log.item_names, dtype=int)[log.slate[:, 0]], rows["item_id"])
    assert np.array_equal(log.reward, rows["rating"] >= 4)
    rank = rows.groupby("user_id")["timestamp"].rank("dense").astype(int) - 1
    assert log.step is not None
    assert np.array_equal(log.step, rank)
    assert log.categories is not None
    for column, name in enumerate(log.category_names):
        wanted = users[f"{name}:token"].loc[rows["user_id"].astype(str)]
        assert np.array_equal(np.array(labels[name])[log.categories[:, column]], wanted)
    genres = [sorted(set(g)) for g in field(catalog, "class")]
    assert genres == [sorted(set(g.split())) for g in items["class:token_seq"].loc[list(log.item_names)]]


@pytest.mark.skipif(not (SHARED / "data/ml-100k").is_dir(), reason="MovieLens-100K is not here")
def test_movielens_is_the_same_in_either_layout(tmp_path: Path) -> None:
    """The rows of ml-100k.inter are those of u.data, below a header."""
    root = SHARED / "data/ml-100k"
    (tmp_path / "u.data").write_text((root / "ml-100k.inter").read_text("utf8").partition("\n")[2], "utf8")
    for more in ({}, {"threshold": 4}, {"value": "rating"}):
        ours: Any = MovieLens(root=tmp_path, sides=False, **more)
        theirs: Any = RecBole(root=root, sides=False, **more)
        assert ours.load() == theirs.load()


def test_lastfm_hetrec(tmp_path: Path) -> None:
    data = small.lastfm(tmp_path)
    log = data.load()
    assert (log.user_names, log.item_names) == (("2", "10"), ("6", "51", "52"))
    assert log.slate.tolist() == [[1], [2], [1]]
    assert log.step is None
    assert data.friends().tolist() == [[0, 1], [1, 0]]
    assert LastFM(root=tmp_path, threshold=100).load().reward.tolist() == [1, 1, 0]
    assert told(data.split) == "LastFM hetrec has no split of its own; lightgcn has"


@pytest.mark.skipif(not (SHARED / "data/lastfm-hetrec").is_dir(), reason="LastFM is not here")
def test_lastfm_of_lightgcn() -> None:
    data = LastFM("lightgcn", SHARED / "data/lastfm-hetrec")
    log, split = data.load(), data.split()
    raw = [
        np.loadtxt(SHARED / f"data/lastfm-hetrec/{n}.txt").astype(int)
        for n in ("data1", "test1", "trustnetwork")
    ]
    for mask, rows in ((split.train, raw[0]), (split.test, raw[1])):
        part = log.rows(mask)
        assert np.array_equal(np.array(log.user_names, dtype=int)[part.user], rows[:, 0])
        assert np.array_equal(np.array(log.item_names, dtype=int)[part.slate[:, 0]], rows[:, 1])
    assert log.item_names == tuple(map(str, range(1, 4490)))
    known = np.isin(raw[2], np.array(log.user_names, dtype=int)).all(1)
    assert np.array_equal(np.array(log.user_names, dtype=int)[data.friends()], raw[2][known])


def test_kuairec(tmp_path: Path) -> None:
    data = small.kuairec(tmp_path)
    log, catalog = data.load(), data.catalog()
    assert (log.user_names, log.item_names) == (("0", "7", "14"), ("3", "5", "149", "183"))
    assert log.user.tolist() == [2, 2, 0, 0]
    assert log.slate.tolist() == [[2], [3], [2], [0]]
    assert log.reward.tolist() == [0, 1, 0, 1]
    assert log.step is not None
    assert log.step.tolist() == [1, 0, 0, 1]
    assert words(log, data.labels())[0][:6] == ["high_active", "0", "0", "1", "(0,10]", "0"]
    assert [row[-1] for row in words(log, data.labels())] == [None, None, "3", "3"]
    assert field(catalog, "category") == [["9"], ["8"], ["8"], ["27", "9"]]
    assert data.outcomes()["watch_ratio"].squeeze(1).tolist() == [1, 2, 0, 3]
    assert set(data.outcomes()) == {"watch_ratio", "play_duration", "video_duration", "rating"}
    tiny = KuaiRec("small", tmp_path)
    said = told(tiny.load)
    assert (
        "small_matrix.csv: column timestamp, row 0: None is no time; untimed=drop leaves such rows out"
        in said
    )
    dropped = KuaiRec("small", tmp_path, untimed="drop")
    assert dropped.load().slate.tolist() == [[3]]  # numbered as in the big part
    assert dropped.outcomes()["play_duration"].tolist() == [[20000]]
    assert KuaiRec("big", tmp_path, value="rating", threshold=None).load().reward.tolist() == [1, 2, 0, 3]


def test_kuairand(tmp_path: Path) -> None:
    data = small.kuairand(tmp_path)
    log, catalog = data.load(), data.catalog()
    assert log.item_names == ("3", "5", "9", "11")
    assert log.slate.tolist() == [[0], [1], [1]]
    assert log.reward.tolist() == [1, 0, 1]
    assert log.propensity.tolist() == [1, 1, 1]
    assert log.policy == ("standard",)
    assert log.category_names[-2:] == ("tab", "hour")
    assert log.category_sizes[-2:] == (15, 24)
    assert log.categories is not None
    assert log.categories[:, -2:].tolist() == [[1, 0], [14, 23], [0, 9]]
    assert data.outcomes()["is_follow"].squeeze(1).tolist() == [0, 0, 1]
    assert len(data.outcomes()) == 13
    assert data.times().tolist() == [1649347200123, 1649433540000, 1650591000000]
    assert field(catalog, "tag") == [["12"], ["3", "12"], [], ["8"]]
    assert field(catalog, "music_type") == [["9.0"], [], ["4.0"], ["4.0"]]
    lot = KuaiRand("random", tmp_path).load()
    assert lot.propensity.tolist() == [0.5, 0.5]
    assert lot.treatment is not None
    assert lot.treatment.tolist() == [1, 1]
    assert lot.category_sizes == log.category_sizes
    both = KuaiRand("both", tmp_path, target="play_time_ms", value="click", threshold=2501).load()
    assert both.propensity.tolist() == [1, 1, 1, 0.5, 0.5]
    assert both.policy == ("standard",) * 3 + ("random",) * 2
    assert both.reward.tolist() == [0] * 5
    assert told(KuaiRand("randon", tmp_path).load).endswith("did you mean random?")
    assert told(KuaiRand(root=tmp_path, target="is_liked").load).endswith("did you mean is_like?")


TABLE = pd.DataFrame(
    {
        "who": ["b", "a", "b", "b"],
        "what": [20, 7, 7, 9],
        "when": pd.to_datetime(
            ["2020-01-03", "2020-01-01", "2020-01-02 10:00:00.5", "2020-01-03"], format="ISO8601"
        ),
        "stars": [1.0, 2.0, 3.0, 4.0],
        "price": [0.5, 0.25, 1.0, 2.0],
        "device": ["tv", None, "phone", "tv"],
        "hour": pd.array([3, None, 2, 3], dtype="Int64"),
        "bought": [True, False, False, True],
    }
)
PEOPLE = pd.DataFrame({"who": ["c", "b"], "age": [30, 40], "city": ["Rome", None]})
THINGS = pd.DataFrame({"what": [9, 7], "size": [1.5, 2.5], "kind": ["x|y", None], "maker": ["m", "n"]})


@pytest.mark.parametrize("how", ["pandas", "arrow", "parquet", "csv", "tsv.gz"])
def test_frame_maps_columns_by_name(how: str, tmp_path: Path) -> None:
    things = THINGS.assign(vector=[[1.0, 2.0], [3.0, 4.0]])
    tables: list[Any] = [TABLE, PEOPLE, things]
    if how == "arrow":
        tables = [pa.Table.from_pandas(t) for t in tables]
    elif how != "pandas":
        for i, table in enumerate(tables):
            path = tmp_path / f"{i}.{how}"
            if how == "parquet":
                table.to_parquet(path)
            else:
                table.to_csv(path, index=False, sep="\t" if "tsv" in how else ",")
            tables[i] = path
    data = Frame(
        tables[0],
        user="who",
        item="what",
        time="when",
        rating="stars",
        features=("price",),
        categories=("device", "hour"),
        extra=("bought",),
        users=tables[1],
        user_features=("age",),
        user_categories=("city",),
        items=tables[2],
        item_features=("size",),
        fields=("kind", "maker"),
        vectors="vector",
        threshold=3,
    )
    log, catalog = data.load(), data.catalog()
    assert (log.user_names, log.item_names) == (("a", "b", "c"), ("7", "9", "20"))
    assert log.user.tolist() == [1, 0, 1, 1]
    assert log.slate.tolist() == [[2], [0], [0], [1]]
    assert log.step is not None
    assert log.step.tolist() == [1, 0, 0, 1]
    assert log.reward.tolist() == [0, 0, 1, 1]
    assert log.feature_names == ("age", "price")
    assert log.features is not None
    assert log.features.tolist() == [[40, 0.5], [0, 0.25], [40, 1], [40, 2]]
    assert words(log, data.labels()) == [
        [None, "tv", "3"],
        [None, None, None],
        [None, "phone", "2"],
        [None, "tv", "3"],
    ]
    assert data.outcomes()["bought"].squeeze(1).tolist() == [1, 0, 0, 1]
    assert catalog.features.squeeze(1).tolist() == [2.5, 1.5, 0]
    assert field(catalog, "kind") == [[], ["x", "y"], []]
    assert field(catalog, "maker") == [["n"], ["m"], []]
    assert catalog.vectors is not None
    assert catalog.vectors.tolist() == [[3, 4], [1, 2], [0, 0]]
    plain = Frame(tables[0], user="who", item="what", time=None)
    assert plain.load().step is None
    assert plain == Frame(tables[0], user="who", item="what", time=None)
    assert plain != Frame(TABLE.copy(), user="who", item="what", time=None)


def test_lists_in_a_frame_are_several_categories() -> None:
    items = pd.DataFrame({"item": [1, 0], "kind": [["x", "y"], []], "code": [[5], None]})
    frame = pd.DataFrame({"user": [0, 0], "item": [0, 1], "time": [1, 2]})
    catalog = Frame(frame, items=items, fields=("kind", "code")).catalog()
    assert field(catalog, "kind") == [[], ["x", "y"]]
    assert field(catalog, "code") == [[], ["5"]]


def test_dense_rank_is_that_of_pandas() -> None:
    luck = np.random.default_rng(0)
    user, time = luck.integers(0, 20, 500), luck.integers(0, 12, 500)
    wanted = pd.Series(time).groupby(user).rank("dense").astype(int) - 1
    assert np.array_equal(dense_rank(user, time), wanted)
    assert np.array_equal(dense_rank(user, time / 7), wanted)


CELLS: list[tuple[dict[str, Any], str]] = [
    ({"time": [1.0, np.nan]}, "column time, row 1: an empty cell where a value is needed"),
    ({"time": pa.array([1.0, np.nan])}, "column time, row 1: nan is not a finite number"),
    ({"time": [1.0, np.inf]}, "column time, row 1: inf is not a finite number"),
    (
        {"time": [pd.Timestamp(2020, 1, 1), pd.NaT]},
        "column time, row 1: an empty cell where a value is needed",
    ),
    ({"time": [None, 1]}, "column time, row 0: an empty cell where a value is needed"),
    ({"time": ["2020-01-01", "yesterday"]}, "column time, row 1: 'yesterday' is not a time"),
    ({"time": [[1], [2]]}, "column time, row 0: [1] is a list, not a number"),
    ({"user": ["a", None]}, "column user, row 1: an empty cell where a value is needed"),
    ({"user": ["a", " "]}, "column user, row 1: ' ' is no id"),
    ({"user": ["a", "NaN"]}, "column user, row 1: 'NaN' is no id"),
    ({"item": [1.0, 1.5]}, "column item, row 1: 1.5 is not a whole number"),
    ({"item": pa.array([1.0, np.nan])}, "column item, row 1: nan is no id"),
    ({"rating": ["3", "many"]}, "column rating, row 1: 'many' is not a number"),
    ({"rating": [3, None]}, "column rating, row 1: an empty cell where a value is needed"),
    ({"thing": [1, 2]}, "column item is missing; known are rating, thing, time, user"),
]


@pytest.mark.parametrize(("columns", "says"), CELLS, ids=[says[:60] for _, says in CELLS])
def test_a_wrong_cell_of_a_frame_is_named(columns: dict[str, Any], says: str) -> None:
    known: dict[str, Any] = {"user": ["a", "b"], "item": [1, 2], "time": [1, 2], "rating": [1, 2]}
    if "thing" in columns:
        del known["item"]
    table = pa.table(
        {k: pa.array(v, from_pandas=True) if isinstance(v, list) else v for k, v in (known | columns).items()}
    )
    assert told(Frame(table, rating="rating").load) == f"table of interactions: {says}"


def test_a_wrong_frame_is_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": [1], "item": [1], "time": [1]})
    assert told(Frame(frame, threshold=3).load) == "threshold is 3, but the data have no ratings"
    assert "empty: there are columns but no rows" in told(Frame(frame[:0]).load)
    assert told(Frame(str(tmp_path / "no.csv")).load).endswith("no.csv: no such file")
    twice = pd.DataFrame({"item": ["x", "y", "x"]})
    assert told(Frame(frame, items=twice).catalog) == "table of items: row 2: 'x' is there twice"
    both = Frame(
        frame.assign(g=1),
        categories=("g",),
        users=pd.DataFrame({"user": [1], "g": [1]}),
        user_categories=("g",),
    )
    assert told(both.load) == "g is a column of the users and one of the interactions: choose one"


Loader = Callable[[Path], Any]
BAD: list[tuple[Loader, str, str, str, str]] = [
    (
        small.movielens,
        "u.data",
        "2\t7\t1\t300",
        "2\t7\t1\tnoon",
        "u.data: column timestamp, row 2: 'noon' is not a number",
    ),
    (
        small.movielens,
        "u.data",
        "2\t7\t1\t300",
        "2\t7\t1\tnan",
        "u.data: column timestamp, row 2: nan is not a finite",
    ),
    (small.movielens, "u.data", "2\t7\t1\t300", "2\t7\t\t300", "u.data: column rating, row 2: an empty cell"),
    (small.movielens, "u.data", "2\t7\t1\t300", "\t7\t1\t300", "u.data: column user, row 2: an empty cell"),
    (small.movielens, "u.data", "2\t7\t1\t300", "2\t7\t1", "u.data, row 2: '2\\t7\\t1' has 3 cells, not 4"),
    (small.movielens, "u.user", "3|56|F", "3|-1|F", "u.user: column age, row 2: -1.0 is no age"),
    (small.movielens, "u.user", "3|56|F", "2|56|F", "u.user: row 2: '2' is there twice"),
    (small.movielens, "u.item", "|1\n3|", "|2\n3|", "u.item: column Western, row 2: 2.0 is neither 0 nor 1"),
    (
        small.movielens_1m,
        "ratings.dat",
        "661::3::",
        "661::x::",
        "ratings.dat: column rating, row 1: 'x' is not a number",
    ),
    (
        small.movielens_1m,
        "ratings.dat",
        "661::3::",
        "661::",
        "ratings.dat, row 1: '1::661::978302109' has 3 cells, not 4",
    ),
    (
        small.recbole,
        "tiny.inter",
        "\t20\t",
        "\tx\t",
        "tiny.inter: column timestamp:float, row 1: 'x' is not a number",
    ),
    (
        small.recbole,
        "tiny.inter",
        "rating:float",
        "rating:number",
        "'rating:number' in the header is not NAME:TYPE",
    ),
    (
        small.recbole,
        "tiny.inter",
        "user_id:token",
        "user:token",
        "tiny.inter: column user_id is missing; did you mean",
    ),
    (small.recbole, "tiny.item", "0.75", "", "tiny.item: column weight:float, row 2: an empty cell"),
    (
        small.recbole,
        "tiny.item",
        "\t5 6",
        "\t5",
        "tiny.item: column picture:float_seq, row 2: ['5'] has length 1, but row 0 has 2",
    ),
    (
        small.lastfm,
        "user_artists.dat",
        "weight",
        "plays",
        "user_artists.dat: column weight is missing; known are",
    ),
    (
        small.kuairec,
        "data/big_matrix.csv",
        ",3.0",
        ",inf",
        "column watch_ratio, row 3: inf is not a finite number",
    ),
    (
        small.kuairand,
        "data/log_standard_4_22_to_5_08_pure.csv",
        ",930,",
        ",2400,",
        "column hourmin, row 0: 2400.0 is not a",
    ),
    (
        small.frame,
        "t.csv",
        "2020-01-02",
        "2020-13-02",
        "t.csv: column time, row 0: '2020-13-02' is not a time",
    ),
]


@pytest.mark.parametrize(("write", "file", "old", "new", "says"), BAD, ids=[b[4][:60] for b in BAD])
def test_a_wrong_cell_of_a_file_is_named(
    write: Loader, file: str, old: str, new: str, says: str, tmp_path: Path
) -> None:
    data = write(tmp_path)
    path = tmp_path / file
    text = path.read_text("latin-1")
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1), "latin-1")
    assert says in told(data.load)


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    data = small.movielens(tmp_path)
    assert told(MovieLens("10k", tmp_path).load).startswith("there is no MovieLens 10k")
    (tmp_path / "u.data").write_text("")
    assert told(data.load).endswith("u.data: empty: the file has no text")
    (tmp_path / "u.data").unlink()
    (tmp_path / "u.data").mkdir()
    assert "u.data is not a file: unpack" in told(data.load)
    other = small.recbole(tmp_path)
    assert told(RecBole(name="tiny", root=tmp_path, item_columns=("brnad",)).load).endswith(
        "did you mean brand?"
    )
    (tmp_path / "tiny.item").write_bytes((tmp_path / "tiny.item").read_bytes().replace(b"acme", b"\xff"))
    assert "tiny.item: column brand:token, row 0: b'\\xff' is not UTF-8 text" in told(other.load)
