"""Where things are: environment variables move them, imports create nothing, reports name no machine."""

from pathlib import Path

import pytest

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
    found = {name: getattr(paths, name) for name in ("data", "sample", "models", "logs", "reports")}
    below = ("data", "data/sample", "models", "logs", "reports")
    assert found == dict(zip(found, (root / name for name in below), strict=True))
    assert paths.eda_of("best_modelo_kaggle_dataset") == root / "reports" / "eda"
    assert paths.eda_of("sample") == root / "reports" / "sample" / "eda"
    assert root == paths.root and (root / "pyproject.toml").is_file()


def test_variables_move_data_sample_and_output_and_create_nothing(load, tmp_path):
    paths = load(LEATHER_DATA=tmp_path / "d", LEATHER_SAMPLE=tmp_path / "s", LEATHER_OUTPUT=tmp_path / "o")
    found = [paths.data, paths.sample, paths.models, paths.logs, paths.reports, paths.manifest]
    names = ("d", "s", "o/models", "o/logs", "o/reports", "o/data/manifest.json")
    assert found == [tmp_path / name for name in names] and paths.shipped_backbone.is_relative_to(paths.root)
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
