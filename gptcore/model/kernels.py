"""The inner loops of a step of generation on a CPU: what torch would need many small operators for.

N = R x T tokens, of R rows T each; I inputs, O outputs of a matrix; D = head width; J queries of one head. Arrays are
contiguous float32; one of no elements stands for one that is not there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gptcore.model.threads import compiled, compiled_for

NONE, GELU, GELU_TANH, RELU_SQUARED, SWIGLU = range(5)
"""What follows a product."""
TILE = 128
"""Keys of a head that fit into a core's nearest cache."""


@compiled
def _dot(w: Any, x: Any) -> Any:
    total = np.float32(0)
    for i in range(x.shape[0]):
        total += np.float32(w[i]) * x[i]
    return total


@compiled
def _add_four(y: Any, place: int, a: Any, b: Any, c: Any, d: Any) -> None:
    y[place] += a
    y[place + 1] += b
    y[place + 2] += c
    y[place + 3] += d


@compiled_for(
    [
        f"void(float32[:,::1], int64, int64, {kind}[:,::1], int64, int64, int64, int64, float32[:,::1], int64)"
        for kind in ("float32", "int8")
    ]
)
def multiplied(
    x: Any, rows: int, first: int, w: Any, begin: int, end: int, at: int, count: int, y: Any, column: int
) -> None:
    """y[r, column + o - begin] += sum over i < count of x[r, first + i] w[o, at + i], for r < rows, begin <= o < end.

    Blocks of four by four: a number that is in a register serves four times.
    """
    zero = np.float32(0)
    o = begin
    r4 = rows - rows % 4
    while o + 4 <= end and r4:
        w0, w1 = w[o, at : at + count], w[o + 1, at : at + count]
        w2, w3 = w[o + 2, at : at + count], w[o + 3, at : at + count]
        place = column + o - begin
        for r in range(0, r4, 4):
            x0, x1 = x[r, first : first + count], x[r + 1, first : first + count]
            x2, x3 = x[r + 2, first : first + count], x[r + 3, first : first + count]
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = zero
            for i in range(count):
                f0, f1, f2, f3 = np.float32(w0[i]), np.float32(w1[i]), np.float32(w2[i]), np.float32(w3[i])
                a0 += f0 * x0[i]
                a1 += f1 * x0[i]
                a2 += f2 * x0[i]
                a3 += f3 * x0[i]
                b0 += f0 * x1[i]
                b1 += f1 * x1[i]
                b2 += f2 * x1[i]
                b3 += f3 * x1[i]
                c0 += f0 * x2[i]
                c1 += f1 * x2[i]
                c2 += f2 * x2[i]
                c3 += f3 * x2[i]
                d0 += f0 * x3[i]
                d1 += f1 * x3[i]
                d2 += f2 * x3[i]
                d3 += f3 * x3[i]
            _add_four(y[r], place, a0, a1, a2, a3)
            _add_four(y[r + 1], place, b0, b1, b2, b3)
            _add_four(y[r + 2], place, c0, c1, c2, c3)
            _add_four(y[r + 3], place, d0, d1, d2, d3)
        o += 4
    left = o  # outputs of which no row is done
    for o in range(begin, end):
        w0 = w[o, at : at + count]
        for r in range(r4 if o < left else 0, rows):
            y[r, column + o - begin] += _dot(w0, x[r, first : first + count])


# Between products


@compiled
def activate(x: Any, gates: Any, activation: int, work: Any, powers: Any) -> None:
    """In place on x (n,); SWIGLU multiplies it by silu(gates). `work` (n,) and `powers` (n,), int32, are used up."""
    count = x.shape[0]
    if activation == RELU_SQUARED:
        for i in range(count):
            x[i] = max(x[i], np.float32(0)) ** 2
    elif activation == GELU:
        for i in range(count):
            x[i] *= np.float32(0.5) * (np.float32(1) + np.float32(math.erf(x[i] * np.float32(math.sqrt(0.5)))))
    elif activation == GELU_TANH:  # (1 + tanh(u)) / 2 = 1 / (1 + e^-2u)
        for i in range(count):
            work[i] = np.float32(-2 * math.sqrt(2 / math.pi)) * (x[i] + np.float32(0.044715) * x[i] * x[i] * x[i])
        exponentials(work, powers)
        for i in range(count):
            x[i] /= np.float32(1) + work[i]
    elif activation == SWIGLU:
        for i in range(count):
            work[i] = -gates[i]
        exponentials(work, powers)
        for i in range(count):
            x[i] *= gates[i] / (np.float32(1) + work[i])


