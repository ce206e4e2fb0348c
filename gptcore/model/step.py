"""A network's pass over a few new tokens on a CPU, as one compiled function that threads go through together.

Such a pass is bound by what it reads: the weights, once, and the keys and values. What is to be done is a list of
operations, made once from the network; every thread keeps the residual stream for itself, which spares a meeting for
each norm and each sum. N = R x T tokens, J queries that meet the same keys; other letters: gptcore/model/gpt.py and
cache.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import carray
from numpy.typing import NDArray
from torch import Tensor, nn

from gptcore.model import kernels
from gptcore.model.blocks import bytes_, floats, ints, multiplied, weighted
from gptcore.model.cache import Cache
from gptcore.model.cpu import EPSILON
from gptcore.model.gpt import GPT
from gptcore.model.int8 import Int8Linear, Int8Table
from gptcore.model.kernels import activate, norm, softmax, turn
from gptcore.model.threads import TEAM, compiled, meet, take

Whole = NDArray[np.int64]

CHUNK = 32
"""Outputs of a matrix that a thread takes at once."""
WORTH_THREADS = 1 << 19
"""Weights from which more than one thread is faster."""
LINE = 16
"""Floats of a cache line: where every buffer begins."""
ACTIVATIONS = {
    "gelu": kernels.GELU,
    "gelu_tanh": kernels.GELU_TANH,
    "relu_squared": kernels.RELU_SQUARED,
    "swiglu": kernels.SWIGLU,
}

# Operations, and what the places of an operation's line mean. Addresses are 0 for what is not there.
NORM, ADD, PRODUCT, PRODUCT_INT8, ATTEND, MEET = range(6)
KIND, X, Y, GAIN, BIAS, CENTRED = range(6)
_, _, _, MATRIX, _, SCALE, OUTPUTS, INPUTS, ACTIVATION, WIDTH, COLUMN = range(11)
_, LAYER, BAND, Q_GAIN, K_GAIN, KEYS, VALUES, PLACES, PROMPT_KEYS, PROMPT_VALUES, COLUMNS = range(11)
FIELDS = 11
# Buffers. The first ones are each thread's own.
STREAM, WORK, FOUND, QUERIES, ANSWERS, SCORES, QKV, ATTENDED, SUMMAND, HIDDEN, LOGITS = range(11)
SHARED = QKV
# Settings; TURNED is how many positions have an angle.
TOKENS, HEADS_SHARED, HEAD_WIDTH, HEAD_NORMS, COUNT_QUERIES, COUNT_COLUMNS, TURNED, COSINES, SINES, POWERS = range(10)


@compiled
def _line(address: int, length: int) -> Any:
    """(length,), or nothing where the address is 0."""
    return carray(floats(address), (length if address else 0,))


@compiled
def _buffer(room: int, places: Any, which: int, thread: int, rows: int, width: int) -> Any:
    """(rows, width)."""
    return carray(floats(room + 4 * (places[which, 0] + thread * places[which, 1])), (rows, width))


@compiled
def _product(meeting: Any, what: int, op: Any, x: Any, y: Any, found: Any, powers: Any) -> None:
    """y (N, WIDTH) from COLUMN on becomes activation(x w^T * scale + bias), x (N, INPUTS), found (N, 3 CHUNK).

    SWIGLU: half of the matrix (OUTPUTS, INPUTS) makes gates, the other half what they meet.
    """
    rows, inputs, column, activation = x.shape[0], x.shape[1], op[COLUMN], op[ACTIVATION]
    halves = 2 if activation == kernels.SWIGLU else 1
    outputs = op[OUTPUTS] // halves
    scale, bias = _line(op[SCALE], op[OUTPUTS]), _line(op[BIAS], op[OUTPUTS])
    while True:
        first = take(meeting, what) * CHUNK
        if first >= outputs:
            return
        count = min(CHUNK, outputs - first)
        for half in range(halves):
            begin = half * outputs + first
            chunk = found.ctypes.data + 4 * half * CHUNK
            if op[KIND] == PRODUCT_INT8:
                multiplied(
                    x.ctypes.data,
                    inputs,
                    rows,
                    bytes_(op[MATRIX] + begin * inputs),
                    count,
                    inputs,
                    chunk,
                    found.shape[1],
                )
            else:
                multiplied(
                    x.ctypes.data,
                    inputs,
                    rows,
                    floats(op[MATRIX] + 4 * begin * inputs),
                    count,
                    inputs,
                    chunk,
                    found.shape[1],
                )
            for r in range(rows):
                line = found[r, half * CHUNK : half * CHUNK + count]
                if scale.size:
                    for i in range(count):
                        line[i] *= scale[begin + i]
                if bias.size:
                    for i in range(count):
                        line[i] += bias[begin + i]
        for r in range(rows):
            line = found[r, (halves - 1) * CHUNK : (halves - 1) * CHUNK + count]
            activate(line, found[r, :count], activation, found[r, 2 * CHUNK : 2 * CHUNK + count], powers)
            target = y[r, column + first : column + first + count]
            for i in range(count):
                target[i] = line[i]


@compiled
def _attention(
    meeting: Any, what: int, op: Any, settings: Any, epsilon: float, counts: Any, lengths: Any, qkv: Any,
    attended: Any, q: Any, answers: Any, found: Any, powers: Any,
) -> None:  # fmt: skip
    """Of T new tokens a row to all before them and to each other; their keys and values are kept.

    qkv (N, (H + 2 H_kv) D), attended (N, C); q, answers (J, D) and found (J, columns and places) are used up. counts
    (R,): tokens in each row's store; lengths (G,) of prompts. Keys and values (R, H_kv, places, D) are rings; those of
    prompts that stand apart (G, H_kv, columns, D) end in the last column.
    """
    tokens, shared, width, normed = settings[TOKENS], settings[HEADS_SHARED], settings[HEAD_WIDTH], settings[HEAD_NORMS]
    groups, places, columns, band = lengths.shape[0], op[PLACES], op[COLUMNS], op[BAND]
    cosines = carray(floats(settings[COSINES]), (settings[TURNED], width))
    sines = carray(floats(settings[SINES]), (settings[TURNED], width))
    q_gain, k_gain = _line(op[Q_GAIN], width), _line(op[K_GAIN], width)
    n = counts.shape[0] // groups
    each = qkv.shape[1] // width // shared - 2  # query heads that share a head of keys and values
    heads, queries, reach = each * shared, n * tokens * each, found.shape[1]
    keys = carray(floats(op[KEYS]), (counts.shape[0], shared, places, width))
    values = carray(floats(op[VALUES]), (counts.shape[0], shared, places, width))
    prompt_keys = carray(floats(op[PROMPT_KEYS]), (groups, shared, columns, width))
    prompt_values = carray(floats(op[PROMPT_VALUES]), (groups, shared, columns, width))
    while True:
        task = take(meeting, what)
        if task >= groups * shared:
            return
        group, head = task // shared, task % shared
        for place in range(n * tokens):  # what is new
            row, token = group * n + place // tokens, group * n * tokens + place
            count = counts[row] + place % tokens
            position = min(count + (lengths[group] if columns else 0), settings[TURNED] - 1)
            for e in range(each + 1):  # the queries, then the key
                at = (heads + head) * width if e == each else (head * each + e) * width
                line = qkv[token, at : at + width]
                if normed:
                    norm(line, False, k_gain if e == each else q_gain, k_gain[:0], epsilon, line)
                if settings[TURNED]:
                    turn(line, cosines[position], sines[position])
                if e < each:
                    for i in range(width):
                        q[place * each + e, i] = line[i] * np.float32(1 / np.sqrt(width))
                else:
                    for i in range(width):
                        keys[row, head, count % places, i] = line[i]
            at = (heads + shared + head) * width
            for i in range(width):
                values[row, head, count % places, i] = qkv[token, at + i]
        for j in range(queries):
            for i in range(width):
                answers[j, i] = 0
        if columns:
            lines = floats(prompt_keys[group, head].ctypes.data)
            multiplied(q.ctypes.data, width, queries, lines, columns, width, found.ctypes.data, reach)
        for place in range(n * tokens):
            row, first = group * n + place // tokens, place * each
            newest = counts[row] + place % tokens
            oldest = max(0, newest - band + 1) if band else 0
            hidden = max(columns - lengths[group], 0)  # columns that are not the prompt's, or beyond the band
            if band:
                hidden = min(max(hidden, columns + newest - band + 1), columns)
            begin, stop = oldest % places, newest % places + 1
            turns = 2 if begin >= stop else 1  # round the ring
            asked = q[first : first + each].ctypes.data
            for part in range(turns):
                at, to = 0 if part else begin, stop if part == turns - 1 else places
                column = columns + part * (places - begin)
                lines, line = floats(keys[row, head, at:].ctypes.data), found[first:, column:].ctypes.data
                multiplied(asked, width, each, lines, to - at, width, line, reach)
            for j in range(first, first + each):
                for i in range(hidden):
                    found[j, i] = 0
                softmax(found[j, hidden : columns + newest - oldest + 1], powers)
            for part in range(turns):
                at, to = 0 if part else begin, stop if part == turns - 1 else places
                odds = found[first:, columns + part * (places - begin) :].ctypes.data
                lines, ours = values[row, head, at:].ctypes.data, answers[first:].ctypes.data
                weighted(odds, reach, each, lines, width, to - at, ours, width)
        if columns:
            lines = prompt_values[group, head].ctypes.data
            weighted(found.ctypes.data, reach, queries, lines, width, columns, answers.ctypes.data, width)
        for place in range(n * tokens):
            for e in range(each):
                for i in range(width):
                    attended[group * n * tokens + place, (head * each + e) * width + i] = answers[place * each + e, i]


@compiled
def _step(
    meeting: Any, thread: int, threads: int, ops: Any, room: int, places: Any, settings: Any, epsilon: float, rows: int,
    c: int, counts: Any, lengths: Any,
) -> None:  # fmt: skip
    """All operations (see `Step`); the streams of all threads hold what the first of them reads."""
    size = max(settings[COUNT_COLUMNS], CHUNK)
    powers, times = carray(ints(settings[POWERS] + 4 * thread * size), (size,)), 0
    heads, width = settings[HEADS_SHARED], settings[HEAD_WIDTH]
    for what in range(ops.shape[0]):
        op = ops[what]
        kind = op[KIND]
        if kind == MEET:
            times += 1
            if not meet(meeting, threads, times):
                return
        elif kind == NORM:
            x, y = _buffer(room, places, op[X], thread, rows, c), _buffer(room, places, op[Y], thread, rows, c)
            gain, bias = _line(op[GAIN], c), _line(op[BIAS], c)
            for r in range(rows):
                norm(x[r], op[CENTRED] == 1, gain, bias, epsilon, y[r])
        elif kind == ADD:
            x, y = _buffer(room, places, op[X], thread, rows, c), _buffer(room, places, op[Y], thread, rows, c)
            for r in range(rows):
                for i in range(c):
                    y[r, i] += x[r, i]
        elif kind == ATTEND:
            queries = settings[COUNT_QUERIES]
            qkv = _buffer(room, places, QKV, 0, rows, c + 2 * heads * width)
            attended = _buffer(room, places, ATTENDED, 0, rows, c)
            q = _buffer(room, places, QUERIES, thread, queries, width)
            answers = _buffer(room, places, ANSWERS, thread, queries, width)
            found = _buffer(room, places, SCORES, thread, queries, settings[COUNT_COLUMNS])
            _attention(
                meeting, what, op, settings, epsilon, counts, lengths, qkv, attended, q, answers, found, powers
            )  # fmt: skip
        else:
            x = _buffer(room, places, op[X], thread, rows, op[INPUTS])
            y = _buffer(room, places, op[Y], thread, rows, op[WIDTH])
            _product(meeting, what, op, x, y, _buffer(room, places, FOUND, thread, rows, 3 * CHUNK), powers)


def fits(model: GPT) -> bool:
    """Whether the function knows all that the network is made of."""
    layers = [layer for block in model.parts for layer in (*block.qkv, block.out, block.up, block.down)]
    known = all(type(layer) in (nn.Linear, Int8Linear) for layer in layers)
    types = {tensor.dtype for tensor in (*model.parameters(), *model.buffers())}
    return known and model.device.type == "cpu" and types <= {torch.float32, torch.int8}


def is_compiled() -> bool:
    """Whether an earlier process has left the function on disk; to compile it takes about 20 seconds."""
    dispatcher: Any = _step
    folder = dispatcher.stats.cache_path
    return folder is not None and any(Path(folder).glob("step._step-*.nbi"))


def _op(*line: int) -> list[int]:
    """An operation's line."""
    return [*line, *[0] * (FIELDS - len(line))]


