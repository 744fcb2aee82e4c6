"""What MkDocs does with docs/ beside its own: navigation, links that leave the folder, pages that are generated."""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
SOURCE = "https://github.com/groupconv/groupconv"
PAGES_OF_ROOT = ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
"""Pages outside of docs/ that the site has."""
LINK = re.compile(r"(\]\()([^)\s:#]+)((?:#[^)\s]*)?\))")


def on_config(config: Any) -> Any:
    """The navigation is the list of pages in docs/README.md, and the API reference."""
    guides, reference = (ROOT / "docs/README.md").read_text().split("## Reference")
    api = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs/reference").glob("*.md"))
    config.nav = [
        {"Home": "README.md"},
        {"Guides": [*_pages(guides), *PAGES_OF_ROOT]},
        {"Reference": [*_pages(reference), "commands.md", "adr/index.md"]},
        {"Python API": api},
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root, the list of decisions and the commands."""
    from commands import commands_page  # beside this file; imported late, as it loads the command line

    for name in PAGES_OF_ROOT:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for path in sorted((ROOT / "docs").glob("*.ipynb")):
        files.append(File.generated(config, f"{path.stem}.md", content=_notebook(path)))
    rows = [f"- [{_title(path)}]({path.name})" for path in sorted((ROOT / "docs/adr").glob("*.md"))]
    decisions = "# Decisions\n\nWhat was decided, tried and lost, one decision a page.\n\n" + "\n".join(rows) + "\n"
    files.append(File.generated(config, "adr/index.md", content=decisions))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Have links lead to the page of the site, or to the source where the site has none."""
    uri = page.file.src_uri
    folder = "" if uri in PAGES_OF_ROOT else posixpath.join("docs", posixpath.dirname(uri))

    def target(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, found[2]))
        return found[1] + _address(path, found[2], posixpath.dirname(uri)) + found[3]

    return LINK.sub(target, markdown)


def _address(path: str, link: str, folder: str) -> str:
    """Where a link to `path` of the repository leads from a page in `folder` of the site; it is written as `link`."""
    if path == "docs/adr":
        return posixpath.relpath("adr/index.md", folder or ".")
    if path in PAGES_OF_ROOT:
        return posixpath.relpath(path, folder or ".")
    if path.startswith("docs/"):
        page = path.removeprefix("docs/").replace(".ipynb", ".md")
        return posixpath.relpath(page, folder or ".")
    if (ROOT / path).exists():
        return f"{SOURCE}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"
    return link  # MkDocs says that there is no such page


def _pages(text: str) -> list[str]:
    return [f"{name}.md" for name in dict.fromkeys(re.findall(r"\]\(([a-z-]+)\.(?:md|ipynb)", text))]


def _notebook(path: Path) -> str:
    """A notebook as a page: its text and its code."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def _title(path: Path) -> str:
    return path.read_text().splitlines()[0].removeprefix("# ")