@compiled
def exponentials(x: Any, powers: Any) -> None:
    """e^x in place, to 2e-7 of it; below e^-87 that, above e^88 that. `powers`, int32, of the same length are used up.

    2^z = 2^n 2^f with n the nearest whole number, which an exponent is as it stands; 2^f by its Taylor series.
    """
    count = x.shape[0]
    for i in range(count):
        z = min(max(x[i] * np.float32(1.4426950408889634), np.float32(-126)), np.float32(127))
        n = math.floor(z + np.float32(0.5))
        f = (z - np.float32(n)) * np.float32(0.6931471805599453)
        p = np.float32(1 / 5040)
        p = p * f + np.float32(1 / 720)
        p = p * f + np.float32(1 / 120)
        p = p * f + np.float32(1 / 24)
        p = p * f + np.float32(1 / 6)
        p = p * f + np.float32(0.5)
        p = p * f + np.float32(1)
        x[i] = p * f + np.float32(1)
        powers[i] = (np.int32(n) + np.int32(127)) << np.int32(23)
    scales = powers[:count].view(np.float32)
    for i in range(count):
        x[i] *= scales[i]


@compiled
def norm(x: Any, centred: bool, gain: Any, bias: Any, epsilon: float, y: Any) -> None:
    """LayerNorm where centred, RMSNorm otherwise, of x (n,) into y (n,), which may be x."""
    count = x.shape[0]
    mean = np.float32(0)
    if centred:
        for i in range(count):
            mean += x[i]
        mean /= np.float32(count)
    square = np.float32(0)
    for i in range(count):
        square += (x[i] - mean) * (x[i] - mean)
    scale = np.float32(1 / math.sqrt(square / count + epsilon))
    for i in range(count):
        y[i] = (x[i] - mean) * scale
    if gain.size:
        for i in range(count):
            y[i] *= gain[i]
    if bias.size:
        for i in range(count):
            y[i] += bias[i]


# Attention


@compiled
def turn(x: Any, cosines: Any, sines: Any) -> None:
    """Rotary positions, in place: x (D,), cosines and sines (D,) of its place (gptcore/model/positions.py)."""
    half = x.shape[0] // 2
    for i in range(half):
        a, b = x[i], x[half + i]
        x[i] = a * cosines[i] - b * sines[i]
        x[half + i] = b * cosines[half + i] + a * sines[half + i]


@compiled_for(["void(float32[:,::1], int64, int64, float32[:,::1], int64, int64, float32[:,::1], int64)"])
def scores(q: Any, first: int, end: int, keys: Any, begin: int, stop: int, found: Any, column: int) -> None:
    """Queries first to end of (J, D) with keys begin to stop of (D, places): found[j, column + c - begin]."""
    width = q.shape[1]
    tile = begin
    while tile < stop:
        after = min(tile + TILE, stop)
        count, place = after - tile, column + tile - begin
        for j in range(first, end):
            line = found[j, place : place + count]
            for key in range(count):
                line[key] = 0
            i = 0
            while i + 4 <= width:
                a, b, c, d = q[j, i], q[j, i + 1], q[j, i + 2], q[j, i + 3]
                k0, k1 = keys[i, tile:after], keys[i + 1, tile:after]
                k2, k3 = keys[i + 2, tile:after], keys[i + 3, tile:after]
                for key in range(count):
                    line[key] += a * k0[key] + b * k1[key] + c * k2[key] + d * k3[key]
                i += 4
            while i < width:
                a, k0 = q[j, i], keys[i, tile:after]
                for key in range(count):
                    line[key] += a * k0[key]
                i += 1
        tile = after


@compiled
def softmax(x: Any, powers: Any) -> None:
    """In place, of (n,). `powers` (n,), int32, are used up."""
    count = x.shape[0]
    most = x[0]
    for i in range(count):
        most = max(most, x[i])
    for i in range(count):
        x[i] -= most
    exponentials(x, powers)
    total = np.float32(0)
    for i in range(count):
        total += x[i]
    total = np.float32(1) / total
    for i in range(count):
        x[i] *= total
