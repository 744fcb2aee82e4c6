"""The name of this machine's processor: measurements of one processor are of no use on another."""

import functools
import platform
import re
from pathlib import Path

import llvmlite.binding

from groupconv_worker.cpu.kernels.target import target

CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def processor() -> str:
    """The kind of processor, told apart from all others where the system tells (Linux), else the architecture."""
    try:
        text = CPUINFO.read_text()
    except OSError:
        text = ""
    return named(text) or platform.processor() or platform.machine()


def machine() -> str:
    """What a measurement depends on beside the code: the processor, and the instructions that kernels use of it."""
    return f"{processor()}, {llvmlite.binding.get_host_cpu_name()}, {target().name}"


def named(cpuinfo: str) -> str | None:
    r"""The kind of processor in the text of /proc/cpuinfo, if it says so; several kinds are joined by " + ".

    x86 has a name, which a virtual machine may shorten to that of all generations ("AMD EPYC"), so family and model
    are added. ARM mostly has no name but numbers; its cores may be of several kinds.

    Example:
        >>> named("cpu family : 6\nmodel : 106\nmodel name\t: Intel(R) Xeon(R) Processor @ 2.60GHz\n")
        'Intel Xeon Processor @ 2.60GHz (family 6, model 106)'
        >>> named("CPU implementer : 0x41\nCPU variant : 0x3\nCPU part : 0xd0c\nCPU revision : 1\n")
        'ARM (implementer 0x41, part 0xd0c, variant 0x3, revision 1)'
    """
    return " + ".join(dict.fromkeys(filter(None, map(_kind, cpuinfo.split("\n\n"))))) or None


def _kind(core: str) -> str | None:
    """The kind of one core, by the lines that /proc/cpuinfo has about it."""
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in core.split("\n"))}
    name = re.sub(r"\s+", " ", re.sub(r"\((R|TM|tm)\)", "", facts.get("model name", ""))).strip()
    if "CPU part" in facts:
        parts = ("implementer", "part", "variant", "revision")
        name, facts_of_chip = name or "ARM", {part: facts.get(f"CPU {part}") for part in parts}
    else:
        facts_of_chip = {"family": facts.get("cpu family"), "model": facts.get("model")}
    numbers = ", ".join(f"{what} {number}" for what, number in facts_of_chip.items() if number)
    return f"{name} ({numbers})" if name and numbers else name or None
