"""How much smaller a stream's chunks get, and what that costs: `python bench/compression.py`."""

import time

import numpy as np
from skimage import data

from groupconv.wire.compress import compressed, expanded
from groupconv_server.files.filters import filtering
from groupconv_worker.contract import Problem
from groupconv_worker.engines import create_engine


def blurred(x: np.ndarray) -> np.ndarray:
    """One channel through a Gaussian."""
    import groupconv
    from groupconv.convolution.dtypes import types_of

    (step,) = filtering("gaussian:2", None, 1, "YX", alpha=False).steps
    g = groupconv.resolve(step.spec, x.shape, step.kernel.shape)
    y = np.empty(g.output_shape, np.float32)
    engine = create_engine("cpu", threads=1)
    engine.prepare(Problem(g, types_of(x.dtype, step.kernel.dtype)), step.kernel).run(x, y)
    engine.close()
    return y


def main() -> None:
    """A chunk of each kind of values."""
    photo = np.ascontiguousarray(data.astronaut().transpose(2, 0, 1)[:1][None])
    kinds = {
        "photograph, uint8": photo,
        "photograph, float32": photo.astype(np.float32),
        "blurred, float32": blurred(photo),
        "noise, float32": np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32),
    }
    for name, array in kinds.items():
        chunk = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))[: 2**20]
        begin = time.perf_counter()
        for _ in range(9):
            small = compressed(chunk, array.itemsize)
        middle = time.perf_counter()
        if small is None:
            print(f"{name:20} does not shrink")
            continue
        for _ in range(9):
            expanded(small, array.itemsize)
        end = time.perf_counter()
        there, back = (9 * len(chunk) / 2**20 / s for s in (middle - begin, end - middle))
        print(
            f"{name:20} {len(small.data) / len(chunk):.2f} of it, {there:.0f} MiB/s to compress, {back:.0f} to expand"
        )


if __name__ == "__main__":
    main()
