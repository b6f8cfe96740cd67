"""Data sets for uplift: the published files to the digit where they are here, and small made ones always."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from econml.data.dgps import ihdp_surface_A, ihdp_surface_B

from causal.trials.acic2016 import ACIC2016
from causal.trials.contract import TrialData, UnknownFile
from causal.trials.criteo import Criteo
from causal.trials.hillstrom import Hillstrom
from causal.trials.ihdp import IHDP
from causal.trials.lalonde import Lalonde
from causal.trials.twins import _CATEGORIES, _X, Twins
from causal.uplift.contract import Trial
from simlab.errors import BadInput
from simlab.parts import all_parts
from simlab.seeds import Seed

SHARED = Path(__file__).parents[2] / "../shared"
TRIALS = all_parts("trial")


def folder(name: str) -> Path:
    path = SHARED / "data" / name
    if not path.is_dir():
        pytest.skip(f"the files of {name} are not here")
    return path


def arrays(name: str) -> dict[str, Any]:
    path = SHARED / "cases/causal" / f"{name}.npz"
    if not path.is_file():
        pytest.skip("the reference cases are not here")
    with np.load(path, allow_pickle=True) as found:
        return {key: found[key] for key in found.files}


def difference(trial: Trial, arm: int = 1) -> float:
    return float(trial.y[trial.arm == arm].mean() - trial.y[trial.arm == 0].mean())


def test_the_catalogue_finds_them() -> None:
    wanted = {"hillstrom", "ihdp", "twins", "acic2016", "lalonde", "criteo", "frame"}
    assert set(TRIALS) == wanted
    for kind in TRIALS.values():
        assert isinstance(kind(), TrialData)
        assert kind() == kind()
        assert hash(kind()) == hash(kind())


@pytest.mark.parametrize("name", TRIALS)
def test_a_missing_file_says_where_to_get_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as told:
        TRIALS[name]().load()
    assert "\n" not in str(told.value)
    assert "http" in str(told.value) or "source=" in str(told.value)


def test_hillstrom_is_the_reference_case() -> None:
    case = arrays("hillstrom_womens")
    for outcome in ("visit", "conversion", "spend"):
        trial = Hillstrom("womens", outcome, folder("hillstrom")).load()
        assert np.array_equal(trial.x, case["X"])
        assert np.array_equal(trial.arm, case["T"])
        assert np.array_equal(trial.y, case[outcome])
        assert trial.names == tuple(case["cols"])
    answer = json.loads((SHARED / "cases/causal/hillstrom_econml_full_ate.json").read_text())
    said = float(answer["note"].rsplit(" ", 1)[1])
    assert difference(Hillstrom(path=folder("hillstrom")).load()) == pytest.approx(said, abs=1e-12)


def test_hillstrom_counts_and_means() -> None:
    path = folder("hillstrom") / "hillstrom.csv"
    means = {
        "visit": (0.106167, 0.182757, 0.151400),
        "conversion": (0.005726, 0.012531, 0.008837),
        "spend": (0.6528, 1.4226, 1.0772),
    }
    for outcome, wanted in means.items():
        trial = Hillstrom("all", outcome, path).load()
        assert trial.arms == ("No E-Mail", "Mens E-Mail", "Womens E-Mail")
        assert np.bincount(trial.arm).tolist() == [21306, 21307, 21387]
        found = [trial.y[trial.arm == k].mean() for k in range(3)]
        assert found == pytest.approx(wanted, abs=5e-5 if outcome == "spend" else 5e-7)
    trial = Hillstrom("any", path=path).load()
    assert trial.arms == ("No E-Mail", "Any E-Mail")
    assert np.bincount(trial.arm).tolist() == [21306, 42694]
    assert trial.propensity is not None
    assert trial.propensity[0].tolist() == pytest.approx([1 / 3, 2 / 3])


def test_ihdp_is_the_reference_case_and_its_treated_gain_four() -> None:
    case = arrays("ihdp_inputs")
    for number in range(1, 11):
        data = IHDP(replication=number, path=folder("ihdp"))
        trial, whole = data.load(), case[f"A{number}"]
        assert trial.effect is not None
        assert np.array_equal(trial.arm, whole[:, 0])
        assert np.array_equal(trial.y, whole[:, 1])
        assert np.array_equal(trial.effect[:, 0], whole[:, 4] - whole[:, 3])
        assert np.array_equal(data.expected(), whole[:, 3:5])
        assert np.array_equal(trial.x, whole[:, 5:])
        assert trial.effect[trial.arm == 1].mean() == pytest.approx(4, abs=1e-12)
        assert (len(trial), trial.arm.sum()) == (747, 139)


@pytest.mark.parametrize(("part", "peer"), [("surface_a", ihdp_surface_A), ("surface_b", ihdp_surface_B)])
def test_ihdp_draws_what_econml_draws(part: str, peer: Any) -> None:
    for seed in (0, 7):
        data = IHDP(part, seed=Seed(seed))
        trial = data.load()
        y, arm, x, effect = peer(random_state=seed)
        assert trial.effect is not None
        np.testing.assert_allclose(trial.y, y, rtol=0, atol=1e-12)
        np.testing.assert_allclose(trial.effect[:, 0], effect, rtol=0, atol=1e-12)
        np.testing.assert_allclose(trial.x, x[:, 1:], rtol=0, atol=1e-12)
        assert np.array_equal(trial.arm, arm)
        mu = data.expected()
        noise = trial.y - mu[np.arange(len(mu)), trial.arm]
        assert noise.std() == pytest.approx(1, abs=0.1)


def test_names_of_ihdp_s_columns_are_those_of_econml_s_file() -> None:
    """The replications' columns have no names; they are EconML's, standardised with n - 1."""
    ours, theirs = IHDP(path=folder("ihdp")).load(), IHDP("surface_a").load()
    scaled = ours.x.copy()
    scaled[:, :6] *= np.sqrt(747 / 746)
    np.testing.assert_allclose(scaled, theirs.x, rtol=0, atol=1e-8)
    assert np.array_equal(ours.arm, theirs.arm)
    assert ours.names == theirs.names


def test_acic_2016() -> None:
    data = ACIC2016(1, path=folder("acic2016"))
    trial, coded = data.load(), replace(data, encoding="ordinal").load()
    drawn = pd.read_csv(folder("acic2016") / "zymu_1.csv")
    table = pd.read_csv(folder("acic2016") / "x.csv")
    assert trial.effect is not None
    assert trial.x.shape == (4802, 55 + 5 + 15 + 4)
    assert coded.x.shape == (4802, 58)
    assert np.bincount(trial.arm).tolist() == [3944, 858]
    assert np.array_equal(trial.effect[:, 0], (drawn.mu1 - drawn.mu0).to_numpy())
    assert np.array_equal(trial.y, np.where(drawn.z == 1, drawn.y1, drawn.y0))
    want = pd.get_dummies(
        table, columns=["x_2", "x_21", "x_24"], drop_first=True, prefix_sep="=", dtype=float
    )
    assert set(trial.names) == set(want.columns)
    assert np.array_equal(trial.x, want[list(trial.names)].to_numpy())
    assert coded.x[:, 1].tolist() == [ord(v) - 65 for v in table.x_2]


def test_lalonde_and_what_the_survey_does_to_it() -> None:
    trial = Lalonde(path=folder("lalonde")).load()
    assert np.bincount(trial.arm).tolist() == [260, 185]
    assert difference(trial) == pytest.approx(1794.3424, abs=1e-4)
    survey = Lalonde("cps", folder("lalonde")).load()
    assert np.bincount(survey.arm).tolist() == [15992, 185]
    assert difference(survey) == pytest.approx(-8497.5161, abs=1e-4)
    assert np.array_equal(survey.x[:185], trial.x[trial.arm == 1])


HILLSTROM = """recency,history_segment,history,mens,womens,zip_code,newbie,channel,segment,visit,\
conversion,spend
10,2) $100 - $200,142.44,1,0,Surburban,0,Phone,Womens E-Mail,0,0,0
6,3) $200 - $350,329.08,1,1,Rural,1,Web,No E-Mail,1,0,0
7,2) $100 - $200,180.65,0,1,Urban,1,Multichannel,Mens E-Mail,1,1,29.99
"""


def test_hillstrom_from_a_file_of_three_rows(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(HILLSTROM)
    trial = Hillstrom("any", "spend", path).load()
    assert trial.arm.tolist() == [1, 0, 1]
    assert trial.y.tolist() == [0, 0, 29.99]
    assert trial.x[0].tolist() == [10, 142.44, 1, 0, 0, 1, 0, 1, 0]
    assert trial.x[2].tolist() == [7, 180.65, 0, 1, 1, 0, 1, 0, 0]
    path.write_text("\n".join(HILLSTROM.splitlines()[i] for i in (0, 2)))
    with pytest.raises(BadInput, match="column treatment has one value, 'No E-Mail'"):
        Hillstrom(path=path).load()
    for old, new, words in (
        ("Rural", "rural", r"column zip_code, row 1: 'rural' is none of Rural, Surburban, Urban"),
        ("Mens E-Mail", "E-Mail", r"column segment, row 2: 'E-Mail' is none of Mens"),
        ("142.44", "much", r"column history, row 0: 'much' is not a number"),
        ("newbie", "nwbie", r"column newbie is missing; did you mean nwbie\?"),
    ):
        path.write_text(HILLSTROM.replace(old, new))
        with pytest.raises(BadInput, match=words):
            Hillstrom(path=path).load()
    with pytest.raises(BadInput, match=r"no set of arms 'woman'; did you mean womens\?"):
        Hillstrom("woman").load()
    with pytest.raises(BadInput, match="no outcome of Hillstrom 'sales'"):
        Hillstrom(outcome="sales").load()


def test_another_file_of_a_published_name_is_read_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "hillstrom.csv").write_text(HILLSTROM)
    with pytest.warns(
        UnknownFile, match=r"hillstrom\.csv is not the published file: its SHA-256 begins with"
    ):
        trial = Hillstrom(path=tmp_path).load()
    assert len(trial) == 2


def test_ihdp_from_a_file_of_two_rows(tmp_path: Path) -> None:
    line = "{},{},9,1.5,{},{}\n"
    text = line.format(1, 5.5, 6, ",".join(["1"] * 25)) + line.format(0, 2.5, 3, ",".join(["0"] * 25))
    (tmp_path / "ihdp_npci_11.csv").write_text(text)
    data = IHDP(replication=11, path=tmp_path)
    trial = data.load()
    assert trial.effect is not None
    assert trial.effect.tolist() == [[4.5], [1.5]]
    assert trial.y.tolist() == [5.5, 2.5]
    assert data.expected().tolist() == [[1.5, 6], [1.5, 3]]
    (tmp_path / "ihdp_npci_11.csv").write_text("2" + text[1:])
    with pytest.raises(BadInput, match=r"ihdp_npci_11\.csv: column treatment, row 0: 2.0 is neither 0 nor 1"):
        data.load()
    with pytest.raises(BadInput, match=r"no part of IHDP 'surface'; did you mean surface_"):
        IHDP("surface").load()


def test_acic_from_files_of_three_rows(tmp_path: Path) -> None:
    names = [f"x_{i}" for i in range(1, 59)]
    table = pd.DataFrame(np.arange(174.0).reshape(3, 58), columns=names)
    table["x_2"], table["x_21"], table["x_24"] = list("CAC"), list("JKJ"), list("BBB")
    table.to_csv(tmp_path / "x.csv", index=False)
    drawn = pd.DataFrame(
        {"z": [0, 1, 1], "y0": [1, 2, 3], "y1": [4, 5, 6], "mu0": [0, 0, 1], "mu1": [1, 2, 4]}
    )
    drawn.to_csv(tmp_path / "zymu_9.csv", index=False)
    with pytest.warns(UnknownFile, match="x.csv is not the published file"):
        trial = ACIC2016(9, path=tmp_path).load()
    assert trial.effect is not None
    assert trial.y.tolist() == [1, 5, 6]
    assert trial.effect[:, 0].tolist() == [1, 2, 3]
    assert trial.names[:3] == ("x_1", "x_2=C", "x_3")
    assert [name for name in trial.names if "=" in name] == ["x_2=C", "x_21=K"]
    assert trial.x[:, 1].tolist() == [1, 0, 1]
    drawn[:2].to_csv(tmp_path / "zymu_9.csv", index=False)
    with (
        pytest.warns(UnknownFile),
        pytest.raises(BadInput, match=r"x\.csv has 3 rows, but .*zymu_9\.csv has 2"),
    ):
        ACIC2016(9, path=tmp_path).load()


def criteo(rows: int) -> pd.DataFrame:
    luck = np.random.default_rng(0)
    table = pd.DataFrame(luck.normal(size=(rows, 12)).round(4), columns=[f"f{i}" for i in range(12)])
    for name, share in (("treatment", 0.85), ("conversion", 0.1), ("visit", 0.3), ("exposure", 0.2)):
        table[name] = (luck.random(rows) < share).astype(int)
    return table


def test_criteo_in_pieces_is_criteo_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = criteo(400)
    monkeypatch.setattr("causal.trials.criteo._CHUNK", 64)
    table.to_csv(tmp_path / "c.csv", index=False)
    table.to_parquet(tmp_path / "c.parquet")
    with gzip.open(tmp_path / "criteo-research-uplift-v2.1.csv.gz", "wt") as file:
        table.to_csv(file, index=False)
    for path in (tmp_path / "c.csv", tmp_path / "c.parquet", tmp_path):
        trial = Criteo("conversion", path=path).load()
        assert np.array_equal(trial.x, table.iloc[:, :12].to_numpy())
        assert np.array_equal(trial.y, table.conversion)
        assert np.array_equal(trial.arm, table.treatment)
        assert trial.names == tuple(f"f{i}" for i in range(12))
        first = Criteo(rows=100, path=path).load()
        assert np.array_equal(first.y, table.visit[:100])
        some = Criteo(share=0.25, seed=Seed(1), path=path).load()
        again = Criteo(share=0.25, seed=Seed(1), path=path).load()
        assert np.array_equal(some.x, again.x)
        assert 60 < len(some) < 140
        place = [int(np.flatnonzero((table.iloc[:, :12] == row).all(axis=1))[0]) for row in some.x]
        assert place == sorted(place)


def test_criteo_refuses_what_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("causal.trials.criteo._CHUNK", 64)
    path, table = tmp_path / "c.csv", criteo(100)
    for column, value, words in (
        ("f3", np.nan, "column f3, row 70: an empty cell"),
        (
            "visit",
            2,
            r"column visit, row 70: .*2.* is neither 0 nor 1",
        ),
    ):
        wrong = table.copy()
        wrong.loc[70, column] = value
        wrong.to_csv(path, index=False)
        with pytest.raises(BadInput, match=words):
            Criteo(path=path).load()
    table.drop(columns="treatment").to_csv(path, index=False)
    with pytest.raises(BadInput, match="column treatment is missing"):
        Criteo(path=path).load()
    for change, words in (
        ({"outcome": "exposure"}, "no outcome of Criteo 'exposure'"),
        ({"rows": 0}, "rows is 0"),
        ({"share": 1.5}, "share is 1.5"),
    ):
        with pytest.raises(BadInput, match=words):
            Criteo(**change).load()


def twins(folder: Path, rows: int = 300) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    luck = np.random.default_rng(1)
    x = pd.DataFrame(luck.integers(0, 4, (rows, len(_X))).astype(float), columns=list(_X))
    x["gestat10"] = luck.integers(1, 11, rows)
    x.loc[::10, "meduc6"] = np.nan
    x["bord_0"], x["infant_id_0"] = 1, np.arange(rows)
    light = luck.integers(500, 2200, rows)
    t = pd.DataFrame({"dbirwt_0": light, "dbirwt_1": light + luck.integers(1, 300, rows)})
    y = pd.DataFrame(luck.integers(0, 2, (rows, 2)), columns=["mort_0", "mort_1"])
    for letter, table in (("X", x), ("T", t), ("Y", y)):
        table.to_csv(folder / f"twin_pairs_{letter}_3years_samesex.csv")
    return x, t, y


def test_twins_draws_one_of_each_pair(tmp_path: Path) -> None:
    x, t, y = twins(tmp_path)
    keep = (t.dbirwt_1 < 2000).to_numpy()
    trial = Twins(path=tmp_path).load()
    assert trial.effect is not None
    assert len(trial) == keep.sum()
    assert np.array_equal(trial.effect[:, 0], (y.mort_1 - y.mort_0)[keep])
    assert np.array_equal(trial.y, np.where(trial.arm == 1, y.mort_1[keep], y.mort_0[keep]))
    wanted = x[list(_X)][keep]
    assert np.array_equal(trial.x, wanted.fillna({"meduc6": wanted.meduc6.mode()[0]}).to_numpy())
    assert len(_X) == 47
    assert len(Twins(below=None, path=tmp_path).load()) == 300
    other = Twins(seed=Seed(1), path=tmp_path).load()
    assert not np.array_equal(other.arm, trial.arm)
    opened = Twins(encoding="onehot", path=tmp_path).load()
    assert opened.x.shape[1] == 24 + sum(len(np.unique(trial.x[:, _X.index(n)])) - 1 for n in _CATEGORIES)


def test_twins_drawn_by_gestation_know_their_chances(tmp_path: Path) -> None:
    twins(tmp_path, 20000)
    trial = Twins("gestation", below=None, path=tmp_path).load()
    assert trial.propensity is not None
    chance = trial.propensity[:, 1]
    gap = (trial.arm - chance) / np.sqrt(chance * (1 - chance))
    assert abs(gap.mean()) * np.sqrt(len(gap)) < 4  # the drawing is as likely as it says
    assert gap.std() == pytest.approx(1, abs=0.05)
    weeks = trial.x[:, trial.names.index("gestat10")]
    assert chance[weeks == 10].mean() > chance[weeks == 1].mean() + 0.2


def test_twins_refuses_what_cannot_be(tmp_path: Path) -> None:
    _, t, y = twins(tmp_path)
    with pytest.raises(BadInput, match=r"column meduc6, row \d+: .*is missing; missing='mode' fills it"):
        Twins(missing="refuse", path=tmp_path).load()
    with pytest.raises(BadInput, match="no pair weighs less than 100 grams"):
        Twins(below=100.0, path=tmp_path).load()
    t.loc[4, "dbirwt_1"] = 1
    t.to_csv(tmp_path / "twin_pairs_T_3years_samesex.csv")
    with pytest.raises(BadInput, match=r"column dbirwt_1, row 4: 1\.0 is not above dbirwt_0"):
        Twins(path=tmp_path).load()
    y[:9].to_csv(tmp_path / "twin_pairs_Y_3years_samesex.csv")
    with pytest.raises(
        BadInput, match=r"Y_3years_samesex\.csv has 9 rows, but .*T_3years_samesex\.csv has 300"
    ):
        Twins(path=tmp_path).load()


TABLE = pd.DataFrame(
    {
        "id": list("aabbcd"),
        "age": [30.0, 40, 50, 60, 70, 80],
        "f0": [1, 2, 3, 4, 5, 6],
        "member": [True, False, True, True, False, False],
        "town": ["b", "a", "b", "c", "a", "b"],
        "zone": [10, 9, 10, 9, 9, 10],
        "got": ["none", "mail", "call", "none", "mail", "call"],
        "sales": [0.0, 1, 2, 3, 4, 5],
        "w": [1, 1, 2, 2, 1, 1],
        "p": [0.5] * 6,
    }
)
"""A table as somebody's own might be."""


