"""Lalonde: a job programme that was an experiment, and the survey rows that stand in for its controls.

Source: LaLonde (1986), "Evaluating the Econometric Evaluations of Training Programs with Experimental Data",
American Economic Review 76; Dehejia and Wahba (1999), "Causal Effects in Nonexperimental Studies", JASA 94.
The files are those of the package causaldata (MIT), saved as CSV.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from causal.trials._files import Array, PathLike, bits, check_digest, choose, kinds, locate, numbers
from causal.uplift.contract import Trial
from simlab.datasets._columns import NUMBER, read

_X = ("age", "educ", "black", "hisp", "marr", "nodegree", "re74", "re75")
_HINT = (
    "take nsw_mixtape and cps_mixtape of the package causaldata, https://pypi.org/project/causaldata, and "
    "save them there as nsw_mixtape.csv and cps_mixtape.csv"
)
_DIGEST = {
    "nsw_mixtape.csv": ["75be812b62c26579d84de2d7d46791cbab7fb6a2b9bfa82dffa037ae6e92ba37"],
    "cps_mixtape.csv": ["e048bb07e610d2184879983e8ab9be3cfa50f1aa6af364b69b0a38fbb33cc8a2"],
}


@dataclass(frozen=True)
class Lalonde:
    """The National Supported Work programme, Dehejia and Wahba's sample: 185 treated, earnings of 1978.

    With controls "nsw" it is the experiment, 260 controls; its difference in means, 1,794.34 dollars, is the
    yardstick. With controls "cps" the 15,992 rows of the Current Population Survey stand in for them: arms
    hardly overlap and the plain difference is -8,497.52 dollars.

    Attributes:
        controls: "nsw" or "cps".
        path: the folder; `data/lalonde` if None.
    """

    controls: str = "nsw"
    path: PathLike | None = None

    def load(self) -> Trial:
        """Read the men: features as in the files, the outcome is re78 in dollars.

        Raises:
            BadInput: for other controls, a missing file, or a cell that cannot be.
        """
        choose("group of controls", self.controls, ("nsw", "cps"))
        x, arm, y = self._rows("nsw_mixtape.csv")
        if self.controls == "cps":
            parts = [[v[arm == 1] for v in (x, arm, y)], self._rows("cps_mixtape.csv")]
            x, arm, y = (np.concatenate(v) for v in zip(*parts, strict=True))
        return Trial.of(x, arm, y, control=0, names=_X)

    def _rows(
        self, name: str
    ) -> tuple[Float[Array, "round feat"], Int[Array, " round"], Float[Array, " round"]]:
        path = locate(self.path, "data/lalonde", name)
        check_digest(path, _DIGEST)
        table = read(path, kinds(("treat", *_X, "re78"), NUMBER), _HINT)
        return numbers(table, _X), bits(table, "treat"), table.numbers("re78")
