"""Settings of the promotion."""

from dataclasses import dataclass

from envs.spec import WorldSpec, setting


@dataclass(frozen=True)
class PromotionSpec(WorldSpec):
    """Settings of the promotion, besides those of every world.

    Attributes:
        covariates: observed standard normal covariates of a user.
        base: logit of buying of an average user who does not react to promotion.
        taste: logits per standard deviation of the match of covariates and item.
        popularity: logits per standard deviation of an item's popularity.
        hidden: logits per standard deviation of the hidden covariate; 0 is nothing hidden.
        effect: mean share of persuadables; 0 is no effect at all.
        heterogeneity: 0 is the same effect for everybody, 1 is as different as can be.
        sharpness: how sharply the groups split by the covariates; it only shows with heterogeneity.
        sleeping_dogs: sleeping dogs for each persuadable, on average; 0 is nobody.
        position_bias: η of the examination 1/k^η of slot k = 1, 2, …; 0 is every slot examined.
        cost: what showing an item costs, in purchases.
        fatigue: share of an item's effect on a user that is lost each time the user sees it promoted.
    """

    items: int = setting(50, 1)
    slots: int = setting(3, 1)
    horizon: int = setting(20, 1, 10**9)
    covariates: int = setting(6, 1)
    base: float = setting(-2.5, -30, 30)
    taste: float = setting(1.5, 0)
    popularity: float = setting(0.5, 0)
    hidden: float = setting(1.0, 0)
    effect: float = setting(0.15, 0, 0.5)
    heterogeneity: float = setting(1.0, 0, 1)
    sharpness: float = setting(3.0, 0)
    sleeping_dogs: float = setting(0.5, 0, 1)
    position_bias: float = setting(0.0, 0, 5)
    cost: float = setting(0.0, 0)
    fatigue: float = setting(0.0, 0, 1)
