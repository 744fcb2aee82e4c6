"""The cpu engine against torch, onnxruntime and NumPy, layer by layer. `python bench/engine.py --help`."""

import typer

from groupconv_server.cli.bench import engine

if __name__ == "__main__":
    typer.run(engine)
