"""One log, however it is laid out, written down or handed over, is the same log."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from simlab.errors import BadInput
from simlab.log import Log
from simlab.tables import ColumnMap, from_obp, iter_log, read_log, to_arrow, to_obp

CASES = Path(__file__).parents[2] / "../shared/cases/ope"
OPEN_BANDIT = Path(__file__).parents[2] / "../shared/data/obd_small"

WIDE = pd.DataFrame(
    {
        "slate": [[3, 1], [0, 2], [2, 3], [1, 0]],
        "propensity": [0.1, 0.2, 0.3, 0.4],
        "slot_propensity": [[0.5, 0.25], [0.5, 0.5], [0.75, 0.5], [1.0, 0.5]],
        "click": [[1, 0], [0, 0], [1, 1], [0, 1]],
        "user": [0, 1, 0, 1],
        "session": [0, 0, 0, 1],
        "step": [0, 0, 1, 0],
        "candidates": [[3, 1, 0], [0, 2, 1], [2, 3], [1, 0]],
        "features": [[0.5, 1.0], [0.25, 2.0], [0.125, 3.0], [0.75, 4.0]],
        "categories": [[0, 2], [1, -1], [-1, 0], [1, 1]],
        "treatment": [0, 1, 1, 0],
        "terminated": [False, False, True, False],
        "truncated": [False, True, False, False],
        "policy": ["a", "b", "a", "b"],
    }
)


def wanted() -> Log:
    return Log(
        user=torch.tensor([0, 1, 0, 1]),
        slate=torch.tensor([[3, 1], [0, 2], [2, 3], [1, 0]]),
        propensity=torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64),
        reward=torch.tensor([1, 0, 2, 1], dtype=torch.float64),
        n_items=4,
        session=torch.tensor([0, 0, 0, 1]),
        step=torch.tensor([0, 0, 1, 0]),
        features=torch.tensor([[0.5, 1.0], [0.25, 2.0], [0.125, 3.0], [0.75, 4.0]]),
        slot_propensity=torch.tensor([[0.5, 0.25], [0.5, 0.5], [0.75, 0.5], [1.0, 0.5]], dtype=torch.float64),
        click=torch.tensor([[1.0, 0], [0, 0], [1, 1], [0, 1]]),
        candidates=torch.tensor([[3, 1, 0], [0, 2, 1], [2, 3, -1], [1, 0, -1]]),
        treatment=torch.tensor([0, 1, 1, 0]),
        terminated=torch.tensor([False, False, True, False]),
        truncated=torch.tensor([False, True, False, False]),
        policy=("a", "b", "a", "b"),
        feature_names=("features_0", "features_1"),
        categories=torch.tensor([[0, 2], [1, -1], [-1, 0], [1, 1]]),
        category_names=("categories_0", "categories_1"),
        category_sizes=(2, 3),
    )


class Capsule:
    """A table of a library that we do not know: it only hands out Arrow data."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


def text_of(column: pd.Series, separator: str) -> pd.Series:
    """Write lists as text, in brackets if they come with the separator."""
    if not isinstance(column[0], list):
        return column
    start, end = ("[", "]") if "[" in separator else ("", "")
    return column.map(lambda cells: start + separator.strip("[]").join(map(str, cells)) + end)


