"""Arrays of lines: 64 bytes each, as long as a cache line and in step with them. Pure: no I/O.

What is known of one captain is then one look at memory, wherever he is among a million. numpy gathers such lines fast
by ``take``, and writes them fast where each is one thing: indexing by rows and columns takes three times as long.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

LINE_BYTES = 64
WORDS = 8  # of eight bytes in a line

Word = TypeVar("Word", np.float64, np.int64)


def lines(count: int, word: type[Word]) -> NDArray[Word]:
    """So many lines of words, not filled."""
    memory = np.empty((count + 1) * LINE_BYTES, np.uint8)
    first = -memory.ctypes.data % LINE_BYTES
    return memory[first : first + count * LINE_BYTES].view(word).reshape(count, WORDS)


def write(where: NDArray[Word], at: NDArray[np.integer[Any]], what: NDArray[Word]) -> None:
    """Write lines over those at some places."""
    _whole(where)[at] = _whole(what)


def _whole(array: NDArray[Word]) -> NDArray[np.void]:
    return array.view(f"V{LINE_BYTES}")[:, 0]
