"""The GPUs of this machine as NVML sees them: memory and utilization, whoever uses them.

Workers of other machines are not seen: a node exporter for GPUs (dcgm-exporter) is for those.
"""

import logging
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

log = logging.getLogger(__name__)


class Gpus:
    """Metrics that are read when they are scraped. Without a driver, or without nvidia-ml-py, there are none.

    Example:
        >>> [metric.name for metric in Gpus().collect()]
        ['groupconv_gpu_memory_used_bytes', 'groupconv_gpu_memory_bytes', 'groupconv_gpu_utilization_ratio']
    """

    def __init__(self) -> None:
        self._nvml = _nvml()

    def collect(self) -> Iterator[Metric]:
        """One value of each metric for each GPU."""
        labels = ["gpu", "device"]
        used = GaugeMetricFamily("groupconv_gpu_memory_used_bytes", "Memory of a GPU in use.", labels=labels)
        total = GaugeMetricFamily("groupconv_gpu_memory_bytes", "Memory of a GPU.", labels=labels)
        busy = GaugeMetricFamily("groupconv_gpu_utilization_ratio", "Time in which a kernel ran.", labels=labels)
        for index, handle in enumerate(self._handles()):
            try:
                names = [str(index), self._nvml.nvmlDeviceGetName(handle)]
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                rates = self._nvml.nvmlDeviceGetUtilizationRates(handle)
            except self._nvml.NVMLError as error:  # a GPU that is lost, or a MIG device, which has no utilization
                log.debug("GPU %d says nothing of itself: %s", index, error)
                continue
            used.add_metric(names, memory.used)
            total.add_metric(names, memory.total)
            busy.add_metric(names, rates.gpu / 100)
        yield from (used, total, busy)

    def _handles(self) -> list[Any]:
        nvml = self._nvml
        if nvml is None:
            return []
        try:
            return [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError as error:
            log.debug("NVML does not answer: %s", error)
            return []


def _nvml() -> Any:
    """The library, initialized; None if it is not there."""
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except ImportError:
        return None
    except nvml.NVMLError as error:
        log.debug("no metrics of GPUs: %s", error)
        return None
    return nvml
