"""The site of `make docs`: every public name is in it, nothing is loaded from elsewhere, a broken link is an error."""

import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import groupconv
from groupconv import errors

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # `make lint` builds the site, too


def build(root, out):
    """Build the site of a checkout."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(out)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": "docs/site"}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_public_name_is_in_the_reference(site):
    lines = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode().splitlines()
    documented = {line.split()[0].rpartition(".")[2] for line in lines}
    public = set(groupconv.__all__) - {"aio"} | {name for name in vars(errors) if name.endswith("Error")}
    public |= {name for name in dir(groupconv.Client) if not name.startswith("_")}
    assert public - documented == set()


def test_nothing_is_loaded_from_elsewhere(site):
    loads = re.compile(
        r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|@import\s+["'(]|url\(["']?https?:"""
    )
    sheets = re.compile(
        r"""<link\b[^>]*\brel=["']?(?:stylesheet|preconnect|preload)["']?[^>]*href=["']?(?:https?:)?//"""
    )
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 30
    assert [page.name for page in pages if loads.search(page.read_text()) or sheets.search(page.read_text())] == []


def test_the_commands_and_the_notebook_are_pages(site):
    assert "groupconv token new" in (site / "commands.html").read_text()
    assert "def" in (site / "tutorial.html").read_text()
    assert "0012" in (site / "adr/index.html").read_text()


def test_broken_links_fail_the_build(tmp_path):
    links = ["nowhere.md", "access.md#no-such-heading", "../no/such/file.py"]
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("mkdocs.yml", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "client", "worker", "server"):
        (tmp_path / name).symlink_to(ROOT / name)
    with (tmp_path / "docs/api.md").open("a") as page:
        page.writelines(f"\n[broken]({link})\n" for link in links)
    done = build(tmp_path, tmp_path / "out")
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert [link for link in links if link not in output] == []