def frame(**change: Any) -> Any:
    made = {"source": TABLE, "treatment": "got", "outcome": "sales", "control": "none", "user": "id"}
    return TRIALS["frame"](**(made | {"weight": "w", "drop": ("p",)} | change))


def test_a_frame_of_your_own() -> None:
    trial = frame(categories=("zone",)).load()
    assert trial.arms == ("none", "call", "mail")
    assert trial.arm.tolist() == [0, 2, 1, 0, 2, 1]
    assert trial.names == ("age", "f0", "member", "town=b", "town=c", "zone=10")
    assert trial.x[0].tolist() == [30, 1, 1, 1, 0, 1]
    assert trial.x[3].tolist() == [60, 4, 1, 0, 1, 0]
    assert trial.weight is not None
    assert trial.weight.tolist() == [1, 1, 2, 2, 1, 1]
    assert trial.user is not None
    assert trial.user.tolist() == [0, 0, 1, 1, 2, 3]
    coded = frame(categories=("zone",), encoding="ordinal").load()
    assert coded.names == ("age", "f0", "member", "town", "zone")
    assert coded.x[:, 3].tolist() == [1, 0, 1, 2, 0, 1]
    assert coded.x[:, 4].tolist() == [1, 0, 1, 0, 0, 1]
    assert frame(features=("f*", "age")).load().names == ("age", "f0")


