"""An experiment whose truth is known: who was offered an item, who bought it, and who would have anyway.

Everybody belongs to one of four groups for an item: **persuadables** buy only if it is shown to them, **sure
things** buy either way, **sleeping dogs** buy only if it is not shown, **lost causes** never. A log shows one
of a row's two potential outcomes; a `Trial` keeps both.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.errors import BadInput
from simlab.log import Log

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Groups:
    """Shares of three of the four groups; the rest are lost causes.

    Attributes:
        persuadable: P(buys only if shown).
        sure: P(buys either way).
        dog: P(buys only if not shown).
    """

    persuadable: Float[Tensor, "user item"]
    sure: Float[Tensor, "user item"]
    dog: Float[Tensor, "user item"]

    @property
    def lost(self) -> Float[Tensor, "user item"]:
        """P(never buys)."""
        return 1 - self.persuadable - self.sure - self.dog

    @property
    def baseline(self) -> Float[Tensor, "user item"]:
        """p0 = P(purchase | not shown)."""
        return self.sure + self.dog

    @property
    def treated(self) -> Float[Tensor, "user item"]:
        """p1 = P(purchase | shown)."""
        return self.persuadable + self.sure

    @property
    def cate(self) -> Float[Tensor, "user item"]:
        """τ = p1 - p0, in [-1, 1]."""
        return self.persuadable - self.dog

    def outcomes(
        self, uniform: Float[Tensor, "user item"]
    ) -> tuple[Bool[Tensor, "user item"], Bool[Tensor, "user item"]]:
        """Return both potential outcomes (Y0, Y1): the uniform falls into one group.

        The groups lie side by side in [0, 1): persuadables, sure things, sleeping dogs, lost causes. So Y1 is
        1{u < p1}, and Y0 is 1{a ≤ u < a + p0}, a being the share of persuadables.
        """
        return self.untreated(uniform), uniform < self.treated

    def untreated(self, uniform: Float[Tensor, "user item"]) -> Bool[Tensor, "user item"]:
        """Return Y0 alone."""
        above = uniform - self.persuadable
        return (above >= 0) & (above < self.baseline)


def normal_nodes(count: int) -> tuple[Float[Tensor, " node"], Float[Tensor, " node"]]:
    """Return nodes and weights of the Gauss-Hermite rule for the mean of a function of a standard normal."""
    node, weight = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(node), torch.from_numpy(weight / weight.sum())


@dataclass(frozen=True)
class Exposure:
    """Who is shown the item: P = overlap + (1 - 2 overlap) σ(c + confounding · seen + hidden · unseen).

    Attributes:
        treated: P(shown) where both logits are 0, which sets c; in (overlap, 1 - overlap).
        confounding: how much exposure follows the inclination that can be seen.
        hidden: how much it follows the inclination that cannot.
        overlap: no probability is nearer than this to 0 or 1; in (0, 0.5).

    Raises:
        BadInput: for a value outside its range.
    """

    treated: float | int = 0.5
    confounding: float | int = 0.0
    hidden: float | int = 0.0
    overlap: float | int = 0.02

    def __post_init__(self) -> None:
        low = self.overlap
        if not 0 < low < 0.5:
            raise BadInput(f"overlap is {low}, but it is more than 0 and less than 0.5")
        if not low < self.treated < 1 - low:
            raise BadInput(f"treated is {self.treated}, but with overlap {low} it is in ({low}, {1 - low:g})")
        for name in ("confounding", "hidden"):
            if not math.isfinite(getattr(self, name)):
                raise BadInput(f"{name} is {getattr(self, name)}, but it is a finite number")

    def chances(
        self, seen: Float[Tensor, " round"], unseen: Float[Tensor, " round"], spread: float | int
    ) -> tuple[Float[Tensor, " round"], Float[Tensor, " round"]]:
        """Return P(shown) given both inclinations, and given the seen one alone.

        Args:
            seen: the inclination that can be seen, in logits.
            unseen: the one that cannot: normal, with mean 0.
            spread: its standard deviation; it is averaged over by a Gauss-Hermite rule of 64 nodes.
        """
        given_both = self._at(seen, unseen)
        if not (self.hidden and spread):
            return given_both, given_both
        node, weight = (x.to(seen.device) for x in normal_nodes(64))
        return given_both, self._at(seen.unsqueeze(1), spread * node) @ weight

    def _at(self, seen: Tensor, unseen: Tensor) -> Tensor:
        share = (self.treated - self.overlap) / (1 - 2 * self.overlap)
        lean = self.confounding * seen + self.hidden * unseen + math.log(share / (1 - share))
        return lean.sigmoid() * (1 - 2 * self.overlap) + self.overlap


@dataclass(frozen=True)
class Trial:
    """One item offered or not to each of N users, and both answers.

    Attributes:
        user: whose row it is.
        item: the item at stake.
        X: what may be known of the row: the user's covariates, then the item's if items differ by row.
        T: 1 where the item was shown.
        Y: 1 where it was bought.
        Y0: whether it is bought if not shown.
        Y1: whether it is bought if shown.
        propensity: true P(T = 1 | X, hidden), in (0, 1).
        visible: true P(T = 1 | X): the best that anyone can know who does not see what is hidden.
        baseline: p0, given X and hidden.
        cate: τ = E[Y1 - Y0 | X, hidden]; it is a function of X alone.
        hidden: the unobserved confounder.
        n_items: size of the catalogue.
        feature_names: a name for each column of X.
    """

    user: Int[Tensor, " round"]
    item: Int[Tensor, " round"]
    X: Float[Tensor, "round feat"]
    T: Int[Tensor, " round"]
    Y: Float[Tensor, " round"]
    Y0: Float[Tensor, " round"]
    Y1: Float[Tensor, " round"]
    propensity: Float[Tensor, " round"]
    visible: Float[Tensor, " round"]
    baseline: Float[Tensor, " round"]
    cate: Float[Tensor, " round"]
    hidden: Float[Tensor, " round"]
    n_items: int
    feature_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return N."""
        return len(self.Y)

    @property
    def ite(self) -> Float[Tensor, " round"]:
        """Effect on each row: 1 (persuaded), 0, or -1 (put off). No log shows it."""
        return self.Y1 - self.Y0

    @property
    def ate(self) -> float:
        """Mean of τ over these rows; the mean of `ite` is this plus the luck of the draw."""
        return float(self.cate.mean())

    @property
    def overlap(self) -> float:
        """The smallest chance that a row had of either arm."""
        return float(torch.minimum(self.propensity, 1 - self.propensity).min())

    def best_value(self, cost: float | int = 0.0) -> float:
        """Return the mean of purchases less cost when exactly those with τ > cost are shown the item."""
        return float((self.baseline + (self.cate - cost).clamp(min=0)).mean())

    def value(self, shown: Float[Tensor, " round"], cost: float | int = 0.0) -> float:
        """Return the exact mean of purchases less cost when each row is shown the item with these chances."""
        return float((self.baseline + shown * (self.cate - cost)).mean())

    def frame(self, truth: bool = False) -> "pd.DataFrame":
        """Return a DataFrame: the columns of X, `item`, `treatment` and `outcome`.

        Args:
            truth: add what no log has: `propensity`, `visible`, `baseline`, `cate`, `hidden`, `ite`, `y0`,
                `y1`.
        """
        import pandas as pd  # half a second to import, and few need it

        table = pd.DataFrame(self.X.numpy(), columns=list(self.feature_names))
        for name, column in (("item", self.item), ("treatment", self.T), ("outcome", self.Y)):
            table[name] = column.numpy()
        if truth:
            for name in ("propensity", "visible", "baseline", "cate", "hidden", "ite"):
                table[name] = getattr(self, name).numpy()
            table["y0"], table["y1"] = self.Y0.numpy(), self.Y1.numpy()
        return table

    def log(self) -> Log:
        """Return the rows as a log of slates of the one item at stake, with the arm in `treatment`.

        `propensity` is that of the logged arm, given the item at stake; click and reward are the purchase.
        """
        arm = torch.where(self.T == 1, self.propensity, 1 - self.propensity)
        return Log(
            user=self.user,
            slate=self.item.unsqueeze(1),
            propensity=arm,
            reward=self.Y,
            n_items=self.n_items,
            features=self.X,
            click=self.Y.unsqueeze(1),
            treatment=self.T,
            policy=("trial",),
            feature_names=self.feature_names,
        )