@pytest.mark.parametrize("separator", ["[, ]", "[ ]", " ", "|", ";", ", "])
def test_csv_with_lists_as_text(separator: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    WIDE.apply(lambda column: text_of(column, separator)).to_csv(path, index=False)
    assert read_log(path) == wanted()


@pytest.mark.parametrize(
    "how", ["frame", "arrow", "capsule", "batch", "chunks", "views", "fixed", "parquet", "tsv.gz"]
)
def test_every_way_in_gives_the_same_log(how: str, tmp_path: Path) -> None:
    table = pa.Table.from_pandas(WIDE)
    source: Any = WIDE
    if how == "arrow":
        source = table
    elif how == "capsule":
        source = Capsule(table)
    elif how == "batch":
        source = table.to_batches()[0]
    elif how == "chunks":
        source = pa.concat_tables([table.slice(0, 1), table.slice(1, 0), table.slice(1, 3)])
    elif how == "views":  # as polars has text and lists
        slate = pa.ListViewArray.from_arrays([6, 4, 2, 0], [2] * 4, pa.array([1, 0, 2, 3, 0, 2, 3, 1]))
        source = table.set_column(0, "slate", slate)
        policy = pa.array(["a", "b"], pa.string_view())
        coded = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, 1], pa.uint32()), policy)
        source = source.set_column(13, "policy", coded)
    elif how == "fixed":
        source = table.set_column(0, "slate", table["slate"].cast(pa.list_(pa.int16(), 2)))
        source = source.set_column(13, "policy", table["policy"].dictionary_encode())
    elif how == "parquet":
        source = tmp_path / "log.parquet"
        pa.parquet.write_table(table, source)
    elif how == "tsv.gz":
        source = str(tmp_path / "log.tsv.gz")
        text = WIDE.apply(lambda column: text_of(column, "|")).to_csv(sep="\t", index=False)
        Path(source).write_bytes(gzip.compress(text.encode()))
    assert read_log(source) == wanted()


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("slot_from", [0, 1])
def test_the_long_layout_is_the_same_log(shuffled: bool, slot_from: int, tmp_path: Path) -> None:
    lists = ["slate", "slot_propensity", "click"]
    long = WIDE.assign(round=["r9", "r1", "r5", "r3"], slot=[[0, 1]] * 4).explode([*lists, "slot"])
    long = (
        long.rename(columns={"slate": "item"})
        .infer_objects()
        .astype({"slot": int, "item": int, "click": int})
    )
    long["slot_propensity"] = long["slot_propensity"].astype(float)
    long["slot"] += slot_from
    if shuffled:  # a round keeps the place of its first row
        long = long.iloc[[1, 3, 0, 5, 2, 7, 6, 4]]
    columns = ColumnMap(position_from=slot_from)
    assert read_log(long, columns) == wanted()
    path = tmp_path / "log.csv"
    long.apply(lambda column: text_of(column.reset_index(drop=True), "|")).to_csv(path, index=False)
    assert read_log(path, columns) == wanted()
    assert read_log(path, columns, layout="long") == wanted()


def test_long_rewards_are_the_rounds_or_each_items() -> None:
    long = pd.DataFrame(
        {"round": [0, 0, 1, 1], "slot": [0, 1, 0, 1], "item": [1, 2, 2, 3], "propensity": 0.5}
    )
    each = read_log(long.assign(reward=[1.0, 2.0, 0.0, 4.0]))
    assert each.reward.tolist() == [3.0, 4.0]
    assert each.click is not None
    assert each.click.tolist() == [[1, 2], [0, 4]]
    whole = read_log(long.assign(reward=[5.0, 5.0, 7.0, 7.0], click=[1, 0, 0, 0]))
    assert whole.reward.tolist() == [5.0, 7.0]
    assert whole.click is not None
    assert whole.click.tolist() == [[1, 0], [0, 0]]


def test_single_items_are_long_only_if_rounds_repeat() -> None:
    rows = pd.DataFrame(
        {"round": [5, 6], "position": [0, 1], "item": [1, 2], "propensity": 0.5, "click": [1, 0]}
    )
    wide = read_log(rows)
    assert wide.position is not None
    assert wide.position.tolist() == [0, 1]
    assert wide.slots == 1
    assert read_log(rows.assign(round=5)).slots == 2


