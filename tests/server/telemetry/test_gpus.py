"""Metrics of GPUs. No machine of the tests has NVML's library: its names are played, as nvidia-ml-py has them."""

import sys
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from groupconv_server.telemetry.gpus import Gpus


class NVMLError(Exception):
    pass


def nvml(*, lost=()):
    """Two GPUs, the second with half of its memory in use."""

    def memory(handle):
        if handle in lost:
            raise NVMLError("GPU is lost")
        return SimpleNamespace(total=2**34, used=handle * 2**33, free=0)

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: f"model {handle}",
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=40 * handle, memory=0),
    )


def value(name, gpu):
    registry = CollectorRegistry()
    registry.register(Gpus())
    return registry.get_sample_value(name, {"gpu": str(gpu), "device": f"model {gpu}"})


def test_each_gpu_has_its_series(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    assert value("groupconv_gpu_memory_used_bytes", 1) == 2**33
    assert value("groupconv_gpu_memory_bytes", 0) == 2**34
    assert value("groupconv_gpu_utilization_ratio", 1) == pytest.approx(0.4)


def test_a_lost_gpu_has_none_and_harms_no_other(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml(lost=[0]))
    assert value("groupconv_gpu_memory_bytes", 0) is None
    assert value("groupconv_gpu_memory_bytes", 1) == 2**34


def test_names_are_those_of_nvidia_ml_py():
    library = pytest.importorskip("pynvml")
    assert [name for name in vars(nvml()) if not hasattr(library, name)] == []


@pytest.mark.parametrize("there", [True, False])
def test_without_a_driver_or_the_package_there_are_none(monkeypatch, there):
    def fails():
        raise NVMLError("no driver")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NVMLError, nvmlInit=fails) if there else None)
    assert value("groupconv_gpu_memory_bytes", 0) is None
