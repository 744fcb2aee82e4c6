"""Triton's perf_analyzer, unmodified, against a server of this machine, with and without system shared memory.

    python bench/perf_analyzer.py [--layer alexnet_conv2] [--concurrency 1:8] [--window 2000] [--target HOST:PORT]

It starts a server (unless `--target` names one that allows shared memory), loads a layer of the catalogue, runs
`perf_analyzer -i grpc` twice and prints a table of what it measured.

perf_analyzer comes from PyPI on the first run, into build/out/perf_analyzer. It wants glibc 2.38; on an older Debian
its loader and libraries are taken from Debian 13's packages, by apt with lists of its own, and unpacked beside it:
nothing is installed.
"""

import argparse
import csv
import math
import platform
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import groupconv
from groupconv_server.layers.catalogue import CatalogueLayer, layer_named

FOLDER = Path(__file__).parents[1] / "build/out/perf_analyzer"
VERSION, GLIBC = "2.60.0", (2, 38)
DEBIAN, PACKAGES = "trixie", ("libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libssl3t64", "libzstd1")
COLUMNS = {
    "Concurrency": "clients",
    "Inferences/Second": "requests/s",
    "p50 latency": "p50 µs",
    "p90 latency": "p90 µs",
    "p99 latency": "p99 µs",
    "Server Queue": "queued µs",
    "Server Compute Infer": "computed µs",
}


def analyzer() -> list[str]:
    """The command that runs perf_analyzer here, fetched if need be."""
    binary = FOLDER / "perf_analyzer/bin/perf_analyzer"
    if not binary.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:")
        wheel = ("--platform", "manylinux_2_38_x86_64", "--python-version", "3.12", f"perf-analyzer=={VERSION}")
        subprocess.run([*pip, "--dest", FOLDER, *wheel], check=True)
        with zipfile.ZipFile(next(FOLDER.glob("*.whl"))) as archive:
            archive.extractall(FOLDER)
        binary.chmod(0o755)
    if tuple(map(int, platform.libc_ver()[1].split("."))) >= GLIBC:
        return [str(binary)]
    libraries = FOLDER / "root/usr/lib/x86_64-linux-gnu"
    if not libraries.exists():
        _unpack_debian(FOLDER)
    return [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries), str(binary)]


def _unpack_debian(folder: Path) -> None:
    """A newer Debian's C library and what perf_analyzer links, from the mirror this machine uses."""
    apt = folder / "apt"
    for part in ("lists/partial", "cache/archives/partial", "parts"):
        (apt / part).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    sites = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=True
    ).stdout.split()
    mirror = next(site for site in sites if site.rstrip("/").endswith("/debian"))
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sources.list").write_text(f"deb [signed-by={keyring}] {mirror} {DEBIAN} main\n")
    own = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": apt / "parts",
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Sandbox::User": "root",
    }
    options = [f"-o{name}={value}" for name, value in own.items()]
    subprocess.run(["apt-get", "-qq", *options, "update"], check=True)
    subprocess.run(["apt-get", "-qq", *options, "download", *PACKAGES], cwd=apt, check=True)
    for package in apt.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, folder / "root"], check=True)


@contextmanager
def server() -> Iterator[str]:
    """The address of a server that allows shared memory."""
    command = [sys.executable, "-m", "groupconv_server", "serve", "--port", "0", "--allow-shared-memory"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def measure(
    command: list[str], target: str, layer: CatalogueLayer, options: list[str], out: Path
) -> list[dict[str, str]]:
    """One row for each concurrency, as perf_analyzer's CSV has them: requests per second, and microseconds."""
    shape = "x:" + ",".join(map(str, layer.geometry.input_shape[1:]))
    asked = ["-m", layer.name, "-i", "grpc", "-u", target, "--shape", shape, "-f", str(out), *options]
    done = subprocess.run([*command, *asked], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"perf_analyzer ended with {done.returncode}\n{done.stdout}{done.stderr}")
    if "Failed to obtain stable measurement" in done.stdout + done.stderr:
        print(f"{out.stem}: no stable figure for some clients; try a longer --window or a larger --stability")
    with out.open() as file:
        return sorted(csv.DictReader(file), key=lambda row: int(row["Concurrency"]))


def main() -> None:
    """Fetch, serve, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", default="alexnet_conv2")
    parser.add_argument("--concurrency", default="1:8", help="first:last:step, as perf_analyzer takes it")
    parser.add_argument("--window", default=2000, type=int, help="milliseconds of one measurement; three make a row")
    parser.add_argument("--stability", default=30, type=int, help="percent that three windows may differ by")
    parser.add_argument("--target", help="a running server")
    given = parser.parse_args()
    command, layer = analyzer(), layer_named(given.layer)
    x, w, b = layer.arrays()
    y_bytes = w.itemsize * math.prod(layer.geometry.output_shape)
    common = ["--concurrency-range", given.concurrency, "-p", str(given.window), "-s", str(given.stability)]
    table = Table("shared memory", *COLUMNS.values(), box=MARKDOWN)
    with server() if given.target is None else _there(given.target) as target:
        with groupconv.connect(target, timeout=60) as client:
            client.load_layer(layer.name, w, b, layer.spec)(x)  # the first request prepares the kernel
        for memory, more in (("none", []), ("system", ["--output-shared-memory-size", str(y_bytes)])):
            options = [*common, "--shared-memory", memory, *more]
            for row in measure(command, target, layer, options, FOLDER / f"{memory}.csv"):
                table.add_row(memory, *(f"{float(row[name]):.0f}" for name in COLUMNS))
    Console(width=120).print(table)


@contextmanager
def _there(target: str) -> Iterator[str]:
    yield target


if __name__ == "__main__":
    main()
