"""Modules can be imported by their old names."""

import importlib
import sys

import pytest

from groupconv import moved


@pytest.mark.parametrize("old", sorted(moved.MODULES))
def test_an_old_name_gives_the_module_and_warns(old):
    sys.modules.pop(f"groupconv.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"groupconv.{old} is now groupconv.{moved.MODULES[old]}"):
        module = importlib.import_module(f"groupconv.{old}")
    assert module is importlib.import_module(f"groupconv.{moved.MODULES[old]}")


def test_the_engines_have_their_old_names():
    with pytest.warns(DeprecationWarning, match="groupconv_worker.engines.base is now groupconv_worker.contract"):
        from groupconv_worker.engines.base import Problem
    from groupconv_worker import contract

    assert Problem is contract.Problem


def test_a_module_of_a_moved_package_is_not_loaded_twice():
    with pytest.warns(DeprecationWarning, match="is now"):
        from groupconv_worker.algorithms.plane import phases
    from groupconv_worker.cpu.algorithms import plane

    assert phases is plane.phases


def test_functions_of_a_moved_module_have_their_old_names():
    import groupconv.arguments
    import groupconv.wire.requests as requests

    with pytest.warns(DeprecationWarning, match=r"groupconv\.wire\.requests\.prepare is now in groupconv\.arguments"):
        assert requests.prepare is groupconv.arguments.prepare
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = requests.no_such_name
