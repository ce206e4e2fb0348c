"""Matrix products of a few rows, a block of outputs at a time, written in LLVM's own instructions.

A loop that a compiler lays out leaves half of the speed: it adds up each sum of a block by itself, and memory waits
while it does. Here a block's sums stay in registers, are added up all together, and the matrix rows of the next block
are asked for ahead. Letters: gptcore/model/kernels.py.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils

from gptcore.model.threads import FEATURES, compiled, compiled_for, emitted

LANES = 16 if "+avx512f" in FEATURES else 8 if "+avx" in FEATURES.split(",") else 4
"""Floats of a register."""
LINE = 64
"""Bytes of a cache line."""
ROWS = 8 if LANES == 16 or platform.machine() in ("aarch64", "arm64") else 4
"""Of the largest block: these have 32 registers, others 16."""
OUTPUTS, OUTPUTS_4, OUTPUTS_2, OUTPUTS_1 = (3, 3, 4, 4) if ROWS == 4 else (3, 4, 8, 8)
"""Of a block of so many rows: as many as registers hold."""
WIDE = 2 if ROWS == 4 else 4
"""Registers of a line that weighted sums take at once."""
_WORD, _BYTE, _FLOAT, _ADDRESS = ir.IntType(32), ir.IntType(8), ir.FloatType(), ir.IntType(64)
_REGISTER = ir.VectorType(_FLOAT, LANES)
_ZERO = ir.Constant(_REGISTER, [0.0] * LANES)
_FUSED = ("contract",)


def pointer(number: Any) -> Any:
    """To numbers of a type, from an address."""

    def typed(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(number)(types.int64), generate

    return emitted(typed)


floats, bytes_, ints = pointer(types.float32), pointer(types.int8), pointer(types.int32)


def _whole(number: int) -> Any:
    return ir.Constant(_ADDRESS, number)


def _chosen(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    """The numbers at such places of two vectors laid end to end."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_WORD, len(places)), places))


def _load(builder: Any, address: Any, kind: Any = _FLOAT, count: int = LANES) -> Any:
    """So many numbers, as floats."""
    found = builder.load(builder.inttoptr(address, ir.VectorType(kind, count).as_pointer()))
    found.align = 1 if kind is _BYTE else 4
    if kind is _BYTE:
        found = builder.sitofp(builder.sext(found, ir.VectorType(_WORD, count)), ir.VectorType(_FLOAT, count))
    return found


def _totals(builder: Any, vectors: list[Any]) -> Any:
    """The sums of LANES vectors, one vector: a tree, where adding up each by itself would take four times as long."""

    def halved(first: list[int], second: list[int]) -> list[Any]:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        return [builder.fadd(_chosen(builder, a, b, first), _chosen(builder, a, b, second)) for a, b in pairs]

    quarters = range(0, LANES, 4)  # registers' parts of four floats, within which numbers move fast
    by_two = [[q + place, q + place + LANES] for q in quarters for place in range(4)]
    vectors = halved(
        [p for i, both in enumerate(by_two) if i % 4 < 2 for p in both],
        [p for i, both in enumerate(by_two) if i % 4 >= 2 for p in both],
    )
    vectors = halved(
        [q + place for q in quarters for place in (0, 1, LANES, LANES + 1)],
        [q + place for q in quarters for place in (2, 3, LANES + 2, LANES + 3)],
    )
    while len(vectors) > 1:
        parts = [[q + place for place in range(4)] for q in range(0, 2 * LANES, 4)]
        vectors = halved([p for part in parts[::2] for p in part], [p for part in parts[1::2] for p in part])
    return vectors[0]