class Step:
    """A network made ready for it; shares every tensor with the model."""

    def __init__(self, model: GPT, threads: int) -> None:
        self._model, config = model, model.config
        self._kept: list[NDArray[Any]] = []  # what is addressed
        first, c = model.parts[0], config.n_embd
        self._shared, self._head_width = config.n_kv_head or config.n_head, c // config.n_head
        self._inner: int = first.down.weight.shape[1]
        self._head_norms = first.q_norm is not None
        self._epsilon: float = getattr(first.norm_1, "eps", EPSILON)
        self._qkv = c + 2 * self._shared * self._head_width
        turns = (None, None) if (r := model.rotary) is None else (r.cosines, r.sines)
        self._turns = 0 if r is None else config.context, *(self._address(table) for table in turns)
        meet = _op(MEET)
        ops = []
        for layer, p in enumerate(model.parts):
            read = STREAM if p.post_norm else WORK
            if not p.post_norm:
                ops.append(self._norm(p.norm_1, STREAM, WORK))
            column = 0
            for matrix in p.qkv:
                ops.append(self._product(matrix, read, QKV, self._qkv, column))
                column += len(matrix.weight)
            gains = (self._address(None if n is None else n.weight) for n in (p.q_norm, p.k_norm))
            ops += [
                meet,
                _op(ATTEND, layer, p.band or 0, *gains),
                meet,
                self._product(p.out, ATTENDED, SUMMAND, c),
            ]
            ops += [meet, _op(ADD, SUMMAND, STREAM)]
            ops.append(self._norm(p.norm_1, STREAM, STREAM) if p.post_norm else self._norm(p.norm_2, STREAM, WORK))
            ops += [self._product(p.up, read, HIDDEN, self._inner, 0, ACTIVATIONS[p.activation]), meet]
            ops += [self._product(p.down, HIDDEN, SUMMAND, c), meet, _op(ADD, SUMMAND, STREAM)]
            if p.post_norm:
                ops.append(self._norm(p.norm_2, STREAM, STREAM))
        if model.last_norm is not None:
            ops.append(self._norm(model.last_norm, STREAM, STREAM))
        ops += [self._product(model.last, STREAM, LOGITS, config.vocab_size), meet]
        self._ops = np.array(ops, np.int64)
        products = self._ops[np.isin(self._ops[:, KIND], (PRODUCT, PRODUCT_INT8))]
        self._threads = threads if (products[:, OUTPUTS] * products[:, INPUTS]).sum() >= WORTH_THREADS else 1
        self._attends = np.flatnonzero(self._ops[:, KIND] == ATTEND)

    def _norm(self, layer: Any, x: int, y: int) -> list[int]:
        bias = self._address(getattr(layer, "bias", None))
        return _op(NORM, x, y, self._address(layer.weight), bias, int(isinstance(layer, nn.LayerNorm)))

    def _product(
        self, layer: Any, x: int, y: int, width: int, column: int = 0, activation: int = kernels.NONE
    ) -> list[int]:
        """Of a linear layer or a token table. width: columns of y."""
        rounded, bias = isinstance(layer, Int8Linear | Int8Table), self._address(getattr(layer, "bias", None))
        kind, scale = (PRODUCT_INT8, self._address(layer.matrix.scale)) if rounded else (PRODUCT, 0)
        return _op(kind, x, y, self._address(layer.weight), bias, scale, *layer.weight.shape, activation, width, column)

    def _address(self, tensor: Tensor | None) -> int:
        """Of its first number; 0 for none."""
        if tensor is None:
            return 0
        self._kept.append(tensor.detach().contiguous().numpy())
        return self._kept[-1].ctypes.data

    def __call__(self, ids: Tensor, cache: Cache) -> Tensor:
        """T new tokens a row (R, T) -> logits of what follows each (R, T, V)."""
        config, tokens = self._model.config, ids.shape[1]
        last = config.context - 1  # rows that have ended, and vain guesses, may stand beyond
        start = self._model.embed(ids, cache.begin(tokens).clamp_(max=last)).flatten(0, 1)  # (N, C)
        ops, columns = self._ops.copy(), 0
        for place in self._attends:
            keys, values, *prompts = cache.stores(ops[place, LAYER])
            ops[place, KEYS : PLACES + 1] = keys.data_ptr(), values.data_ptr(), keys.shape[2]
            if prompts:
                ops[place, PROMPT_KEYS:] = prompts[0].data_ptr(), prompts[1].data_ptr(), prompts[0].shape[2]
            columns = max(columns, int(ops[place, PLACES] + ops[place, COLUMNS]))
        threads = self._threads
        queries = len(cache.counts) // len(cache.lengths) * tokens * (config.n_head // self._shared)
        (rows, c), d = start.shape, self._head_width
        sizes = [rows * c, rows * c, rows * 3 * CHUNK, queries * d, queries * d, queries * columns]
        sizes += [rows * width for width in (self._qkv, c, c, self._inner, config.vocab_size)]
        places, end = np.zeros((len(sizes), 2), np.int64), 0
        for buffer, size in enumerate(sizes):
            stride = -(-size // LINE) * LINE
            places[buffer] = end, stride if buffer < SHARED else 0
            end += stride * (threads if buffer < SHARED else 1)
        room = torch.empty(end)
        for thread in range(threads):
            first = thread * int(places[STREAM, 1])
            room[first : first + rows * c].view(rows, c)[:] = start
        powers = torch.empty(threads * max(columns, CHUNK), dtype=torch.int32)
        settings = [tokens, self._shared, d, self._head_norms, queries, columns, *self._turns, powers.data_ptr()]
        numbers, address = np.array(settings, np.int64), room.data_ptr()
        counts, lengths = np.array(cache.counts), np.array(cache.lengths)

        def step(meeting: Whole, thread: int) -> None:
            _step(
                meeting, thread, threads, ops, address, places, numbers, self._epsilon, rows, c, counts, lengths
            )  # fmt: skip

        TEAM.run(threads, len(ops), step)
        first = int(places[LOGITS, 0])
        return room[first : first + rows * config.vocab_size].view(*ids.shape, -1)
