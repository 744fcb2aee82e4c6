"""Spare workers: one takes the place of a lost worker, and another one is started."""

import os
import signal
from dataclasses import replace

import numpy as np
import psutil
import pytest
import ray

from groupconv_server.config import Config
from tasks import task_of
from waiting import until

X, W = np.ones((1, 2, 8)), np.ones((2, 2, 3))


def test_by_default_a_cluster_of_this_machine_has_a_spare_and_others_have_none():
    assert Config().spares() == 1
    assert Config(ray_address="10.0.0.5:6379").spares() == 0
    assert Config(ray_address="10.0.0.5:6379", spare_workers=2).spares() == 2


@pytest.fixture
def spares(ray_executor):
    """Those of the shared executor, one for each kind of place while the test runs."""
    until(lambda: len(ray_executor.workers()) == 2)
    members = ray_executor.membership
    members.spares.number = 1
    yield members.spares
    members.spares.number = 0
    until(lambda: len(ray_executor.workers()) == 2)
    members.spares.leave()


def pid(spares):
    """Of the only spare, once it has started."""
    until(lambda: len(list(spares)) == 1)
    (spare,) = spares
    return ray.get(spare.actor.describe.remote(), timeout=60)["pid"]


@pytest.mark.ray
def test_a_lost_worker_is_replaced_by_the_spare_and_that_by_another_one(ray_executor, spares):
    first = pid(spares)
    slot = ray_executor.membership.ready()[0]
    os.kill(slot.facts["pid"], signal.SIGKILL)
    until(lambda: slot.ready and slot.facts["pid"] == first)
    out = task_of(X, W, worker=slot.id)
    (report,) = ray_executor.run([out])
    assert report[0].worker == slot.id
    second = pid(spares)
    assert second != first
    assert psutil.pid_exists(second)


@pytest.mark.ray
def test_a_spare_that_has_died_itself_is_no_loss(ray_executor, spares):
    os.kill(pid(spares), signal.SIGKILL)
    slot = ray_executor.membership.ready()[0]
    os.kill(slot.facts["pid"], signal.SIGKILL)
    until(lambda: slot.ready and psutil.pid_exists(slot.facts["pid"]))
    assert len(ray_executor.run([task_of(X, W, worker=slot.id)])) == 1


@pytest.mark.ray
def test_a_spare_reserves_nothing_and_ends_with_its_node(ray_executor, spares):
    process = psutil.Process(pid(spares))
    reserved = ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0)
    assert reserved <= 2  # of the two workers
    spares.number = 0
    spares.leave({"another node"})
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    assert len(list(spares)) == 0


@pytest.mark.ray
def test_workers_on_gpus_and_of_other_kinds_have_no_spare(ray_executor, spares):
    place = ray_executor.membership.slots[0].place
    until(lambda: len(list(spares)) == 1)
    assert spares.take(replace(place, threads=place.threads + 1)) is None
    assert spares.take(replace(place, gpus=1)) is None
