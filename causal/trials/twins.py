"""Twins: the lighter and the heavier twin of a pair, who died in the first year; both outcomes are seen.

Source: Almond, Chay and Lee (2005), "The Costs of Low Birth Weight", Quarterly Journal of Economics 120; as
used by Louizos et al. (2017), "Causal Effect Inference with Deep Latent-Variable Models", section 4.2. The
files are made from the US linked birth and infant death records of 1989-1991 (public domain); the
repository that has them has no licence file.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from causal.trials._files import Array, PathLike, bits, choose, kinds, locate, one_hot
from causal.uplift.contract import Trial
from simlab.datasets._columns import NUMBER, Columns, read
from simlab.errors import BadInput
from simlab.seeds import Seed

_CODES = (
    "adequacy birattnd brstate brstate_reg cigar6 crace data_year dfageq drink5 feduc6 frace gestat10 mager8 "
    "meduc6 mplbir mpre5 mrace nprevistq orfath ormoth pldel stoccfipb stoccfipb_reg"
)
_NUMBERS = (
    "alcohol anemia birmon cardiac chyper csex diabetes dlivord_min dmar dtotord_min eclamp hemo herpes "
    "hydra incervix lung othermr phyper pre4000 preterm renal rh tobacco uterine"
)
_CATEGORIES = frozenset(_CODES.split())
_OTHERS = tuple(_NUMBERS.split())
_X = tuple(sorted((*_CATEGORIES, *_OTHERS)))
_HINT = (
    "copy datasets/TWINS of https://github.com/AMLab-Amsterdam/CEVAE there, so that the folder holds "
    "twin_pairs_X_3years_samesex.csv, twin_pairs_T_3years_samesex.csv and twin_pairs_Y_3years_samesex.csv"
)


@dataclass(frozen=True)
class Twins:
    """Pairs of twins of one sex, a row each: being the heavier one is the treatment, death the outcome.

    One twin of each pair is drawn and the other hidden; `effect` is mort_1 - mort_0 of the pair, -1, 0 or 1.
    The drawing is ours, so its chances are known and in the trial: "random" takes either twin with ½;
    "gestation" is that of Louizos et al., the chance of the heavier twin σ(w·x + v (gestat10 / 10 - .1)) with
    w ~ N(0, .1) each and v ~ N(5, .1) (variances). Where we differ: there x is raw, here it is standardised,
    for codes of states go up to 51. The 47 covariates are those of covar_type.txt but ids and birth order.

    Attributes:
        drawing: "random" or "gestation".
        below: keep pairs of which both weigh less, in grams; None for all. The usual 2,000 keeps 11,984.
        missing: what to put where a covariate is missing: its "mode" (the smallest of equals), or "refuse".
        encoding: "ordinal" leaves codes of categories as numbers, "onehot" opens them.
        seed: of the drawing.
        path: the folder; `data/twins` if None.
    """

    drawing: str = "random"
    below: float | None = 2000.0
    missing: str = "mode"
    encoding: str = "ordinal"
    seed: Seed = Seed(0)
    path: PathLike | None = None

    def load(self) -> Trial:
        """Read the pairs and draw a twin of each.

        Raises:
            BadInput: for a setting that is not there, a missing file, a cell that cannot be, files of
                different lengths, or pairs out of order.
        """
        choose("drawing", self.drawing, ("random", "gestation"))
        choose("rule for missing values", self.missing, ("mode", "refuse"))
        choose("encoding", self.encoding, ("onehot", "ordinal"))
        weights = self._file("T", ("dbirwt_0", "dbirwt_1"))
        died = self._file("Y", ("mort_0", "mort_1"))
        about = self._file("X", _X)
        for other in (died, about):
            if len(other) != len(weights):
                raise BadInput(f"{other.where} has {len(other)} rows, but {weights.where} has {len(weights)}")
        light, heavy = weights.numbers("dbirwt_0"), weights.numbers("dbirwt_1")
        weights.check("dbirwt_1", heavy > light, "is not above dbirwt_0, the lighter twin's weight")
        keep = np.ones(len(light), dtype=bool) if self.below is None else heavy < self.below
        if not keep.any():
            raise BadInput(f"{weights.where}: no pair weighs less than {self.below:g} grams")
        x = np.stack([self._covariate(about, name, keep) for name in _X], 1)
        chance = self._chance(x)
        arm = (self.seed.split("twin").numpy().random(len(x)) < chance).astype(np.int64)
        both = np.stack([bits(died, "mort_0"), bits(died, "mort_1")], 1)[keep]
        names = list(_X)
        if self.encoding == "onehot":
            x, names = _opened(x)
        return Trial.of(
            x,
            arm,
            both[np.arange(len(x)), arm],
            control=0,
            names=names,
            propensity=chance,
            effect=both[:, 1] - both[:, 0],
        )

    def _file(self, letter: str, names: tuple[str, ...]) -> Columns:
        name = f"twin_pairs_{letter}_3years_samesex.csv"
        return read(locate(self.path, "data/twins", name), kinds(names, NUMBER), _HINT)

    def _covariate(self, about: Columns, name: str, keep: Array) -> Float[Array, " round"]:
        values = np.asarray(about.cells[name].values.to_numpy(zero_copy_only=False), dtype=np.float64)
        lost = np.isnan(values)
        if not lost.any():
            return np.asarray(about.numbers(name)[keep])
        if self.missing == "refuse":
            about.check(name, ~(lost & keep), "is missing; missing='mode' fills it")
            return np.asarray(values[keep])
        level, count = np.unique(values[keep & ~lost], return_counts=True)
        if len(level) == 0:
            raise BadInput(f"{about.where}: column {name}: every value is missing")
        values[lost] = level[count.argmax()]
        return np.asarray(values[keep])

    def _chance(self, x: Float[Array, "round feat"]) -> Float[Array, " round"]:
        if self.drawing == "random":
            return np.full(len(x), 0.5)
        luck = self.seed.split("gestation").numpy()
        spread = x.std(0)
        scaled = (x - x.mean(0)) / np.where(spread > 0, spread, 1)
        w, v = luck.normal(0, np.sqrt(0.1), x.shape[1]), luck.normal(5, np.sqrt(0.1))
        weeks = x[:, _X.index("gestat10")] / 10 - 0.1
        return np.asarray(np.clip(expit(scaled @ w + v * weeks), 1e-6, 1 - 1e-6))


def _opened(x: Float[Array, "round feat"]) -> tuple[Float[Array, "round wide"], list[str]]:
    """Open codes of categories to columns of 0 and 1."""
    columns: list[Array] = []
    names: list[str] = []
    for i, name in enumerate(_X):
        more, called = x[:, i : i + 1], [name]
        if name in _CATEGORIES:
            level, code = np.unique(x[:, i], return_inverse=True)
            more, called = one_hot(name, [f"{v:g}" for v in level], code)
        columns.append(more)
        names += called
    return np.hstack(columns), names
