"""Hillstrom's e-mail experiment: 64,000 customers, two campaigns and none, what they did in two weeks.

Source: Kevin Hillstrom (2008), "The MineThatData E-Mail Analytics and Data Mining Challenge",
https://blog.minethatdata.com/2008/03/minethatdata-e-mail-analytics-and-data.html. Published for use by anyone
in a challenge; no licence is written down.
"""

from dataclasses import dataclass

import numpy as np

from causal.trials._files import PathLike, check_digest, choose, kinds, locate
from causal.uplift.contract import Trial
from simlab.datasets._columns import ID, NUMBER, Coded, Columns, read
from simlab.errors import BadInput

_DIGEST = {"hillstrom.csv": ["0e5893329d8b93cefecc571777672028290ab69865718020c78c7284f291aece"]}
_HINT = (
    "save http://www.minethatdata.com/"
    "Kevin_Hillstrom_MineThatData_E-MailAnalytics_DataMiningChallenge_2008.03.20.csv there as hillstrom.csv"
)
_NUMBERS = ("recency", "history", "mens", "womens", "newbie")
_LEVELS = {"zip_code": ("Rural", "Surburban", "Urban"), "channel": ("Multichannel", "Phone", "Web")}
_SHORT = {"zip_code": "zip", "channel": "channel"}
_MENS, _WOMENS, _NONE = "Mens E-Mail", "Womens E-Mail", "No E-Mail"
_ARMS = {
    "womens": {_NONE: _NONE, _WOMENS: _WOMENS},
    "mens": {_NONE: _NONE, _MENS: _MENS},
    "any": {_NONE: _NONE, _MENS: "Any E-Mail", _WOMENS: "Any E-Mail"},
    "all": {_NONE: _NONE, _MENS: _MENS, _WOMENS: _WOMENS},
}
_OUTCOMES = ("visit", "conversion", "spend")


@dataclass(frozen=True)
class Hillstrom:
    """E-mails about women's or men's wear against none: visits, purchases and dollars of two weeks.

    Features are those known before the e-mail, in this order: recency (months since the last purchase),
    history (dollars of the past year), mens, womens, newbie (0 or 1), zip_Surburban, zip_Urban (Rural is the
    base; the spelling is the file's), channel_Phone, channel_Web (Multichannel is the base).
    history_segment is left out: it is history in steps. Rows are in the file's order. The e-mails were sent
    at random, a third each, and the trial's chances say so.

    Attributes:
        arms: "womens", "mens" or "any" against none, or "all" three arms.
        outcome: "visit" or "conversion" (0 or 1), or "spend" (dollars).
        path: the file, or its folder; `data/hillstrom` if None.
    """

    arms: str = "womens"
    outcome: str = "visit"
    path: PathLike | None = None

    def load(self) -> Trial:
        """Read the customers of the arms.

        Raises:
            BadInput: for a setting that is not there, a missing file or column, or a cell that cannot be.
        """
        choose("set of arms", self.arms, _ARMS)
        choose("outcome of Hillstrom", self.outcome, _OUTCOMES)
        path = locate(self.path, "data/hillstrom", "hillstrom.csv")
        check_digest(path, _DIGEST)
        table = read(
            path,
            kinds((*_NUMBERS, self.outcome), NUMBER) | kinds((*_LEVELS, "segment"), ID),
            _HINT,
        )
        segment = table.ids("segment")
        _known(table, segment, "segment", (_MENS, _WOMENS, _NONE))
        named = _ARMS[self.arms]
        keep = np.isin(segment.code, [i for i, name in enumerate(segment.names) if name in named])
        if not keep.any():
            raise BadInput(f"{path}: column segment: no row is of the arms {', '.join(named)}")
        columns = [table.numbers(name) for name in _NUMBERS]
        names = list(_NUMBERS)
        for name, levels in _LEVELS.items():
            found = table.category(name)
            _known(table, found, name, levels)
            code = found.among(levels)
            columns += [(code == i).astype(np.float64) for i in (1, 2)]
            names += [f"{_SHORT[name]}_{level}" for level in levels[1:]]
        label = np.array([named.get(name, "") for name in segment.names])[segment.code[keep]]
        many = len(set(named.values()))
        share = 2 / 3 if self.arms == "any" else 1 / many
        chances = np.full((int(keep.sum()), many), share)
        chances[:, 0] = 1 - share * (many - 1)
        return Trial.of(
            np.stack(columns, 1)[keep],
            label,
            table.numbers(self.outcome)[keep],
            control=_NONE,
            propensity=chances,
            names=names,
        )


def _known(table: Columns, found: Coded, name: str, levels: tuple[str, ...]) -> None:
    """Refuse a word that is none of the file's."""
    table.check(name, found.among(levels) >= 0, f"is none of {', '.join(levels)}")
