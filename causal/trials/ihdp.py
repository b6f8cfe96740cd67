"""IHDP: the covariates of a trial of early childcare, with simulated outcomes whose truth is known.

Source: Hill (2011), "Bayesian Nonparametric Modeling for Causal Inference", Journal of Computational and
Graphical Statistics 20, sections 4.1 and 4.2. Children of non-white mothers are removed from the treated, so
that arms differ. Replications `ihdp_npci_R.csv` (NPCI setting A, Hill's surface B) come from the code of
Louizos et al. (2017), "Causal Effect Inference with Deep Latent-Variable Models", without a licence file; the
covariates of parts "surface_a" and "surface_b" ship with EconML (MIT licence).
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from causal.trials._files import Array, PathLike, bits, check_digest, choose, kinds, locate, numbers
from causal.uplift.contract import Trial
from simlab.datasets._columns import NUMBER, read
from simlab.errors import BadInput
from simlab.seeds import Seed

_PARTS = ("npci", "surface_a", "surface_b")
_WORDS = (
    "bw b.head preterm birth.o nnhealth momage sex twin b.marr mom.lths mom.hs mom.scoll cig first booze "
    "drugs work.dur prenatal site1 site2 site3 site4 site5 site6 site7"
)
_NAMES = tuple(_WORDS.split())
_SCALED = 6
_HEAD = ("treatment", "y_factual", "y_cfactual", "mu0", "mu1")
_HINT = (
    "copy datasets/IHDP/csv of https://github.com/AMLab-Amsterdam/CEVAE there, so that the folder holds "
    "ihdp_npci_1.csv to ihdp_npci_10.csv"
)
_SHIPPED = "it is data/ihdp/sim.csv of the package econml, https://pypi.org/project/econml"
_DIGEST = {
    "ihdp_npci_1.csv": ["2bdc8b94fdf2f669b1d3d49325fd9359d88418566545003867841312a1653411"],
    "ihdp_npci_2.csv": ["36db2f3d002250bc95e5214477718c939fbe7dfe8df573c4050d8b246d314042"],
    "ihdp_npci_3.csv": ["bd792ce0642468195b2c3f0cd4c521378d7d52d044f153e844d151a87e067518"],
    "ihdp_npci_4.csv": ["ac04602a2f052af1211347bcaff87f7bab356a4a7f42f8c6a81edede51549006"],
    "ihdp_npci_5.csv": ["8f9b3ef4b66e8f9dd240c9851233f4fb483c73c25b6d23c6459c666edb9cd691"],
    "ihdp_npci_6.csv": ["e05192794201c8a8fe1e4a88f12d3367d3d6b568eadb46365557661bff00712e"],
    "ihdp_npci_7.csv": ["246684bfc9e1258e5bdc59c3d1c13c0694a331d1f13026ff79f6c4605e6d3678"],
    "ihdp_npci_8.csv": ["6e88b890ee4ed6274b8ea4285500dd0865ab71e17010ee505f7e2a2d507c4511"],
    "ihdp_npci_9.csv": ["fe959d86a37be9278ef195fbf139b2b8af1b8246b3518208cd00b295d906a98f"],
    "ihdp_npci_10.csv": ["b9bce7e081f245b7689a3c2b5e4ed37162dca8cd596e0998b73ddc0ac92a4919"],
    "sim.csv": ["f00fc75f44f66f8afc52686943a65fbf651593bdb5756b0ac14b4d70c0b81a32"],
    "econml_sim.csv": ["f00fc75f44f66f8afc52686943a65fbf651593bdb5756b0ac14b4d70c0b81a32"],
}


@dataclass(frozen=True)
class IHDP:
    """747 children, 139 of them treated, 25 covariates; outcomes are simulated, so every effect is known.

    The mean effect of the treated is 4 in every replication and surface; the mean effect of all differs, and
    so does the outcome's spread (replication 9 is 17 times as wide as replication 1). Features have
    their names in the trial: bw … momage are standardised, first is 1 or 2 as in the files.

    Attributes:
        part: "npci" for a replication from a file; "surface_a" (the same effect for all) or "surface_b"
            (effects that differ) for outcomes drawn here.
        replication: the number in the file's name, for "npci".
        seed: of the outcomes drawn here: `Seed(s)` gives what EconML's `ihdp_surface_A(random_state=s)` and
            B give.
        path: the file or its folder; `data/ihdp`, or the file that ships with EconML, if None.
    """

    part: str = "npci"
    replication: int = 1
    seed: Seed = Seed(0)
    path: PathLike | None = None

    def load(self) -> Trial:
        """Read a replication, or draw one; `effect` is the difference of expected outcomes.

        Raises:
            BadInput: for a part that is not there, a missing file, or a cell that cannot be.
        """
        x, arm, y, mu = self._read()
        return Trial.of(x, arm, y, control=0, names=_NAMES, effect=mu[:, 1] - mu[:, 0])

    def expected(self) -> Float[Array, "round arm"]:
        """Return the expected outcome of each child untreated and treated.

        Raises:
            BadInput: as in `load`.
        """
        return self._read()[3]

    def _read(
        self,
    ) -> tuple[
        Float[Array, "round feat"], Int[Array, " round"], Float[Array, " round"], Float[Array, "round arm"]
    ]:
        choose("part of IHDP", self.part, _PARTS)
        return self._file() if self.part == "npci" else self._drawn()

    def _file(
        self,
    ) -> tuple[
        Float[Array, "round feat"], Int[Array, " round"], Float[Array, " round"], Float[Array, "round arm"]
    ]:
        path = locate(self.path, "data/ihdp", f"ihdp_npci_{self.replication}.csv")
        check_digest(path, _DIGEST)
        header = (*_HEAD, *(f"x{i}" for i in range(1, 26)))
        table = read(path, kinds(header, NUMBER), _HINT, header=header)
        return (
            numbers(table, header[len(_HEAD) :]),
            bits(table, "treatment"),
            table.numbers("y_factual"),
            numbers(table, ("mu0", "mu1")),
        )

    def _drawn(
        self,
    ) -> tuple[
        Float[Array, "round feat"], Int[Array, " round"], Float[Array, " round"], Float[Array, "round arm"]
    ]:
        """Draw outcomes of Hill's surfaces in EconML's order of draws.

        A column of ones stands first while they are drawn, as there; it is no feature. In surface B Hill
        adds ½ to every covariate within the exponential; EconML, and so this, not to the ones.
        """
        path = _shipped() if self.path is None else locate(self.path, "", "sim.csv")
        check_digest(path, _DIGEST)
        table = read(path, kinds((*_NAMES, "treat", "momwhite"), NUMBER), _SHIPPED)
        arm = bits(table, "treat")
        keep = (arm == 0) | (bits(table, "momwhite") == 1)
        x, arm = numbers(table, _NAMES)[keep], arm[keep]
        if not arm.any() or arm.all():
            raise BadInput(f"{path}: column treat: only one arm is left without non-white treated mothers")
        spread = x[:, :_SCALED].std(0)
        x[:, :_SCALED] = (x[:, :_SCALED] - x[:, :_SCALED].mean(0)) / np.where(spread > 0, spread, 1)
        x[:, _NAMES.index("first")] += 1
        luck = np.random.RandomState(self.seed.value % 2**32)
        one = np.insert(x, 0, 1.0, axis=1)
        if self.part == "surface_a":
            beta = luck.choice([0, 1, 2, 3, 4], size=one.shape[1], p=[0.5, 0.2, 0.15, 0.1, 0.05])
            mu = np.stack([one @ beta, one @ beta + 4], 1)
        else:
            beta = luck.choice([0, 0.1, 0.2, 0.3, 0.4], size=one.shape[1], p=[0.6, 0.1, 0.1, 0.1, 0.1])
            linear = one @ beta
            curved = np.exp(linear + 0.5 * beta[1:].sum())
            mu = np.stack([curved, linear - ((linear - curved)[arm == 1].mean() - 4)], 1)
        y = mu[np.arange(len(mu)), arm] + luck.normal(0, 1, size=len(mu))
        return x, arm, y, mu


def _shipped() -> Path:
    """Return the file that ships with EconML, without importing it."""
    found = importlib.util.find_spec("econml")
    places = [] if found is None else list(found.submodule_search_locations or [])
    if not places:
        raise BadInput("part surface_a and surface_b read a file that ships with econml: pip install econml")
    return Path(places[0]) / "data/ihdp/sim.csv"
