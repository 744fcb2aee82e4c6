"""The catalogue of named layers for benchmarks, the load test and the demo: `data/layers.csv`."""

import csv
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

import numpy as np

from groupconv.convolution.geometry import Geometry, resolve
from groupconv.convolution.spec import ConvSpec
from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class CatalogueLayer:
    """A layer of a published network, or an image filter.

    Attributes:
        name: in the catalogue.
        origin: the network.
        spec: of the convolution.
        geometry: shapes and parameters.
    """

    name: str
    origin: str
    spec: ConvSpec
    geometry: Geometry

    def with_batch(self, samples: int) -> "CatalogueLayer":
        """The layer with `samples` samples in a request.

        Example:
            >>> catalogue()["alexnet_conv2"].with_batch(4).geometry.input_shape
            (4, 96, 27, 27)
        """
        g = self.geometry
        return replace(self, geometry=resolve(self.spec, (samples, *g.input_shape[1:]), g.weight_shape))

    def arrays(self, seed: int = 0, dtype: str = "float32") -> tuple[Array, Array, Array]:
        """Random input, kernel and bias. The same seed gives the same arrays."""
        rng = np.random.default_rng(seed)
        g = self.geometry
        scale = 1 / np.sqrt(np.prod(g.weight_shape[1:]))
        x = rng.standard_normal(g.input_shape, dtype=np.float32)
        w = rng.standard_normal(g.weight_shape, dtype=np.float32) * np.float32(scale)
        b = rng.standard_normal(g.out_channels, dtype=np.float32)
        return x.astype(dtype), w.astype(dtype), b.astype(dtype)


@cache
def catalogue() -> dict[str, CatalogueLayer]:
    """All layers by name.

    Example:
        >>> catalogue()["alexnet_conv2"].geometry.groups
        2
    """
    text = resources.files("groupconv_server").joinpath("data/layers.csv").read_text()
    return read_layers(text)


def read_layers(text: str) -> dict[str, CatalogueLayer]:
    """The layers of a CSV with the catalogue's columns, by name.

    Raises:
        KeyError, ValueError: a column is missing or not a number.
    """
    return {row["name"]: _layer(row) for row in csv.DictReader(text.splitlines())}


def layer_named(name: str) -> CatalogueLayer:
    """The layer called `name`.

    Raises:
        InvalidArgumentError: there is none; the message lists the names.
    """
    try:
        return catalogue()[name]
    except KeyError:
        raise InvalidArgumentError("layer", f"one of {', '.join(catalogue())}", name) from None


def _layer(row: dict[str, str]) -> CatalogueLayer:
    n, c, h, w, m, k, g = (int(row[key]) for key in ("N", "C", "H", "W", "M", "K", "groups"))
    transposed = row["kind"] == "transposed"
    spec = ConvSpec(
        stride=int(row["stride"]),
        padding=int(row["padding"]),
        dilation=int(row["dilation"]),
        groups=g,
        transposed=transposed,
    )
    kernel = (c, m // g, k, k) if transposed else (m, c // g, k, k)
    return CatalogueLayer(row["name"], row["from"], spec, resolve(spec, (n, c, h, w), kernel))
