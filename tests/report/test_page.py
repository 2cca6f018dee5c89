import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
import torch

from camtrain.records import Gallery, Setup
from camtrain.records.folder import write_run_info
from camtrain.records.formats import History, Pass
from camtrain.render.overlays import sheet_of
from camtrain.report.charts import Series, area_chart, line_chart
from camtrain.report.page import EffectAxis, class_verdicts, curves, write_report
from camtrain.report.pictures import SavedPictures, film_epochs, gallery_page, spread
from camtrain.sinks import (
    CELLS,
    FAILURES,
    HEATMAPS,
    FilesSink,
    FourCells,
    Panels,
    Scalars,
    Verdict,
    Verdicts,
    read_history,
)

VOID = {"meta", "link", "img", "br", "input", "hr"}
NAN = float("nan")


class Page(HTMLParser):
    """Sections, addresses and text of a page; unclosed elements are errors."""

    def __init__(self, html):
        super().__init__()
        self.open, self.sections, self.addresses, self.text = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag == "section":
            self.sections.append(named["id"])
        self.addresses += [named[name] for name in ("src", "href", "srcset", "action", "data") if name in named]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def opened(folder):
    html = write_report(folder).read_text()
    page = Page(html)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"url\((?!['\"]?(#|data:))", html)
    assert not re.search(r"<script[^>]+src|fetch\(|XMLHttpRequest|import\(", html)
    assert "@import" not in html
    assert "http:" not in html
    assert "https:" not in html
    return page


@pytest.fixture
def run(tmp_path, make_pass):
    """Four epochs; alignment starts at the third."""
    sink = FilesSink(tmp_path)
    for epoch in range(4):
        aligned = epoch >= 2
        sink.write(*make_pass(epoch, epoch, "not reliant" if aligned else "reliant", energy=0.7 if aligned else 0.2))
        sink.write(
            Scalars({"alignment/weight": float(aligned), "alignment/penalty": 0.5 if aligned else NAN}, epoch, epoch)
        )
    write_run_info(tmp_path, {"model": {"name": "resnet18"}}, title="a <b>run</b>")
    return tmp_path


def test_report__has_all_sections_and_sends_no_request(run):
    page = opened(run)
    first = ["verdicts", "measures", "curves", "cells", "films", "classes", "confusion", "failures"]
    assert page.sections == [*first, "alerts", "configuration"]
    for words in (
        "Before alignment, 1 of 2 classes leaned on its background: boat. Now none is found to, 1 undecided.",
        "a <b>run</b>",
        "before epoch 1",
        "after epoch 3",
        "boat taken for car",
        "for car",
        "for boat",
        "layer net.4 (the last map) by grad_cam",
        "much as before",
        "model.name",
        "98 % → 11 %",
    ):
        assert words in page.words


def test_report__holds_inside_energy_against_chance(tmp_path, make_pass):
    sink = FilesSink(tmp_path)
    sink.write(*make_pass(0, 10))
    assert "chance 0." not in write_report(tmp_path).read_text().partition('id="failures"')[0]  # not recorded, not said
    values = {"cam/inside_energy_chance": 0.31, "cam/inside_energy_ceiling/grad_cam": 0.65}
    sink.write(Scalars(values, 0, 10), Setup({"layers": {"net.4": "last (4x6 cells, channels first)"}}, 0, 10))
    words = Page(write_report(tmp_path).read_text()).words
    assert "by chance 0.31, the object itself on this grid 0.65" in words
    assert "inside energy 0.20 / 0.20, by chance 0.50" in words  # of a case: its mask is the left half
    assert "Layer net.4 has 4 cells a side, too few to follow an object" in words


def test_report__says_what_alignment_cost(tmp_path):
    for epoch, accuracy in enumerate((0.9, 0.85)):
        scalars = {"val/accuracy": accuracy, "alignment/weight": float(epoch)}
        FilesSink(tmp_path).write(Scalars(scalars, epoch, epoch))
    assert "90.0 % to 85.0 %, 5.0 points paid." in write_report(tmp_path).read_text()


def test_report__shows_masks_that_were_made_where_some_were(tmp_path):
    FilesSink(tmp_path).write(Scalars({"val/accuracy": 0.9}, 0, 0))
    assert 'id="masks"' not in write_report(tmp_path).read_text()
    sheet_of(torch.rand(2, 3, 8, 8), torch.eye(8).expand(2, 8, 8), ["boat", "car"]).save(tmp_path / "masks.jpg")
    html = write_report(tmp_path).read_text()
    assert "Masks that were made" in html
    assert 'class="sheet" src="data:image/jpeg;base64,' in html


def test_report__says_that_heat_off_the_object_is_no_verdict(tmp_path, make_pass):
    FilesSink(tmp_path).write(*make_pass(0, 10))
    html = write_report(tmp_path).read_text()
    assert "wrong reason" not in html
    assert "Right with the heat off the object is a reason to look, no verdict" in html


