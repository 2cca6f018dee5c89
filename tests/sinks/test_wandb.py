import cv2
import pytest
from pytorch_lightning.loggers import WandbLogger

from camtrain.sinks import CELLS, FAILURES, HEATMAPS, Alert, Panels, Scalars, Verdict
from camtrain.sinks.wandb import IMAGES_PER_LIST, ROWS_PER_TABLE, WandbSink, panel_masks, verdict_table

COLUMNS = ["epoch", "sample", "picture", "reason", "true", "predicted", "probability", "true_probability"]
COLUMNS += ["correct", "cell", "verdict", "group", "inside_energy/grad_cam", "inside_energy/hires_cam"]
COLUMNS += ["rank_correlation_since_last", "shift_since_last", "rank_correlation_since_first", "shift_since_first"]
HISTOGRAM = "cam/inside_energy_histogram/grad_cam"


@pytest.fixture
def offline_run(wandb_offline, read_run):
    """`offline_run(write)`: what an offline run holds after `write(sink)`, and `["folder"]`, where it lies."""

    def record(write):
        logger = WandbLogger(project="camtrain", save_dir=wandb_offline)
        write(WandbSink(logger))
        folder = logger.experiment.settings.sync_dir
        logger.experiment.finish()
        return read_run(folder) | {"folder": folder, "id": logger.version}

    return record


@pytest.fixture
def two_passes(offline_run, make_pass, make_document, tmp_path):
    def write(sink):
        for epoch in (0, 1):
            sink.write(*make_pass(epoch, 10 * epoch + 10), Scalars({"own/number": 0.5}, epoch, 0, logged=False))
        sink.write(make_document(tmp_path))

    return offline_run(write)


def test_wandb_sink__logs_everything_of_a_pass_in_one_row(two_passes):
    rows = [row for row in two_passes["history"] if HEATMAPS in row]
    assert [(row["epoch"], row["trainer/global_step"]) for row in rows] == [(0, 0), (1, 0)]
    keys = {HEATMAPS, f"{HEATMAPS}_table", FAILURES, f"{FAILURES}_table", "reliance/verdicts", "reliance/examples"}
    assert keys | {"cam/classes", HISTOGRAM} <= set(rows[0])
    assert rows[0]["own/number"] == 0.5
    assert "val/accuracy" not in rows[0]  # Lightning has logged it
    for row in rows:
        assert row[HEATMAPS]["count"] == row[FAILURES]["count"] == 2
        assert row[HEATMAPS]["format"] == "jpg"
        assert (row[HEATMAPS]["width"], row[HEATMAPS]["height"]) == (4 * 16 + 3 * 2, 16)
        assert row["reliance/examples"]["captions"] == ["boat: 98 % to 11 % · background of s3"]
        assert row["reliance/regions"]["captions"][0].startswith("boat: bottom right corner, 25 % x 25 %")
        assert (row["reliance/regions"]["width"], row["reliance/regions"]["height"]) == (24, 24)
    assert rows[0][HEATMAPS]["captions"][0].startswith("boat taken for car 97 % (boat 2 %) · inside energy 0.20")


def test_wandb_sink__gives_each_picture_masks_to_toggle(two_passes):
    row = next(row for row in two_passes["history"] if HEATMAPS in row)
    masks = row[HEATMAPS]["all_masks"]
    assert [set(one) for one in masks] == [{"object", "grad_cam", "hires_cam"}] * 2
    stored = [path for path in (two_passes["folder"], "files") if path]
    mask = cv2.imread("/".join([*map(str, stored), masks[0]["object"]["path"]]), cv2.IMREAD_GRAYSCALE)
    assert mask.shape == (16, 4 * 16 + 3 * 2)
    assert mask[:, :8].min() == mask[:, :8].max() == 1  # the object, on the plain picture at the left
    assert mask[:, 8:].max() == 0


def test_panel_masks__of_a_picture_without_annotation_or_heatmap_are_none(make_panel):
    assert panel_masks(make_panel(mask=False, methods=()), 16) == {}