def test_a_frame_from_anywhere_is_the_same(tmp_path: Path) -> None:
    whole = frame().load()
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    TABLE.to_parquet(tmp_path / "t.parquet")
    words = TABLE.assign(town=TABLE.town.astype("category"), got=TABLE.got.astype("category"))
    for source in (tmp_path / "t.csv", str(tmp_path / "t.parquet"), pa.Table.from_pandas(TABLE), words):
        trial = frame(source=source).load()
        assert trial.names == whole.names
        assert trial.arms == whole.arms
        assert np.array_equal(trial.x, whole.x)
        assert np.array_equal(trial.arm, whole.arm)
        assert np.array_equal(trial.y, whole.y)


def test_a_frame_knows_chances_effects_and_labels() -> None:
    table = TABLE.assign(got=[0.0, 1, 1, 0, 1, 0], tau=2.0)
    trial = frame(source=table, control=None, propensity="p", effect="tau", features=("age",), drop=()).load()
    assert trial.arms == (0, 1)
    assert all(isinstance(arm, int) for arm in trial.arms)
    assert trial.propensity is not None
    assert trial.propensity.tolist() == [[0.5, 0.5]] * 6
    assert trial.effect is not None
    assert trial.effect.tolist() == [[2.0]] * 6
    flags = frame(source=table.assign(got=table.got == 1), control=None, features=("age",)).load()
    assert flags.arms == (False, True)
    assert frame(propensity=None).load().propensity is None


