"""Lines of memory: each as long as a cache line and in step with them, and written as one thing."""

from __future__ import annotations

import numpy as np
import pytest

from dispatcher.memory_lines import LINE_BYTES, WORDS, lines, write


@pytest.mark.parametrize("count", [1, 3, 5_000])
def test_every_line_begins_where_a_cache_line_does(count: int) -> None:
    made = lines(count, np.float64)
    assert made.shape == (count, WORDS)
    assert made.ctypes.data % LINE_BYTES == 0
    assert made.strides == (LINE_BYTES, LINE_BYTES // WORDS)


def test_lines_are_written_where_they_are_wanted_and_nowhere_else() -> None:
    there = lines(6, np.int64)
    there[:] = np.arange(6)[:, None]
    write(there, np.array([4, 1]), np.array([[40] * WORDS, [10] * WORDS]))
    assert there[:, 0].tolist() == [0, 10, 2, 3, 40, 5]
    assert (there == there[:, :1]).all()
