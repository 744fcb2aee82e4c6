"""Files as maps of a network."""

import os

import numpy as np
import pytest

from groupconv.errors import DataLossError
from groupconv.networks.tensors import TensorInfo
from groupconv_server import files
from groupconv_server.networks.file_maps import FileMap


def test_a_file_that_becomes_shorter_between_windows_of_the_same_rows_is_an_error(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.ones((300, 270), np.float32))
    info = TensorInfo("x", np.dtype(np.float32), ("N", 1, "H", "W"))
    every = slice(None)
    with files.open_input(path) as opened:
        read = FileMap(opened.array, info)
        assert read[every, every, 0:300, 0:100].shape == (1, 1, 300, 100)
        os.truncate(path, 1000)
        with pytest.raises(
            DataLossError, match=rf"input: expected \d+ bytes in {path}, got 1000: the file became shorter"
        ):
            read[every, every, 0:300, 100:200]
