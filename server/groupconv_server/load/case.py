"""A kind of request of the load test: its data, how it is sent, and its correct answer."""

from contextlib import suppress

import numpy as np

from groupconv import Step
from groupconv.client import Client
from groupconv.convolution.steps import Array
from groupconv.errors import NotFoundError
from groupconv.layer import Layer
from groupconv_server.layers.catalogue import layer_named
from groupconv_server.load.profile import RequestKind
from groupconv_worker import reference

TOLERANCE = 1e-4
"""Largest allowed error in float32, relative to the largest output."""


class LoadCase:
    """An entry of a profile with its arrays and its answer, which the float64 reference computes once.

    Args:
        entry: of the profile.
        seed: of the arrays.
        run: distinguishes the layers of this load from those of others.

    Attributes:
        layer: the name under which a resident case loads its layer.
    """

    def __init__(self, entry: RequestKind, seed: int, run: str) -> None:
        single = layer_named(entry.layer)
        layer = single.with_batch(entry.batch)
        self.name, self.transport, self.resident, self.cut = entry.name, entry.transport, entry.resident, entry.cut
        self.x = layer.arrays(seed)[0]
        _, self.weight, self.bias = single.arrays(seed)  # equal for all batches: a layer is deployed once
        self.spec = layer.spec
        self._want = reference.convolve(self.x, self.weight, self.bias, layer.geometry)
        self._atol = TOLERANCE * float(np.abs(self._want).max())
        self.layer = f"load/{run}/{entry.layer}"

    def deploy(self, client: Client) -> Layer | None:
        """Load the weights on the server, if the case is resident.

        Raises:
            GroupconvError: the server refused it.
        """
        return client.load_layer(self.layer, self.weight, self.bias, self.spec) if self.resident else None

    def find(self, client: Client) -> Layer | None:
        """The layer, if another client has loaded it; else load it.

        Raises:
            GroupconvError: as `deploy`.
        """
        try:
            return client.get_layer(self.layer) if self.resident else None
        except NotFoundError:
            return self.deploy(client)

    def unload(self, client: Client) -> None:
        """Unload the layer of a resident case, if it is there.

        Raises:
            GroupconvError: the server does not answer.
        """
        if self.resident:
            with suppress(NotFoundError):
                client.unload_layer(self.layer)

    def send(self, client: Client, layer: Layer | None) -> Array:
        """Send one request. A resident case needs a `layer` of this client.

        Raises:
            GroupconvError: as `deploy`.
        """
        if layer is not None:
            return layer(self.x, cut=self.cut)
        if self.transport == "unary":
            return client.convolve(self.x, self.weight, self.bias, self.spec, cut=self.cut)
        steps = [Step(self.weight, self.bias, self.spec)]
        answer: Array = client.stream_convolve(self.x, steps, timeout=client.timeout)
        return answer

    def error(self, answer: Array) -> str | None:
        """How an answer is wrong; None if it is right."""
        if answer.shape != self._want.shape:
            return f"expected the shape {self._want.shape}, got {answer.shape}"
        worst = float(np.abs(answer - self._want).max())
        if not worst <= self._atol:  # also if it is NaN
            return f"expected an error up to {self._atol:.2g}, got {worst:.2g}"
        return None
