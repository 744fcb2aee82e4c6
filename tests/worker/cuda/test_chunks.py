"""How runs are cut into chunks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from groupconv_worker.cuda.chunks import chunk_size, chunks


@given(batch=st.integers(1, 20), groups=st.integers(1, 20), size=st.integers(1, 1000), target=st.integers(0, 10_000))
def test_chunks_cover_everything_once(batch: int, groups: int, size: int, target: int):
    seen = np.zeros((batch, groups), dtype=int)
    samples, some_groups = chunk_size(batch, groups, size, target)
    found = list(chunks(batch, groups, samples, some_groups))
    for chunk in found:
        seen[chunk.samples, chunk.groups] += 1
    assert (seen == 1).all()
    assert samples * some_groups * size <= max(target, size)
    sizes = [seen[chunk.samples, chunk.groups].size for chunk in found]
    assert sizes[0] == max(sizes)
