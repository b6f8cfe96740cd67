"""Settings of the feed."""

from dataclasses import dataclass

from envs.spec import WorldSpec, setting
from simlab.errors import BadInput
from simlab.parts import names


@dataclass(frozen=True)
class FeedSpec(WorldSpec):
    """Settings of the feed, besides those of every world. Each effect is a switch: 0 (or None) turns it off.

    Attributes:
        topics: dimensions of taste.
        slope: how sharply attraction reacts to taste, in logits per unit of affinity (0 … 1).
        base: logit of an item without any match.
        quality: logits per standard deviation of item quality.
        click_model: name of the click model; one other than position_based has its typical parameters.
        position_bias: η of the examination 1/k^η of slot k = 1, 2, …, for position_based.
        examination: P(examined) of each slot, instead of 1/k^η.
        conformity: logits per unit of log popularity: how much people like what others like.
        popularity_spread: standard deviation of the initial log popularity; 0 is a cold market.
        popularity_feedback: share of popularity that is replaced by fresh clicks at each step, 0 … 1.
        outside: clicks per step from outside the market, which follow the initial popularity.
        drift: how far taste moves toward a clicked item, per click.
        boredom: share of the taste for a topic that is lost while the user is bored of it, 0 … 1.
        boredom_limit: recent consumption of a topic, in clicks on items of pure topic, that bores.
        boredom_memory: share of recent consumption that is remembered after a step, 0 … 1.
        boredom_recovery: share of boredom that survives a step, 0 … 1.
        impression: what being shown counts for popularity, in clicks.
        unborn: share of the items that is not there at the start, and is born during the episode.
        lifetime: mean steps that an item lives; 0 is for ever.
        providers: how many providers own the items, item i belonging to provider i mod providers; 0 is none.
        provider_memory: share of a provider's average exposure that survives a step, 0 … 1.
        provider_patience: exposure, in fair shares, below which a provider leaves with its items, 0 … 1; 0 is
            never.
        churn: probability of leaving the session after a step without a click; a quarter of it after a
            step with clicks.
        budget: patience of a session in slates: a slate costs 1, and the session ends when it is used up; 0
            is without end.
        refund: patience that a click gives back.
        comeback: probability that a user who left with average satisfaction returns for a next session.
        gap: mean days away between sessions; consumption and boredom halve each day.
        profile_noise: noise of the profile that a recommender sees of the initial taste; None hides it.
    """

    topics: int = setting(16, 1)
    slope: float = setting(6.0)
    base: float = setting(-4.0)
    quality: float = setting(0.5)
    click_model: str = setting("position_based", among=tuple(names("click model")))
    position_bias: float = setting(1.0, 0)
    examination: tuple[float, ...] | None = setting(None, 0, 1)
    conformity: float = setting(0.3)
    popularity_spread: float = setting(1.0, 0, 10)
    popularity_feedback: float = setting(0.02, 0, 1)
    outside: float = setting(10.0, 0)
    drift: float = setting(0.05, 0)
    boredom: float = setting(1.0, 0, 1)
    boredom_limit: float = setting(2.5, 0)
    boredom_memory: float = setting(0.8, 0, 1)
    boredom_recovery: float = setting(0.9, 0, 1)
    impression: float = setting(0.0, 0)
    unborn: float = setting(0.0, 0, 1)
    lifetime: float = setting(0.0, 0, 10**9)
    providers: int = setting(0, 0)
    provider_memory: float = setting(0.95, 0, 1)
    provider_patience: float = setting(0.0, 0, 1)
    churn: float = setting(0.08, 0, 1)
    budget: float = setting(0.0, 0)
    refund: float = setting(0.25, 0)
    comeback: float = setting(0.5, 0, 1)
    gap: float = setting(3.0, 0, 10**6)
    profile_noise: float | None = setting(0.3, 0)

    def check(self) -> None:
        """Refuse an examination of another length, or with a click model that has none of its own."""
        if self.examination is not None and len(self.examination) != self.slots:
            raise BadInput(f"examination has {len(self.examination)} values for {self.slots} slots")
        if self.examination is not None and self.click_model != "position_based":
            raise BadInput(f"examination goes with click_model=position_based, not with {self.click_model}")
        if self.items - self.late < self.slots:
            left = self.items - self.late
            raise BadInput(
                f"unborn is {self.unborn}, so only {left} items start, but a slate has {self.slots}"
            )
        if 0 < self.gap < 1:
            raise BadInput(f"gap is {self.gap}, but who leaves is away for at least 1 day; 0 is no time")
        if 0 < self.lifetime < 1:
            raise BadInput(f"lifetime is {self.lifetime}, but an item lives at least 1 step; 0 is for ever")
        if self.candidates and (self.late or self.lifetime or self.provider_patience):
            raise BadInput(
                f"candidates is {self.candidates}, but none are drawn where items come and go: set it to 0"
            )
        if self.provider_patience and not 0 < self.providers <= self.items:
            raise BadInput(
                f"provider_patience needs between 1 and {self.items} providers, not {self.providers}"
            )

    @property
    def late(self) -> int:
        """How many items are born after the start."""
        return round(self.unborn * self.items)
