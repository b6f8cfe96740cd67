"""Settings of organic and bandit sessions."""

from dataclasses import dataclass

from envs.spec import WorldSpec, setting
from simlab.errors import BadInput


@dataclass(frozen=True)
class OrganicBanditSpec(WorldSpec):
    """Settings of organic and bandit sessions, besides those of every world.

    Attributes:
        dims: K, latent dimensions of taste.
        taste_spread: σ_ω0, standard deviation of a new user's taste, in each dimension.
        drift: σ_ω, standard deviation of a step of taste before an organic view.
        popularity_spread: σ_μ, standard deviation of a product's popularity μ.
        flips: pairs of similar products that trade their answers to recommendations; needs items² numbers.
        organic_signal: correlation between what draws views and what draws clicks, 0 … 1.
        link: a, b, c, d, e of the click-through rate σ(a·σ(b·σ(c·x) - d) - e).
        organic_to_bandit: probability that a view is followed by an event with a recommendation.
        leave_organic: probability that the user leaves after a view.
        bandit_to_organic: probability that a recommendation is followed by a view, clicked or not.
        leave_bandit: probability that the user leaves after a recommendation; None is that of leave_organic.
        click_drifts: taste takes its step before the first view after a click, as it does before others.
        views: how many of the last organic views of a user are remembered.
        position_bias: η of the examination 1/k^η of slot k, for more than one slot.
    """

    items: int = setting(10, 1)
    slots: int = setting(1, 1)
    horizon: int = setting(200, 1, 10**9)
    dims: int = setting(5, 1)
    taste_spread: float = setting(1.0, 0, 100)
    drift: float = setting(0.1, 0)
    popularity_spread: float = setting(1.0, 0, 100)
    flips: int = setting(0, 0)
    organic_signal: float = setting(1.0, 0, 1)
    link: tuple[float, ...] = setting((5.0, 2.0, 0.3, 2.0, 6.0), 0)
    organic_to_bandit: float = setting(0.25, 1e-6, 1)
    leave_organic: float = setting(0.01, 0, 1)
    bandit_to_organic: float = setting(0.05, 0, 1)
    leave_bandit: float | None = setting(0.01, 0, 1)
    click_drifts: bool = setting(True)
    views: int = setting(50, 1)
    position_bias: float = setting(1.0, 0)

    def check(self) -> None:
        """Refuse a link of another length, and probabilities that add up to more than one."""
        if len(self.link) != 5:
            raise BadInput(f"link has {len(self.link)} values, but it has five: a, b, c, d, e")
        if self.organic_to_bandit + self.leave_organic > 1:
            total = self.organic_to_bandit + self.leave_organic
            raise BadInput(f"organic_to_bandit + leave_organic is {total:g}, but it is at most 1")
        if self.bandit_to_organic + self.leave > 1:
            total = self.bandit_to_organic + self.leave
            raise BadInput(f"bandit_to_organic + leave_bandit is {total:g}, but it is at most 1")

    @property
    def leave(self) -> float:
        """The probability of leaving after a recommendation."""
        return self.leave_organic if self.leave_bandit is None else self.leave_bandit

    @property
    def stay(self) -> float:
        """The probability that a view is followed by another view."""
        return max(0.0, 1 - self.organic_to_bandit - self.leave_organic)
