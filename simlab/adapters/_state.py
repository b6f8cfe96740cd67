"""What heads on a ranker's state share: its width, and a small network to one number."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import PAD, Context
from simlab.rankers.contract import Ranker, hollow
from simlab.seeds import Seed


def full(context: Context, past: int) -> Context:
    """Return the context with a history of exactly `past`: padded on the left, or its newest part.

    Padding never matters to a score, but the width of some families' state depends on it (DIN keeps a vector
    for each item of the history).
    """
    short = past - context.history.shape[1]
    if short == 0:
        return context
    if short < 0:
        return replace(
            context,
            history=context.history[:, context.history.shape[1] - past :],
            feedback=context.feedback[:, context.feedback.shape[1] - past :],
        )
    return replace(
        context,
        history=functional.pad(context.history, (short, 0), value=PAD),
        feedback=functional.pad(context.feedback, (short, 0)),
    )


@torch.no_grad()
def state_width(ranker: Ranker) -> int:
    """Return the width of `encode`'s state, asked of one empty context of the ranker's sizes."""
    sizes, training = ranker.sizes, ranker.training
    device = next((x.device for x in (*ranker.parameters(), *ranker.buffers())), torch.device("cpu"))
    context = Context.of(
        torch.zeros(1, dtype=torch.long, device=device),
        sizes.n_items,
        features=torch.zeros(1, sizes.n_features, device=device),
        categories=torch.full((1, len(sizes.categories)), PAD, device=device) if sizes.categories else None,
    )
    try:
        width = ranker.eval().encode(full(context, ranker.past)).shape[1]
    finally:
        ranker.train(training)
    return width


def copied(ranker: Ranker) -> Ranker:
    """Return the same ranker with no weight in common.

    It is built anew from its settings: some families keep a tensor of their last forward in training, which
    `deepcopy` refuses.
    """
    shape, settings = ranker.catalog_shape, ranker.settings()
    catalog = hollow(shape, ranker.sizes.n_items) if any(shape.values()) else None
    copy = type(ranker).build(ranker.sizes, settings["spec"], catalog)
    for tensor in (*ranker.parameters(), *ranker.buffers()):
        if tensor.is_floating_point():
            copy.to(tensor.device, tensor.dtype)
            break
    copy.load_state_dict(ranker.state_dict())
    return copy.train(ranker.training)


class ValueHead(nn.Module):
    """A number (or several) from a state: layer norm, then a ReLU network whose last layer starts at zero.

    The norm is there because a ranker's state may be of any size; the zero start makes every value 0 at
    first, so that a fresh critic adds no noise.

    Args:
        width: of the state.
        hidden: widths of the layers; none for a linear head.
        seed: of the first weights.
        outputs: how many numbers; with more than one, the value is [user output].
        beside: how many more inputs there are, which the norm leaves as they are.
    """

    def __init__(
        self, width: int, hidden: tuple[int, ...], seed: Seed, outputs: int = 1, beside: int = 0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.LayerNorm(width)]
        width += beside
        with torch.random.fork_rng(devices=[]):  # modules draw first weights from the global generator
            torch.default_generator.manual_seed(seed.value & ((1 << 63) - 1))
            for out in hidden:
                layers += [nn.Linear(width, out), nn.ReLU(inplace=True)]
                width = out
            last = nn.Linear(width, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(
        self, state: Float[Tensor, "user dim"], beside: Float[Tensor, "user more"] | None = None
    ) -> Float[Tensor, "user *output"]:
        """Return a value for each state, and what else is known of it."""
        if beside is None:
            value: Tensor = self.layers(state)
        else:
            value = self.layers[1:](torch.cat([self.layers[0](state), beside], 1))
        return value.squeeze(1)