def test_missing_values_are_refused_with_their_row_or_imputed(tmp_path: Path) -> None:
    table = TABLE.assign(
        age=[30, np.nan, 50, 60, 70, 90],
        town=["b", "a", None, "c", "a", "b"],
        member=[True, None, True, True, False, False],
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    for source in (table, tmp_path / "t.csv"):
        with pytest.raises(BadInput, match=r"column age, row 1: an empty cell|column age, row 1: nan"):
            frame(source=source).load()
        with pytest.raises(BadInput, match=r"column town, row 2: None is missing; missing='impute' makes it"):
            frame(source=source, features=("town",)).load()
        trial = frame(source=source, missing="impute", features=("age", "town")).load()
        assert trial.names == ("age", "age:missing", "town=b", "town=c", "town=missing")
        assert trial.x[1].tolist() == [60, 1, 0, 0, 0]
        assert trial.x[2].tolist() == [50, 0, 0, 0, 1]
    flags = frame(source=tmp_path / "t.csv", missing="impute", features=("member",)).load()
    assert flags.x[:, 1].tolist() == [0, 1, 0, 0, 0, 0]
    with pytest.raises(BadInput, match="column got, row 3: None is missing"):
        frame(
            source=TABLE.assign(got=["none", "mail", "call", None, "mail", "call"]), missing="impute"
        ).load()
    with pytest.raises(BadInput, match="column sales, row 0"):
        frame(source=TABLE.assign(sales=[np.nan, 1, 2, 3, 4, 5]), missing="impute").load()
    with pytest.raises(BadInput, match="column age, row 5: inf is not a finite number"):
        frame(source=table.assign(age=[30, np.nan, 50, 60, 70, np.inf]), missing="impute").load()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": None}, "say which table to read: source=PATH"),
        ({"treatment": "gott"}, r"table: column gott, the treatment, is missing; did you mean got\?"),
        ({"features": ("aeg",)}, "no column is or matches aeg"),
        ({"features": ("sales",)}, "column sales cannot be both outcome and a feature"),
        ({"weight": "sales"}, "column sales cannot be both outcome and weight"),
        ({"features": ("f*",), "drop": ("f0",)}, "no column is left to be a feature"),
        ({"encoding": "hash"}, "there is no encoding 'hash'"),
        ({"missing": "drop"}, "there is no rule for missing values 'drop'"),
        ({"control": "nobody"}, "table: control is 'nobody', but the arms are"),
        (
            {"source": TABLE.assign(town=1), "features": ("town",), "categories": ("town",)},
            "no feature is left",
        ),
    ],
)
def test_a_frame_refuses(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        frame(**change).load()


def test_row_numbers_of_pandas_are_no_features(tmp_path: Path) -> None:
    some = TABLE[TABLE.age > 30]
    some.to_csv(tmp_path / "t.csv")
    pd.read_csv(tmp_path / "t.csv").to_csv(tmp_path / "again.csv", index=False)
    for source in (some, tmp_path / "t.csv", tmp_path / "again.csv"):
        trial = frame(source=source).load()
        assert trial.names == ("age", "f0", "member", "town=b", "town=c", "zone")


def test_a_category_of_many_levels_is_not_opened() -> None:
    table = pd.DataFrame({"who": [f"u{i}" for i in range(300)], "got": [0, 1] * 150, "sales": 1.0})
    with pytest.raises(BadInput, match="column who has 300 levels, too many for columns of 0 and 1"):
        frame(source=table, control=None, user=None, weight=None, drop=()).load()
    trial = frame(source=table, control=None, user=None, weight=None, drop=(), encoding="ordinal").load()
    assert trial.x.shape == (300, 1)
