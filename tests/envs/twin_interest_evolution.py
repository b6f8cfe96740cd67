"""A slow, plain twin of interest evolution: one user and one slot at a time, in float64."""

from dataclasses import dataclass

from envs.users.interest_evolution import InterestEvolution


@dataclass
class TwinUser:
    interest: list[float]
    budget: float
    active: bool = True
    steps: int = 0

    def chances(self, world: InterestEvolution, slate: list[int]) -> list[float]:
        """Return P(click) of each slot: RecSim's scores u + 1 against a mass of 2, to a power."""
        power = world.spec.sharpness
        score = [
            0.0 if item == world.blank else (self.interest[int(world.topic[item])] + 1) ** power
            for item in slate
        ]
        return [s / (sum(score) + 2**power) for s in score]

    def step(self, world: InterestEvolution, slate: list[int], luck: list[float]) -> tuple[list[int], float]:
        """Return clicks and reward, and change the user; luck is (direction of the move, choice)."""
        click, reached = [0] * len(slate), 0.0
        if not self.active:
            return click, 0.0
        chosen = None
        for k, chance in enumerate(self.chances(world, slate)):
            reached += chance
            if luck[1] < reached:
                chosen, click[k] = slate[k], 1
                break
        watched = 0.0
        if chosen is None:
            self.budget -= 0.5
        else:
            watched = min(self.budget, 4.0)
            self.budget += -watched + (0.9 / 3.4) * watched * float(world.quality[chosen])
            self._move(world, int(world.topic[chosen]), luck[0])
        self.steps += 1
        self.active = self.budget > 0 and self.steps < world.horizon
        return click, watched

    def _move(self, world: InterestEvolution, topic: int, luck: float) -> None:
        u = self.interest[topic]
        move = 0.3 * (1 - abs(u)) * (1 - u)
        down = world.spec.polarising and luck >= (u + 1) / 2
        self.interest[topic] = min(max(u - move if down else u + move, -1.0), 1.0)
