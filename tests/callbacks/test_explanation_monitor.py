import json
import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from camtrain import explain
from camtrain.callbacks import ExplanationMonitor
from camtrain.data.batches import Batch
from camtrain.errors import BatchError, ConfigurationError, LayerError, MaskError, MethodError
from camtrain.explanation import resolve_methods
from camtrain.metrics import inside_energy, pointing_game
from camtrain.monitoring.explainer import Explainer
from tests.callbacks.conftest import Foreign, tensors
from tests.processes import forked


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*litlogger.*")
        yield


def _fit(make_trainer, module, train, val, callbacks, **kwargs):
    torch.manual_seed(2)
    trainer = make_trainer(max_epochs=2, callbacks=callbacks, **kwargs)
    trainer.fit(module, train, val)
    return trainer


def test_monitor__leaves_metrics_and_weights_bit_identical(make_trainer, foreign, loader):
    plain, watched = foreign(), foreign()
    without = _fit(make_trainer, plain, loader(), loader(), [])
    with_it = _fit(make_trainer, watched, loader(), loader(), [ExplanationMonitor()])
    assert torch.equal(without.callback_metrics["val/loss"], with_it.callback_metrics["val/loss"])
    for a, b in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in watched.modules())


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_monitor__logs_what_explain_gives_one_image_at_a_time(make_trainer, foreign, loader, verb):
    module, data = foreign(), loader(11)
    trainer = make_trainer(callbacks=[ExplanationMonitor()])
    getattr(trainer, verb)(module, data, verbose=False)
    energies, hits = {}, {}
    prefix = "test/" if verb == "test" else ""
    logged = {name.removeprefix(prefix): value for name, value in trainer.callback_metrics.items()}
    assert all(name.startswith(f"{prefix}cam/") for name in trainer.callback_metrics if "cam/" in name)
    for method in ("grad_cam", "grad_cam_plus_plus"):
        for image, _, mask in data.dataset:
            heat = explain(module.net, image[None], layers="4", methods=method).heatmaps[method]
            energies.setdefault(method, []).append(inside_energy(heat, mask[None]))
            hits.setdefault(method, []).append(pointing_game(heat, mask[None]))
        torch.testing.assert_close(logged[f"cam/inside_energy/{method}"], torch.cat(energies[method]).nanmean())
        torch.testing.assert_close(logged[f"cam/pointing_game/{method}"], torch.cat(hits[method]).nanmean())
    cells = [
        logged[f"cam/{cell}"] for cell in ("right_grounded", "right_ungrounded", "wrong_grounded", "wrong_ungrounded")
    ]
    torch.testing.assert_close(sum(cells), torch.tensor(1.0))


def test_monitor__rides_and_makes_no_forward_of_its_own(make_trainer, foreign, loader):
    module, calls = foreign(), []
    module.net.register_forward_hook(lambda net, inputs, _: calls.append(len(inputs[0])))
    monitor = ExplanationMonitor(layers="net.4", num_failures=0)
    make_trainer(callbacks=[monitor]).validate(module, loader(24), verbose=False)
    assert [size for size in calls if size > 2] == [8, 8, 8]  # the dry forward that checks the layer takes two


class Attention(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.attend = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.attend(self.conv(x).flatten(2).mT).mean(1))

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))


def test_monitor__walks_where_riding_would_change_the_metrics(make_trainer, loader):
    torch.manual_seed(0)
    module = Attention()
    plain, watched = make_trainer(), make_trainer(callbacks=[ExplanationMonitor()])
    plain.validate(module, loader(), verbose=False)
    watched.validate(module, loader(), verbose=False)
    assert torch.equal(plain.callback_metrics["val/loss"], watched.callback_metrics["val/loss"])
    assert 0 <= watched.callback_metrics["cam/inside_energy/grad_cam"] <= 1


