"""The examples in the docstrings give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import rlprune

NAMES = sorted(module.name for module in pkgutil.walk_packages(rlprune.__path__, "rlprune."))
MODULES = [name for name in NAMES if not name.endswith("__main__")]


def examples(name):
    module = importlib.import_module(name)
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in examples(name):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_there_are_examples():
    assert sum(bool(examples(name)) for name in MODULES) >= 20
