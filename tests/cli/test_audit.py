import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torchvision.models import SqueezeNet1_1_Weights

from camtrain import explain
from camtrain.cli import main
from camtrain.cli.audit import _to_decide, evenly, trained_on
from camtrain.cli.images import open_folder, read_transformed
from camtrain.cli.options import AuditOptions
from camtrain.cli.tables import write_table
from camtrain.data.transforms import eval_transform
from camtrain.errors import ConfigurationError
from camtrain.loading import load_model
from camtrain.metrics import insertion_deletion, inside_energy, mean_interval
from camtrain.metrics.suite import FAITHFUL, ON_MASKS
from camtrain.module import ImageClassifier
from camtrain.networks import SmallResNet
from camtrain.records import Verdict, read_history

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def audit(capsys, *words):
    main(["audit", *map(str, words), "--json", "--device", "cpu"])
    return json.loads(capsys.readouterr().out)


def test_audit__explains_every_image_as_explain_does(capsys, photos, model, tmp_path):
    words = ["--images", "images", "--masks", "masks", "--out", tmp_path / "out", "--batch-size", 5]
    found = audit(capsys, photos, *model, *words)
    rows = pytest.importorskip("pyarrow.parquet").read_table(found["table"]).to_pylist()
    assert [row["sample"] for row in rows][:3] == ["boat/0.jpg", "boat/3.jpg", "boat/6.jpg"]
    network = load_model(model[1], model[3], 3)
    for row in rows:
        image = read_transformed(photos / "images" / row["sample"], eval_transform(32)).unsqueeze(0)
        heat = explain(network, image, methods="grad_cam")
        mask = (torch.arange(32) < 16).float().view(1, -1, 1).expand(1, 32, 32)
        expected = inside_energy(heat.heatmaps["grad_cam"], mask).item()
        assert row["inside_energy/grad_cam"] == pytest.approx(expected, abs=0.02)  # the mask was resized
        assert row["predicted"] == ["boat", "car", "hen"][int(heat.logits.argmax())]
        assert row["true"] == row["sample"].partition("/")[0]
    right = sum(row["true"] == row["predicted"] for row in rows) / 12
    assert found["camtrain/accuracy/after"] == pytest.approx(right)
    html = (tmp_path / "out" / "report.html").read_text()
    assert 'id="verdicts"' in html
    assert 'id="confusion"' in html
    assert 'href="images.parquet"' in html
    assert "epoch 0" not in html
    line = read_history(tmp_path / "out" / "camtrain" / "validate").galleries[0]
    assert line["columns"]["sample"] == [row["sample"] for row in rows]
    assert line["columns"]["true"] == [row["true"] for row in rows]
    assert line["columns"]["probability"] == pytest.approx([row["probability"] for row in rows], abs=1e-4)