def test_wandb_sink__counts_inside_energy_in_a_histogram(two_passes):
    row = next(row for row in two_passes["history"] if HISTOGRAM in row)
    assert row[HISTOGRAM]["values"] == [4, 0, 3, 1]
    assert row[HISTOGRAM]["bins"] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_wandb_sink__logs_fresh_tables_that_sort_and_group(two_passes):
    names = (f"{FAILURES}_table", f"{HEATMAPS}_table", "reliance/verdicts", "cam/classes")
    failures, probes, verdicts, classes = (two_passes["tables"][name] for name in names)
    for tables in (failures, probes, verdicts, classes):
        assert [table["data"][0][0] for table in tables] == [0, 1]
    table = failures[0]
    assert table["columns"] == probes[0]["columns"] == [*COLUMNS, "flipped"]
    row = dict(zip(table["columns"], table["data"][0], strict=True))
    assert row["picture"]["_type"] == "image-file"
    assert set(row["picture"]["masks"]) == {"object", "grad_cam", "hires_cam"}
    assert (row["true"], row["predicted"], row["probability"], row["correct"]) == ("boat", "car", 0.97, False)
    assert (row["verdict"], row["reason"], row["cell"]) == ("reliant", "surprise", CELLS[3])
    assert (row["shift_since_last"], row["rank_correlation_since_first"], row["flipped"]) == (0.125, None, False)
    assert dict(zip(table["columns"], table["data"][1], strict=True))["inside_energy/grad_cam"] is None  # NaN
    assert verdicts[0]["columns"] == ["epoch", *(name for name in Verdict.__dataclass_fields__ if name != "box")]
    assert verdicts[0]["data"][0][1:6] == [0, "boat", "reliant", 0.41, 0.35]
    assert classes[0]["columns"] == ["epoch", "class", "verdict", "images", "accuracy", "inside_energy", *CELLS]
    assert classes[0]["data"][0] == [0, "boat", "reliant", 8, 0.75, 0.2, 4, 2, 1, 1]


def test_wandb_sink__draws_everything_over_steps_which_tell_the_passes_of_an_epoch_apart(two_passes):
    steps = dict(two_passes["metrics"])
    assert {steps[names] for names in ("cam/*", "reliance/*", "alignment/*")} == {"trainer/global_step"}


def test_wandb_sink__says_what_the_heatmaps_are_made_with(two_passes):
    assert two_passes["config"]["camtrain"]["methods"] == ["grad_cam"]
    assert two_passes["config"]["camtrain"]["layers"] == {"net.4": "the last map"}
    assert two_passes["config"]["camtrain"]["versions"]["torch"] == "2"


def test_wandb_sink__raises_alerts_that_say_where_to_look(two_passes):
    assert [alert[1] for alert in two_passes["alerts"]] == ["boat leans on its background"] * 2
    assert f"cam/failures_table in offline run {two_passes['id']}" in two_passes["alerts"][0][2]


def test_wandb_sink__keeps_the_report_and_sums_the_run_up(two_passes):
    (report,) = [files for name, kind, files in two_passes["artifacts"] if kind == "camtrain-report"]
    assert list(report) == ["report.html"]
    assert report["report.html"].read_text() == "<!doctype html>"
    assert two_passes["summary"]["camtrain/headline"] == "boat leans"


def test_wandb_sink__encodes_without_loss_on_request(wandb_offline, read_run, make_pass):
    logger = WandbLogger(project="camtrain", save_dir=wandb_offline)
    WandbSink(logger, "png").write(*make_pass(0, 0))
    folder = logger.experiment.settings.sync_dir
    logger.experiment.finish()
    assert next(row for row in read_run(folder)["history"] if HEATMAPS in row)[HEATMAPS]["format"] == "png"


def test_wandb_sink__shows_no_more_images_than_a_list_takes(offline_run, make_panel):
    panels = tuple(make_panel(str(index), methods=()) for index in range(IMAGES_PER_LIST + 5))
    run = offline_run(lambda sink: sink.write(Panels(FAILURES, panels, 0, 0)))
    assert run["history"][0][FAILURES]["count"] == IMAGES_PER_LIST
    assert len(run["tables"]["cam/failures_table"][0]["data"]) == IMAGES_PER_LIST + 5


def test_verdict_table__has_the_transplants_of_a_cue():
    row = Verdict(0, "boat", "reliant", 0.4, 0.3, 0.5, 0.0, 0.01, 9, transplants=60, flips=42)
    table = verdict_table([row], 0)
    told = dict(zip(table.columns, table.data[0], strict=True))
    assert (told["flips"], told["transplants"], told["placebo_flips"]) == (42, 60, None)


def test_tables__hold_no_more_rows_than_are_shown():
    rows = [Verdict(i, str(i), "undecided", 0.0, 0.0, 0.0, 0.0, 1.0, 1) for i in range(ROWS_PER_TABLE + 1)]
    assert len(verdict_table(rows, 0).data) == ROWS_PER_TABLE


def test_wandb_sink__without_panels_still_writes(offline_run):
    run = offline_run(lambda sink: sink.write(Panels(HEATMAPS, (), 0, 0), Alert("a" * 100, "text", 0, 0)))
    assert not any(HEATMAPS in row for row in run["history"])
    assert run["alerts"][0][1] == "a" * 63


def test_wandb_sink__of_a_disabled_run_encodes_nothing(wandb_offline, make_pass, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(wandb, "Image", lambda *args, **kwargs: pytest.fail("an image was encoded"))
    WandbSink(WandbLogger(save_dir=wandb_offline)).write(*make_pass(0, 0))
