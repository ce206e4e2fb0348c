"""Distributed tensors and whole ones: a parameter of which this process holds a part, and what fits it."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered where it is distributed. Collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, distributed and shaped as `like` is. Every process must have the whole."""
    if not isinstance(like, DTensor):
        return tensor.to(like.device)
    at = tensor.to(like.device).reshape(like.shape)
    return distribute_tensor(at, like.device_mesh, like.placements, src_data_rank=None)


def own(tensor: Tensor) -> Tensor:
    """The numbers that lie in this process; writing there writes the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
