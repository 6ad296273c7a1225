"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import bsam

MODULES = ["bsam"] + [
    module.name
    for module in pkgutil.walk_packages(bsam.__path__, "bsam.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_some():
    finder = doctest.DocTestFinder()
    found = [t for name in MODULES for t in finder.find(importlib.import_module(name))]
    assert sum(bool(test.examples) for test in found) >= 8
