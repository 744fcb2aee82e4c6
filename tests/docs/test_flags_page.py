"""docs/flags.md is what the settings of the server say now."""

import importlib.util
from pathlib import Path

from groupconv_server.settings import Settings

ROOT = Path(__file__).parents[2]


def commands():
    """docs/site/commands.py."""
    spec = importlib.util.spec_from_file_location("commands", ROOT / "docs/site/commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_settings_say():
    assert (ROOT / "docs/flags.md").read_text() == commands().flags_page(), "make docs writes it anew"


def test_every_option_has_one_row_and_a_meaning():
    rows = [line.split(" | ") for line in commands().flags_page().splitlines() if line.startswith("| `--")]
    assert sorted(row[0] for row in rows) == sorted(f"| `--{name.replace('_', '-')}`" for name in Settings.model_fields)
    assert all(len(row[-1]) > 5 for row in rows)


def test_every_command_has_its_section_with_its_options():
    page = commands().commands_page()
    for heading in ("## groupconv serve", "## groupconv token new", "## groupconv layers load"):
        assert heading in page
    assert "| `--tls-cert` | `GROUPCONV_TLS_CERT` |" in page