class Split(pl.LightningModule):
    """Calls its parts from the step, and forward from nowhere."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.backbone(x).relu().mean((2, 3)))

    def validation_step(self, batch, batch_idx):
        features = self.backbone(batch[0])
        self.log("val/loss", nn.functional.cross_entropy(self.head(features.relu().mean((2, 3))), batch[1]))


def test_monitor__walks_where_the_step_calls_parts_of_the_model(make_trainer, loader):
    torch.manual_seed(0)
    module = Split()
    plain, watched = make_trainer(), make_trainer(callbacks=[ExplanationMonitor(layers="backbone")])
    plain.validate(module, loader(), verbose=False)
    watched.validate(module, loader(), verbose=False)
    assert torch.equal(plain.callback_metrics["val/loss"], watched.callback_metrics["val/loss"])
    expected = explain(module, loader().dataset.tensors[0], layers="backbone").heatmaps["grad_cam"]
    energy = inside_energy(expected, loader().dataset.tensors[2]).nanmean()
    torch.testing.assert_close(watched.callback_metrics["cam/inside_energy/grad_cam"], energy)


def test_monitor__without_masks_leaves_out_what_needs_them(make_trainer, foreign, loader):
    trainer = make_trainer(callbacks=[ExplanationMonitor()])
    trainer.validate(foreign(), loader(masks=False), verbose=False)
    names = {name for name in trainer.callback_metrics if name.startswith("cam/")}
    assert names == {"cam/empty_maps/grad_cam", "cam/empty_maps/grad_cam_plus_plus"}


def test_monitor__leaves_unannotated_images_out_of_the_means(make_trainer, foreign, loader):
    images, labels, masks = loader().dataset.tensors
    masks = masks.clone()
    masks[1::2] = -1
    values = []
    for data in (TensorDataset(images, labels, masks), TensorDataset(images[::2], labels[::2], masks[::2])):
        trainer = make_trainer(callbacks=[ExplanationMonitor()])
        trainer.validate(foreign(), DataLoader(data, 8), verbose=False)
        values.append(trainer.callback_metrics["cam/inside_energy/grad_cam"])
    torch.testing.assert_close(*values)


def test_monitor__counts_dead_maps_as_empty(make_trainer, foreign, loader):
    module = foreign()
    nn.init.constant_(module.net[4].bias, -100.0)  # every ReLU after it is off
    trainer = make_trainer(callbacks=[ExplanationMonitor()])
    trainer.validate(module, loader(), verbose=False)
    assert trainer.callback_metrics["cam/empty_maps/grad_cam"] == 1
    assert trainer.callback_metrics["cam/inside_energy/grad_cam"].isnan()
    assert trainer.callback_metrics["cam/right_ungrounded"].isnan()  # a map that holds nothing is on nothing, nor off


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"layers": "net.44"}, LayerError, "net.44"),
        ({"layers": "net.9"}, LayerError, r"has shape \(\d, 3\)"),
        ({"model": "nett"}, ConfigurationError, "nett"),
    ],
)
def test_monitor__refuses_a_wrong_configuration_before_the_first_epoch(
    make_trainer, foreign, loader, arguments, error, says
):
    module = foreign()
    before = [p.clone() for p in module.parameters()]
    with pytest.raises(error, match=says):
        make_trainer(callbacks=[ExplanationMonitor(**arguments)]).fit(module, loader(), loader())
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_monitor__refuses_an_unknown_method_and_bad_counts_at_once():
    with pytest.raises(MethodError, match="grad_cm"):
        ExplanationMonitor(methods=["grad_cm"])
    with pytest.raises(ConfigurationError, match="every_n_epochs is a whole number of at least 1; got 0"):
        ExplanationMonitor(every_n_epochs=0)


@pytest.mark.parametrize(
    ("masks", "error", "says"),
    [
        (torch.ones(20, 8, 8), MaskError, r"\(8, 16, 16\), got \(8, 8, 8\)"),
        (torch.full((20, 16, 16), 255.0), MaskError, "255"),
        (torch.ones(20, 16), BatchError, "16"),
    ],
)
def test_monitor__refuses_bad_masks_in_the_sanity_check(make_trainer, foreign, loader, masks, error, says):
    images, labels, _ = loader().dataset.tensors
    data = DataLoader(TensorDataset(images, labels, masks), 8)
    with pytest.raises(error, match=says):
        make_trainer(callbacks=[ExplanationMonitor()]).fit(foreign(), data, data)


def test_monitor__reports_a_failure_of_its_own_once_and_training_goes_on(make_trainer, foreign, loader):
    monitor, calls = ExplanationMonitor(), []

    def broken(logits, labels):
        calls.append(1)
        raise RuntimeError("a broken target")

    monitor.target = broken
    module = foreign()
    with pytest.warns(UserWarning, match="a broken target") as caught:
        trainer = _fit(make_trainer, module, loader(), loader(), [monitor])
    assert sum("a broken target" in str(w.message) for w in caught) == 1
    assert trainer.current_epoch == 2
    assert len(calls) > 1
    assert not any(m._forward_hooks for m in module.modules())


def test_monitor__leaves_no_hook_after_an_exception_in_the_step(make_trainer, foreign, loader):
    module = foreign()
    module.validation_step = lambda batch, batch_idx: module.net(batch[0].double())
    with pytest.raises(RuntimeError):
        make_trainer(callbacks=[ExplanationMonitor(layers="net.4")]).validate(module, loader(), verbose=False)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_monitor__explains_each_nth_epoch_and_the_last(make_trainer, foreign, loader):
    seen = []

    class Watch(ExplanationMonitor):
        def _finish(self, trainer, *args):
            seen.append(trainer.current_epoch)
            super()._finish(trainer, *args)

    torch.manual_seed(0)
    make_trainer(max_epochs=6, callbacks=[Watch(every_n_epochs=2)]).fit(foreign(), loader(), loader())
    assert seen == [0, 2, 4, 5]


def test_monitor__can_be_monitored_by_a_checkpoint(make_trainer, foreign, loader, tmp_path):
    best = ModelCheckpoint(tmp_path / "best", monitor="cam/inside_energy/grad_cam", mode="max")
    trainer = _fit(
        make_trainer,
        foreign(),
        loader(),
        loader(),
        [best, ExplanationMonitor(every_n_epochs=3)],
        enable_checkpointing=True,
    )
    assert best.best_model_score is not None
    assert trainer.callback_metrics["cam/inside_energy/grad_cam"] <= best.best_model_score


def test_monitor__follows_the_same_probes_after_a_resume(make_trainer, foreign, loader, tmp_path):
    first = ExplanationMonitor(num_probes=3)
    trainer = _fit(make_trainer, foreign(), loader(), loader(), [first])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second = ExplanationMonitor(num_probes=3)
    torch.manual_seed(0)
    make_trainer(max_epochs=3, callbacks=[second]).fit(foreign(), loader(), loader(), ckpt_path=tmp_path / "last.ckpt")
    probes = [monitor.state_dict()["seen"]["val"]["probes"] for monitor in (first, second)]
    assert probes[0] == probes[1] == ["val-0", "val-10", "val-19"]


def test_monitor__writes_pictures_and_a_report_without_any_logger(make_trainer, foreign, loader, tmp_path):
    trainer, module = make_trainer(callbacks=[ExplanationMonitor(num_probes=3)]), foreign()
    trainer.validate(module, loader(), verbose=False)  # its report has the masks of its own pass
    trainer.fit(module, loader(), loader())
    folder = tmp_path / "camtrain_logs"
    for place in (folder / "validate", folder):
        assert "have a mask" in (place / "report.html").read_text().partition('id="annotations"')[2]
        assert (place / "images/masks.jpg").is_file()
    lines = [json.loads(line) for line in (folder / "scalars.jsonl").read_text().splitlines()]
    assert any("cam/inside_energy/grad_cam" in json.dumps(line) for line in lines)
    assert list(folder.glob("images/**/*.jpg"))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_monitor__agrees_with_full_precision(make_trainer, foreign, loader, precision):
    values = []
    for chosen in ("32-true", precision):
        trainer = make_trainer(callbacks=[ExplanationMonitor(["hires_cam"])], precision=chosen)
        trainer.validate(foreign(), loader(), verbose=False)
        values.append(trainer.callback_metrics["cam/inside_energy/hires_cam"].float())
    torch.testing.assert_close(*values, atol=0.02, rtol=0.02)


def validated(folder, devices, monitor):
    """The numbers of a validation by several processes, and what they warned of."""
    torch.manual_seed(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = pl.Trainer(
            accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=folder, callbacks=[monitor],
        )  # fmt: skip
        trainer.validate(Foreign(), DataLoader(tensors(24), 4), verbose=False)
    numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return numbers, [str(each.message) for each in caught]


def test_monitor__of_two_processes_logs_what_one_logs(tmp_path):
    ((alone, _),) = forked(validated, tmp_path / "1", 1, ExplanationMonitor(), folder=tmp_path, devices=1)
    (first, _), (second, _) = forked(validated, tmp_path / "2", 2, ExplanationMonitor(), folder=tmp_path)
    assert alone.keys() == first.keys() == second.keys()
    for name in [name for name in alone if name.startswith("cam/")]:
        assert first[name] == second[name] == pytest.approx(alone[name], rel=1e-5), name


class OneLogit(pl.LightningModule):
    """A binary classifier as it is commonly written, with logits (B, 1) or (B,); "both" writes it with two logits."""

    def __init__(self, form="column"):
        super().__init__()
        torch.manual_seed(4)
        self.form = form
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 1)

    def forward(self, images):
        logit = self.head(self.body(images).mean((2, 3)))
        return {"column": logit, "flat": logit[:, 0], "both": torch.cat([-logit / 2, logit / 2], dim=1)}[self.form]

    def validation_step(self, batch, batch_idx):
        self(batch[0])


@pytest.mark.parametrize(("form", "labels"), [("column", torch.long), ("column", torch.float), ("flat", torch.long)])
def test_monitor__of_one_logit_says_what_it_says_of_the_same_network_with_two(
    make_trainer, loader, tmp_path, form, labels
):
    images, _, masks = loader(24).dataset.tensors
    with torch.no_grad():
        truth = (OneLogit()(images)[:, 0] > OneLogit()(images).median()).long()
    truth[:4] = 1 - truth[:4]
    seen = []
    for written in (form, "both"):
        data = TensorDataset(images, truth if written == "both" else truth.to(labels), masks)
        monitor = ExplanationMonitor(methods=["grad_cam", "hires_cam"])
        trainer = make_trainer(callbacks=[monitor], default_root_dir=tmp_path / written)
        trainer.validate(OneLogit(written), DataLoader(data, 8), verbose=False)
        seen.append((monitor.images, dict(trainer.callback_metrics)))
    (one, logged), (two, expected) = seen
    right = one["label"] == one["predicted"]
    with torch.no_grad():
        answers = (OneLogit()(images)[:, 0] > 0).long()
    assert right.tolist() == (answers == truth).tolist()
    assert 0 < right.sum() < 24
    assert sorted(logged) == sorted(expected)
    for column in one.columns:
        torch.testing.assert_close(
            torch.tensor(one[column]), torch.tensor(two[column]), rtol=1e-4, atol=1e-5, equal_nan=True
        )
    pictures = json.dumps([p.name for p in (tmp_path / form).rglob("*.jpg")])
    assert "val-0" in pictures


def test_monitor__names_the_tasks_where_it_cannot_tell_which_one_it_is(make_trainer, foreign, loader):
    images, labels, masks = loader().dataset.tensors
    for strange, says in ((labels.float() + 0.5, "task="), (torch.rand(20, 3), "task=")):
        data = DataLoader(TensorDataset(images, strange, masks), 8)
        module = foreign()
        module.validation_step = lambda batch, batch_idx, module=module: module.net(batch[0])
        module.training_step = lambda batch, batch_idx, module=module: module.net(batch[0]).sum()
        with pytest.raises(BatchError, match=says):
            make_trainer(callbacks=[ExplanationMonitor()]).fit(module, data, data)


class Views(pl.LightningModule):
    """Looks at the bright left half alone, and calls its network on other views before or after the batch's own."""

    def __init__(self, views):
        super().__init__()
        self.views = views
        self.net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(0.3)

    def validation_step(self, batch, batch_idx):
        for view in self.views:
            self.net(batch[0] if view == "own" else batch[0].flip(-1))


