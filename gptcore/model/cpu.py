"""The modern family's block with its backward pass written out, for training in float32 on a CPU.

There autograd keeps and visits a tensor for every operator of a formula: norms, turns and SwiGLU cost as much as the
matrix products do. This computes what gptcore/model/modern.py does, to rounding, in half as many operations, and
residual sums ride along in the products; an update takes a tenth less. GPT-2's block, written out too, gained nothing.

N = B*T rows, B sequences of T positions, C = n_embd, H heads of D = C / H, F the hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6
"""Added to the mean square in every RMSNorm."""
KEPT_UP_TO = 1 << 20
"""Numbers: an activation larger than a core's cache is cheaper to compute again than to keep and to fetch."""

_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward


def helps(x: Tensor, *layers: nn.Module) -> bool:
    """Whether these functions may and should be used: a backward pass is coming, in float32, not compiled.

    Layers must be Linear ones like any other: no adapter around them, their weights not spread over processes.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and all(type(layer) is nn.Linear and type(layer.weight) is nn.Parameter for layer in layers)
    )


def _heads(qkv: Tensor, x: Tensor, heads: int) -> Tensor:
    """(N, 3C) -> (B, T, 3, H, D)."""
    return qkv.view(*x.shape[:2], 3, heads, x.shape[2] // heads)


class ModernBlock(torch.autograd.Function):
    """x + attention(norm(x)), then x + mlp(norm(x)), without dropout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: int, turn: tuple[Tensor, Tensor], *weights: Tensor) -> Tensor:
        """x (B, T, C), cosines and sines (T, D); weights of norm_1, qkv, q_norm, k_norm, out, norm_2, gate_up, down."""
        g1, w_qkv, g_q, g_k, w_out, g2, w_gate_up, w_down = weights
        rows = x.flatten(0, 1)  # (N, C)
        n1, scale1 = _normed(rows, g1)
        qkv = n1 @ w_qkv.T
        both = _heads(qkv, x, heads)[:, :, :2]  # (B, T, 2, H, D)
        gains = torch.stack([g_q, g_k])[:, None]  # (2, 1, D)
        scale = _scale(both)
        turned = _turned((both * scale).mul_(gains), turn)
        q, k = turned.permute(2, 0, 3, 1, 4)  # (B, H, T, D)
        v = _heads(qkv, x, heads)[:, :, 2].transpose(1, 2)
        y, sums = _attention(q, k, v, 0.0, True)
        middle = torch.addmm(rows, y.transpose(1, 2).reshape(rows.shape), w_out.T)
        n2, scale2 = _normed(middle, g2)
        gate_up = n2 @ w_gate_up.T  # (N, 2F)
        active = _swiglu(gate_up)
        ctx.heads, ctx.turn = heads, turn
        kept = active if active.numel() <= KEPT_UP_TO else None
        norms = (n1, scale1, n2, scale2, scale)
        ctx.save_for_backward(x, qkv, turned, y, sums, middle, gate_up, kept, *norms, gains, *weights)
        return torch.addmm(middle, active, w_down.T).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and the weights."""
        x, qkv, turned, y, sums, middle, gate_up, active, n1, scale1, n2, scale2, scale, gains, *weights = (
            ctx.saved_tensors
        )
        g1, w_qkv, _, _, w_out, g2, w_gate_up, w_down = weights
        rows = x.flatten(0, 1)
        of_out = gradients[0].flatten(0, 1)
        # 1. The MLP.
        of_w_down = of_out.T @ (_swiglu(gate_up) if active is None else active)
        of_active = of_out @ w_down
        of_gate_up = torch.empty_like(gate_up)
        (gate, up), (of_gate, of_up) = gate_up.chunk(2, dim=-1), of_gate_up.chunk(2, dim=-1)
        torch.mul(of_active, F.silu(gate), out=of_up)
        torch.ops.aten.silu_backward.grad_input(of_active.mul_(up), gate, grad_input=of_gate)
        of_w_gate_up = of_gate_up.T @ n2
        of_middle, of_g2 = _normed_back(of_gate_up @ w_gate_up, middle, scale2, g2)
        of_middle += of_out
        # 2. Attention.
        of_w_out = of_middle.T @ y.transpose(1, 2).reshape(rows.shape)
        q, k = turned.permute(2, 0, 3, 1, 4)
        heads = _heads(qkv, x, ctx.heads)
        of_y = (of_middle @ w_out).view(*x.shape[:2], ctx.heads, -1)
        of_attended = _attention_backward(
            of_y.transpose(1, 2), q, k, heads[:, :, 2].transpose(1, 2), y, sums, 0.0, True
        )
        of_q, of_k, of_v = (part.transpose(1, 2) for part in of_attended)  # (B, T, H, D)
        cosines, sines = ctx.turn
        of_both = _turned(torch.stack([of_q, of_k], dim=2), (cosines, -sines))  # of the normed
        normed = heads[:, :, :2] * scale
        of_gains = (of_both * normed).sum((0, 1, 3))
        of_both.mul_(gains)
        along = torch.linalg.vecdot(of_both, normed)[..., None].div_(-of_both.shape[-1])
        of_qkv = torch.empty_like(heads)
        torch.mul(of_both.addcmul_(normed, along), scale, out=of_qkv[:, :, :2])
        of_qkv[:, :, 2] = of_v
        of_qkv = of_qkv.view(qkv.shape)
        of_w_qkv = of_qkv.T @ n1
        of_x, of_g1 = _normed_back(of_qkv @ w_qkv, rows, scale1, g1)
        of_x += of_middle
        return (
            of_x.view(x.shape), None, None,
            of_g1, of_w_qkv, of_gains[0], of_gains[1], of_w_out, of_g2, of_w_gate_up, of_w_down,
        )  # fmt: skip


def _scale(x: Tensor) -> Tensor:
    """One over the root mean square (..., 1)."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(EPSILON).rsqrt_()


def _normed(x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """RMSNorm of (N, C), and what each row was divided by, inverted."""
    scale = _scale(x)
    return (x * scale).mul_(gain), scale


def _normed_back(gradient: Tensor, x: Tensor, scale: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of RMSNorm's x (N, C) and gain.

    With its mean set to 0, LayerNorm's backward pass, one kernel, is RMSNorm's but for one term, which is added back.
    """
    of_x, of_gain, _ = _layer_norm_backward(
        gradient, x, gain.shape, torch.zeros_like(scale), scale, gain, None, [True, True, False]
    )
    return of_x.addcmul_((gradient @ gain)[:, None], scale, value=1 / len(gain)), of_gain


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (x_i, x_{i+D/2}) of (B, T, 2, H, D) by its position's angle; overwrites nothing."""
    cosines, sines = (part[:, None, None] for part in turn)  # (T, 1, 1, D)
    half = x.shape[-1] // 2
    signed = torch.cat([-sines[..., :half], sines[..., half:]], dim=-1)
    out: Tensor = (x * cosines).addcmul_(x.roll(half, -1), signed)
    return out


def _swiglu(gate_up: Tensor) -> Tensor:
    """(N, 2F) -> (N, F)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
