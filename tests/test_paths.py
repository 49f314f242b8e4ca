"""Where things are: environment variables move them, imports create nothing, reports name no machine."""

import importlib.util
from pathlib import Path

import pytest

from src import paths as imported

VARIABLES = ("LEATHER_DATA", "LEATHER_SAMPLE", "LEATHER_OUTPUT", "LEATHER_TINY")


@pytest.fixture
def load(monkeypatch):
    """Imports a second copy of src.paths under the given environment; the copy that others use stays as it is."""

    def load_copy(**environment):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        specification = importlib.util.spec_from_file_location("paths_copy", imported.__file__)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    return load_copy


def test_everything_lies_in_the_repository_by_default(load):
    paths = load()
    root = Path(__file__).resolve().parents[1]
    found = {name: getattr(paths, name) for name in ("DATA", "SAMPLE", "MODELS", "LOGS", "REPORTS", "EDA")}
    below = ("data", "data/sample", "models", "logs", "reports", "reports/eda")
    assert found == dict(zip(found, (root / name for name in below), strict=True))
    assert root == paths.ROOT and (root / "pyproject.toml").is_file()


def test_variables_move_data_sample_and_output_and_create_nothing(load, tmp_path):
    paths = load(LEATHER_DATA=tmp_path / "d", LEATHER_SAMPLE=tmp_path / "s", LEATHER_OUTPUT=tmp_path / "o")
    found = [paths.DATA, paths.SAMPLE, paths.MODELS, paths.LOGS, paths.REPORTS, paths.MANIFEST]
    names = ("d", "s", "o/models", "o/logs", "o/reports", "o/data/manifest.json")
    assert found == [tmp_path / name for name in names] and paths.SHIPPED_BACKBONE.is_relative_to(paths.ROOT)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_variable_counts_as_unset(load):
    paths = load(**dict.fromkeys(VARIABLES, ""))
    assert paths.ROOT / "data" == paths.DATA and paths.OUTPUT == paths.ROOT and not paths.TINY
    assert load(LEATHER_TINY=1).TINY


@pytest.mark.parametrize(("given", "expected"), [("~/leather", "leather"), ("./leather/../hides", "hides")])
def test_home_and_relative_folders_are_resolved(load, monkeypatch, tmp_path, given, expected):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert tmp_path.resolve() / expected == load(LEATHER_DATA=given).DATA


@pytest.mark.parametrize(("path", "expected"), [
    ("{root}/reports/sample/x.png", "reports/sample/x.png"),
    ("{root}/src/../data/y.png", "data/y.png"),
    ("{root}", "."),
    ("/srv/out/models/m.pth", "models/m.pth"),
    ("/hides/mvtec/leather", "hides/mvtec/leather"),
    ("/hides", "hides"),
    ("/hides2/alice/private/a/b.png", "private/a/b.png"),
    ("/home/alice/private/set/leather/z.png", "set/leather/z.png"),
    ("/z.png", "z.png"),
])  # fmt: skip
def test_reports_name_no_folder_of_the_machine(load, path, expected):
    paths = load(LEATHER_DATA="/hides", LEATHER_OUTPUT="/srv/out")
    assert paths.relative(Path(path.format(root=paths.ROOT))) == expected


def test_data_below_a_home_folder_does_not_reveal_the_rest_of_it(load):
    paths = load(LEATHER_DATA="/home/alice/data")
    assert paths.relative("/home/alice/data/mvtec/leather/1.png") == "data/mvtec/leather/1.png"
    assert paths.relative("/home/alice/a/b/c/d/1.png") == "c/d/1.png"


def test_a_path_relative_to_the_working_folder_is_resolved_first(load, monkeypatch):
    paths = load()
    monkeypatch.chdir(paths.ROOT / "src")
    assert paths.relative(Path("paths.py")) == "src/paths.py"
