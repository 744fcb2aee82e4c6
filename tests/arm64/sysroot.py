"""A 64-bit ARM root folder of Debian's and PyPI's own packages, whose Python runs under qemu-user on any machine."""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from debian import obtain, unpack

PROJECT = Path(__file__).parents[2]
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
DEBIAN = (PYTHON, "libgomp1", "libstdc++6")
TESTING = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis")
WITHOUT = ("ray",)
"""Requirements of the server that nothing under emulation needs."""
LIBC = ("39", "36", "35", "34", "31", "28", "27", "26", "24", "17")
"""Versions 2.x of glibc that wheels are built for."""
CPUINFO = """\
processor\t: {}
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""
LAUNCHER = """\
#!/bin/sh
exec {qemu} -cpu neoverse-n1 -L {root} {root}/usr/bin/{python} "$@"
"""
CUSTOMIZE = """\
import os, sys
sys.executable = os.environ["ARM64_PYTHON"]  # what a test starts again must be emulated, too
"""


class Sysroot:
    """The root folder: made once, used again.

    Args:
        folder: where it is, or is to be.

    Raises:
        UnavailableError: it is not there and cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.site = folder, folder / "root", folder / "site"
        self.python = folder / "python"
        ready, wanted = folder / "ready", wheels_digest()
        if not ready.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._add_emulator()
            self._add_debian()
            ready.touch()
        if ready.read_text() != wanted:  # another requirement or version since
            self._add_wheels()
            ready.write_text(wanted)
        self._write_launcher()

    def run(self, *arguments: str | Path, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run Python with this checkout's packages."""
        packages = [PROJECT / name for name in ("client", "worker", "server", "tests")]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("GROUPCONV_", "OPENBLAS_"))} | {
            "ARM64_PYTHON": str(self.python),
            "GROUPCONV_TUNE": "off",
            "HOME": str(self.folder / "home"),
            "NUMBA_CACHE_DIR": str(self.folder / "numba"),  # LLVM is 20 times slower here
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(map(str, [*packages, self.site])),
        }
        command = [str(self.python), *map(str, arguments)]
        return subprocess.run(
            command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    @property
    def _emulator(self) -> str:
        found = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
        return found or str(self.folder / "host/usr/bin/qemu-aarch64-static")

    def _add_emulator(self) -> None:
        """qemu-user, unpacked and not installed, unless the machine has it."""
        if not Path(self._emulator).exists():
            unpack("qemu-user-static", self.folder / "host")

    def _add_debian(self) -> None:
        """Debian's Python and the libraries it needs, from the sources that this machine's apt knows."""
        state = self.folder / "apt"
        for name in ("lists/partial", "cache/archives/partial"):
            (state / name).mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        options = {
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Dir::Cache": state / "cache",
            "Dir::State": state,
            "Dir::State::Lists": state / "lists",
            "Dir::State::status": state / "status",
        }
        apt = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
        obtain(*apt, "update")
        obtain(*apt, "install", "--yes", "--download-only", "--no-install-recommends", *DEBIAN)
        for package in (state / "cache/archives").glob("*.deb"):
            obtain("dpkg", "--extract", package, self.root)
        # qemu shows the host's /proc/cpuinfo, unless this folder has one; onnxruntime falls over that of an x86
        (self.root / "proc").mkdir(exist_ok=True)
        (self.root / "proc/cpuinfo").write_text("".join(CPUINFO.format(number) for number in range(2)))

    def _add_wheels(self) -> None:
        """What the client and the server require, in the versions of constraints.txt."""
        platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in LIBC] + ["--platform=manylinux2014_aarch64"]
        where = (f"--target={self.site}", "--upgrade", "--only-binary=:all:", "--constraint", "constraints.txt")
        obtain(sys.executable, "-m", "pip", "install", "--quiet", *platforms, *where, *requirements(), within=PROJECT)
        (self.site / "sitecustomize.py").write_text(CUSTOMIZE)

    def _write_launcher(self) -> None:
        text = LAUNCHER.format(qemu=self._emulator, root=self.root, python=PYTHON)
        self.python.write_text(text)
        self.python.chmod(0o755)


def requirements() -> Iterator[str]:
    """What the package with the extra `server` requires, and what the tests do."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["server"], *extras["progress"], *extras["lz4"], *TESTING]
    return (line for line in wanted if not line.startswith(("groupconv", *WITHOUT)))


def wheels_digest() -> str:
    """Of all that says which wheels there are to be."""
    text = "\n".join([*requirements(), (PROJECT / "constraints.txt").read_text()])
    return hashlib.sha256(text.encode()).hexdigest()
