"""Where tensors live."""

import torch

from simlab.errors import BadInput, nearest


def find_device(device: torch.device | str) -> torch.device:
    """Return a device that is here.

    Raises:
        BadInput: for a word that is no device, with the nearest one, and for a device that is not here.
    """
    kind = str(device).partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise BadInput(f"there is no device {device}{nearest(kind, ('cpu', 'cuda'))}")
    try:
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError) as error:
        raise BadInput(f"device {device} is not here: {str(error).splitlines()[0]}") from None
    return torch.device(device)
