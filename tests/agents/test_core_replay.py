"""The replay buffer: sums of rewards as a slow loop has them, and what is drawn is what was added."""

from dataclasses import dataclass

import pytest
import torch
from scipy.stats import chi2, chisquare
from torch import Tensor

from agents.core.replay import SlateReplay
from agents.core.rows import Step, WorldRows
from envs.registry import make_world
from simlab.context import Context
from simlab.errors import BadInput
from simlab.seeds import Seed
from simlab.slates import Uniform

ITEMS, SLOTS, USERS = 6, 2, 3


@dataclass
class Stream:
    """Everything that was ever added, step by step."""

    reward: Tensor
    terminated: Tensor
    done: Tensor
    click: Tensor
    columns: Tensor


def seen(step: int, kind: float, user: Tensor | None = None) -> Context:
    """Return a context that says which it is: kind 0 is now, 1 is last, 2 is the next user's."""
    row = torch.arange(USERS) if user is None else user
    n = len(row)
    features = torch.stack([torch.full((n,), float(step)), row.float(), torch.full((n,), kind)], 1)
    return Context.of(row, ITEMS, features=features, history=row.unsqueeze(1) + step % 3)


def filled(size: int, steps: int, priority: float = 0.0) -> tuple[SlateReplay, Stream]:
    """Return a buffer after some steps of three users, with ends of both kinds, and the whole stream."""
    luck = torch.Generator().manual_seed(1)
    shape = (steps, USERS)
    end = torch.rand(shape, generator=luck)
    stream = Stream(
        reward=torch.randn(shape, generator=luck),
        terminated=end < 0.15,
        done=end < 0.3,
        click=(torch.rand(*shape, SLOTS, generator=luck) < 0.5).float(),
        columns=torch.rand(*shape, ITEMS, generator=luck).topk(SLOTS).indices,
    )
    buffer = SlateReplay(size, n_envs=USERS, priority=priority)
    for t in range(steps):
        done = stream.done[t]
        last = seen(t, 1)
        follow = seen(t + 1, 0)
        if bool(done.any()):  # the row begins again: what is seen now is not what was last seen
            follow = seen(t + 1, 2)
        step = Step(
            follow,
            last,
            stream.reward[t],
            stream.click[t],
            stream.terminated[t],
            done & ~stream.terminated[t],
        )
        buffer.add(seen(t, 0), stream.columns[t], step)
    return buffer, stream


