from math import isnan

import pytest

from camtrain.report.summary import EpochSpan
from camtrain.report.tables import MOST_CLASSES, MOST_CURVES, class_lines, energies_by_class, matrix
from camtrain.sinks import CELLS, History, Verdict


def row(name, images, right, energy, lucky):
    cells = {} if energy is None else {CELLS[0]: right - lucky, CELLS[1]: lucky, CELLS[3]: images - right}
    return {"class_name": name, "images": images, "right": right, "inside_energy": energy, "cells": cells}


def history():
    first = {"rows": [row("boat", 10, 5, 0.2, 4), row("car", 4, 4, 0.9, 0)], "confusion": [["boat", "boat", 5]]}
    last = {
        "rows": [row("boat", 10, 8, 0.5, 2), row("car", 4, 2, 0.8, 1), row("hen", 2, 2, None, 0)],
        "confusion": [["boat", "boat", 8], ["boat", "car", 2], ["car", "car", 2], ["car", "boat", 2]],
    }
    verdicts = [Verdict(1, "car", "reliant", 0.4, 0.3, 0.5, 0.0, 0.01, 9)]
    return History(classes={0: first, 3: last}, verdicts={3: verdicts})


def test_class_lines__put_reliant_classes_first_and_remember_the_past():
    car, boat, hen = class_lines(history(), EpochSpan(1, 3, True))
    assert (car.name, car.verdict, car.accuracy, car.lucky) == ("car", "reliant", 0.5, 0.25)
    assert (boat.accuracy, boat.inside_energy, boat.lucky) == (0.8, 0.5, 0.2)
    assert (boat.earlier_accuracy, boat.earlier_energy, boat.earlier_lucky) == (0.5, 0.2, 0.4)
    assert isnan(hen.inside_energy)
    assert isnan(hen.earlier_accuracy)
    assert isnan(hen.lucky)


def test_class_lines__of_nothing_are_none():
    assert class_lines(History(), EpochSpan(None, None, False)) == []


def test_matrix__gives_counts_and_shares_of_the_true_class():
    squares = matrix(history(), 5)
    assert [[square.count for square in line] for line in squares] == [[8, 2], [2, 2]]
    assert squares[0][1].share == pytest.approx(0.2)
    assert matrix(history(), 2)[0][0].count == 5
    assert matrix(History(), 0) == []


def test_matrix__of_many_classes_shows_those_that_are_confused():
    pairs = [[f"c{i:02}", f"c{i + 1:02}", 30 - i] for i in range(30)]
    squares = matrix(History(classes={0: {"rows": [], "confusion": pairs}}), 0)
    assert [line[0].true for line in squares] == [f"c{i:02}" for i in range(MOST_CLASSES)]


def test_energies_by_class__shows_the_lowest():
    rows = [row(f"c{i}", 2, 2, 0.1 * i, 0) for i in range(9)]
    found = energies_by_class(History(classes={0: {"rows": rows, "confusion": []}}))
    assert list(found) == [f"c{i}" for i in range(MOST_CURVES)]
    assert list(energies_by_class(history())) == ["boat", "car"]
