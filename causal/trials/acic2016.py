"""ACIC 2016: real covariates of pregnancies, simulated treatments and outcomes, the truth known.

Source: Dorie, Hill, Shalit, Scott and Cervone (2019), "Automated versus Do-It-Yourself Methods for Causal
Inference: Lessons Learned from a Data Analysis Competition", Statistical Science 34. The files are those of
the package causallib (Apache-2.0), which ships ten of the challenge's instances.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from causal.trials._files import Array, PathLike, bits, check_digest, choose, kinds, locate, numbers, one_hot
from causal.uplift.contract import Trial
from simlab.datasets._columns import ID, NUMBER, Columns, read
from simlab.errors import BadInput

_TRUTH = ("y0", "y1", "mu0", "mu1")
_X = tuple(f"x_{i}" for i in range(1, 59))
_LETTERS = ("x_2", "x_21", "x_24")
_HINT = (
    "copy causallib/datasets/data/acic_challenge_2016 of the package causallib, "
    "https://pypi.org/project/causallib, there, so that the folder holds x.csv and zymu_1.csv to zymu_10.csv"
)
_DIGEST = {
    "x.csv": ["914d4d6c8dcea14f0268bb0c0558292746cbfbff7111c71434801e8ce48cdbdf"],
    "zymu_1.csv": ["c77c7ba8cefeb350983d9e3918c444004b290e32f53ce028028701387898e175"],
    "zymu_2.csv": ["faf5ad7c584d7c2dd6eed5120de8bb5de0a738b9fc343275d7d59a05efbf8ada"],
    "zymu_3.csv": ["394974df8181524c3a5f0166cae961adc7e1311bf05db2050c1668879bf8e130"],
}


@dataclass(frozen=True)
class ACIC2016:
    """4,802 pregnancies with 58 covariates; treatment and outcome are simulated, so every effect is known.

    x_2, x_21 and x_24 are letters. One-hot, a level's column is named such as x_2=B and level A is the base;
    ordinal, A is 0, B is 1 and so on.

    Attributes:
        instance: the number in the file's name: 1 to 10 as causallib ships them.
        encoding: of letters: "onehot" or "ordinal".
        path: the folder; `data/acic2016` if None.
    """

    instance: int = 1
    encoding: str = "onehot"
    path: PathLike | None = None

    def load(self) -> Trial:
        """Read an instance: the outcome is that of the arm that was got, `effect` is mu1 - mu0.

        Raises:
            BadInput: for a missing file, a cell that cannot be, or files of different lengths.
        """
        choose("encoding", self.encoding, ("onehot", "ordinal"))
        drawn = self._drawn()
        path = locate(self.path, "data/acic2016", "x.csv")
        check_digest(path, _DIGEST)
        plain = tuple(name for name in _X if name not in _LETTERS)
        table = read(path, kinds(plain, NUMBER) | kinds(_LETTERS, ID), _HINT)
        if len(table) != len(drawn):
            raise BadInput(f"{path} has {len(table)} rows, but {drawn.where} has {len(drawn)}")
        columns: list[Array] = []
        names: list[str] = []
        for name in _X:
            if name not in _LETTERS:
                more, called = table.numbers(name)[:, None], [name]
            else:
                word = table.ids(name)
                more, called = one_hot(name, word.names, word.code)
                if self.encoding == "ordinal":
                    more, called = word.code[:, None].astype(np.float64), [name]
            columns.append(more)
            names += called
        arm, truth = bits(drawn, "z"), numbers(drawn, _TRUTH)
        y = truth[np.arange(len(arm)), arm]
        return Trial.of(np.hstack(columns), arm, y, control=0, names=names, effect=truth[:, 3] - truth[:, 2])

    def expected(self) -> Float[Array, "round arm"]:
        """Return the expected outcome of each row untreated and treated.

        Raises:
            BadInput: as in `load`.
        """
        return numbers(self._drawn(), ("mu0", "mu1"))

    def _drawn(self) -> Columns:
        path = locate(self.path, "data/acic2016", f"zymu_{self.instance}.csv")
        check_digest(path, _DIGEST)
        return read(path, kinds(("z", *_TRUTH), NUMBER), _HINT)