@pytest.mark.parametrize("n_step", [1, 2, 4, 7])
@pytest.mark.parametrize(("size", "steps"), [(60, 9), (27, 9), (15, 13), (16, 31), (3, 4)])
def test_sums_are_those_of_a_slow_loop(n_step: int, size: int, steps: int) -> None:
    """Over ends of both kinds, over the ring's seam, and up to the newest step that is kept."""
    buffer, stream = filled(size, steps)
    kept = min(-(-size // USERS), steps)
    assert len(buffer) == kept * USERS
    batch = buffer.sample(400, torch.Generator().manual_seed(2), n_step=n_step, discount=0.9)
    met = set()
    for i in range(len(batch)):
        t, user = int(batch.context.features[i, 0]), int(batch.context.features[i, 1])
        met.add((t, user))
        total, power, j = 0.0, 1.0, t
        for ahead in range(n_step):
            j = t + ahead
            total, power = total + power * float(stream.reward[j, user]), power * 0.9
            if bool(stream.done[j, user]) or j == steps - 1:
                break
        assert float(batch.reward[i]) == pytest.approx(total, abs=1e-5)
        assert float(batch.discount[i]) == pytest.approx(power)
        assert bool(batch.terminated[i]) == bool(stream.terminated[j, user])
        assert batch.follow.features[i].tolist() == [j, user, 1], "what was last seen, not the next user"
        assert int(batch.index[i]) == t % -(-size // USERS) * USERS + user
    assert met == {(t, user) for t in range(steps - kept, steps) for user in range(USERS)}


def test_what_is_drawn_is_what_was_added() -> None:
    buffer, stream = filled(30, 14)
    batch = buffer.sample(300, torch.Generator().manual_seed(3))
    for i in range(len(batch)):
        t, user, kind = (int(x) for x in batch.context.features[i])
        assert kind == 0
        assert batch.context.history[i].tolist() == [user + t % 3]
        assert torch.equal(batch.columns[i], stream.columns[t, user])
        assert torch.equal(batch.click[i], stream.click[t, user])
        clicks = float(stream.click[t, user].sum())
        share = stream.click[t, user] * stream.reward[t, user] / max(clicks, 1)
        torch.testing.assert_close(batch.earned[i], share)
    assert batch.columns.dtype == batch.context.history.dtype == torch.long
    assert batch.context.candidates.tolist() == [list(range(ITEMS))] * 300
    assert bool(batch.context.mask.all())


@pytest.mark.parametrize("name", ["Static-v0", "ColdStart-v0", "Drift-v0"])
def test_a_world_comes_back(name: str) -> None:
    """Drawn candidates, come and going items, histories: contexts and next contexts to the bit."""
    more = {"candidates": 7} if name == "Drift-v0" else {"lifetime": 6.0} if name == "ColdStart-v0" else {}
    world = make_world(name, items=12, slots=2, horizon=4, **more)
    rows, luck = WorldRows(world, 5, Seed(2), past=4), torch.Generator().manual_seed(1)
    buffer, context, added = SlateReplay(100, n_envs=5), rows.reset(), []
    for _ in range(9):
        columns = Uniform(context.mask, 2).sample(luck)
        step = rows.step(columns)
        buffer.add(context, columns, step)
        added.append((context, step.last))
        context = step.context
    batch = buffer.sample(200, luck)
    for i in range(200):
        t, user = divmod(int(batch.index[i]), 5)
        for mine, theirs in zip((batch.context, batch.follow), added[t], strict=True):
            for what in ("features", "history", "feedback", "candidates", "mask"):
                assert torch.equal(getattr(mine, what)[i], getattr(theirs, what)[user]), what


def test_what_all_rows_share_is_kept_once() -> None:
    """A catalogue of 5,000 candidates costs its ids once, not for each of 200 user-steps, twice."""
    world = make_world("Static-v0", items=5_000, slots=2, horizon=4)
    rows = WorldRows(world, 10, Seed(2), past=4)
    buffer, context = SlateReplay(200, n_envs=10), rows.reset()
    for _ in range(20):
        columns = Uniform(context.mask, 2).sample(torch.Generator().manual_seed(1))
        step = rows.step(columns)
        buffer.add(context, columns, step)
        context = step.context
    assert {k: v.shape[0] for k, v in buffer.shared.items()} == dict.fromkeys(
        ["candidates", "mask", "next.candidates", "next.mask"], 1
    )
    kept = sum(v.untyped_storage().nbytes() for v in buffer.kept.values())
    assert kept < 200 * 500, "features, histories, slates and a few numbers: under 500 bytes a user-step"
    assert buffer.kept["history"].dtype == torch.int32


def test_draws_are_even_without_priorities() -> None:
    buffer, _ = filled(24, 13)
    batch = buffer.sample(24_000, torch.Generator().manual_seed(7))
    count = torch.bincount(batch.index, minlength=24)
    assert chisquare(count.numpy()).pvalue > 0.001
    assert bool((batch.weight == 1).all())


@pytest.mark.parametrize("steps", [5, 8, 11])
def test_priorities_draw_by_their_power(steps: int) -> None:
    """P(i) = p_i^α / Σ p^α (equation 1), whether the ring is not yet full, full, or has come around."""
    alpha, beta, error = 0.6, 0.4, torch.linspace(0.01, 4, 24)
    buffer, _ = filled(24, steps, priority=alpha)
    n = len(buffer)
    index = torch.arange(n)
    buffer.rate(index, error[:n])
    mass = (error[:n].double() + 1e-3) ** alpha
    chance = mass / mass.sum()
    parts = [buffer.sample(20_000, torch.Generator().manual_seed(s), beta=beta) for s in range(10)]
    counts = [torch.bincount(part.index, minlength=n).double().numpy() for part in parts]
    total = sum(chisquare(count, (20_000 * chance).numpy()).statistic for count in counts)
    assert chi2.sf(total, 10 * (n - 1)) > 0.001
    batch = parts[0]
    weight = (n * chance) ** -beta  # w = (N P)^-β over the largest in the batch (section 3.4)
    torch.testing.assert_close(batch.weight, (weight / weight.max())[batch.index].float())


def test_weights_take_the_bias_back() -> None:
    """With β = 1 the weighted mean of anything is the plain mean over the buffer."""
    buffer, _ = filled(24, 8, priority=0.7)
    value = torch.randn(24, generator=torch.Generator().manual_seed(9))
    buffer.rate(torch.arange(24), value.abs() * 3)
    batch = buffer.sample(200_000, torch.Generator().manual_seed(6), beta=1.0)
    found = (batch.weight * value[batch.index]).sum() / batch.weight.sum()
    assert abs(float(found - value.mean())) < 0.02


def test_new_steps_have_the_highest_priority_so_far() -> None:
    buffer, _ = filled(30, 4, priority=1.0)
    assert bool((buffer.kept["priority"][:4] == 1).all())
    buffer.rate(torch.tensor([2]), torch.tensor([-9.0]))
    buffer.add(seen(4, 0), torch.tensor([[0, 1]] * USERS), step_of(4))
    assert buffer.kept["priority"][4].tolist() == pytest.approx([9.001] * USERS)
    assert buffer.kept["priority"].view(-1)[2] == pytest.approx(9.001)


def step_of(t: int) -> Step:
    nobody = torch.zeros(USERS, dtype=torch.bool)
    return Step(seen(t + 1, 0), seen(t + 1, 0), torch.zeros(USERS), torch.zeros(USERS, SLOTS), nobody, nobody)


def test_tensors_bring_everything_back() -> None:
    """What is restored draws the same as what was kept, before and after more is added."""
    buffer, _ = filled(24, 11, priority=0.5)
    buffer.rate(torch.arange(24), torch.linspace(0, 3, 24))
    other = SlateReplay(24, n_envs=USERS, priority=0.5)
    other.restore({k: v.clone() for k, v in buffer.tensors().items()})
    for t in (11, 12):
        one, two = (b.sample(50, torch.Generator().manual_seed(t), n_step=3) for b in (buffer, other))
        assert torch.equal(one.index, two.index)
        assert torch.equal(one.reward, two.reward)
        assert torch.equal(one.follow.features, two.follow.features)
        assert torch.equal(one.context.candidates, two.context.candidates)
        assert torch.equal(one.weight, two.weight)
        for b in (buffer, other):
            b.add(seen(t, 0), torch.tensor([[0, 1]] * USERS), step_of(t))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(BadInput, match="the replay buffer is empty: nothing was seen yet"):
        SlateReplay(10, n_envs=2).sample(3, torch.Generator())
    with pytest.raises(BadInput, match="a replay buffer holds at least 1 user-step, not 0"):
        SlateReplay(0)
