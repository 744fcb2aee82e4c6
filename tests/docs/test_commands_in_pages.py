"""Commands, options and variables that the pages name are there."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from groupconv_server.cli.app import app
from groupconv_worker.cuda.options import CudaOptions

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "deploy/k8s/README.md", ROOT / "docker-compose.yml"]
)
CODE = re.compile(r"^```(?:sh|console)\n(.*?)^```|`(groupconv [a-z][^`\n]*)`", re.MULTILINE | re.DOTALL)
SCRIPT = re.compile(r"python ((?:bench|examples)/[\w/]+\.py)((?: [^\s`#|;&]+)*)")
TARGET = re.compile(r"(?:`|^)make ([a-z][a-z0-9-]*)(?=`|\s|$)", re.MULTILINE)
ELLIPSIS = {"…", "...", "|"}


def lines(text):
    """Calls of groupconv in the code of a page, as lists of words."""
    for block, inline in CODE.findall(text):
        for line in (block or inline).replace("\\\n", " ").splitlines():
            if found := re.search(r"(?:^|[\s(;])groupconv ([a-z].*)", line):
                yield _words(found[1])


def _words(line):
    """The words of a line of a shell, up to its end, a comment, a pipe or a redirection."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;><()")
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if set(word) <= set("|&;><()"):
            break
        words.append(word)
    return words


def wrong(words):
    """What of these words no command knows."""
    command = typer.main.get_command(app())
    while hasattr(command, "commands") and words:
        name, *words = words
        if name in ELLIPSIS or not re.fullmatch(r"[a-z-]+", name):
            return []
        if name not in command.commands:
            return [name]
        command = command.commands[name]
    options = {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    return sorted(given - options)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_is_one_that_there_is(page):
    assert {" ".join(words): wrong(words) for words in lines(page.read_text()) if wrong(words)} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_and_targets_are_there_and_take_these_options(page):
    text = page.read_text()
    unknown = []
    for script, options in SCRIPT.findall(text):
        path = ROOT / script
        source = path.read_text() if path.exists() else ""
        missing = [name for name in re.findall(r"--[a-z][a-z-]*", options) if name not in source]
        if "cli.bench import engine" in source:
            missing = [name for name in missing if wrong(["bench", "engine", name])]
        unknown += [script] * (not path.exists()) + [f"{script} {name}" for name in missing]
    targets = re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert unknown + [name for name in TARGET.findall(text) if name not in targets] == []


def test_the_pages_have_many_of_them():
    assert sum(1 for page in PAGES for _ in lines(page.read_text())) > 80


def test_a_wrong_option_would_be_noticed():
    assert wrong(["serve", "--prot", "1"]) == ["--prot"]
    assert wrong(["layres", "list"]) == ["layres"]


def test_every_variable_is_one_that_the_code_reads():
    sources = [
        p for name in ("client", "worker", "server", "bench", "deploy", "tests") for p in (ROOT / name).rglob("*")
    ]
    sources += [ROOT / "docker-compose.yml", ROOT / "Makefile", ROOT / "Dockerfile", ROOT / ".ci/run"]
    kinds = {".py", ".yml", ".sh", ".cuh", ".cu", ""}
    text = "\n".join(p.read_text() for p in sources if p.is_file() and p.suffix in kinds)
    options = {f"GROUPCONV_CUDA_{field.name.upper()}" for field in fields(CudaOptions)}  # read by their names
    options |= {p.envvar for command in _commands(typer.main.get_command(app())) for p in command.params}
    for page in PAGES:
        named = set(re.findall(r"\bGROUPCONV_[A-Z_]+[A-Z]\b", page.read_text())) - options
        assert [name for name in sorted(named) if name not in text] == [], page.name


def _commands(command):
    yield command
    for sub in getattr(command, "commands", {}).values():
        yield from _commands(sub)
