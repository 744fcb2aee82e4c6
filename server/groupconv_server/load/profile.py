"""Profiles of loads: YAML files, validated."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from groupconv.convolution.cuts import cut_name
from groupconv.errors import InvalidArgumentError, Words
from groupconv_server.layers.catalogue import layer_named


class RequestKind(BaseModel):
    """A kind of request.

    Attributes:
        layer: a name in the catalogue.
        weight: frequency relative to the other entries.
        resident: whether the weights stay on the server, instead of coming with each request.
        transport: "unary" (one message) or "stream".
        batch: samples in a request.
        cut: what to cut along (docs/planner.md); None leaves it to the planner. Not with "stream".

    Example:
        >>> RequestKind(layer="alexnet_conv2", resident=True, batch=4).name
        'alexnet_conv2 batch 4 resident'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: str
    weight: Annotated[float, Field(gt=0)] = 1.0
    resident: bool = False
    transport: Literal["unary", "stream"] = "unary"
    batch: Annotated[int, Field(ge=1)] = 1
    cut: str | None = None

    @model_validator(mode="after")
    def _valid(self) -> Self:
        try:
            layer_named(self.layer)
            cut_name(self.cut)
        except InvalidArgumentError as error:
            raise ValueError(str(error)) from None
        if self.resident and self.transport == "stream":
            raise ValueError("a stream carries its weights: expected resident: false with transport: stream")
        if self.cut and self.transport == "stream":
            raise ValueError("the bands of a stream have plans of their own: expected no cut with transport: stream")
        return self

    @property
    def name(self) -> str:
        """Its name in reports."""
        batch = f" batch {self.batch}" if self.batch > 1 else ""
        return f"{self.layer}{batch}{' resident' * self.resident}{f' cut {self.cut}' if self.cut else ''}"


class Profile(BaseModel):
    """The profile of a load.

    Attributes:
        users: connections, each with one request at a time; with a rate, the most requests in flight.
        seconds: duration.
        rate: requests per second, sent when they are due, whether or not earlier ones have ended. None sends a user's
            next request when the last one has ended.
        verify: the share of answers that are compared with the float64 reference.
        timeout: of a request, in seconds.
        seed: of the data, the order and the times.
        mix: the kinds of requests.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    users: Annotated[int, Field(ge=1, le=1000)] = 8
    seconds: Annotated[float, Field(gt=0)] = 10.0
    rate: Annotated[float, Field(gt=0)] | None = None
    verify: Annotated[float, Field(ge=0, le=1)] = 0.1
    timeout: Annotated[float, Field(gt=0)] = 60.0
    seed: int = 0
    mix: Annotated[tuple[RequestKind, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [(entry.name, entry.transport) for entry in self.mix]
        if len(set(names)) < len(names):
            raise ValueError("mix: expected entries that differ in layer, batch, resident or transport")
        return self


def shipped_profiles() -> list[str]:
    """Names of the profiles that come with the package.

    Example:
        >>> shipped_profiles()
        ['mix', 'soak']
    """
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def read_profile(name: str) -> Profile:
    """The profile in a file, or one that comes with the package.

    Raises:
        InvalidArgumentError: there is no such file or name, or a field is wrong; the message names the first one.
    """
    if name in shipped_profiles():
        data = _folder().joinpath(f"{name}.yaml").read_bytes()
    elif Path(name).is_file():
        data = Path(name).read_bytes()
    else:
        raise InvalidArgumentError("--profile", f"a YAML file or one of {', '.join(shipped_profiles())}", name)
    try:
        return Profile.model_validate(yaml.safe_load(data.decode()))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgumentError(name, "YAML", Words(" ".join(str(error).split()))) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "profile"
        raise InvalidArgumentError(f"{name}: {field}", first["msg"], first["input"]) from None


def profile_of_layer(name: str, cut: str | None = None) -> Profile:
    """The profile of one layer of the catalogue, whose weights travel, with every answer verified.

    Args:
        name: of the layer.
        cut: what to cut along; None leaves it to the planner.

    Raises:
        InvalidArgumentError: the catalogue has no such layer, or there is no such cut.
    """
    layer_named(name)
    cut_name(cut)
    return Profile.model_validate({"verify": 1, "mix": [{"layer": name, "cut": cut}]})


def _folder() -> resources.abc.Traversable:
    return resources.files("groupconv_server.load").joinpath("profiles")
