"""The inner loops of a step of generation on a CPU: what torch would need many small operators for.

N = R x T tokens, of R rows T each; I inputs, O outputs of a matrix; D = head width; J queries of one head. Arrays are
contiguous float32; one of no elements stands for one that is not there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gptcore.model.threads import compiled

NONE, GELU, GELU_TANH, RELU_SQUARED, SWIGLU = range(5)
"""What follows a product."""


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
        n = np.floor(z + np.float32(0.5))
        f = (z - n) * np.float32(0.6931471805599453)
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


@compiled
def _largest(x: Any, powers: Any) -> Any:
    """Of (n,). `powers`, int32, is used up."""
    bits = x.view(np.int32)
    most = np.int32(-(1 << 31))
    for i in range(x.shape[0]):  # floats in the order of whole numbers, of which a register finds the largest
        most = max(most, bits[i] ^ ((bits[i] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    powers[0] = most ^ ((most >> np.int32(31)) & np.int32(0x7FFFFFFF))
    return powers[:1].view(np.float32)[0]


@compiled
def softmax(x: Any, powers: Any) -> None:
    """In place, of (n,). `powers` (n,), int32, are used up."""
    count = x.shape[0]
    largest = _largest(x, powers)
    for i in range(count):
        x[i] -= largest
    exponentials(x, powers)
    total = np.float32(0)
    for i in range(count):
        total += x[i]
    total = np.float32(1) / total
    for i in range(count):
        x[i] *= total


# Scoring


@compiled
def softmax_sums(x: Any, most: Any, sums: Any) -> None:
    """Of each row of x (n, V): its largest number `most` (n,), and log sum e^x `sums` (n,), float64."""
    width = 1024
    work, powers = np.empty(width, np.float32), np.empty(width, np.int32)
    for row in range(x.shape[0]):
        numbers = x[row]
        largest = _largest(numbers, powers)
        total = 0.0
        for begin in range(0, numbers.shape[0], width):
            end = min(begin + width, numbers.shape[0])
            some = work[: end - begin]
            for i in range(begin, end):
                some[i - begin] = numbers[i] - largest
            exponentials(some, powers)
            part = np.float32(0)
            for i in range(end - begin):
                part += some[i]
            total += float(part)
        most[row], sums[row] = largest, largest + math.log(total)
