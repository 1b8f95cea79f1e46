"""The examples in docstrings do what they show."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import radar

MODULES = [found.name for found in pkgutil.walk_packages(radar.__path__, "radar.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(import_module(name)).failed == 0


def test_there_are_examples():
    assert sum(doctest.testmod(import_module(name)).attempted for name in MODULES) >= 3
