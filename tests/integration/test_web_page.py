"""The page as it ships: of its sources, small, and served with headers that hold it to this server."""

import gzip
import hashlib
import re
from pathlib import Path

import pytest

from groupconv_server.config import Config
from groupconv_server.server import Server
from groupconv_server.web.app import HEADERS, PAGE
from web_calls import SMALL, http_call

SOURCES = Path(__file__).parents[2] / "client" / "web"
FIRST_VIEW = 200_000


@pytest.fixture(scope="module")
def served():
    with Server(Config(**SMALL)) as server:
        yield server


def files_of_the_first_view():
    """The document and what it names, which is all that it loads but one sample."""
    html = (PAGE / "index.html").read_text()
    return [PAGE / "index.html", *(PAGE / name for name in re.findall(r'(?:src|href)="\./([^"]+)"', html))]


def test_the_shipped_page_is_built_from_these_sources():
    names = ["index.html", "package.json", "tsconfig.json", "vite.config.ts"]
    for folder in ("public", "src", "../typescript/src"):
        found = [path for path in (SOURCES / folder).rglob("*") if path.is_file()]
        names += [f"{folder}/{path.relative_to(SOURCES / folder).as_posix()}" for path in found]
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}\0".encode() + (SOURCES / name).read_bytes())
    assert (PAGE / "sources.sha256").read_text().strip() == digest.hexdigest(), "`make web` builds it anew"


def test_the_first_view_is_small_and_loads_nothing_from_elsewhere():
    files = files_of_the_first_view()
    assert {path.suffix for path in files} == {".html", ".js", ".css", ".svg"}
    sample = max(path.stat().st_size for path in (PAGE / "samples").iterdir())
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) + sample < FIRST_VIEW
    html = (PAGE / "index.html").read_text()
    assert "//" not in html


def test_the_page_comes_with_its_headers_zipped_and_cached(served):
    status, headers, body = http_call(served, "/", method="GET", accept_encoding="gzip")
    assert status == 200
    assert headers.items() >= {name.lower(): value for name, value in HEADERS.items()}.items()
    assert headers["cache-control"] == "no-cache"
    (script,) = re.findall(r'src="\./([^"]+)"', body.decode())
    status, headers, body = http_call(served, f"/{script}", method="GET", accept_encoding="gzip")
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert "immutable" in headers["cache-control"]
    assert gzip.decompress(body) == (PAGE / script).read_bytes()


@pytest.mark.parametrize("path", ["/../app.py", "/%2e%2e/app.py", "/assets/../../app.py", "/nothing", "/assets"])
def test_no_other_file_is_served(served, path):
    assert http_call(served, path, method="GET")[0] == 404
