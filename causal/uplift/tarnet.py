"""TARNet: one representation for all arms, and a head for each."""

from typing import ClassVar

from causal.uplift._deep import DeepLearner


class TARNet(DeepLearner):
    """μ_a(x) = h_a(Φ(x)): Φ learns from all rows, h_a from those of arm a; the effect is μ_a − μ_0.

    All arms count alike in the loss, however many rows they have (equation 3 with α = 0). We differ from the
    paper in the body, which is any ranker; in averaged weights and decoupled weight decay on all layers; and
    in the average effect, which is doubly robust, where theirs is the mean of μ_1 − μ_0.

    Source: Shalit, Johansson and Sontag (2017), "Estimating individual treatment effect: generalization
    bounds and algorithms", ICML.

    Args: those of `DeepLearner` in `causal/uplift/_deep.py`.

    >>> import numpy as np
    >>> g = np.random.default_rng(0)
    >>> x, t = g.normal(size=(400, 2)), g.integers(0, 2, 400)
    >>> learner = TARNet(epochs=20).fit(x, t, x[:, 0] + 2 * t, propensity=0.5)
    >>> bool(abs(learner.ate().value[0] - 2) < 0.1)
    True
    """

    name: ClassVar[str] = "TARNet"
    balanced: ClassVar[bool] = True
