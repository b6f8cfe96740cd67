"""What retrieval families share: a tower is a small network whose output is a vector to search by."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Tower(nn.Module):
    """W_n φ(… φ(W_1 x + b_1) …) + b_n, φ the ReLU; divided by its length on request.

    Args:
        width: of x.
        layers: widths of the layers; the last is the vector's. Empty for x itself.
        unit: divide by the length.
    """

    def __init__(self, width: int, layers: tuple[int, ...], unit: bool) -> None:
        super().__init__()
        sizes = (width, *layers)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.unit = unit

    def forward(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "row dim"]:
        """Return the vectors."""
        for number, layer in enumerate(self.layers):
            x = layer(functional.relu_(x) if number else x)
        return functional.normalize(x, dim=1) if self.unit else x
