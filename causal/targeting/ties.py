"""The exact mean of an area, or of the uplift at k, over all orders of tied rows. Rows without weights.

Inside a block of equal scores the rows come in random order. Given how many treated rows have come (j) and
how many controls (i), which of them came is uniform, so a curve that is linear in outcomes has the mean
outcomes of the block in its place. Let the curve's point be f(i, j), linear in j for each i. The mt treated
rows fall into the mc + 1 gaps between the block's controls, every split of them equally likely, so with M =
mc + 1

    E[points with i controls]       A = 1 + mt / M
    E[Σ j over these points]      B_i = i mt / M + (i + 1) mt (mt - 1) / (M (M + 1)) + mt / M.

The area is Σ_i of f's two coefficients times A and B_i, less half of the block's two ends: O(N), without
listing one order.
"""

import numpy as np
from jaxtyping import Float
from scipy import stats

from simlab.errors import BadInput

Array = np.ndarray


def expected_area(
    treated: Float[Array, " block"],
    control: Float[Array, " block"],
    gain_t: Float[Array, " block"],
    gain_c: Float[Array, " block"],
    kind: str,
) -> float:
    """Return the mean area under the curve, by trapezoids from row to row.

    Args:
        treated: treated rows in each block, in the order of the score.
        control: control rows in each block.
        gain_t: sum of the treated rows' outcomes in each block.
        gain_c: sum of the control rows' outcomes in each block.
        kind: "qini" or "uplift".
    """
    up = np.cumsum(gain_t) - gain_t, np.cumsum(treated) - treated
    down = np.cumsum(gain_c) - gain_c, np.cumsum(control) - control
    block, i, points, places = _visits(control, treated)
    mean = _means(*down, gain_c, control, block, i)
    if kind == "qini":
        slope = np.divide(gain_t, treated, out=np.zeros_like(treated), where=treated > 0)
        walk = float(points @ (up[0][block] - mean * up[1][block]) + places @ (slope[block] - mean))
    else:
        before = up[1] + down[1]
        walk = -float(mean @ ((before[block] + i) * points + places))
        block, j, points, places = _visits(treated, control)
        mean = _means(*up, gain_t, treated, block, j)
        walk += float(mean @ ((before[block] + j) * points + places))
    t, c = np.cumsum(treated), np.cumsum(control)
    rate_t = np.divide(np.cumsum(gain_t), t, out=np.zeros_like(t), where=t > 0)
    rate_c = np.divide(np.cumsum(gain_c), c, out=np.zeros_like(c), where=c > 0)
    height = (rate_t - rate_c) * (t if kind == "qini" else t + c)
    return walk - float(height.sum() - height[-1] / 2)


def _visits(
    many: Float[Array, " block"], others: Float[Array, " block"]
) -> tuple[Array, Float[Array, " step"], Float[Array, " step"], Float[Array, " step"]]:
    """Return block, i, A and B for i = 0 … many of each block."""
    steps = many.astype(np.int64) + 1
    block = np.repeat(np.arange(len(many)), steps)
    i = (np.arange(len(block)) - np.repeat(np.cumsum(steps) - steps, steps)).astype(np.float64)
    gap = others / steps
    pair = others * (others - 1) / (steps * (steps + 1.0))
    return block, i, 1 + gap[block], i * gap[block] + (i + 1) * pair[block] + gap[block]


def _means(
    gain: Float[Array, " block"],
    rows: Float[Array, " block"],
    own_gain: Float[Array, " block"],
    own_rows: Float[Array, " block"],
    block: Array,
    i: Float[Array, " step"],
) -> Float[Array, " step"]:
    """Return the mean outcome of an arm after i rows of a block; 0 for no rows."""
    each = np.divide(own_gain, own_rows, out=np.zeros_like(own_gain), where=own_rows > 0)
    below = rows[block] + i
    found: Array = np.divide(gain[block] + i * each[block], below, out=np.zeros_like(i), where=below > 0)
    return found


def expected_uplift(
    treated: Float[Array, " block"],
    control: Float[Array, " block"],
    gain_t: Float[Array, " block"],
    gain_c: Float[Array, " block"],
    rows: int,
) -> float:
    """Return the mean difference of means among the first rows, over orders in which both arms are there.

    Raises:
        BadInput: if no order has both arms.
    """
    end = np.cumsum(treated + control)
    at = int(np.searchsorted(end, rows))
    before = [float(v[:at].sum()) for v in (treated, control, gain_t, gain_c)]
    mt, mc = int(treated[at]), int(control[at])
    drawn = rows - int(before[0] + before[1])
    j = np.arange(max(0, drawn - mc), min(mt, drawn) + 1, dtype=np.float64)
    chance = stats.hypergeom(mt + mc, mt, drawn).pmf(j)
    nt, nc = before[0] + j, before[1] + drawn - j
    fine = (nt > 0) & (nc > 0)
    if not chance[fine].sum() > 0:
        raise BadInput(f"the top {rows} rows hold one arm only")
    up = before[2] + j * (gain_t[at] / mt if mt else 0.0)
    down = before[3] + (drawn - j) * (gain_c[at] / mc if mc else 0.0)
    value = up[fine] / nt[fine] - down[fine] / nc[fine]
    return float(np.average(value, weights=chance[fine]))
