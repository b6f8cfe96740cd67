"""Linear bandits: features of a user and an item, and the ridge regression of clicks on them."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.bandits._agent import Bandit, theta_of, within
from envs.contract import Response
from envs.world import SlateWorld
from simlab.context import Context
from simlab.errors import BadInput, nearest
from simlab.seeds import Seed

FORMS = ("shared", "disjoint")
CLIP = 3.0
"""Standardised features are cut off at this many standard deviations."""


@dataclass(eq=False)
class Linear(Bandit):
    """E[click of u on i at slot k] = θ_k φ(u, i)ᵀ w, with w estimated by ridge regression.

    With a_u = [1, x_u] and b_i = [1, x_i]:

    - `shared`: φ(u, i) = a_u ⊗ b_i = [1, x_i, x_u, x_u ⊗ x_i] of d = p·q numbers, one w for all items;
    - `disjoint`: φ is a_u, and each item has a w of its own; nothing is shared, no item feature is needed.

    A = λ I + Σ θ² φ φᵀ,  r = Σ θ · click · φ,  ŵ = A⁻¹ r, over all that was shown to users who were there.

    The Kronecker form is why this is fast: Σ φ φᵀ is summed by item as (Σ a aᵀ) ⊗ b bᵀ, and φᵀ A⁻¹ φ is a
    quadratic form aᵀ M_i a with one matrix M_i for each item. Tables are [item, p] and [item, p²], float64:
    meant for catalogues up to about 100,000 items.

    x_u are the context's features, standardised by the first batch; x_i those of the catalogue, standardised
    over it; both cut at ±3 and divided by √(their number), so that ‖φ‖² is about 4. Where there are more
    than `user_dim` or `item_dim` of them, x_u is a random projection of the former, and x_i are principal
    components of the latter.

    `state`: `precision` A and `moment` r ([d, d], [d]; or [item, p, p], [item, p]), `items` b [item q],
    `centre`, `scale` [feat] and `turn` [feat dim] of the users, `theta` [slot], and what acts: `mean`
    [item p], and a table of the subclass.

    Raises:
        BadInput: for settings that cannot be; in `learn`, where the shared form meets items without features.
    """

    BASE: ClassVar[tuple[str, ...]] = (
        "precision",
        "moment",
        "items",
        "centre",
        "scale",
        "turn",
        "theta",
        "mean",
    )

    form: str = "shared"
    ridge: float = 1.0
    user_dim: int = 24
    item_dim: int = 24

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise BadInput(f"form is shared or disjoint, not {self.form}{nearest(self.form, FORMS)}")
        if not self.ridge > 0:
            raise BadInput(f"ridge is above 0, not {self.ridge}")
        for name in ("user_dim", "item_dim"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is at least 1, not {getattr(self, name)}")

    def begin(self, world: SlateWorld[Any], context: Context, seed: Seed) -> None:
        """Standardise by the first batch, and know nothing: A = λ I, r = 0."""
        if self.form == "shared" and world.catalog.features.shape[1] == 0:
            raise BadInput("the shared form needs item features, and there are none: use form=disjoint")
        x = context.features.double()
        spread, width = x.std(0, correction=0), x.shape[1]
        turn = torch.eye(width, dtype=torch.float64)
        if width > self.user_dim:
            noise = torch.randn(width, width, generator=seed.torch(), dtype=torch.float64)
            turn = torch.linalg.qr(noise)[0][:, : self.user_dim].contiguous()
        items = item_side(world.catalog.features, self.item_dim if self.form == "shared" else 0)
        p, (n, q) = 1 + turn.shape[1], items.shape
        one = torch.eye(p * (q if self.form == "shared" else 1), dtype=torch.float64, device=x.device)
        shape = () if self.form == "shared" else (n,)
        self.state = {
            "precision": (self.ridge * one).expand(*shape, *one.shape).clone(),
            "moment": x.new_zeros(*shape, len(one)),
            "items": items,
            "centre": x.mean(0),
            "scale": torch.where(spread > 1e-6, spread, 1.0),
            "turn": turn.to(x.device),
            "theta": theta_of(world),
        }

    def users(self, context: Context) -> Float[Tensor, "user p"]:
        """Return a_u = [1, x_u]."""
        centre, scale, turn = (self.state[k].to(context.device) for k in ("centre", "scale", "turn"))
        x = ((context.features.double() - centre) / scale).clamp(-CLIP, CLIP) @ turn
        return torch.nn.functional.pad(x / max(x.shape[1], 1) ** 0.5, (1, 0), value=1.0)

    def update(self, context: Context, slate: Int[Tensor, "user slot"], response: Response) -> None:
        """Add Σ θ² φ φᵀ and Σ θ · click · φ."""
        there = response.active.unsqueeze(1).double()
        self.add(self.users(context), slate, response.click.double() * there, self.state["theta"] * there)

    def add(
        self,
        a: Float[Tensor, "user p"],
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        theta: Float[Tensor, "user slot"],
    ) -> None:
        """Add rows to A and r, item by item; a θ of 0 leaves a showing out."""
        state, p = self.state, a.shape[1]
        items, where = torch.unique(slate, return_inverse=True)
        squares = (a.unsqueeze(2) * a.unsqueeze(1)).reshape(len(a), p * p)
        gram, total = a.new_zeros(len(items), p * p), a.new_zeros(len(items), p)
        for k in range(slate.shape[1]):
            weight = theta[:, k].unsqueeze(1)
            gram.index_add_(0, where[:, k], squares * weight.square())
            total.index_add_(0, where[:, k], a * (weight * click[:, k].unsqueeze(1)))
        if self.form == "disjoint":
            state["precision"].index_add_(0, items, gram.reshape(-1, p, p))
            state["moment"].index_add_(0, items, total)
            return
        b = state["items"][items]
        q = b.shape[1]
        outer = (b.unsqueeze(2) * b.unsqueeze(1)).reshape(len(b), q * q)
        both = (gram.T @ outer).reshape(p, p, q, q).permute(0, 2, 1, 3)
        state["precision"] += both.reshape(p * q, p * q)
        state["moment"] += (total.T @ b).reshape(-1)

    def solve(self) -> tuple[Tensor, Tensor]:
        """Return the Cholesky factor of A, lower, and ŵ; and keep `mean`, with φᵀŵ = ⟨a_u, mean_i⟩."""
        state = self.state
        factor = torch.linalg.cholesky(state["precision"])
        w = torch.cholesky_solve(state["moment"].unsqueeze(-1), factor).squeeze(-1)
        state["mean"] = self.spread_over_items(w.unsqueeze(0))[0]
        return factor, w

    def spread_over_items(self, w: Float[Tensor, "draw *shape"]) -> Float[Tensor, "draw item p"]:
        """Turn weights of φ into a vector of each item, with φᵀw = ⟨a_u, vector_i⟩."""
        if self.form == "disjoint":
            return w
        b = self.state["items"]
        return torch.einsum("nq,mpq->mnp", b, w.reshape(len(w), -1, b.shape[1]))

    def known(self, context: Context) -> Context:
        """Return the context, checked against what was learned."""
        state = self.ready()
        width = len(state["centre"])
        if context.features.shape[1] != width:
            raise BadInput(
                f"the context has {context.features.shape[1]} features, but agent {self.name} learned from "
                f"{width}"
            )
        return within(context, len(state["items"]), width)


def item_side(features: Float[Tensor, "item feat"], dim: int) -> Float[Tensor, "item q"]:
    """Return b_i = [1, x_i]: standardised features or, where there are more than `dim`, principal components.

    With `dim` 0 it is [1] alone.
    """
    x = features.double()
    if dim == 0:
        return x.new_ones(len(x), 1)
    spread = x.std(0, correction=0)
    x = ((x - x.mean(0)) / torch.where(spread > 1e-6, spread, 1.0)).clamp(-CLIP, CLIP)
    if x.shape[1] > dim:
        x = x - x.mean(0)  # what was cut off has moved it
        _, vectors = torch.linalg.eigh(x.T @ x)
        x = x @ vectors[:, -dim:].flip(1)
        spread = x.std(0, correction=0)
        x = x / torch.where(spread > 1e-6, spread, 1.0)
    return torch.nn.functional.pad(x / x.shape[1] ** 0.5, (1, 0), value=1.0)
