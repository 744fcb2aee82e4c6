"""An engine against torch, onnxruntime and NumPy, layer by layer.

python bench/engine.py --help              the cpu engine (the same as `groupconv bench engine`)
python bench/engine.py --device cuda       the cuda engine beside torch's cuDNN (bench/gpu.py): needs a GPU
"""

import argparse
import runpy
import sys
from pathlib import Path

import typer

from groupconv_server.cli.bench import engine


def main() -> None:
    """Hand the other arguments to the benchmark of the device."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    chosen, sys.argv[1:] = parser.parse_known_args()
    if chosen.device == "cuda":
        runpy.run_path(str(Path(__file__).with_name("gpu.py")), run_name="__main__")
    else:
        typer.run(engine)


if __name__ == "__main__":
    main()
