"""Copies of host arrays on several threads."""

import threading

import numpy as np
import pytest

from groupconv.convolution.dtypes import BFLOAT16
from groupconv_worker.cuda.copying import LEAST, Copier


@pytest.fixture(scope="module")
def copier():
    copier = Copier(3)
    yield copier
    copier.close()


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16, np.int8])
@pytest.mark.parametrize("size", [0, 1000, LEAST - 1, LEAST, 3 * LEAST + 4])
@pytest.mark.parametrize("layout", ["whole", "some channels", "every other column"])
def test_every_element_arrives_and_nothing_beside_it(copier: Copier, dtype: np.dtype, size: int, layout: str):
    count = size // np.dtype(dtype).itemsize
    wide_x = np.random.default_rng(1).integers(-100, 100, (2, 2, count)).astype(dtype)
    wide_out = np.full_like(wide_x, 7)
    part = {"whole": (...,), "some channels": np.s_[:, 1:], "every other column": np.s_[..., ::2]}[layout]
    copier(wide_out[part], wide_x[part])
    want = np.full_like(wide_x, 7)
    want[part] = wide_x[part]
    np.testing.assert_array_equal(wide_out.view(np.uint8), want.view(np.uint8))


def test_copies_of_several_threads_do_not_meet(copier: Copier):
    xs = [np.random.default_rng(i).integers(0, 255, LEAST * (i + 1), np.uint8) for i in range(4)]
    outs = [np.zeros_like(x) for x in xs]

    def run(i: int) -> None:
        for _ in range(20):
            outs[i][:] = 0
            copier(outs[i], xs[i])
            assert np.array_equal(outs[i], xs[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out, x in zip(outs, xs, strict=True):
        np.testing.assert_array_equal(out, x)