def test_report__colors_no_change_that_shows_as_none(tmp_path):
    for epoch, energy in enumerate((0.301, 0.299)):
        FilesSink(tmp_path).write(Scalars({"cam/inside_energy/grad_cam": energy}, epoch, epoch))
    html = write_report(tmp_path).read_text()
    assert '<td class="muted">0.00</td>' in html
    assert "−0.00" not in html


def test_report__says_what_to_do_about_verdicts(tmp_path):
    from camtrain.report import write_report
    from camtrain.sinks import FilesSink, Verdict, Verdicts

    numbers = (0.4, 0.3, 0.5, 0.0, 0.01, 9)
    rows = [
        Verdict(0, "boat", "reliant", *numbers, transplants=60, flips=42, placebo_flips=1.6),
        Verdict(1, "car", "reliant", *numbers, cue="sharpness"),
        Verdict(2, "hen", "not reliant", *numbers),
    ]
    FilesSink(tmp_path).write(Verdicts(tuple(rows), 0, 0))
    html = write_report(tmp_path).read_text()
    assert "<b>42 of 60</b> other images become <b>boat</b> with its background, placebo 2" in html
    assert html.count(" other images become ") == 1
    assert html.count('class="advice"') == 2
    assert html.count("cue: background ·") == html.count("cue: sharpness ·") == 1  # what is not reliant has no cue
    assert "{cue: sharpness}" in html
    FilesSink(tmp_path).write(Verdicts((rows[2],), 1, 1))
    assert "What to do about it" not in write_report(tmp_path).read_text()


def test_report__shows_where_cues_lie(run):
    html = write_report(run).read_text()
    assert html.count('<div class="places">') == 1
    assert "where: <b>bottom right corner, 25 % x 25 % (11 of 12 images)</b>" in html
    assert "9 of 11 windows look alike" in html
    for strip in (run / "images/reliance/regions").iterdir():
        strip.unlink()
    assert '<div class="places">' not in write_report(run).read_text()


def test_report__draws_the_effects_of_all_rounds_with_their_intervals(run):
    (chart,) = [one for one in curves(read_history(run), None) if "effects" in one.title]
    assert [one.name for one in chart.series] == ["boat"]  # of the other class nothing was measured
    assert list(chart.series[0].values) == [0, 1, 2, 3]
    assert all(low < chart.series[0].values[epoch] < high for epoch, (low, high) in chart.series[0].intervals.items())
    assert "fill-opacity" in chart.svg


def test_report__of_one_round_draws_no_history(tmp_path, make_pass):
    FilesSink(tmp_path).write(*make_pass(0, 0))
    assert not any("effects" in one.title for one in curves(read_history(tmp_path), None))


def test_report__puts_suspects_behind_reliant_classes(tmp_path):
    kinds = ["no evidence", "undecided", "suspect", "reliant"]
    rows = [Verdict(i, kind, kind, 0.1, 0.0, 0.2, 0.0, 0.1, 9) for i, kind in enumerate(kinds)]
    FilesSink(tmp_path).write(Verdicts(tuple(rows), 0, 0))
    found = class_verdicts(read_history(tmp_path), SavedPictures(tmp_path, 80))
    assert [one.row.verdict for one in found] == kinds[::-1]
    page = opened(tmp_path)
    assert all(kind in page.words for kind in kinds)


def test_report__draws_the_start_of_alignment(run):
    page = opened(run)
    assert page.words.count("alignment from epoch 2") == 1
    assert page.text.count("alignment") == 7  # in each of six charts, and in the areas


def test_report__without_masks_has_no_section_that_needs_them(tmp_path, make_panel):
    sink = FilesSink(tmp_path)
    panels = tuple(make_panel(str(index), mask=False, cell=None) for index in range(3))
    sink.write(Scalars({"val_acc": 0.5}, 0, 0), Panels(HEATMAPS, panels, 0, 0), Panels(FAILURES, panels, 0, 0))
    page = opened(tmp_path)
    assert page.sections == ["measures", "films", "failures"]  # one epoch draws no curve
    assert "Accuracy 50.0 %" in page.words
    assert "inside energy" not in page.words.replace("and the inside energy", "")


def test_report__of_scalars_alone_shows_them(tmp_path):
    FilesSink(tmp_path).write(Scalars({"val/accuracy": NAN, "cam/inside_energy/grad_cam": 0.4}, 0, 0))
    assert opened(tmp_path).sections == ["measures"]