@pytest.mark.parametrize("views", [("own",), ("own", "mirrored"), ("mirrored", "own"), ("mirrored", "own", "mirrored")])
def test_monitor__explains_the_call_on_the_batchs_own_images(make_trainer, views):
    images, masks = torch.zeros(6, 3, 8, 8), torch.zeros(6, 8, 8)
    images[..., :4] = masks[..., :4] = 1
    trainer = make_trainer(callbacks=[ExplanationMonitor(methods=["hires_cam"], layers="net.1", target=first_logit)])
    data = TensorDataset(images, torch.zeros(6, dtype=torch.long), masks)
    trainer.validate(Views(views), DataLoader(data, 3), verbose=False)
    assert trainer.callback_metrics["cam/inside_energy/hires_cam"] > 0.7


def first_logit(logits, labels):
    return logits[:, 0]


class Normalizes(pl.LightningModule):
    """Gives its network other pixels than the batch's."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        self.given = []
        self.net.register_forward_pre_hook(lambda net, inputs: self.given.append(inputs[0].mean().item()))

    def validation_step(self, batch, batch_idx):
        self.net(batch[0] / 2 - 5)


def test_monitor__asks_the_network_again_with_what_the_step_gave_it(make_trainer, loader):
    torch.manual_seed(0)
    module = Normalizes()
    make_trainer(callbacks=[ExplanationMonitor(layers="net.0")]).validate(module, loader(), verbose=False)
    assert len(module.given) > 1 + 3  # the dry forward, three batches, and the true classes of the failures
    assert max(module.given[1:]) < -4


class LossInside(pl.LightningModule):
    """Computes its loss within forward, as Hugging Face's models do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, images, labels=None):
        logits = self.head(self.body(images).relu().mean((2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self(batch[0], labels=batch[1])["loss"])


def test_monitor__lets_a_forward_compute_its_loss_under_inference_mode(make_trainer, loader):
    plain, watched = make_trainer(), make_trainer(callbacks=[ExplanationMonitor(layers="body")])
    for trainer in (plain, watched):
        trainer.validate(LossInside(), loader(), verbose=False)
    assert torch.equal(plain.callback_metrics["val/loss"], watched.callback_metrics["val/loss"])
    assert watched.callback_metrics["cam/inside_energy/grad_cam"] > 0


class Bytes(Normalizes):
    """Is given bytes, makes numbers of them in its step, and has two networks."""

    def __init__(self):
        super().__init__()
        self.teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))

    def validation_step(self, batch, batch_idx):
        self.net(batch[0].float() / 255)


