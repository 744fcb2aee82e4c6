"""One kind of request: its data, how it is asked, and what a right answer is."""

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
"""Largest error of an answer, relative to the largest output, that counts as right in float32."""


class LoadCase:
    """An entry of a profile with its arrays and its answer, which the float64 reference computes here, once."""

    def __init__(self, entry: RequestKind, seed: int) -> None:
        one = layer_named(entry.layer)
        layer = one.with_batch(entry.batch)
        self.name, self.transport, self.resident = entry.name, entry.transport, entry.resident
        self.x = layer.arrays(seed)[0]
        _, self.weight, self.bias = one.arrays(seed)  # the same for every batch: a layer is deployed once
        self.spec = layer.spec
        self._want = reference.convolve(self.x, self.weight, self.bias, layer.geometry)
        self._atol = TOLERANCE * float(np.abs(self._want).max())
        # the seed tells loads with other data apart
        self._layer = f"load/{entry.layer}/{seed}"

    def deploy(self, client: Client) -> Layer | None:
        """Leave the weights on the server, where the case is a resident one.

        Raises:
            GroupconvError: the subclass of the status the server answered with.
        """
        return client.load_layer(self._layer, self.weight, self.bias, self.spec) if self.resident else None

    def find(self, client: Client) -> Layer | None:
        """The layer that another client has left there, or else its own.

        Raises:
            GroupconvError: as `deploy`.
        """
        try:
            return client.get_layer(self._layer) if self.resident else None
        except NotFoundError:
            return self.deploy(client)

    def ask(self, client: Client, layer: Layer | None) -> Array:
        """Ask once, of a `layer` of this client's where the case is a resident one.

        Raises:
            GroupconvError: as `deploy`.
        """
        if layer is not None:
            return layer(self.x)
        if self.transport == "unary":
            return client.convolve(self.x, self.weight, self.bias, self.spec)
        steps = [Step(self.weight, self.bias, self.spec)]
        answer: Array = client.stream_convolve(self.x, steps, timeout=client.timeout)
        return answer

    def error(self, answer: Array) -> str | None:
        """What is wrong with an answer; None if nothing is."""
        if answer.shape != self._want.shape:
            return f"expected the shape {self._want.shape}, got {answer.shape}"
        worst = float(np.abs(answer - self._want).max())
        if not worst <= self._atol:  # NaN is wrong too
            return f"expected an error up to {self._atol:.2g}, got {worst:.2g}"
        return None
