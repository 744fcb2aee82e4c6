"""Programs from Debian's packages, unpacked and not installed."""

import subprocess
from pathlib import Path


class UnavailableError(Exception):
    """A package cannot be had on this machine."""


def unpack(package: str, folder: Path) -> None:
    """Download a package from the sources that this machine's apt knows, and unpack it into a folder.

    Raises:
        UnavailableError: there is no apt-get, or it has no such package.
    """
    folder.mkdir(exist_ok=True)
    download = ("apt-get", "-qq", "download", package)
    try:
        obtain(*download, within=folder)
    except UnavailableError:  # a new machine has no lists of packages yet
        obtain("apt-get", "-qq", "update")
        obtain(*download, within=folder)
    for archive in folder.glob("*.deb"):
        obtain("dpkg", "--extract", archive, folder)


def obtain(*command: str | Path, within: Path | None = None) -> None:
    """Run a command that fetches or unpacks packages.

    Raises:
        UnavailableError: with the last line of what it wrote.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=within, capture_output=True, text=True, timeout=900, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{words[0]}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise UnavailableError(f"{Path(words[0]).name} {words[-1]}: {last}")