def test_audit__of_a_heap_of_images_needs_no_labels(capsys, photos, model, tmp_path):
    found = audit(capsys, photos / "images" / "boat", *model, "--out", tmp_path / "out", "--table", "t.csv")
    with Path(found["table"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert {row["true"] for row in rows} == {""}
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'id="films"' in page
    assert 'id="gallery"' in page
    assert 'id="answers"' not in page  # nothing is known of what is right


def test_audit__of_masks_without_classes_measures_where_the_heat_lies(capsys, photos, model, tmp_path):
    heap = tmp_path / "heap"
    for kind in ("images", "masks"):
        shutil.copytree(photos / kind / "boat", heap / kind)
    found = audit(capsys, heap, *model, "--images", "images", "--masks", "masks", "--out", tmp_path / "out")
    assert 0 < found["camtrain/inside_energy/grad_cam/after"] < 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "most off the object" in page
    assert "most confidently wrong" not in page


def test_audit__says_that_the_network_was_trained_on_the_folder(photos, tmp_path):
    weights = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for folder in (weights.parent, tmp_path / "run" / "camtrain"):
        folder.mkdir(parents=True)
    weights.touch()
    (tmp_path / "run" / "camtrain" / "config.yaml").write_text(f"data: {{init_args: {{root: {photos}}}}}")
    options = {"model": "torchvision:resnet18", "weights": str(weights)}
    assert "is the folder that this checkpoint was trained on" in trained_on(AuditOptions(folder=photos, **options))
    assert trained_on(AuditOptions(folder=tmp_path, **options)) == ""


def test_audit__matches_the_folders_classes_with_the_models_by_name(capsys, photos, model, tmp_path):
    (tmp_path / "names.txt").write_text("hen\ncar\nboat\n")
    words = ["--images", "images", "--classes", tmp_path / "names.txt", "--out", tmp_path / "out", "--table", "t.csv"]
    found = audit(capsys, photos, *model, *words)
    with Path(found["table"]).open(newline="") as file:
        assert all(row["true"] == row["sample"].partition("/")[0] for row in csv.DictReader(file))
    (tmp_path / "names.txt").write_text("hen\ncar\ncow\n")
    with pytest.raises(SystemExit, match=r"'boat'.* none of the model's, which are"):
        audit(capsys, photos, *model, *words)


def test_audit__takes_the_names_that_a_checkpoint_holds(capsys, photos, tmp_path):
    module = ImageClassifier("camtrain.networks.SmallResNet", 3, class_names=["hen", "car", "boat"])
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    words = ["--model", "camtrain.module.ImageClassifier", "--weights", tmp_path / "model.ckpt", "--size", 32]
    words += ["--images", "images", "--out", tmp_path / "out", "--table", "t.csv"]
    found = audit(capsys, photos, *words)
    with Path(found["table"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["true"] for row in rows} == {"boat", "car", "hen"}
    network = load_model("camtrain.module.ImageClassifier", str(tmp_path / "model.ckpt"), None)
    image = read_transformed(photos / "images" / rows[0]["sample"], eval_transform(32)).unsqueeze(0)
    assert rows[0]["predicted"] == ["hen", "car", "boat"][int(network(image).argmax())]


def test_audit__refuses_to_guess_which_classes_a_model_answers_for(capsys, photos, tmp_path):
    torch.save(SmallResNet(5).state_dict(), tmp_path / "five.pth")
    words = ["--model", "camtrain.networks.SmallResNet", "--weights", tmp_path / "five.pth", "--size", 32]
    words += ["--images", "images", "--out", tmp_path / "out"]
    with pytest.raises(SystemExit, match=r"answers for 5 classes, and the folder has 3.*--classes FILE"):
        audit(capsys, photos, *words)


def test_load_model__refuses_a_head_of_another_number_of_classes(tmp_path):
    torch.save(SmallResNet(5).state_dict(), tmp_path / "five.pth")
    with pytest.raises(ConfigurationError, match=r"does not fit a model of 4 classes.*mismatched.*--classes FILE"):
        load_model("camtrain.networks.SmallResNet", str(tmp_path / "five.pth"), 4)


def test_audit__can_fail_on_reliance(monkeypatch, photos, model, tmp_path):
    from camtrain.cli import audit as module
    from camtrain.sinks import Verdict

    rows = [Verdict(0, "boat", "reliant", 0.4, 0.3, 0.5, 0.0, 0.01, 9)]
    monkeypatch.setattr(module, "latest_verdicts", lambda history, epoch: rows)
    words = ["audit", str(photos), *model, "--images", "images", "--out", str(tmp_path / "out"), "--device", "cpu"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--fail-on-reliant"])
    assert stopped.value.code == 3


def colored(place, count=14, side=32):
    """Class folders of white discs on noise whose color tells the class; the images and their labels."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    images, labels = [], []
    for label, name in enumerate(("boat", "car", "hen")):
        (place / name).mkdir(parents=True)
        for index in range(count):
            image = generator.integers(0, 40, (side, side, 3))
            image[..., label] += 110
            top, left, radius = generator.integers(13, 19), generator.integers(13, 19), generator.integers(5, 8)
            image[(rows - top) ** 2 + (columns - left) ** 2 <= radius**2] = generator.integers(215, 256)
            cv2.imwrite(str(place / name / f"{index}.png"), image[..., ::-1].astype(np.uint8))
            images.append(read_transformed(place / name / f"{index}.png", eval_transform(side)))
            labels.append(label)
    return torch.stack(images), torch.tensor(labels)


def test_audit__of_photos_without_masks_finds_a_network_that_reads_the_background(photos, model, tmp_path):
    images, labels = colored(tmp_path / "colored")
    torch.manual_seed(0)
    network = SmallResNet(3)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(25):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(network.state_dict(), model[3])
    words = ["audit", str(tmp_path / "colored"), *model, "--out", str(tmp_path / "out"), "--device", "cpu"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--fail-on-reliant"])
    assert stopped.value.code == 3
    verdicts = json.loads((tmp_path / "out" / "camtrain" / "validate" / "verdicts.json").read_text())
    assert "reliant" in {row["verdict"] for row in verdicts["verdicts"]}
    assert "all over the background" in {row["where"] for row in verdicts["verdicts"]}


class ReadsCorner(torch.nn.Module):
    """Answers with the color of the lower right corner."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.same = torch.nn.Conv2d(3, num_classes, 1, bias=False)
        torch.nn.init.eye_(self.same.weight[..., 0, 0])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 4 * self.same(images)[:, :, -4:, -4:].mean(dim=(2, 3))


def test_audit__says_where_the_cue_lies_and_shows_it(names, tmp_path):
    generator = np.random.default_rng(0)
    for label, name in enumerate(("boat", "car", "hen")):
        for index in range(14):
            image = generator.integers(80, 120, (32, 32, 3), np.uint8)
            image[10:22, 10:22] = 200
            image[-4:, -4:] = np.eye(3)[label] * 255
            mask = np.zeros((32, 32), np.uint8)
            mask[10:22, 10:22] = 255
            for kind, picture in (("images", image[..., ::-1]), ("masks", mask)):
                (tmp_path / "all" / kind / name).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(tmp_path / "all" / kind / name / f"{index}.png"), picture)
    words = ["audit", str(tmp_path / "all"), "--images", "images", "--masks", "masks", "--size", "32", *names]
    words += ["--model", f"{__name__}.ReadsCorner", "--out", str(tmp_path / "out"), "--device", "cpu", "--metrics"]
    main(words)
    verdicts = json.loads((tmp_path / "out" / "camtrain" / "validate" / "verdicts.json").read_text())["verdicts"]
    assert [row["box"] for row in verdicts] == [[0.75, 0.75, 0.25, 0.25]] * 3
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("12 of 12 windows look alike") == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "There is no folder nowhere"),
        ([".", "--table", "images.xls"], "holds no images"),
    ],
)
def test_audit__ends_with_the_message_of_a_mistake(model, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=said):
        main(["audit", *words, *model])


