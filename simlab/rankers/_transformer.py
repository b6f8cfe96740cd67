"""What SASRec and BERT4Rec share: pre-LN blocks of attention across items and a small network at each."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from simlab.errors import BadInput


class Block(nn.Module):
    """x ← x + D[A(LN x)], then x ← x + D[F(LN x)]: attention across items, then a network at each.

    A is multi-head attention without biases in its queries, keys and values; F(x) = W₂ φ(W₁ x + b₁) + b₂;
    D is dropout. The norm stands before each part (Xiong et al. 2020, "On layer normalization in the
    transformer architecture", ICML), where both papers put it after: so it trains without a warm-up.
    There is no dropout on the attention weights: no fused kernel for the CPU has it.

    Args:
        dim: width of x.
        heads: of the attention; divides `dim`.
        inner: width of the network's hidden layer.
        dropout: share of zeros in D.
        gelu: φ is GELU instead of ReLU.
    """

    def __init__(self, dim: int, heads: int, inner: int, dropout: float, gelu: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.gelu = heads, dropout, gelu
        self.norm_attention, self.norm_network = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, inner), nn.Linear(inner, dim)

    def forward(
        self, x: Float[Tensor, "user past dim"], mask: Bool[Tensor, "user #head #past past"] | None
    ) -> Float[Tensor, "user past dim"]:
        """Return x after the block; an item sees itself and what stands left of it, or what `mask` allows."""
        x = x + thin(self.attend(self.norm_attention(x), mask), self.dropout, self.training)
        inner = self.widen(self.norm_network(x))
        inner = functional.gelu(inner) if self.gelu else functional.relu(inner)
        return x + thin(self.narrow(inner), self.dropout, self.training)

    def attend(
        self, x: Float[Tensor, "user past dim"], mask: Bool[Tensor, "user #head #past past"] | None
    ) -> Float[Tensor, "user past dim"]:
        """Return multi-head attention of x to itself."""
        rows, width, dim = x.shape
        qkv = self.qkv(x)
        if qkv.dtype == torch.bfloat16 and x.device.type == "cpu":
            qkv = qkv.float()  # torch's kernel for the CPU is 2 to 4 times slower backward in bf16
        heads = qkv.view(rows, width, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)  # [user head past dim], views
        with torch.autocast("cpu", enabled=False):
            found = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        said: Tensor = self.out(found.transpose(1, 2).reshape(rows, width, dim))
        return said


class Transformer(nn.Module):
    """LN ∘ block ∘ … ∘ block ∘ dropout.

    Args:
        dim: width of the vectors.
        blocks: how many.
        heads: of each attention.
        inner: width of the hidden layer of each block's network.
        dropout: of the input and of each block's two parts.
        gelu: activation.
    """

    def __init__(
        self, dim: int, blocks: int, heads: int, inner: int, dropout: float, gelu: bool = False
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.blocks = nn.ModuleList(Block(dim, heads, inner, dropout, gelu) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, x: Float[Tensor, "user past dim"], mask: Bool[Tensor, "user #head #past past"] | None = None
    ) -> Float[Tensor, "user past dim"]:
        """Return the states; without a mask each item sees itself and what stands left of it."""
        x = thin(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x, mask)
        found: Tensor = self.norm(x)
        return found


def thin(x: Float[Tensor, "*any"], share: float, training: bool) -> Float[Tensor, "*any"]:
    """Return x with a share of zeros and the rest scaled up: dropout.

    On the CPU drawing a float for each element costs more than the products around it, so one draw of 64
    bits serves eight elements, and the share is rounded to a multiple of 1/256.
    """
    if not training or share == 0:
        return x
    if x.device.type != "cpu":
        return functional.dropout(x, share)
    out = round(256 * share)
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.long).random_(-(1 << 63), None)
    keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= out
    return x * (keep * (256 / (256 - out))).to(x.dtype)


def check_heads(family: str, dim: int, heads: int) -> None:
    """Refuse heads that do not divide `dim`.

    Raises:
        BadInput: naming both.
    """
    if dim % heads:
        raise BadInput(f"heads of {family} divides dim, which is {dim}, so it is not {heads}")


def positions(table: nn.Embedding, width: int) -> Float[Tensor, "past dim"]:
    """Return the vectors of the first `width` positions.

    Raises:
        BadInput: if there are fewer.
    """
    if width > table.num_embeddings:
        raise BadInput(
            f"there are positions for {table.num_embeddings} items of history, not for {width}: set past"
        )
    return table.weight[:width]
