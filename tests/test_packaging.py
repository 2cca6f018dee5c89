"""The wheel holds what the checkout holds, under the distributed names, and installs beside a checkout."""

import ast
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata

import pytest

from tests.layout import ROOT, imports_of, module_files, package_folders, project

IMPORTED_AS = {  # distributions whose import name is another
    "pytorch-lightning": "pytorch_lightning",
    "lightning-utilities": "lightning_utilities",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
}
BY_ANOTHER = {"markupsafe", "lightning_fabric"}  # come with jinja2 and with pytorch-lightning
NEEDED = ("camtrain", "callbacks", "losses", "pyproject.toml", "README.md", "LICENSE")


def python(*words, cwd, **options):
    """Run Python without the user's PYTHONPATH and return what it prints."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A copy of what is built from, so that building leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def built(source, tmp_path_factory):
    """The folder with a wheel and a source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    script = (
        "import sys; from setuptools import build_meta as backend; folder = sys.argv[1];"
        "backend.build_sdist(folder); backend.build_wheel(folder)"
    )
    python("-c", script, folder, cwd=source)
    return folder


@pytest.fixture(scope="session")
def installed(built, tmp_path_factory):
    """A folder that the wheel was installed into."""
    folder = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    options = ["--no-deps", "--no-index", "--quiet", "--no-compile", "--disable-pip-version-check"]
    python("-m", "pip", "install", *options, "--target", folder, wheel, cwd=built)
    return folder


def names_in(built, pattern):
    (path,) = built.glob(pattern)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return set(wheel.namelist())
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_packages__list_every_folder_with_modules():
    listed = set(package_folders().values())
    found = {path.parent for top in ("camtrain", "callbacks", "losses") for path in (ROOT / top).rglob("*.py")}
    assert listed == found


def test_packages__have_an_init_each():
    assert all((folder / "__init__.py").is_file() for folder in package_folders().values())


def test_typings__link_the_root_folders_under_their_full_names():
    for name in ("callbacks", "losses"):
        assert (ROOT / "typings" / "camtrain" / name).resolve() == ROOT / name


def test_dependencies__name_everything_that_is_imported():
    declared = {requirement.split(">")[0].split("[")[0].lower() for requirement in project()["project"]["dependencies"]}
    optional = project()["project"]["optional-dependencies"]["parquet"]
    declared |= {requirement.split(">")[0] for requirement in optional}
    importable = {IMPORTED_AS.get(name, name) for name in declared} | BY_ANOTHER | set(sys.stdlib_module_names)
    imported = {name.partition(".")[0] for path in module_files().values() for name in imports_of(path.read_text())}
    assert imported - {"camtrain"} <= importable


def test_wheel__holds_every_module_under_its_full_name(built):
    expected = {
        name.replace(".", "/") + ("/__init__.py" if path.stem == "__init__" else ".py")
        for name, path in module_files().items()
    }
    assert expected == {name for name in names_in(built, "*.whl") if name.endswith(".py")}


def test_wheel__puts_nothing_else_into_site_packages(built):
    version = project()["project"]["version"]
    assert {name.partition("/")[0] for name in names_in(built, "*.whl")} == {
        "camtrain",
        f"camtrain-{version}.dist-info",
    }


def test_wheel__holds_the_files_that_are_not_modules(built):
    names = names_in(built, "*.whl")
    assert "camtrain/py.typed" in names
    templates = ROOT / "camtrain" / "report" / "templates"
    assert {f"camtrain/report/templates/{path.name}" for path in templates.iterdir()} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_sdist__can_be_built_from(built):
    names = names_in(built, "*.tar.gz")
    assert {"pyproject.toml", "LICENSE", "README.md", "callbacks/__init__.py", "losses/__init__.py"} <= names


WHERE = (  # camtrain.callbacks is found but not run: it would load all of Lightning
    "import camtrain.losses, importlib.util; callbacks = importlib.util.find_spec('camtrain.callbacks.run_summary');"
    "print(camtrain.__file__, camtrain.losses.AlignmentLoss.__module__, callbacks.origin)"
)


def test_wheel__imports_from_anywhere(installed, tmp_path):
    script = f"import sys; sys.path.insert(0, {str(installed)!r}); {WHERE}; import camtrain.cli, camtrain.callbacks"
    assert str(installed) in python("-c", script, cwd=tmp_path)


def test_checkout__shadows_an_installed_wheel_and_still_works(installed, source):
    script = f"import sys; sys.path.insert(1, {str(installed)!r}); {WHERE}"
    assert str(source) in python("-c", script, cwd=source)


@pytest.mark.parametrize("mode", ["lenient", "compat", "strict"])
def test_editable_install__imports_from_anywhere(source, tmp_path, mode):
    script = (
        "import sys; from setuptools import build_meta as backend;"
        f"backend.build_editable(sys.argv[1], {{'editable_mode': {mode!r}}} if {mode!r} != 'lenient' else None)"
    )
    (tmp_path / "dist").mkdir()
    python("-c", script, tmp_path / "dist", cwd=source)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    found = f"import site; site.addsitedir({str(tmp_path / 'site')!r}); {WHERE}"
    assert "camtrain.losses.alignment" in python("-S", "-c", _with_dependencies(found), cwd=tmp_path)


def _with_dependencies(script):
    """Without site (-S) this environment's own editable camtrain is not found; its packages are added by hand."""
    folders = sorted({str(metadata.distribution(name).locate_file("")) for name in ("torch", "jaxtyping")})
    return f"import sys; sys.path += {folders!r}; {script}"


def test_bare_names__are_refused():
    for name in ("callbacks", "losses"):
        done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True)
        assert f"import camtrain.{name}, not {name}" in done.stderr


def test_version__is_the_one_in_pyproject():
    assert metadata.version("camtrain") == project()["project"]["version"]


def test_citation__and_changelog_name_the_version():
    version = project()["project"]["version"]
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_python__floor_is_kept_by_the_syntax():
    for path in module_files().values():
        ast.parse(path.read_text(), feature_version=(3, 10))