@pytest.mark.parametrize("compiled", [False, True])
def test_monitor__finds_the_layers_in_what_the_step_gives_the_network(make_trainer, loader, compiled):
    images, labels, masks = loader().dataset.tensors
    as_bytes = (images * 255).round().byte()
    torch.manual_seed(0)
    module, monitor = Bytes(), ExplanationMonitor(methods=["hires_cam"])
    if compiled:
        module.net.compile(backend="eager")
    data = DataLoader(TensorDataset(as_bytes, labels, masks), 8)
    trainer = make_trainer(callbacks=[monitor])
    trainer.validate(module, data, verbose=False)
    heat = explain(module.net, as_bytes.float() / 255, methods="hires_cam", layers="auto").heatmaps["hires_cam"]
    energy = inside_energy(heat, masks).nanmean()
    torch.testing.assert_close(trainer.callback_metrics["cam/inside_energy/hires_cam"], energy)
    assert len(monitor.images.samples) == 20
    assert not any(m._forward_hooks for m in module.net.modules())


class Halves(pl.LightningModule):
    """Its step calls a backbone, whose features look like logits, and then a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(7, 3)

    def validation_step(self, batch, batch_idx):
        self.head(self.backbone(batch[0]))


class Whole(Halves):
    def forward(self, images):
        return self.head(self.backbone(images))


def test_monitor__does_not_take_features_for_answers(make_trainer, loader):
    monitor = ExplanationMonitor(layers="backbone.1")
    module = Whole()
    make_trainer(callbacks=[monitor]).validate(module, loader(), verbose=False)
    with torch.no_grad():
        assert monitor.images["predicted"].tolist() == module(loader().dataset.tensors[0]).argmax(1).tolist()
    with pytest.raises(ConfigurationError, match="calls no single part that maps the batch's images to logits"):
        make_trainer(callbacks=[ExplanationMonitor()]).validate(Halves(), loader(), verbose=False)


class Encoder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 3)
        self.encode = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)

    def forward(self, images):
        return self.head(self.encode(self.patch(images).flatten(2).mT).mean(1))

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))


def test_monitor__listens_to_attention_without_changing_a_bit(make_trainer, loader):
    values = []
    for callbacks in ([], [ExplanationMonitor(layers="encode.layers.1")]):
        trainer = make_trainer(callbacks=callbacks)
        trainer.validate(Encoder(), loader(), verbose=False)
        values.append(trainer.callback_metrics["val/loss"])
    assert torch.equal(*values)


class Fails(ExplanationMonitor):
    def _naming(self, trainer, explainer):
        if trainer.global_rank == 1:
            raise RuntimeError("no ink")
        return super()._naming(trainer, explainer)


def test_monitor__of_a_process_that_fails_while_recording_keeps_nobody_waiting(tmp_path):
    told = forked(validated, tmp_path, 2, Fails(), folder=tmp_path)
    messages = [text for _, messages in told for text in messages]
    assert sum("ExplanationMonitor failed in record (rank 1: RuntimeError: no ink)" in text for text in messages) == 1
    assert "cam/inside_energy/grad_cam" in told[0][0]
    assert list((tmp_path / "camtrain_logs" / "validate").rglob("*.jpg"))  # what the other process has


class Broken(Foreign):
    """Answers the first two images of each batch with NaN."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(self.net, Spoil())


