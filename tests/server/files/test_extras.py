"""Libraries that only some formats need."""

import pytest

from groupconv.errors import FailedPreconditionError
from groupconv_server import files
from groupconv_server.files import extras


def test_a_missing_library_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "x.tif").touch()
    monkeypatch.setattr(extras.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(FailedPreconditionError, match=r"pip install 'groupconv\[images\]'"):
        files.open_input(tmp_path / "x.tif").__enter__()
