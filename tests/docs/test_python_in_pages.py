"""Python in the pages can be parsed, and names what the SDK has."""

import ast
import re
import textwrap
from pathlib import Path

import pytest

import groupconv

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PAGES.remove(ROOT / "docs/triton.md")  # whose client is Triton's
OWNERS = {
    "client": [groupconv.Client],
    "groupconv": [groupconv],
    "layer": [groupconv.Layer],
    "net": [groupconv.Network],
}
OWNERS |= {"plan": [groupconv.Plan, groupconv.NetworkPlan], "result": [groupconv.Result, groupconv.NetworkResult]}


BLOCK = re.compile(r"^ *```python\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def blocks(page):
    """The code of a page; an ellipsis is Python's."""
    return [textwrap.dedent(text).replace("…", "...") for text in BLOCK.findall(page.read_text())]


def unknown(text):
    """Attributes of the SDK's objects that they do not have."""
    tree = ast.parse(text)
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name))
    used = {(node.value.id, node.attr) for node in found if node.value.id in OWNERS}
    return sorted(f"{name}.{attribute}" for name, attribute in used if not _has(OWNERS[name], attribute))


def _has(kinds, attribute):
    return any(hasattr(kind, attribute) or attribute in getattr(kind, "__dataclass_fields__", ()) for kind in kinds)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_code_names_what_there_is(page):
    assert [name for text in blocks(page) for name in unknown(text)] == []


def test_a_wrong_name_would_be_noticed():
    assert unknown("client.conv2s(x); groupconv.ConvSpek()") == ["client.conv2s", "groupconv.ConvSpek"]
