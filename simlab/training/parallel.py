"""Several processes: plain DistributedDataParallel under `torchrun`.

Each process takes every world-th row of a batch that is world times as large. The loss is a ratio
Σ w ℓ / Σ w, so the denominator is summed over the processes before the division: the gradient is that of one
process with the whole batch.
"""

import os

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def join(device: torch.device) -> None:
    """Join the group that `torchrun` laid out, if there is one and nobody has joined it yet."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def world() -> tuple[int, int]:
    """Return this process's rank and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def wrapped(step: nn.Module, device: torch.device) -> nn.Module:
    """Return the step with its gradients averaged over the processes, where there are several."""
    if world()[1] == 1:
        return step
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(step, device_ids=ids, find_unused_parameters=True)


def share(batch: Int[Tensor, " row"]) -> tuple[Int[Tensor, " mine"], bool]:
    """Return this process's rows of a batch, and whether they count: one without rows takes the first."""
    rank, size = world()
    mine = batch[rank::size]
    return (mine, True) if len(mine) else (batch[:1], False)


def summed(value: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return the sum over the processes; without gradient."""
    value = value.detach().clone()
    if world()[1] > 1:
        dist.all_reduce(value)
    return value


def least(value: Int[Tensor, ""]) -> Int[Tensor, ""]:
    """Return the least of the processes' values."""
    value = value.detach().clone()
    if world()[1] > 1:
        dist.all_reduce(value, op=dist.ReduceOp.MIN)
    return value


def wait() -> None:
    """Wait until every process is here."""
    if world()[1] > 1:
        dist.barrier()
