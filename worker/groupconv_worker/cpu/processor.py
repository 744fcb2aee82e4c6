"""What this machine's processor is called."""

import functools
import platform
import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def processor() -> str:
    """The model's name where the system tells (Linux), else the architecture."""
    try:
        text = CPUINFO.read_text()
    except OSError:
        text = ""
    return named(text) or platform.processor() or platform.machine()


def named(cpuinfo: str) -> str | None:
    r"""The model in the text of /proc/cpuinfo, if it has one; ARM's mostly has none.

    Example:
        >>> named("processor : 0\nmodel name\t: Intel(R) Xeon(R) Processor @ 2.60GHz\n")
        'Intel Xeon Processor @ 2.60GHz'
    """
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return re.sub(r"\s+", " ", re.sub(r"\((R|TM|tm)\)", "", found[1])).strip() if found else None
