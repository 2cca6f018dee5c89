"""Every example in a docstring of the packages runs, and gives what it says.

pytest's own `--doctest-modules` imports `callbacks/` and `losses/` under their bare names; here they are imported by
their full ones.
"""

import doctest
import importlib
import io

import pytest

from tests.layout import module_files

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def examples(module):
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    return [test for test in found if test.examples]


def failures(test):
    """What the examples of a docstring print where they fail; empty where all hold."""
    report = io.StringIO()
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.write)
    return report.getvalue()


TESTS = [test for module in module_files() for test in examples(module)]


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.name)
def test_docstring__gives_what_it_says(test):
    assert failures(test) == ""


@pytest.mark.parametrize("package", ["camtrain.cam", "camtrain.callbacks", "camtrain.losses", "camtrain.metrics"])
def test_docstrings__of_each_package_are_collected(package):
    assert any(test.name.startswith(f"{package}.") for test in TESTS)


def test_docstring__that_is_wrong_fails():
    (wrong,) = doctest.DocTestFinder().find(
        type("Wrong", (), {"__doc__": ">>> 1 + 1\n3\n", "__module__": __name__}), "wrong"
    )
    assert "Expected:" in failures(wrong)
