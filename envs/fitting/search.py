"""The search for the maximum of a likelihood: L-BFGS in coordinates in which the likelihood is round."""

import numpy as np
from scipy.optimize import minimize

from envs.fitting.information import Factor, Information
from envs.fitting.likelihood import Array, Likelihood

DENSE = 2000
"""Up to so many values of items, the information between any two of them is kept."""

_ENOUGH = 1e-6  # log-likelihood still to gain: the estimate is within 0.0015 standard errors of the top


def search(likelihood: Likelihood, iterations: int) -> tuple[Array, Information, bool, str]:
    """Climb in coordinates in which the likelihood is round, made anew a few times.

    The first coordinates come from a sample of the rows; the last from all, for the standard errors too.
    """
    sessions = likelihood.sessions
    rows, columns = len(sessions.slate), len(likelihood.start) - likelihood.size
    dense = columns <= DENSE and not (likelihood.independent and len(likelihood.families) < 2)
    wanted = max(4000, 100 * sessions.n_items // sessions.slate.shape[1])
    stride = 1 if likelihood.independent else max(1, rows // wanted)
    x, spent, gain = likelihood.start, 0, np.inf
    while True:
        information = likelihood.information(x, stride, dense)
        factor = information.factor(1e-6, likelihood.bend(x))
        gradient = likelihood(x)[1]
        gain = float((factor.pull(gradient) ** 2).sum()) / 2
        if gain < _ENOUGH or spent >= iterations:
            if stride == 1:
                break
            stride = 1
            continue
        if gain < 1e-2:
            stride = 1

        def climb(z: Array, begin: Array = x, factor: Factor = factor) -> tuple[float, Array]:
            value, slope = likelihood(begin + factor.step(z))
            return value, factor.pull(slope)

        done = minimize(
            climb,
            np.zeros_like(x),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 30, "gtol": 1e-4, "ftol": 1e-15, "maxls": 40},
        )
        spent += int(done.nfev)
        moved = factor.step(done.x)
        if not np.any(moved):
            break
        x = x + moved
    if likelihood(x)[0] >= 1e100:
        words = "not converged: the log-likelihood is not finite"
        return x, information, False, words
    if gain < _ENOUGH:
        return x, information, True, f"converged after {spent} evaluations of the likelihood"
    words = f"not converged after {spent} evaluations: another step would gain {gain:.1g} of log-likelihood"
    return x, information, False, words
