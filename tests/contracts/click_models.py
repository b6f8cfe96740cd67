"""What every click model is held to: a probability of every click vector, and samples that follow it."""

import torch

from envs.clicks.contract import ClickModel

ATTRACTION = torch.tensor([[0.9, 0.3, 0.6], [0.2, 0.7, 0.05]], dtype=torch.float64)


def every(slots: int) -> torch.Tensor:
    """List all click vectors."""
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * slots)


def chances(model: ClickModel) -> torch.Tensor:
    """Return the probability of each click vector for each row, [vector user]."""
    return torch.stack([model.log_prob(ATTRACTION, c.expand(2, -1)) for c in every(3)]).exp()


def check_probabilities_sum_to_one(model: ClickModel) -> None:
    """Over all click vectors."""
    torch.testing.assert_close(chances(model).sum(0), torch.ones(2, dtype=torch.float64))


def check_marginals_are_those_of_the_joint(model: ClickModel) -> None:
    """`probs` is the sum of the joint over the vectors with a click at the slot."""
    joint = torch.einsum("vu,vk->uk", chances(model), every(3))
    torch.testing.assert_close(model.probs(ATTRACTION), joint)


def check_samples_follow_the_joint(model: ClickModel) -> None:
    """Each vector's count is within 4.5 standard errors."""
    n = 40_000
    uniform = torch.rand(2 * n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = ATTRACTION.repeat_interleave(n, 0)
    code = (model.sample(rows, uniform) @ torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)).long()
    for user in (0, 1):
        p = chances(model)[:, user]
        count = torch.bincount(code[user * n : (user + 1) * n], minlength=8)
        error = (n * p * (1 - p)).sqrt().clamp(min=1e-9)
        assert float(((count - n * p) / error).abs().max()) < 4.5


def check_nothing_attractive_is_never_clicked(model: ClickModel) -> None:
    """An attraction of zero means no click, whatever the luck."""
    none = torch.zeros(4, 3, dtype=torch.float64)
    assert float(model.probs(none).max()) == 0
    assert float(model.sample(none, torch.full_like(none, 1e-7)).max()) == 0


def check_no_click_without_examination(model: ClickModel) -> None:
    """P(click) is at most P(examined), and both are probabilities."""
    examined = model.examined(ATTRACTION)
    assert float(examined.max()) <= 1
    assert bool((model.probs(ATTRACTION) <= examined + 1e-12).all())


def check_gradients_flow(model: ClickModel) -> None:
    """The log-probability can be fitted: its gradient is that of finite differences."""
    attraction = ATTRACTION.clone().requires_grad_()
    click = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: model.log_prob(a, click), (attraction,))


def check_rows_are_independent(model: ClickModel) -> None:
    """A row's answer does not depend on the batch."""
    torch.testing.assert_close(model.probs(ATTRACTION)[1:], model.probs(ATTRACTION[1:]), rtol=0, atol=0)


CHECKS = tuple(v for k, v in list(globals().items()) if k.startswith("check_"))