def test_single_actions_with_aliases_and_scalar_features(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("User ID,action,PScore,clicked,x_1,x_0,pos\n7,2,0.5,1,0.5,1,3\n9,0,0.25,0,1.5,2,1\n")
    log = read_log(path, ColumnMap(features=("x_0", "x_*"), position_from=1), n_items=5)
    assert log == Log(
        user=torch.tensor([7, 9]),
        slate=torch.tensor([[2], [0]]),
        propensity=torch.tensor([0.5, 0.25], dtype=torch.float64),
        reward=torch.tensor([1.0, 0.0], dtype=torch.float64),
        n_items=5,
        click=torch.tensor([[1.0], [0.0]]),
        position=torch.tensor([2, 0]),
        features=torch.tensor([[1.0, 0.5], [2.0, 1.5]]),
        feature_names=("x_0", "x_1"),
    )


def test_positions_that_have_a_zero_stay() -> None:
    frame = pd.DataFrame({"item": [0, 1], "propensity": 1.0, "reward": 0.0, "position": [0, 2]})
    position = read_log(frame).position
    assert position is not None
    assert position.tolist() == [0, 2]
    stays = read_log(frame.assign(position=[1, 2]), ColumnMap(position_from=0)).position
    assert stays is not None
    assert stays.tolist() == [1, 2]
    assert read_log(frame.assign(position=[1, 2]), ColumnMap(position="")).position is None


def test_names_are_numbered_in_sorted_order_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,propensity,reward\nzoe,Star Wars,0.5,1\nana,Alien,0.5,0\nzoe,NA,0.5,0\n")
    log = read_log(path)
    assert log.item_names == ("Alien", "NA", "Star Wars")
    assert log.slate[:, 0].tolist() == [2, 0, 1]
    assert log.user_names == ("ana", "zoe")
    assert log.user.tolist() == [1, 0, 1]
    assert log.n_items == 3
    later = read_log(path, item_names=["NA", "Dune", "Star Wars", "Alien"])
    assert later.slate[:, 0].tolist() == [2, 3, 0]
    assert later.n_items == 4


def test_candidates_share_the_names_of_the_slates(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = ["b|a,a|b|c,0.5,1", "d|a,\"['a'| 'd']\",0.5,0", "'c'|a,a|c,0.5,0"]
    path.write_text("\n".join(["slate,candidates,propensity,reward", *rows]))
    log = read_log(path)
    assert log.item_names == ("a", "b", "c", "d")
    assert log.slate.tolist() == [[1, 0], [3, 0], [2, 0]]
    assert log.candidates is not None
    assert log.candidates.tolist() == [[0, 1, 2], [0, 3, -1], [0, 2, -1]]


def test_sparse_numbers_can_be_numbered_anew() -> None:
    frame = pd.DataFrame(
        {"user": [10**12, 7, 10**12], "item": [500, 20, 3], "propensity": 0.5, "reward": 1.0}
    )
    log = read_log(frame, ColumnMap(recode=("user", "item")))
    assert log.user_names == ("7", "1000000000000")
    assert log.user.tolist() == [1, 0, 1]
    assert log.item_names == ("3", "20", "500")
    assert log.slate[:, 0].tolist() == [2, 1, 0]


def test_what_is_absent() -> None:
    log = read_log(
        pd.DataFrame({"item": [4.0, 0.0], "slot_propensity": 0.5, "click": [True, False], "step": None})
    )
    assert log.user.tolist() == [0, 1]
    assert log.propensity.tolist() == [0.5, 0.5]
    assert log.reward.tolist() == [1.0, 0.0]
    assert log.step is None
    assert log.policy == ("unknown",)
    assert log.n_items == 5
    assert log.item_names == ()


@pytest.mark.parametrize("rows", [1, 3, 4, 100])
def test_chunks_are_rows_of_the_whole(rows: int, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    WIDE.apply(lambda column: text_of(column, "|")).to_csv(path, index=False)
    for source in (WIDE, path):
        columns = ColumnMap(category_sizes=(2, 3))
        chunks = list(iter_log(source, columns, rows=rows, n_items=4))
        assert [len(c) for c in chunks] == [min(rows, 4 - i) for i in range(0, 4, rows)]
        start = 0
        for chunk in chunks:
            part = wanted().rows(slice(start, start + len(chunk)))
            start += len(chunk)
            assert chunk.slate.tolist() == part.slate.tolist()
            assert torch.equal(chunk.propensity, part.propensity)
            assert torch.equal(chunk.reward, part.reward)
            assert chunk.features is not None
            assert part.features is not None
            assert torch.equal(chunk.features, part.features)
            assert chunk.categories is not None
            assert part.categories is not None
            assert torch.equal(chunk.categories, part.categories)
            assert chunk.category_sizes == (2, 3)
            assert torch.equal(chunk.context().mask.sum(1), part.context().mask.sum(1))


@pytest.mark.parametrize("how", ["frame", "parquet", "csv", "long"])
def test_categories_by_name_with_unknown_ones(how: str, tmp_path: Path) -> None:
    """A column each, empty where nothing is known; pandas makes floats of whole numbers with gaps."""
    frame = pd.DataFrame({"item": [0, 1, 2], "propensity": 0.5, "reward": 1.0})
    frame["gender"] = [1, None, 0]
    frame["hour"] = pd.array([None, 23, 7], dtype="Int64")
    frame["nothing"] = pd.array([None] * 3, dtype="Int8")
    columns = ColumnMap(categories=("gender", "hour", "nothing"), category_sizes=(2, 24, 1))
    source: Any = frame
    if how == "parquet":
        frame.to_parquet(source := tmp_path / "log.parquet")
    elif how == "csv":
        frame.to_csv(source := tmp_path / "log.csv", index=False)
    elif how == "long":
        source = pd.concat([frame.assign(round=[0, 1, 2], slot=i, item=[i, i, i]) for i in (0, 1)])
    log = read_log(source, columns)
    assert log.categories is not None
    assert log.categories.tolist() == [[1, -1, -1], [-1, 23, -1], [0, 7, -1]]
    assert log.category_names == ("gender", "hour", "nothing")
    assert log.category_sizes == (2, 24, 1)
    assert log.slots == (2 if how == "long" else 1)
    assert log.context().categories is log.categories
    whole = read_log(source, ColumnMap(categories=("gender", "hour")))
    assert whole.category_sizes == (2, 24)
    if how != "long":
        assert next(iter_log(source, columns, n_items=3)) == log
        with pytest.raises(BadInput, match="reading categories by chunks needs category_sizes"):
            next(iter_log(source, ColumnMap(categories=("gender",)), n_items=3))


def test_chunks_without_users_count_on() -> None:
    frame = pd.DataFrame({"item": [0, 1, 2], "propensity": 0.5, "reward": 1.0})
    assert [c.user.tolist() for c in iter_log(frame, rows=2, n_items=3)] == [[0, 1], [2]]


def test_chunks_of_text_know_true_and_false_and_the_open_bandit_files(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("item,propensity,click,treatment,done\n0,0.5,True,false,0\n1,0.5,False,true,1\n")
    whole = read_log(path)
    assert whole.reward.tolist() == [1.0, 0.0]
    assert whole.treatment is not None
    assert whole.treatment.tolist() == [0, 1]
    assert list(iter_log(path, n_items=2)) == [whole]
    path.write_text("item_id,position,click,propensity_score,user_feature_0\n3,1,0,0.5,a\n1,3,1,0.5,b\n")
    assert list(iter_log(path, n_items=4)) == [read_log(path)]


def test_obp_dictionaries_go_in_and_out() -> None:
    rng = np.random.default_rng(0)
    feedback = {
        "n_rounds": 50,
        "n_actions": 9,
        "context": rng.normal(size=(50, 3)).astype(np.float32),
        "action": rng.integers(7, size=50),
        "reward": rng.normal(size=50),
        "position": rng.integers(1, 3, size=50),
        "pscore": rng.uniform(0.1, 1, size=50),
    }
    back = to_obp(from_obp(feedback))
    assert back.keys() == feedback.keys()
    for key, value in feedback.items():
        np.testing.assert_array_equal(back[key], value)
    assert read_log(feedback) == from_obp(feedback)
    assert from_obp(feedback | {"position": None}).position is None


def test_obp_slates_go_in_and_out() -> None:
    if not CASES.exists():
        pytest.skip("the reference cases are not here")
    with np.load(CASES / "slate_cascade_additive_linear_1000.npz") as file:
        case = dict(file)
    log = from_obp(case)
    assert (len(log), log.slots) == (1000, 3)
    back = to_obp(log)
    for key in ("slate_id", "action", "position", "reward", "pscore", "pscore_item_position"):
        np.testing.assert_array_equal(back[key], case[key])
    np.testing.assert_allclose(back["context"], case["context"], rtol=1e-6)


@pytest.mark.parametrize("campaign", ["men", "all"])
def test_the_open_bandit_files_are_read_as_they_are(campaign: str) -> None:
    path = OPEN_BANDIT / "random" / campaign / f"{campaign}.csv"
    if not path.exists():
        pytest.skip("the Open Bandit sample is not here")
    raw = pd.read_csv(path)
    log = read_log(path, ColumnMap(features=("user-item_affinity_*",)))
    assert log.slate[:, 0].tolist() == raw["item_id"].tolist()
    assert log.position is not None
    assert log.position.tolist() == (raw["position"] - 1).tolist()
    assert log.reward.tolist() == raw["click"].tolist()
    assert log.propensity.numpy() == pytest.approx(raw["propensity_score"], abs=0)
    assert log.features is not None
    assert log.features.shape == (10_000, raw.columns.str.startswith("user-item").sum())


BAD_FEEDBACK: list[tuple[dict[str, Any], str]] = [
    ({"pscore": None}, "feedback: key pscore is missing"),
    ({"action": [0, 1]}, "feedback: key action has 2 rows, but n_rounds is 3"),
    ({"reward": [0.0, 1.0]}, "feedback: key reward has 2 rows, but action has 3"),
    ({"reward": ["a", "b", "c"]}, "feedback: key reward holds <U1, not numbers"),
    ({"context": [1.0, 2.0, 3.0]}, "feedback: key context has shape (3,), but 2 axes are needed"),
    ({"context": [[1.0], [2.0]]}, "feedback: key context has 2 rows, but there are 3"),
    ({"context": [[1.0], [2.0, 3.0], [1.0]]}, "feedback: key context is ragged"),
    ({"n_actions": "x"}, "feedback: key n_actions is 'x', not a whole number"),
    ({"n_rounds": 0}, "feedback: key n_rounds is 0, but at least 1 is needed"),
    ({"pscore": [0.5, 0.0, 0.5]}, "feedback: column pscore, row 1: 0.0 is not a probability in (0, 1]"),
    ({"action": [0, 1, 4]}, "feedback: column action, row 2: 4 is an unknown item: the catalogue has 4"),
    ({"context": [[1.0], [np.nan], [2.0]]}, "feedback: column context, row 1: nan is not a finite number"),
]


@pytest.mark.parametrize(("change", "says"), BAD_FEEDBACK, ids=[s[10:50] for _, s in BAD_FEEDBACK])
def test_malformed_obp_dictionaries_are_refused(change: dict[str, Any], says: str) -> None:
    good = {
        "n_rounds": 3,
        "n_actions": 4,
        "action": [0, 1, 2],
        "reward": [0.0, 1.0, 0.0],
        "pscore": [0.5] * 3,
    }
    assert len(from_obp(good)) == 3
    with pytest.raises(ValueError) as caught:
        from_obp(good | change)
    assert str(caught.value).startswith(says)


def test_a_frame_out_of_a_log_goes_in_again() -> None:
    frame = to_arrow(wanted()).to_pandas()
    assert read_log(frame, ColumnMap(features=("features",))) == wanted()
