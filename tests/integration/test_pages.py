"""The pages of docs/ name what there is: the folders of the tree, the pages, the decisions."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def listed():
    """The list of docs/design.md: the names in each top folder."""
    block = re.search(r"## The folders.*?```\n(.*?)```", (DOCS / "design.md").read_text(), re.DOTALL)[1]
    top, found = "", {}
    for line in block.splitlines():
        names = re.split(r"  +", line.strip())[0].split()
        if line.startswith(" "):
            found[top] |= set(names)
        else:
            top = names[0]
            found[top] = set()
    return found


@pytest.mark.parametrize("top", ["client/groupconv/", "worker/groupconv_worker/", "server/groupconv_server/"])
def test_design_lists_the_folders_there_are(top):
    names = listed()[top]
    folders = {f"{path.name}/" for path in (ROOT / top).iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {name for name in names if name.endswith("/")} == folders
    assert [name for name in names if not (ROOT / top / name).exists()] == []


def test_no_folder_has_more_than_20_modules():
    folders = [path for top in ("client", "worker", "server") for path in (ROOT / top).rglob("*") if path.is_dir()]
    modules = {path: [p for p in path.glob("*.py") if p.name != "__init__.py"] for path in folders}
    generated = ("v1", "v2")
    assert {str(p): len(found) for p, found in modules.items() if len(found) > 20 and p.name not in generated} == {}


def test_every_page_is_listed_once_as_a_guide_or_as_reference():
    guides, reference = (DOCS / "README.md").read_text().split("## Reference")
    pages = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    assert set(re.findall(r"\]\(([a-z-]+\.md)", guides + reference)) == pages


def test_decisions_are_numbered_without_gaps():
    pages = sorted((DOCS / "adr").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    assert all(page.read_text().startswith(f"# {n}. ") for n, page in enumerate(pages, 1))


def test_links_between_pages_lead_somewhere():
    pages = [*DOCS.glob("**/*.md"), *ROOT.glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text())]
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_pages_name_tests_that_exist():
    names = re.compile(r"(?:tests/)?((?:client|worker|server|integration)/[\w/]+\.py)")
    named = {name for page in [*DOCS.glob("*.md"), *ROOT.glob("*.md")] for name in names.findall(page.read_text())}
    tests = {name for name in named if Path(name).name.startswith("test_")}
    assert [name for name in sorted(tests) if not (ROOT / "tests" / name).exists()] == []
    assert tests
