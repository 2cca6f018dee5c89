"""Which command is meant, and its words: before torch is imported."""

import dataclasses
import subprocess
import sys
import typing

import pytest

import camtrain
from camtrain.cli import main
from camtrain.cli.entry import spelled, understood
from camtrain.cli.options import COMMANDS, AuditOptions, Metric, ModelOptions
from camtrain.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from camtrain.errors import ConfigurationError
from camtrain.metrics.suite import FAITHFUL, ON_MASKS, ON_REQUEST

HEAVY = ("torch", "numpy", "pytorch_lightning", "wandb", "cv2")
SCRIPT = """
import resource, sys
try:
    from camtrain.cli import main; main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print("USED", used.ru_utime + used.ru_stime, [name for name in %r if name in sys.modules])
"""


HELP = ["", "--help", *[f"{name} --help" for name in (*COMMANDS, "fit", "validate", "test")]]
TYPOS = [
    "adit photos",
    "audit photos --modle a.B",
    "explain a.jpg --model a.B --size 0",
    "fit --modle=a.B",
    "fit --config=a.yaml --trainer.max_epoch=3",
]


@pytest.mark.parametrize(("words", "code"), [*[(words, 0) for words in HELP], *[(words, 2) for words in TYPOS]])
def test_main__answers_help_and_typos_within_a_second_and_without_torch(words, code):
    script = [sys.executable, "-c", SCRIPT % (HEAVY,), *words.split()]
    done = subprocess.run(script, capture_output=True, text=True)
    used, loaded = done.stdout.rpartition("USED ")[2].split(" ", 1)
    assert done.returncode == code, done.stderr
    assert loaded.strip() == "[]"
    assert float(used) < 1


def test_main__lists_all_commands_with_a_line_each(capsys):
    main(["--help"])
    text = capsys.readouterr().out
    for name in ("fit", "validate", "test", *COMMANDS):
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {name} ")]
        assert len(line.split()) > 5


def test_main__tells_its_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"camtrain {camtrain.__version__}\n"


def test_module__runs_as_the_command_does():
    done = subprocess.run([sys.executable, "-m", "camtrain", "film", "--help"], capture_output=True, text=True)
    assert "usage: camtrain film SOURCE" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adit"], "There is no command 'adit'; closest: audit."),
        (["audit", "x", "--model", "y", "--metric-image", "3"], "no option '--metric-image'; closest: --metric-images"),
        (["audit", "x", "--model", "y", "--metrics", "iou"], "--metrics: '['iou']' is no list"),
        (["audit", "x"], "the following arguments are required: --model"),
        (["audit", "x", "y", "--model", "z"], "only FOLDER needs no flag, and 'y' has none either"),
        (["audit", "x", "--model"], "--model needs a value"),
        (["film", "x", "--fps", "quick"], "--fps: 'quick' is no float"),
        (["film", "x", "--batch-size", "none"], "--batch-size: 'none' is no int"),
        (["fit", "--trainer.max_epoch=3"], "no option '--trainer.max_epoch'; closest: --trainer.max_epochs"),
        (["fit", "--ckptpath=last"], "no option '--ckptpath'; closest: --ckpt_path"),
    ],
)
def test_main__says_in_one_line_which_word_is_wrong(capsys, words, message):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_spelled__gathers_several_values_and_takes_flags_without_one():
    hints = typing.get_type_hints(AuditOptions)
    words = ["a", "--methods", "x", "y", "--mean", "-1", "0", "2", "--metrics", "--json", "--out=b", "--devices", "2"]
    assert spelled(words, hints, "folder") == [
        '--methods=["x", "y"]',
        "--mean=[-1, 0, 2]",
        "--metrics=[]",
        "--json=true",
        "--out=b",
        "--devices=2",
        "--folder=a",
    ]


@pytest.mark.parametrize("dash", ["-", "_"])
def test_understood__takes_the_grammar_of_fit_and_that_of_a_shell(dash, tmp_path):
    (tmp_path / "a.yaml").write_text("model: torchvision:resnet18\nbatch_size: 3\nmethods: [hires_cam]\n")
    words = ["photos", "--config", str(tmp_path / "a.yaml"), f"--mask{dash}suffix=_m", "--json", "--std", "1", "2", "3"]
    options = understood("audit", [*words, f"--num{dash}probes", "5", "--metrics", "road", "insertion"])
    assert (str(options.folder), options.model, options.batch_size) == ("photos", "torchvision:resnet18", 3)
    assert (options.methods, options.mask_suffix, options.json) == (("hires_cam",), "_m", True)
    assert (options.std, options.num_probes, options.metrics) == ((1, 2, 3), 5, ["road", "insertion"])


def test_understood__keeps_defaults():
    options = understood("audit", ["photos", "--model", "a.B"])
    for field in dataclasses.fields(AuditOptions):
        if field.default is not dataclasses.MISSING:
            assert getattr(options, field.name) == field.default


def test_options__refuse_what_is_out_of_range_from_python_too():
    with pytest.raises(ConfigurationError, match="--size: '0' is no whole number of at least 1"):
        ModelOptions(model="a.B", size=0)


def test_options__name_what_the_library_has():
    assert typing.get_args(Metric) == (*FAITHFUL, *ON_REQUEST, *ON_MASKS)
    assert (ModelOptions.mean, ModelOptions.std) == (IMAGENET_MEAN, IMAGENET_STD)
