"""What each command takes: fields are its options, their documentation is its help. Read before torch is imported."""

from collections.abc import Sized
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from camtrain.errors import ConfigurationError

Metric = Literal[
    "average_drop",
    "confidence_increase",
    "insertion",
    "deletion",
    "road",
    "occlusion_correlation",
    "inside_energy",
    "pointing_game",
    "heatmap_iou",
    "average_precision",
    "localization_error",
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a command takes; `positional` names the field that needs no flag, `example` shows its use.

    A flag in `repeatable` may be given several times, a value each.
    """

    positional: ClassVar[str]
    example: ClassVar[str]
    repeatable: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """What every command that runs a model asks for.

    Args:
        model: torchvision:resnet50, timm:NAME, the import path of a LightningModule or network, or a checkpoint that
            camtrain fit wrote.
        weights: File of a state dict or Lightning checkpoint, or the name of torchvision's.
        classes: Text file with the model's class names, one a line.
        task: What the network answers, auto, single_label or binary (one logit, that of the second of two classes).
        layers: Dotted name of the layer to explain.
        methods: Functions in camtrain.cam.
        size: Images are resized to this side.
        mean: Of the normalization.
        std: Of the normalization.
        device: auto, cpu, cuda or cuda:1.
    """

    model: str
    weights: str | None = None
    classes: Path | None = None
    task: str = "auto"
    layers: str = "auto"
    methods: tuple[str, ...] = ("grad_cam", "grad_cam_plus_plus")
    size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    device: str = "auto"

    def __post_init__(self) -> None:
        whole(1, size=self.size)
        for value in self.std:
            above_zero(std=value)


@dataclass(frozen=True, kw_only=True)
class LayoutOptions(Options):
    """Where the images and masks of a folder lie.

    Args:
        folder: Class folders with images, or just images.
        images: Folder of the class folders below FOLDER.
        masks: Folder of the masks below FOLDER, of the same layout.
        mask_suffix: What follows an image's stem in its mask's name.
        index: CSV file below FOLDER with the columns file and label.
    """

    folder: Path
    images: str = ""
    masks: str | None = None
    mask_suffix: str = ""
    index: str | None = None

    @property
    def layout(self) -> dict[str, Any]:
        """What `MaskedImageFolder` takes beside the root."""
        names = ("images", "masks", "mask_suffix", "index")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class DataOptions(LayoutOptions):
    """What the files of a folder mean.

    Args:
        annotations: File or folder below FOLDER in place of masks: COCO, LabelMe, CVAT, Label Studio, YOLO, VOC, CSV.
        labels_from: folders or annotations, where both may be meant.
        run_order: columns or rows, of run lengths in a CSV file.
        mask_values: The object's values in a mask file: 1, [1, 2], or by class, {cat: 8, dog: 12}.
        ignore_value: Value of unknown pixels.
        mask_channel: alpha, color, red, green or blue.
        mask_from: values, instances or attention.
        soft_masks: Values are degrees.
        image_range: Black and white of image files of more than 8 bits.
        upright: Turn photographs as their EXIF orientation says.
        exclude: Patterns of names to leave out.
        image_column: Of the index, where its name is unusual.
        label_column: Of the index, where its name is unusual.
        mask_column: Of the index, where its name is unusual.
        split_column: Of the index, where its name is unusual.
    """

    annotations: str | None = None
    labels_from: Literal["auto", "folders", "annotations"] = "auto"
    run_order: Literal["columns", "rows"] | None = None
    mask_values: Any = None
    ignore_value: Any = None
    mask_channel: Literal["alpha", "color", "red", "green", "blue"] | None = None
    mask_from: Literal["values", "instances", "attention"] = "values"
    soft_masks: bool = False
    image_range: tuple[float, float] | None = None
    upright: bool = True
    exclude: tuple[str, ...] | None = None
    image_column: str | None = None
    label_column: str | None = None
    mask_column: str | None = None
    split_column: str | None = None

    @property
    def layout(self) -> dict[str, Any]:
        """What `MaskedImageFolder` takes beside the root."""
        own = {field.name for field in fields(DataOptions)} - {field.name for field in fields(LayoutOptions)}
        return {**super().layout, **{name: getattr(self, name) for name in sorted(own)}}


@dataclass(frozen=True, kw_only=True)
class AuditOptions(DataOptions, ModelOptions):
    """Explain every image of a dataset by a trained model, and write the report that a training writes.

    Reliance on backgrounds is tested too, class by class: with masks where there are any, else with guesses of where
    the object is. Without class folders images are explained without labels. Several labels (multi_label) come from
    annotations, an index or the same files in several class folders, values (regression) from an index or folders of
    numbers, boxes (detection) from annotations; --task says so.

    Args:
        task: What the network answers, auto, single_label, binary (one logit, that of the second of two classes),
            multi_label, regression or detection.
        out: Folder to write.
        table: .parquet or .csv below OUT, by default images.parquet.
        batch_size: Images at a time.
        workers: Processes that read images.
        devices: GPUs or processes to use.
        num_probes: Images whose heatmaps are shown.
        num_failures: Failure cases that are shown.
        images_per_class: Images of each class to judge reliance by; 30 find a strong one, 60 and more clear a class.
        max_images: Images to judge reliance by in all.
        looks: Cues of the whole picture to try beside the background, tint, brightness, sharpness or none.
        stickers: Without masks, look for small things that win a class, too.
        alpha: The chance of a false flag.
        tau: An effect up to this, in probability, is taken for nothing.
        limit: A class is cleared where its effect is below this, for sure.
        examples: Pictures for each reliant class.
        regions: Images of each reliant class in which to look for the cue's place, 0 for none.
        seed: Of donors and bootstrap.
        metrics: Do the heatmaps tell the truth; all that apply, or those named.
        metric_images: Of so many images, evenly over all.
        fail_on_reliant: Exit code 3 where a class is reliant.
        json: Print the result as JSON.
    """

    task: str = "auto"
    out: Path = Path("audit")
    table: str | None = None
    batch_size: int = 32
    workers: int = 0
    devices: int = 1
    num_probes: int = 12
    num_failures: int = 12
    images_per_class: int = 60
    max_images: int = 600
    looks: tuple[str, ...] = ("tint", "brightness", "sharpness")
    stickers: bool = True
    alpha: float = 0.05
    tau: float = 0.02
    limit: float = 0.1
    examples: int = 2
    regions: int = 12
    seed: int = 0
    metrics: list[Metric] | None = None
    metric_images: int = 64
    fail_on_reliant: bool = False
    json: bool = False

    positional = "folder"
    example = """camtrain audit photos --model torchvision:resnet50 --weights model.pth --masks masks --out audit
         python -c "import pandas; print(pandas.read_parquet('audit/images.parquet').describe())\""""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(1, batch_size=self.batch_size, devices=self.devices)
        whole(0, workers=self.workers, num_probes=self.num_probes, num_failures=self.num_failures)


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(ModelOptions):
    """Paint what a model looked at over images, and say what it saw in them.

    With --model several times, one beside the other: sheet.jpg has a row for each image and a column for each model.

    Args:
        model: torchvision:resnet50, timm:NAME, the import path of a LightningModule or network, or a checkpoint that
            camtrain fit wrote; several times for several models.
        weights: File of a state dict or Lightning checkpoint, or the name of torchvision's; of several models once for
            each, in their order, none for one that has some.
        names: What several models are called, in their order.
        images: Image files.
        target: Name or index of the class to explain, by default the predicted one.
        out: Folder of the overlays.
        format: Of the overlays.
        json: Print the answers as JSON.
    """

    images: tuple[Path, ...]
    model: str | tuple[str, ...]  # type: ignore[assignment]
    weights: str | tuple[str, ...] | None = None  # type: ignore[assignment]
    names: tuple[str, ...] = ()
    target: str | None = None
    out: Path = Path()
    format: Literal["jpg", "png"] = "jpg"
    json: bool = False

    positional = "images"
    repeatable = ("model", "weights")
    example = """camtrain explain cat.jpg dog.jpg --model torchvision:resnet50 --weights model.pth --out overlays
         camtrain explain cat.jpg --model timm:resnet18 --weights a.pth --model my.Net --weights b.ckpt"""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_for_each("names", self.names, self.models)

    @property
    def models(self) -> list[tuple[str, str | None]]:
        """Each model and its weights, if it has any."""
        specs = [self.model] if isinstance(self.model, str) else list(self.model)
        weights = [self.weights] if isinstance(self.weights, str) else list(self.weights or ())
        one_for_each("weights", weights, specs)
        files = weights or ["none"] * len(specs)
        return [(spec, None if file == "none" else file) for spec, file in zip(specs, files, strict=True)]


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """Put runs side by side in one page: their numbers, their verdicts, and the same images as each of them sees them.

    Args:
        runs: Folders of runs, which hold scalars.jsonl.
        names: What the runs are called, in their order.
        out: The page.
        json: Print the numbers as JSON.
    """

    runs: tuple[Path, ...]
    names: tuple[str, ...] = ()
    out: Path = Path("compare.html")
    json: bool = False

    positional = "runs"
    example = "camtrain compare runs/demo/abc123 runs/demo/def456 --names before after --out compare.html"

    def __post_init__(self) -> None:
        one_for_each("names", self.names, self.runs)


@dataclass(frozen=True, kw_only=True)
class FilmOptions(ModelOptions):
    """Film what a model looks at: a video with heatmaps over it, or a probe of a run over its epochs.

    Args:
        source: A video file, or the folder of a run.
        model: Of a video, as camtrain explain takes it; a run needs none.
        out: .mp4 or .gif.
        fps: Frames a second, by default the video's; of a run 2 epochs a second.
        batch_size: Frames at a time.
        frames: No more than so many.
        sample: Which probe of a run, by default the first.
        json: Print the result as JSON.
    """

    source: Path
    model: str | None = None  # type: ignore[assignment]
    out: Path = Path("film.mp4")
    fps: float | None = None
    batch_size: int = 16
    frames: int | None = None
    sample: str | None = None
    json: bool = False

    positional = "source"
    example = """camtrain film street.mp4 --model torchvision:resnet18 --weights model.pth --out looking.mp4
         camtrain film runs/demo/abc123/camtrain --sample val/00000 --out hen.gif"""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(1, batch_size=self.batch_size, frames=self.frames)
        above_zero(fps=self.fps)


@dataclass(frozen=True, kw_only=True)
class CanaryOptions(DataOptions):
    """Plant a known shortcut into a copy of your own images: would your monitoring see it?

    The copy has the layout of the folder, masks included; a contact sheet shows each class before and after, and
    canary.json states the truth. Train on the copy as you always do, with RelianceDetector, and ask for what it found:
    camtrain canary COPY --check RUN.

    Args:
        kind: corner, watermark, sticker, frame, background, tint, brightness or sharpness.
        strength: How likely an image shows its own class's cue.
        classes: Names of those that get a cue, by default all.
        independent: Cues at random whatever the class; in all images, or in the splits named.
        seed: Of everything that is drawn.
        out: Folder of the copy.
        show: Images of each class on the contact sheet.
        check: Folder of a run that was trained on FOLDER, the copy; what it found, and what the cue alone does.
        model: For --check, the network as camtrain audit takes it; by default that of the run's newest checkpoint.
        weights: For --check, its weights.
        task: For --check, what the network answers, auto, single_label or binary.
        size: For --check, images are resized to this side; by default as the run's configuration says, else 224.
        json: Print the result as JSON.
    """

    kind: str = ""
    strength: float = 0.9
    classes: tuple[str, ...] | None = None
    independent: tuple[str, ...] | None = None
    seed: int = 0
    out: Path = Path("planted")
    show: int = 4
    check: Path | None = None
    model: str | None = None
    weights: str | None = None
    task: str = "auto"
    size: int | None = None
    json: bool = False

    positional = "folder"
    example = """camtrain canary photos --kind corner --strength 0.9 --out planted
         camtrain canary photos --images images --masks masks --kind background --classes boat --out planted
         camtrain canary planted --check runs/demo/abc123"""

    def __post_init__(self) -> None:
        whole(0, show=self.show)
        whole(1, size=self.size)
        if not self.kind and self.check is None:
            raise ConfigurationError("--kind says what to plant, or --check which run to check: give one of them.")


@dataclass(frozen=True, kw_only=True)
class MasksOptions(DataOptions):
    """Look at the masks before training: how many, how large, which values, and their outlines on a sheet.

    The doubtful ones come first: refused, empty, of hardly any background, of another size than their class, at the
    border. The exit code is 1 where a mask cannot be read as one.

    Args:
        out: The sheet.
        show: Images on it.
        json: Print the result as JSON.
    """

    out: Path = Path("masks.png")
    show: int = 24
    json: bool = False

    positional = "folder"
    example = """camtrain masks photos --images images --masks masks
         camtrain masks photos --images images --annotations instances.json"""

    def __post_init__(self) -> None:
        whole(1, show=self.show)


@dataclass(frozen=True, kw_only=True)
class ApplyOptions(Options):
    """Turn what a person judged in a report into callbacks: correct what is spurious, flag no more what is fair.

    Writes a fragment of configuration that goes on top of the one that the run was trained with.

    Args:
        judgement: The file that the report saved.
        out: The fragment to write.
        detector: Have a RelianceDetector in it; without one where the training has its own, which takes the file too.
        json: Print the callbacks as JSON.
    """

    judgement: Path
    out: Path = Path("corrections.yaml")
    detector: bool = True
    json: bool = False

    positional = "judgement"
    example = """camtrain apply judgement.json --out corrections.yaml
         camtrain fit --config yours.yaml --config corrections.yaml"""


COMMANDS: dict[str, type[Options]] = {
    "audit": AuditOptions,
    "explain": ExplainOptions,
    "compare": CompareOptions,
    "film": FilmOptions,
    "canary": CanaryOptions,
    "masks": MasksOptions,
    "apply": ApplyOptions,
}


def whole(least: int, **options: int | None) -> None:
    """Refuse a number below the least; None is not given.

    >>> whole(1, batch_size=0)
    Traceback (most recent call last):
    camtrain.errors.ConfigurationError: --batch_size: '0' is no whole number of at least 1.
    """
    for name, value in options.items():
        if value is not None and value < least:
            raise ConfigurationError(f"--{name}: '{value}' is no whole number of at least {least}.")


def one_for_each(name: str, given: Sized, things: Sized) -> None:
    """Refuse another number of values than there are things to have one; none at all is one for none.

    >>> one_for_each("names", (), ("a", "b"))
    """
    if given and len(given) != len(things):
        raise ConfigurationError(f"--{name}: {len(given)} for {len(things)}; give one for each, in order, or none.")


def above_zero(**options: float | None) -> None:
    """Refuse a number that is not above 0 and finite; None is not given.

    >>> above_zero(fps=None, std=0.5)
    """
    for name, value in options.items():
        if value is not None and not 0 < value < float("inf"):
            raise ConfigurationError(f"--{name}: '{value:g}' is no number above 0.")