def test_audit__opens_with_what_the_answers_are_worth(tmp_path, write_audit):
    write_audit(tmp_path)
    write_run_info(tmp_path, {}, title="Audit", remarks=["the network has seen them"])
    path = write_report(tmp_path, tmp_path / "elsewhere.html", files={"table": "images.parquet"})
    page = Page(path.read_text())
    assert page.sections == ["answers", "gallery", "configuration"]
    assert "80.0 % of 130 images are answered right." in page.words
    for words in (
        "75.0 % to 85.0 %, 95 % interval",
        "10.0 points more than it is right",
        "0.100 expected (ECE), 2 bins",
        "by chance 0.25",
        "the network has seen them",
    ):
        assert words in page.words
    assert "epoch" not in page.words
    assert "images.parquet" in page.addresses


def test_audit__without_labels_shows_its_images(tmp_path, make_panel):
    columns = {name: [None] for name in ("true", "probability", "right", "inside_energy", "chance", "cell")}
    columns |= {"sample": ["a.jpg"], "predicted": ["cat"]}
    tiles = torch.zeros(3, 8, 160, dtype=torch.uint8)
    FilesSink(tmp_path).write(
        Gallery(columns, (tiles,), 8, 1, 0, 0), Setup({"stage": "validate", "methods": ["grad_cam"]}, 0, 0)
    )
    page = opened(tmp_path)
    assert page.sections == ["gallery", "configuration"]
    assert "taken for what" not in page.words


def test_gallery__gets_smaller_where_it_would_not_fit(tmp_path, write_audit):
    write_audit(tmp_path)
    history = read_history(tmp_path)
    whole = gallery_page(history, tmp_path)
    small = gallery_page(history, tmp_path, budget=sum(map(len, whole.sheets)) - 1)
    assert sum(map(len, small.sheets)) < sum(map(len, whole.sheets))
    assert (small.shown, len(small.sheets)) == (whole.shown, 2)


def test_report__of_an_empty_folder_says_so(tmp_path):
    page = opened(tmp_path / "nothing")
    assert page.sections == []
    assert "Nothing has been recorded in this folder yet." in page.words


def test_report__of_cells_that_counted_nothing_shows_dashes(tmp_path):
    FilesSink(tmp_path).write(FourCells(dict.fromkeys(CELLS, 0), 0, 0))
    page = opened(tmp_path)
    assert "cells" in page.sections
    assert "nan" not in page.words.lower()


def test_report__lives_on_when_a_picture_is_gone(run):
    for path in sorted((run / "images").rglob("*.jpg"))[::2]:
        path.unlink()
    for path in (run / "images").rglob("*-mask.png"):
        path.write_bytes(b"cut short")
    assert "films" in opened(run).sections


def test_report__shrinks_its_pictures_to_stay_small(run, monkeypatch):
    large = write_report(run).stat().st_size
    monkeypatch.setattr("camtrain.report.page.LIMIT", large - 1)
    monkeypatch.setattr("camtrain.report.page.SIDES", (16, 8))
    assert write_report(run).stat().st_size < large


@pytest.mark.parametrize(("count", "most"), [(1, 12), (12, 12), (13, 12), (200, 12), (5, 2)])
def test_spread__keeps_first_and_last(count, most):
    epochs = list(range(0, 3 * count, 3))
    chosen = spread(epochs, most)
    assert len(chosen) == len(set(chosen)) == min(count, most)
    assert (chosen[0], chosen[-1]) == (epochs[0], epochs[-1])
    steps = [later - earlier for earlier, later in pairwise(chosen)]
    assert max(steps, default=0) - min(steps, default=0) <= 3


@pytest.mark.parametrize("start", [None, 0, 1, 100, 198, 199, 500])
def test_film_epochs__show_both_sides_of_the_start_of_alignment(start):
    history = History(panels={HEATMAPS: {epoch: Pass(epoch, epoch, []) for epoch in range(200)}})
    chosen = film_epochs(history, 12, start)
    assert len(chosen) == len(set(chosen)) == 12
    assert chosen == sorted(chosen)
    wanted = {0, 199} | ({start - 1, start} & set(range(200)) if start else set())
    assert wanted <= set(chosen)


def test_charts__are_well_formed_and_take_the_colors_of_the_page():
    one = Series("accuracy", "var(--series-0)", {0: 0.1, 1: NAN, 2: 0.9})
    for svg in (line_chart([one], unit="share", start=1), line_chart([one, one]), area_chart([one]), line_chart([])):
        ET.fromstring(svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))
        assert "currentColor" in svg
        assert not re.search(r"#0101\d\d|#0102\d\d", svg)
        assert " width=" not in svg.split(">")[0]
    assert "var(--series-0)" in line_chart([one])


def test_effect_axis__keeps_everything_within():
    axis = EffectAxis(-0.1, 0.3)
    assert [axis.at(value) for value in (-5.0, -0.1, 0.0, 0.3, 5.0)] == [0.0, 0.0, 25.0, 100.0, 100.0]
