"""The formula of docs/operations.md for the memory of a coordinator and a worker."""

import re
from pathlib import Path

from groupconv_server.settings import Settings

PAGE = (Path(__file__).parents[1] / "docs/operations.md").read_text()
FORMULAS = dict(re.findall(r"^  (coordinator|worker) += (.+) \+ volumes in memory$", PAGE, re.MULTILINE))
MIB_PER = {"Mi": 1, "Gi": 1024, "m": 1, "g": 1024, "mb": 1, "gb": 1024}


def needed(part, variables, volumes):
    """MiB of a container.

    Args:
        part: coordinator or worker.
        variables: its environment; a limit that is not set has its default.
        volumes: MiB of its volumes in memory.
    """
    total = volumes
    for term in FORMULAS[part].split(" + "):
        factor, _, name = term.rpartition("* ")
        total += int(factor or 1) * int(name if name.isdigit() else _limit(name.replace("-", "_"), variables))
    return total


def _limit(field, variables):
    return variables.get(f"GROUPCONV_{field.upper()}", Settings.model_fields[field].default)
