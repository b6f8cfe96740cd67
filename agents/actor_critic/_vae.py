"""A variational autoencoder of slates and their clicks: a few numbers stand for a slate."""

import math
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from agents.actor_critic._proto import seeded
from simlab.context import Catalog, Context
from simlab.rankers._blocks import ItemTable, dot
from simlab.seeds import Seed
from simlab.slates.contract import check_slots, masked

LOG_VAR = 10.0
"""The posterior's log variance is held within ±10."""


class SlateVAE(nn.Module):
    """q(z | A, c), a Gaussian, and p(A, c | z) = Π_k softmax_i⟨h_k(z), e_i⟩ at a_k · σ(g_k(z)) at c_k.

    The softmax runs over the candidates of the row that may be shown, so that any set of candidates is
    decoded by the same item vectors e_i. The prior of z is N(0, I).

    Args:
        n_items: size of the catalogue.
        slots: K.
        latent: numbers of z.
        dim: of item vectors.
        hidden: widths of the layers of the encoder; the decoder has them the other way round.
        catalog: what is known of the items.
        seed: of the first weights.

    Source: Deffayet et al. (2023), "Generative slate recommendation with reinforcement learning", WSDM,
    section 4.1.
    """

    def __init__(
        self,
        n_items: int,
        slots: int,
        latent: int,
        dim: int,
        hidden: tuple[int, ...],
        catalog: Catalog | None,
        seed: Seed,
    ) -> None:
        super().__init__()
        self.slots, self.latent, self.dim = slots, latent, dim
        with seeded(seed):
            # Vectors of length 1 or so: the decoder tells items apart by inner products.
            self.items = ItemTable(n_items, dim, catalog, 1 / math.sqrt(dim))
            self.encoder = _layers((slots * (dim + 1), *hidden, 2 * latent))
            self.decoder = _layers((latent, *reversed(hidden), slots * (dim + 1)))

    def encode(
        self, slate: Int[Tensor, "user slot"], click: Float[Tensor, "user slot"]
    ) -> tuple[Float[Tensor, "user latent"], Float[Tensor, "user latent"]]:
        """Return mean and log variance of q(z | A, c)."""
        seen = torch.cat([self.items(slate).flatten(1), (click > 0).float()], dim=1)
        mean, log_var = self.encoder(seen).chunk(2, dim=1)
        return mean, log_var.clamp(-LOG_VAR, LOG_VAR)

    def decode(
        self, z: Float[Tensor, "user latent"]
    ) -> tuple[Float[Tensor, "user slot dim"], Float[Tensor, "user slot"]]:
        """Return h(z), and the logits of the clicks."""
        query, click = self.decoder(z).split([self.slots * self.dim, self.slots], dim=1)
        return query.view(-1, self.slots, self.dim), click

    def log_likelihood(
        self,
        context: Context,
        columns: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        z: Float[Tensor, "user latent"],
    ) -> tuple[Float[Tensor, " user"], Float[Tensor, " user"]]:
        """Return log p(A | z) and log p(c | z)."""
        query, logit = self.decode(z)
        context, vectors = known(context, self.items.n_items), self.items.all()
        slate = torch.zeros_like(logit[:, 0])
        for slot in range(self.slots):
            log_p = masked(dot(query[:, slot], vectors, context), context.mask).log_softmax(1)
            slate = slate + log_p.gather(1, columns[:, slot : slot + 1]).squeeze(1)
        clicks = functional.binary_cross_entropy_with_logits(
            logit, (click > 0).to(logit.dtype), reduction="none"
        )
        return slate, -clicks.sum(1)

    def loss(
        self,
        context: Context,
        columns: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        noise: Float[Tensor, "user latent"],
        beta: float | int = 1.0,
        clicks: float | int = 1.0,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return the mean of -log p(A | z) - clicks · log p(c | z) + β KL(q ‖ p), z = μ + σ · noise.

        With β = clicks = 1 that is one draw of the negative ELBO.
        """
        mean, log_var = self.encode(context.slate(columns), click)
        slate, clicked = self.log_likelihood(context, columns, click, mean + (0.5 * log_var).exp() * noise)
        rate = kl_to_standard(mean, log_var)
        loss = (beta * rate - slate - clicks * clicked).mean()
        return loss, {"vae_slate": slate.mean(), "vae_clicks": clicked.mean(), "vae_kl": rate.mean()}

    @torch.no_grad()
    def slate(
        self, context: Context, z: Float[Tensor, "user latent"], slots: int
    ) -> Int[Tensor, "user slot"]:
        """Return for each slot the likeliest column that no slot above it took.

        Raises:
            BadInput: where a row has fewer candidates than slots.
        """
        check_slots(context.mask, slots)
        query, _ = self.decode(z)
        context, vectors = known(context, self.items.n_items), self.items.all()
        chosen: list[Tensor] = []
        for slot in range(slots):
            score = masked(dot(query[:, slot], vectors, context), context.mask)
            if chosen:
                score = score.scatter(1, torch.cat(chosen, dim=1), -torch.inf)
            chosen.append(score.argmax(1, keepdim=True))
        return torch.cat(chosen, dim=1)

    @torch.no_grad()
    def box(
        self, slate: Int[Tensor, "user slot"], click: Float[Tensor, "user slot"]
    ) -> tuple[Float[Tensor, " latent"], Float[Tensor, " latent"]]:
        """Return centre and half width of the smallest box that holds μ ± σ of all these slates."""
        mean, log_var = self.encode(slate, click)
        spread = (0.5 * log_var).exp()
        low, high = (mean - spread).amin(0), (mean + spread).amax(0)
        return (low + high) / 2, (high - low) / 2


def kl_to_standard(
    mean: Float[Tensor, "user latent"], log_var: Float[Tensor, "user latent"]
) -> Float[Tensor, " user"]:
    """Return KL(N(μ, σ²) ‖ N(0, I)) = ½ Σ_j μ_j² + σ_j² - 1 - log σ_j²."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)


def known(context: Context, n_items: int) -> Context:
    """Return the context with ids of the catalogue only: a masked candidate may have any."""
    candidates = context.candidates
    if candidates.stride(0) == 0 and candidates.shape[1] == n_items:
        return context
    return replace(context, candidates=candidates.clamp(0, n_items - 1))


def _layers(widths: tuple[int, ...]) -> nn.Sequential:
    """Return a ReLU network."""
    layers: list[nn.Module] = []
    for width, out in pairwise(widths):
        layers += [nn.Linear(width, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