class Spoil(nn.Module):
    def forward(self, logits):
        return torch.cat([logits[:2] * torch.nan, logits[2:]])


def test_monitor__of_answers_that_are_nan_counts_them_and_calls_them_neither_right_nor_wrong(make_trainer, tmp_path):
    torch.manual_seed(1)
    data, trainer = tensors(20), make_trainer(callbacks=[ExplanationMonitor()])
    with pytest.warns(UserWarning, match=r"counts 6 of 20 answers as neither right nor wrong and of no class.*NaN"):
        trainer.validate(Broken(), DataLoader(data, 8), verbose=False)
    assert trainer.callback_metrics["cam/not_finite"] == pytest.approx(6 / 20)
    (lines,) = [path.read_text().splitlines() for path in tmp_path.rglob("records.jsonl")]
    records = {record["kind"]: record for record in map(json.loads, lines)}
    answered = [row for row in range(20) if row % 8 > 1]
    assert sum(row["images"] for row in records["classes"]["rows"]) == len(answered)
    assert sum(count for *_, count in records["classes"]["confusion"]) == len(answered)
    assert sum(records["cells"]["counts"].values()) <= len(answered)
    assert records["calibration"]["images"] == len(answered)


CALLS = []


class Watched(nn.Module):
    """Notes at each call whether it is being compiled."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        CALLS.append(torch.compiler.is_compiling())
        return self.conv(x).mean((2, 3))


def test_explainer__looks_for_the_layers_of_a_compiled_network_eagerly():
    network = Watched()
    network.compile(backend="eager")
    explainer = Explainer(network, network, "auto", resolve_methods(["grad_cam"]), compiled=True)
    explainer.arm(Batch(torch.rand(2, 3, 8, 8)))
    explainer.disarm()
    assert CALLS
    assert not any(CALLS)


@pytest.mark.parametrize("one_hot", [True, False])
def test_monitor__says_that_labels_may_be_one_hot(make_trainer, foreign, caplog, one_hot):
    images, labels, _ = tensors(8).tensors
    rows = nn.functional.one_hot(labels, 3).float()
    rows[0] = rows[0] if one_hot else 1.0
    module = foreign()
    module.validation_step = lambda batch, batch_idx: module.net(batch[0])
    with caplog.at_level("INFO"):
        trainer = make_trainer(callbacks=[ExplanationMonitor(num_probes=0, num_failures=0)])
        trainer.validate(module, DataLoader(TensorDataset(images, rows), 8), verbose=False)
    assert ("as several an image; if each is one-hot, give labels.argmax(1)" in caplog.text) == one_hot
