"""Parts of the networks with backward passes of their own, for training on a CPU.

There torch's own take a kernel, and a tensor as large as the activations, for every operator of the formula. Each
function below computes what the plain line in its docstring does, to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6
"""Added to the mean square in every RMSNorm."""


def helps(x: Tensor) -> bool:
    """Whether a backward pass is coming, in float32 on a CPU and not compiled: where these functions are faster."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a Linear like any other: no adapter around it, its weights not spread over processes."""
    return type(layer) is nn.Linear and type(layer.weight) is nn.Parameter


class RMSNorm(torch.autograd.Function):
    """F.rms_norm(x, weight.shape, weight, EPSILON).

    With its mean set to 0, LayerNorm's gradient is RMSNorm's but for one term, which is added back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """(..., width) and (width,) -> (..., width)."""
        ctx.save_for_backward(x, weight)
        return F.rms_norm(x, weight.shape, weight, EPSILON)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of x and weight."""
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(len(weight)).add_(EPSILON).rsqrt_()
        of_x, of_weight, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, x, weight.shape, torch.zeros_like(scale), scale, weight, None, [True, True, False]
        )
        left_out = (gradient @ weight)[..., None] * (scale / len(weight))  # (..., 1)
        return of_x.add_(left_out), of_weight


RECOMPUTED_OVER = 1 << 20
"""Numbers: a tensor larger than a core's cache is cheaper to compute again than to keep and to fetch."""


class GELULinear(torch.autograd.Function):
    """F.linear(F.gelu(x, approximate=approximate), weight, bias); of a large x, GELU is not kept but computed again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
        """(..., in), (out, in) and (out,) -> (..., out)."""
        active = F.gelu(x, approximate=approximate)
        ctx.save_for_backward(x, weight, None if x.numel() > RECOMPUTED_OVER else active)
        ctx.approximate, ctx.has_bias = approximate, bias is not None
        return F.linear(active, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        """Gradients of x, weight and bias."""
        x, weight, active = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2)
        if active is None:
            active = F.gelu(x, approximate=ctx.approximate)
        of_weight = gradient.T @ active.flatten(0, -2)
        of_x = torch.ops.aten.gelu_backward((gradient @ weight).view(x.shape), x, approximate=ctx.approximate)
        return of_x, of_weight, gradient.sum(0) if ctx.has_bias else None, None
