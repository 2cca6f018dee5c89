"""The walls of the house, counted by `scripts/figures.py`: what a reader must hold in the head stays small."""

import ast
import sys
from collections import Counter

import pytest

from tests.layout import ROOT

sys.path.append(str(ROOT / "scripts"))

import figures

FILES = figures.sources(ROOT)
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
STORIES = [name for name, path in FILES.items() if name.startswith("camtrain.callbacks.") and path.name[0] != "_"]
# Rules of one folder stand where they are told; a file that is imported once has a test of its own or a name in docs.
SINGLE_IMPORTERS = 47
LONGEST_STORY = 420
MOST_ATTRIBUTES = 20
LONG_SIGNATURES = 23  # of more than 8 parameters
LONGEST_CHAIN = 24  # of imports
READS = {
    "find_logits", "logits_candidates", "softmax", "log_softmax", "sigmoid", "logsigmoid", "cross_entropy", "kl_div",
    "binary_cross_entropy_with_logits",
}  # fmt: skip
READERS = {
    "camtrain.explanation",  # hands the engine's logits to a target
    "camtrain.module",  # networks of their own, with a loss
    "camtrain.networks",  # a detector, which has its own loss
    "camtrain.cli.audit",
    "camtrain.reliance.retrain",  # fits a head of its own
}
PARTICIPLES = 4.8  # percent of the bound names


def test_callbacks__are_stories_and_three_helpers():
    files = {path.name for name, path in FILES.items() if name.startswith("camtrain.callbacks")}
    assert {name for name in files if name.startswith("_")} == {
        "__init__.py", "_conditions.py", "_lightning.py", "_passes.py",
    }  # fmt: skip
    assert len(files) <= 11


@pytest.mark.parametrize("name", STORIES)
def test_callbacks__are_read_in_one_sitting(name):
    assert len(FILES[name].read_text().splitlines()) <= LONGEST_STORY


@pytest.mark.parametrize("name", FILES)
def test_classes__set_at_most_twenty_attributes(name):
    classes = [node for node in TREES[name].body if isinstance(node, ast.ClassDef)]
    counts = {node.name: len(figures.attributes(node)) for node in classes}
    assert {kind: count for kind, count in counts.items() if count > MOST_ATTRIBUTES} == {}


def test_modules__with_a_single_importer_do_not_grow_in_number():
    users = figures.importers(TREES)
    single = [name for name, path in FILES.items() if path.name != "__init__.py" and len(users[name]) == 1]
    assert len(single) <= SINGLE_IMPORTERS, sorted(single)


def test_signatures__are_short():
    functions = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert sum(figures.parameters(node) > 8 for node in functions) <= LONG_SIGNATURES


def test_imports__form_no_longer_chain():
    assert figures.longest_chain(TREES) <= LONGEST_CHAIN


def test_types__have_a_name_of_their_own():
    classes = [node.name for tree in TREES.values() for node in tree.body if isinstance(node, ast.ClassDef)]
    assert [name for name, count in Counter(classes).items() if count > 1 and not name.startswith("_")] == []


def test_imports__of_rooms_form_no_circle():
    edges = {}
    for name, tree in TREES.items():
        room = ".".join(name.split(".")[:2])
        others = {".".join(other.split(".")[:2]) for other in figures.imported(tree, set(TREES))}
        edges.setdefault(room, set()).update(others - {room, "camtrain"})
    assert circles(edges) == []


def circles(edges):
    """Rooms that reach themselves.

    >>> circles({"a": {"b"}, "b": {"a"}, "c": {"a"}})
    ['a', 'b']
    """

    def reached(room):
        seen, open_ = set(), set(edges.get(room, ()))
        while open_:
            other = open_.pop()
            seen.add(other)
            open_ |= edges.get(other, set()) - seen
        return seen

    return sorted(room for room in edges if room in reached(room))


def test_circles__are_seen():
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == ["a", "b"]


def test_logits__are_read_by_tasks_alone():
    readers = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in READS) or (isinstance(node, ast.Name) and node.id in READS)
    }
    inside = ("camtrain.tasks.", "camtrain.cam.", "camtrain.losses.")
    assert {name for name in readers if not name.startswith(inside)} == READERS


def test_names__name_the_thing():
    assert figures.participles(TREES) <= PARTICIPLES
