import logging
import threading

import pytest

from camtrain.sinks import HEATMAPS, FilesSink, Panels, Scalars, SinkGroup, read_history
from camtrain.sinks.base import Background, pictures_in


class Slow:
    """Waits for its gate before each write."""

    def __init__(self):
        self.gate, self.started = threading.Event(), threading.Event()
        self.seen, self.threads = [], set()

    def write(self, *records):
        self.started.set()
        self.gate.wait(10)
        self.threads.add(threading.current_thread())
        self.seen += records

    def close(self):
        pass


class Prompt(Slow):
    prompt = (Scalars,)


@pytest.fixture
def pictures(make_panel):
    return lambda epoch, count=3: Panels(HEATMAPS, tuple(make_panel(f"{epoch}-{i}") for i in range(count)), epoch, 0)


def test_background__writes_in_order_and_never_on_the_callers_thread(pictures):
    sink = Slow()
    background = Background(sink)
    for epoch in range(5):
        background.write(pictures(epoch), Scalars({}, epoch, 0))
    assert sink.seen == []  # the caller went on while the sink waited
    sink.gate.set()
    background.flush()
    assert [record.epoch for record in sink.seen] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert threading.main_thread() not in sink.threads


def test_background__drops_the_oldest_pictures_never_a_number_and_says_how_many(pictures, caplog):
    sink = Slow()
    background = Background(sink, most_pictures=4)
    background.write(Scalars({}, -1, 0))
    sink.started.wait(10)  # from now on everything waits
    for epoch in range(3):
        background.write(pictures(epoch), Scalars({}, epoch, 0))
    sink.gate.set()
    with caplog.at_level(logging.WARNING, logger="camtrain"):
        background.flush()
        background.flush()
    kept = [panel.sample for record in sink.seen if isinstance(record, Panels) for panel in record.panels]
    assert kept == ["1-2", "2-0", "2-1", "2-2"]
    assert [record.epoch for record in sink.seen if isinstance(record, Scalars)] == [-1, 0, 1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "Slow was too slow: 5 pictures were dropped, no numbers."
    ]


def test_background__hands_prompt_records_over_at_once(pictures):
    sink = Prompt()
    sink.gate.set()
    background = Background(sink)
    background.write(Scalars({}, 0, 0))
    assert sink.seen
    assert sink.threads == {threading.main_thread()}


def test_background__raises_what_went_wrong_in_the_thread(tmp_path, pictures):
    (tmp_path / "images").write_text("a file where the folder should be")
    background = Background(FilesSink(tmp_path))

    def write_and_wait():
        background.write(pictures(0))  # raises already where the thread is quick
        background.flush()

    with pytest.raises(OSError, match="images"):
        write_and_wait()
    background.flush()  # once


def test_background__says_so_where_a_sink_does_not_come_back(pictures, monkeypatch):
    monkeypatch.setattr("camtrain.sinks.base.PATIENCE", 0.01)
    sink = Slow()
    background = Background(sink)
    background.write(pictures(0))
    with pytest.raises(TimeoutError, match="still busy"):
        background.flush()
    sink.gate.set()


def test_group__of_background_sinks_reports_once_and_the_others_go_on(tmp_path, pictures, caplog):
    class Broken(Slow):
        def write(self, *records):
            raise ConnectionError("the service is gone")

    group = SinkGroup([Background(Broken()), Background(FilesSink(tmp_path))])
    for epoch in range(3):
        group.write(pictures(epoch), Scalars({"loss": 1.0}, epoch, 0))
        group.flush()
    assert sum("the service is gone" in record.getMessage() for record in caplog.records) == 1
    history = read_history(tmp_path)
    assert list(history.scalars["loss"]) == [0, 1, 2]
    assert list(history.panels[HEATMAPS]) == [0, 1, 2]


def test_background__of_many_passes_holds_no_more_than_its_bound(pictures):
    sink = Slow()
    background = Background(sink, most_pictures=6)
    for epoch in range(200):
        background.write(pictures(epoch))
        assert sum(pictures_in(records) for records in list(background._waiting)) <= 6
    sink.gate.set()
    background.flush()
