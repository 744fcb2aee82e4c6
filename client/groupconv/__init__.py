"""groupconv: grouped convolution of every variant, on a server that splits it over workers.

Example:
    >>> from groupconv import ConvSpec, resolve
    >>> resolve(ConvSpec(stride=2, padding="same"), (1, 3, 224, 224), (64, 3, 7, 7)).output_shape
    (1, 64, 112, 112)
"""

from groupconv import aio, moved
from groupconv.async_layer import AsyncLayer
from groupconv.client import Client, connect
from groupconv.convolution.geometry import Geometry, resolve
from groupconv.convolution.plan import Plan
from groupconv.convolution.report import Report
from groupconv.convolution.spec import Activation, ConvSpec
from groupconv.convolution.steps import Result, Step
from groupconv.convolution.totals import receptive_field
from groupconv.errors import GroupconvError
from groupconv.layer import Layer, LayerInfo
from groupconv.network import AsyncNetwork, Network
from groupconv.network_calls import NetworkResult
from groupconv.networks.info import NetworkInfo
from groupconv.networks.plan import NetworkPlan
from groupconv.networks.state import NetworkState
from groupconv.networks.tensors import TensorInfo
from groupconv.streaming.npy import create_npy, open_npy
from groupconv.streaming.raw import RawArray

moved.redirect(__name__, moved.MODULES)

__version__ = "0.1.0"
__all__ = [
    "Activation",
    "AsyncLayer",
    "AsyncNetwork",
    "Client",
    "ConvSpec",
    "Geometry",
    "GroupconvError",
    "Layer",
    "LayerInfo",
    "Network",
    "NetworkInfo",
    "NetworkPlan",
    "NetworkResult",
    "NetworkState",
    "Plan",
    "RawArray",
    "Report",
    "Result",
    "Step",
    "TensorInfo",
    "aio",
    "connect",
    "create_npy",
    "open_npy",
    "receptive_field",
    "resolve",
]
