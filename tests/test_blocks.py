"""Matrix products of a few rows (gptcore/model/blocks.py)."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from gptcore.model import threads
from gptcore.model.blocks import bytes_, floats, multiplied, weighted

# Whole blocks and registers, one number less and more, and less than one.
ROWS = [1, 2, 3, 4, 7, 8, 9, 13, 16, 64]
OUTPUTS = [1, 2, 7, 8, 9, 32, 45]
INPUTS = [1, 10, 16, 17, 64, 80, 128]
PADDING = 3
"""Floats between rows that must stay as they are."""


@numba.njit
def product(x, x_width, rows, w, outputs, inputs, y, y_width, rounded):
    """With a matrix at an address."""
    if rounded:
        multiplied(x, x_width, rows, bytes_(w), outputs, inputs, y, y_width)
    else:
        multiplied(x, x_width, rows, floats(w), outputs, inputs, y, y_width)


def padded(draw, rows, width):
    """(rows, width) numbers with some between the rows."""
    return draw.standard_normal((rows, width + PADDING)).astype(np.float32)


@pytest.mark.parametrize("rounded", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("inputs", INPUTS)
def test_products(inputs, rounded):
    draw = np.random.default_rng(inputs)
    for rows in ROWS:
        for outputs in OUTPUTS:
            x, y = padded(draw, rows, inputs), padded(draw, rows, outputs)
            w = draw.integers(-128, 128, (outputs, inputs), np.int8)
            if not rounded:
                w = draw.standard_normal((outputs, inputs)).astype(np.float32)
            expected = np.concatenate([x[:, :inputs].astype(float) @ w.T, y[:, outputs:]], axis=1)
            product(x.ctypes.data, x.shape[1], rows, w.ctypes.data, outputs, inputs, y.ctypes.data, y.shape[1], rounded)
            np.testing.assert_allclose(
                y, expected, atol=2e-6 * inputs * (128 if rounded else 1), err_msg=f"{rows, outputs}"
            )


@pytest.mark.parametrize("width", [1, 10, 16, 17, 64, 80, 128])
def test_weighted_sums(width):
    draw = np.random.default_rng(width)
    for rows in ROWS:
        for count in (0, 1, 2, 45):
            odds, y = padded(draw, rows, count), padded(draw, rows, width)
            values = draw.standard_normal((count, width)).astype(np.float32)
            expected = y.astype(float)
            expected[:, :width] += odds[:, :count].astype(float) @ values
            weighted(odds.ctypes.data, odds.shape[1], rows, values.ctypes.data, width, count, y.ctypes.data, y.shape[1])
            np.testing.assert_allclose(y, expected, atol=1e-4, err_msg=f"{rows, count}")


@pytest.mark.skipif("+avx512f" not in threads.FEATURES, reason="this processor has narrower registers")
@pytest.mark.parametrize("name, wider", [("haswell", ("avx512", "amx")), ("nehalem", ("avx", "fma", "f16c", "amx"))])
def test_narrower_registers(tmp_path, name, wider):
    features = ",".join(f for f in threads.FEATURES.split(",") if not f[1:].startswith(wider))
    narrow = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "products or weighted", __file__],
        env=os.environ | narrow, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout
    assert any(tmp_path.rglob("*.nbi"))


def test_machine_code_is_kept_by_the_digest_of_all_its_sources():
    folder = Path(threads.__file__).parent
    using = {
        file.name for file in folder.glob("*.py") if "@compiled" in file.read_text() or "emitted(" in file.read_text()
    }
    assert set(threads.COMPILED) == using
    assert threads._FOLDER in (threads.meet.stats.cache_path, Path(threads.meet.stats.cache_path).parent)
