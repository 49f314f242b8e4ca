"""Where things are: environment variables move them, imports create nothing, reports name no machine."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from src import config
from src.config import Paths

VARIABLES = ("LEATHER_DATA", "LEATHER_SAMPLE", "LEATHER_OUTPUT")


@pytest.fixture
def load(monkeypatch):
    """The paths under the given environment; those that others use stay as they are."""

    def load_copy(**environment):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        return Paths()

    return load_copy


def test_everything_lies_in_the_repository_by_default(load):
    paths = load()
    root = Path(__file__).resolve().parents[1]
    places = [paths.data, paths.sample, paths.models, paths.logs, paths.reports]
    assert places == [root / name for name in ("data", "data/sample", "models", "logs", "reports")]
    assert root == paths.root and (root / "pyproject.toml").is_file()
    assert paths.shipped_backbone == root / "models" / "backbones" / paths.shipped_backbone.name


def test_an_installed_package_works_in_the_current_folder(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "leather_defects"
    package.mkdir(parents=True)
    shutil.copy(config.__file__, package)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    specification = importlib.util.spec_from_file_location("leather_defects.config", package / "config.py")
    installed = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, specification.name, installed)  # dataclasses look it up
    specification.loader.exec_module(installed)
    work, paths = tmp_path.resolve() / "work", installed.paths
    assert [paths.root, paths.data, paths.output, paths.reports] == [work, work / "data", work, work / "reports"]
    assert paths.shipped_backbone == package.resolve() / "weights" / "leather_vit_tiny_patch16_224.safetensors"
    assert paths.relative(work / "reports" / "x.png") == "reports/x.png"


@pytest.mark.parametrize(
    ("run", "folder"),
    [
        ("best_modelo_kaggle_dataset", "reports/eda"),
        ("sample", "reports/sample/eda"),
        ("my_hides", "reports/my_hides/eda"),
    ],
)
def test_what_notebook_2_writes_lies_by_the_run(load, tmp_path, run, folder):
    assert load(LEATHER_OUTPUT=tmp_path).eda_of(run) == tmp_path / folder


def test_variables_move_data_sample_and_output_and_create_nothing(load, tmp_path):
    paths = load(LEATHER_DATA=tmp_path / "d", LEATHER_SAMPLE=tmp_path / "s", LEATHER_OUTPUT=tmp_path / "o")
    places = [paths.data, paths.sample, paths.models, paths.logs, paths.reports, paths.manifest]
    names = ("d", "s", "o/models", "o/logs", "o/reports", "o/data/manifest.json")
    assert places == [tmp_path / name for name in names] and paths.shipped_backbone.is_relative_to(paths.root)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_variable_counts_as_unset(load):
    paths = load(**dict.fromkeys(VARIABLES, ""))
    assert paths.root / "data" == paths.data and paths.output == paths.root


@pytest.mark.parametrize(("given", "expected"), [("~/leather", "leather"), ("./leather/../hides", "hides")])
def test_home_and_relative_folders_are_resolved(load, monkeypatch, tmp_path, given, expected):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert tmp_path.resolve() / expected == load(LEATHER_DATA=given).data


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("{root}/reports/sample/x.png", "reports/sample/x.png"),
        ("{root}/src/../data/y.png", "data/y.png"),
        ("{root}", "."),
        ("/srv/out/models/m.pth", "models/m.pth"),
        ("/hides/mvtec/leather", "hides/mvtec/leather"),
        ("/hides", "hides"),
        ("/hides2/alice/private/a/b.png", "private/a/b.png"),
        ("/home/alice/private/set/leather/z.png", "set/leather/z.png"),
        ("/z.png", "z.png"),
    ],
)
def test_reports_name_no_folder_of_the_machine(load, path, expected):
    paths = load(LEATHER_DATA="/hides", LEATHER_OUTPUT="/srv/out")
    assert paths.relative(Path(path.format(root=paths.root))) == expected


def test_data_below_a_home_folder_does_not_reveal_the_rest_of_it(load):
    paths = load(LEATHER_DATA="/home/alice/data")
    assert paths.relative("/home/alice/data/mvtec/leather/1.png") == "data/mvtec/leather/1.png"
    assert paths.relative("/home/alice/a/b/c/d/1.png") == "c/d/1.png"


def test_a_path_relative_to_the_working_folder_is_resolved_first(load, monkeypatch):
    paths = load()
    monkeypatch.chdir(paths.root / "src")
    assert paths.relative(Path("config.py")) == "src/config.py"