def _product_block(rows: int, outputs: int) -> Any:
    """y[r, o] = sum over i < count of x[r, i] w[o, i], for r < groups * rows; whole cache lines of w make up `count`.

    x and y are addresses, and their widths the floats between rows; w (height, inputs) points to floats or bytes,
    and `height` is no less than `outputs`. The last outputs may be computed twice, so that every block is whole.
    """

    def typed(
        typing: Any,
        x: Any,
        x_width: Any,
        groups: Any,
        w: Any,
        height: Any,
        inputs: Any,
        count: Any,
        y: Any,
        y_width: Any,
    ) -> Any:
        kind, size = (_BYTE, 1) if w.dtype == types.int8 else (_FLOAT, 4)

        def block(
            builder: Any, x: Any, x_width: Any, w: Any, o: Any, inputs: Any, count: Any, y: Any, y_width: Any
        ) -> None:
            w_line = builder.mul(inputs, _whole(size))
            first = builder.add(w, builder.mul(w_line, o))
            matrix = [builder.add(first, builder.mul(w_line, _whole(k))) for k in range(outputs)]
            tokens = [builder.add(x, builder.mul(x_width, _whole(4 * r))) for r in range(rows)]
            ahead = builder.mul(w_line, _whole(outputs))

            def add(i: Any, sums: list[Any]) -> list[Any]:
                at = builder.mul(i, _whole(size))
                for begin in range(0, LINE // size, LANES):
                    line_at = builder.add(at, _whole(begin * size))
                    lines = [_load(builder, builder.add(line, line_at), kind) for line in matrix]
                    added = []
                    for r, token in enumerate(tokens):
                        numbers = _load(
                            builder, builder.add(token, builder.mul(builder.add(i, _whole(begin)), _whole(4)))
                        )
                        added += [_sum(builder, sums[r * outputs + k], numbers, lines[k]) for k in range(outputs)]
                    sums = added
                for line in matrix:
                    _prefetch(builder, builder.add(builder.add(line, at), ahead))
                return sums

            sums = _loop(builder, count, LINE // size, rows * outputs, add)
            for begin in range(0, len(sums), LANES):
                part = sums[begin : begin + LANES]
                totals = _totals(builder, part + [_ZERO] * (LANES - len(part)))
                for place in range(len(part)):
                    r, k = divmod(begin + place, outputs)
                    target = builder.add(builder.add(builder.mul(y_width, _whole(r)), o), _whole(k))
                    address = builder.add(y, builder.mul(target, _whole(4)))
                    number = builder.extract_element(totals, ir.Constant(_WORD, place))
                    builder.store(number, builder.inttoptr(address, _FLOAT.as_pointer()))

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, x_width, groups, w, height, inputs, count, y, y_width = arguments
            w, last = builder.ptrtoint(w, _ADDRESS), builder.sub(height, _whole(outputs))
            blocks = builder.sdiv(builder.add(height, _whole(outputs - 1)), _whole(outputs))
            with cgutils.for_range(builder, blocks) as each:
                begin = builder.mul(each.index, _whole(outputs))
                o = builder.select(builder.icmp_signed("<", begin, last), begin, last)
                with cgutils.for_range(builder, groups) as group:
                    row = builder.mul(group.index, _whole(4 * rows))
                    x_row, y_row = (builder.add(at, builder.mul(row, n)) for at, n in ((x, x_width), (y, y_width)))
                    block(builder, x_row, x_width, w, o, inputs, count, y_row, y_width)
            return context.get_dummy_value()

        return types.void(x, x_width, groups, w, height, inputs, count, y, y_width), generate

    return emitted(typed)


def _mean_block(rows: int, registers: int) -> Any:
    """y[r] += sum over c < count of odds[r, c] values[c], for so many registers of a line.

    odds, values and y are addresses, and their widths the floats between rows.
    """

    def typed(
        typing: Any, odds: Any, odds_width: Any, values: Any, width: Any, count: Any, y: Any, y_width: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            odds, odds_width, values, width, count, y, y_width = arguments
            queries = [builder.add(odds, builder.mul(odds_width, _whole(4 * r))) for r in range(rows)]

            def add(c: Any, sums: list[Any]) -> list[Any]:
                value = builder.add(values, builder.mul(builder.mul(width, _whole(4)), c))
                lines = [_load(builder, builder.add(value, _whole(4 * LANES * k))) for k in range(registers)]
                added = []
                for r, query in enumerate(queries):
                    address = builder.add(query, builder.mul(c, _whole(4)))
                    one = _load(builder, address, count=1)
                    all_ = _chosen(builder, one, one, [0] * LANES)
                    added += [_sum(builder, sums[r * registers + k], all_, lines[k]) for k in range(registers)]
                return added

            sums = _loop(builder, count, 1, rows * registers, add)
            for place, total in enumerate(sums):
                r, k = divmod(place, registers)
                address = builder.add(
                    y, builder.mul(builder.add(builder.mul(y_width, _whole(r)), _whole(LANES * k)), _whole(4))
                )
                target = builder.store(
                    builder.fadd(total, _load(builder, address)), builder.inttoptr(address, _REGISTER.as_pointer())
                )
                target.align = 4
            return context.get_dummy_value()

        return types.void(odds, odds_width, values, width, count, y, y_width), generate

    return emitted(typed)


def _sum(builder: Any, sum_: Any, a: Any, b: Any) -> Any:
    """sum_ + a b."""
    return builder.fadd(sum_, builder.fmul(a, b, flags=_FUSED), flags=_FUSED)


def _loop(builder: Any, end: Any, step: int, size: int, add: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """So many vectors that `add` has added to, from 0 on, for 0, step, 2 step ... below `end`, which is above 0."""
    before = builder.block
    loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    i = builder.phi(_ADDRESS)
    sums = [builder.phi(_REGISTER) for _ in range(size)]
    added, following = add(i, sums), builder.add(i, _whole(step))
    for number, first, later in zip([i, *sums], [_whole(0), *[_ZERO] * size], [following, *added], strict=True):
        number.add_incoming(first, before)
        number.add_incoming(later, loop)
    builder.cbranch(builder.icmp_signed("<", following, end), loop, after)
    builder.position_at_end(after)
    return added


def _prefetch(builder: Any, address: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _WORD, _WORD, _WORD])
    function = builder.module.declare_intrinsic("llvm.prefetch", [_BYTE.as_pointer()], kind)
    to_read, into_the_nearest_cache, data = (ir.Constant(_WORD, number) for number in (0, 3, 1))
    builder.call(function, [builder.inttoptr(address, _BYTE.as_pointer()), to_read, into_the_nearest_cache, data])


_block, _block_4 = _product_block(ROWS, OUTPUTS), _product_block(4, OUTPUTS_4)
_block_2, _block_1 = _product_block(2, OUTPUTS_2), _product_block(1, OUTPUTS_1)
_FEWEST = max(OUTPUTS, OUTPUTS_4, OUTPUTS_2, OUTPUTS_1)


@compiled
def _sums(x: Any, w: Any, begin: int, y: Any) -> None:
    """y[r, o] += what the inputs from `begin` on add, one by one."""
    for r in range(y.shape[0]):
        for o in range(w.shape[0]):
            total = np.float32(0)
            for i in range(begin, w.shape[1]):
                total += x[r, i] * np.float32(w[o, i])
            y[r, o] += total


_WHOLE = types.int64


@compiled_for(
    [
        types.void(_WHOLE, _WHOLE, _WHOLE, types.CPointer(kind), _WHOLE, _WHOLE, _WHOLE, _WHOLE)
        for kind in (types.float32, types.int8)
    ]
)
def multiplied(x: int, x_width: int, rows: int, w: Any, outputs: int, inputs: int, y: int, y_width: int) -> None:
    """y[r, o] = sum over i of x[r, i] w[o, i], for r < rows.

    x and y are addresses, and their widths the floats between rows; w (O, I) points to floats or bytes.
    """
    numbers = carray(w, (outputs, inputs))
    count = inputs - inputs % (LINE // numbers.itemsize) if outputs >= _FEWEST else 0
    if count:
        r = rows - rows % ROWS
        _block(x, x_width, rows // ROWS, w, outputs, inputs, count, y, y_width)
        if rows - r >= 4:
            _block_4(x + 4 * r * x_width, x_width, 1, w, outputs, inputs, count, y + 4 * r * y_width, y_width)
            r += 4
        if rows - r >= 2:
            _block_2(x + 4 * r * x_width, x_width, 1, w, outputs, inputs, count, y + 4 * r * y_width, y_width)
            r += 2
        if rows - r:
            _block_1(x + 4 * r * x_width, x_width, 1, w, outputs, inputs, count, y + 4 * r * y_width, y_width)
    if count < inputs:
        found = carray(floats(y), (rows, y_width))
        if not count:
            for r in range(rows):
                for o in range(outputs):
                    found[r, o] = 0
        _sums(carray(floats(x), (rows, x_width)), numbers, count, found)


_mean_4_wide, _mean_4, _mean_1_wide, _mean_1 = (_mean_block(*shape) for shape in ((4, WIDE), (4, 1), (1, WIDE), (1, 1)))


@compiled_for([types.void(*[_WHOLE] * 8)])
def weighted(odds: int, odds_width: int, rows: int, values: int, width: int, count: int, y: int, y_width: int) -> None:
    """y[r] += sum over c < count of odds[r, c] values[c], for r < rows; values (count, width). Addresses as above."""
    if not count:
        return
    r = 0
    while r < rows:
        four = rows - r >= 4
        odds_r, y_r, i = odds + 4 * r * odds_width, y + 4 * r * y_width, 0
        while width - i >= LANES:
            if width - i >= WIDE * LANES:
                if four:
                    _mean_4_wide(odds_r, odds_width, values + 4 * i, width, count, y_r + 4 * i, y_width)
                else:
                    _mean_1_wide(odds_r, odds_width, values + 4 * i, width, count, y_r + 4 * i, y_width)
                i += WIDE * LANES
            else:
                if four:
                    _mean_4(odds_r, odds_width, values + 4 * i, width, count, y_r + 4 * i, y_width)
                else:
                    _mean_1(odds_r, odds_width, values + 4 * i, width, count, y_r + 4 * i, y_width)
                i += LANES
        if i < width:
            lines, found = carray(floats(values), (count, width)), carray(floats(y_r), (4, y_width))
            shares = carray(floats(odds_r), (4, odds_width))
            for k in range(4 if four else 1):
                for c in range(count):
                    for place in range(i, width):
                        found[k, place] += shares[k, c] * lines[c, place]
        r += 4 if four else 1