def test_load_model__takes_torchvision_timm_and_checkpoints(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "empty.pth")
    assert load_model("torchvision:squeezenet1_1", None, 3)(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    pytest.importorskip("timm")
    assert load_model("timm:mobilenetv3_small_050", None, 2)(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_load_model__loads_a_lightning_module(tmp_path, make_trainer):
    module = ImageClassifier("camtrain.networks.SmallResNet", 3, model_kwargs={"width": 4})
    trainer = make_trainer()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    loaded = load_model("camtrain.module.ImageClassifier", str(tmp_path / "model.ckpt"), None)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(images), module.eval()(images))


def test_load_model__counts_the_classes_of_a_file(tmp_path):
    torch.save(SmallResNet(7).state_dict(), tmp_path / "seven.pth")
    network = load_model("camtrain.networks.SmallResNet", str(tmp_path / "seven.pth"), None)
    assert network(torch.zeros(1, 3, 16, 16)).shape == (1, 7)


@pytest.mark.parametrize(
    ("spec", "weights", "said"),
    [
        ("torchvision:resnet19", None, "No network named 'resnet19'"),
        ("hub:resnet18", None, "Models come from"),
        ("timm:no_such_model", None, "timm has no model"),
        ("resnet18", None, "'torchvision:resnet18'"),
        ("camtrain.networks.Nothing", None, "Cannot import"),
        ("camtrain.module.ImageClassifier", None, "give its checkpoint"),
        ("camtrain.module.ImageClassifier", "gone.ckpt", "No checkpoint gone.ckpt"),
    ],
)
def test_load_model__names_what_is_wrong(spec, weights, said):
    with pytest.raises(ConfigurationError, match=said):
        load_model(spec, weights, 3)


def test_write_table__refuses_other_formats(tmp_path):
    with pytest.raises(ConfigurationError, match=r"as \.parquet or \.csv, got 'a.xls'"):
        write_table(tmp_path / "a.xls", {})


def test_audit__adds_metrics_to_table_report_and_answer(capsys, photos, model, tmp_path):
    words = ["--images", "images", "--masks", "masks", "--out", tmp_path / "out", "--table", "t.csv"]
    found = audit(capsys, photos, *model, *words, "--metrics", "--metric-images", 5)
    with Path(found["table"]).open(newline="") as file:
        rows = {row["sample"]: row for row in csv.DictReader(file)}
    assert {name.partition("/")[0] for name in found["metrics"]} == {*FAITHFUL, *ON_MASKS}
    measured = {sample: float(row["insertion/grad_cam"]) for sample, row in rows.items() if row["insertion/grad_cam"]}
    assert len(measured) == 5
    network = load_model(model[1], model[3], 3)
    for sample, value in measured.items():
        image = read_transformed(photos / "images" / sample, eval_transform(32)).unsqueeze(0)
        heat = explain(network, image, methods="grad_cam").heatmaps
        curves = insertion_deletion(network, image, heat, steps=20)["grad_cam"]
        assert value == pytest.approx(float(curves.insertion_auc), abs=1e-4)
    mean, low, high, images = found["metrics"]["insertion/grad_cam"]
    expected = mean_interval(sum(measured.values()), sum(v**2 for v in measured.values()), 5)
    assert (mean, low, high) == pytest.approx((expected.mean, expected.low, expected.high))
    assert (images, found["metrics"]["inside_energy/grad_cam"][3]) == (5, 12)  # the monitor knows all
    html = (tmp_path / "out" / "report.html").read_text()
    section = html[html.index('id="metrics"') :]
    assert section.count('class="chart"') >= 2
    assert "Deletion: pixels vanish" in section


def test_audit__takes_the_metrics_that_are_named(capsys, photos, model, tmp_path):
    words = [
        "--methods",
        "grad_cam",
        "--out",
        tmp_path / "out",
        "--table",
        "t.csv",
        "--metrics",
        "occlusion_correlation",
    ]
    found = audit(capsys, photos / "images" / "car", *model, *words)
    assert list(found["metrics"]) == ["occlusion_correlation/grad_cam"]
    assert 'id="metrics"' in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metrics", "heatmap_iou"], "heatmap_iou asks masks, and there are none"),
        (["--metrics", "--metric-images", "0"], "--metric-images is at least 1, got 0"),
    ],
)
def test_audit__refuses_metrics_that_have_no_answer_before_it_runs(photos, model, tmp_path, words, said):
    with pytest.raises(SystemExit, match=said):
        main(["audit", str(photos / "images" / "boat"), *model, "--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


def test_evenly__spreads_over_all():
    assert evenly(3, 8) == [0, 1, 2]
    assert evenly(0, 8) == []


@pytest.mark.parametrize("layout", ["parallel", "beside", "below"])
def test_audit__of_a_heap_of_images_measures_their_masks(capsys, photos, model, tmp_path, layout):
    place, mask = tmp_path / "heap", np.zeros((24, 32), np.uint8)
    mask[:12] = 255
    images, masks = {
        "parallel": (place / "images", place / "masks"),
        "beside": (place, place),
        "below": (place, place / "masks"),
    }[layout]
    words = {
        "parallel": ["--images", "images", "--masks", "masks"],
        "beside": ["--mask-suffix", "_mask"],
        "below": ["--masks", "masks"],
    }[layout]
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((photos / "images" / "boat").iterdir()):
        (images / path.name).write_bytes(path.read_bytes())
        cv2.imwrite(str(masks / f"{path.stem}{'_mask' * (layout == 'beside')}.png"), mask)
    found = audit(
        capsys, place, *model, *words, "--out", tmp_path / "out", "--table", "t.csv", "--metrics", "pointing_game"
    )
    with Path(found["table"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sample"] for row in rows] == ["0.jpg", "3.jpg", "6.jpg", "9.jpg"]
    network = load_model(model[1], model[3], 3)
    truth = (torch.arange(32) < 16).float().view(1, -1, 1).expand(1, 32, 32)
    for row in rows:
        heat = explain(network, read_transformed(images / row["sample"], eval_transform(32)).unsqueeze(0))
        expected = inside_energy(heat.heatmaps["grad_cam"], truth).item()
        assert float(row["inside_energy/grad_cam"]) == pytest.approx(expected, abs=0.02)  # the mask was resized
    assert {row["true"] for row in rows} == {""}


def test_audit__of_a_heap_takes_the_names_of_the_zoo(capsys, photos, tmp_path, caplog):
    words = ["--model", "torchvision:squeezenet1_1", "--size", 64, "--out", tmp_path / "out", "--table", "t.csv"]
    torch.manual_seed(0)
    found = audit(capsys, photos / "images" / "boat", *words, "--num-probes", 1)
    with Path(found["table"]).open(newline="") as file:
        names = {row["predicted"] for row in csv.DictReader(file)}
    assert names <= set(SqueezeNet1_1_Weights.DEFAULT.meta["categories"])
    assert "random weights: give those to look at with --weights" in caplog.text


def test_audit__of_a_zoo_model_keeps_the_names_of_folders_that_are_others(photos, tmp_path):
    words = ["audit", str(photos), "--images", "images", "--model", "torchvision:squeezenet1_1", "--size", "64"]
    with pytest.raises(SystemExit, match=r"answers for 1000 classes, and the folder has 3.*--classes FILE"):
        main([*words, "--out", str(tmp_path / "out"), "--device", "cpu"])


def test_open_folder__does_not_guess_which_of_two_classes_of_one_name_is_meant(photos):
    with pytest.raises(ConfigurationError, match="several classes called 'hen'"):
        open_folder(photos, eval_transform(32), ["boat", "car", "hen", "hen"], images="images")


def test_audit__judges_as_many_images_as_it_is_told(photos, model, names, tmp_path, capsys):
    layout = ["--images", "images", "--masks", "masks"]
    words = ["audit", str(photos), *layout, *model, *names, "--out", str(tmp_path / "out"), "--device", "cpu"]
    for given, expected in (([], 4), (["--images-per-class", "10"], 4)):
        main([*words, *given])
        rows = json.loads((tmp_path / "out" / "camtrain" / "validate" / "verdicts.json").read_text())["verdicts"]
        assert {row["images"] for row in rows} == {expected}
    said = " ".join(capsys.readouterr().out.split())
    assert "to decide a verdict takes 10 images of a class: audit more of boat, car, hen" in said
    with pytest.raises(SystemExit, match="images_per_class"):
        main([*words, "--images-per-class", "3"])


def test_to_decide__names_the_words_that_judge_all_images():
    rows = [Verdict(i, name, "undecided", 0.1, 0.0, 0.2, 0.0, 0.2, 60) for i, name in enumerate(("cat", "dog"))]
    rows += [Verdict(2, "cow", "not reliant", 0.0, 0.0, 0.0, 0.0, 1.0, 60)]
    assert _to_decide(rows, {"cat": 500, "dog": 400, "cow": 70}) == [
        (
            "to decide",
            "cat has 500 images, of which 60, dog has 400 images, of which 60 were judged: --images-per-class 500 "
            "--max-images 970",
        )
    ]
    assert _to_decide(rows, {}) == []
    assert _to_decide(rows, {"cat": 9}) == [("to decide", "a verdict takes 10 images of a class: audit more of cat")]
