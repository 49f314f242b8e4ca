"""The table of baselines: rows are filled once, answers are kept, splits are files."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from benchmarks.baselines import table
from benchmarks.baselines.recipes import NumbersRecipe
from benchmarks.baselines.rows import Row, honest_candidates, table_rows
from benchmarks.baselines.table import ALL_PROTOCOLS, fill_table, with_earlier_rows
from src.classifier.report import HONEST_PROTOCOL, USUAL
from src.config import CLASS_NAMES, HONEST, SMALL, Config
from src.files import write_json
from tests.conftest import CLASSES, NORMAL_CLASS

CONFIG = Config(run="table")


@pytest.fixture(scope="module")
def images():
    """12 hides that each show three classes with 22 images, as the audit leaves a table."""
    rows = []
    for hide in range(12):
        for label in (CLASS_NAMES[hide % 6], CLASS_NAMES[(hide + 2) % 6], NORMAL_CLASS):
            rows += [(f"{label}/{hide}_{i}.png", label, f"hide_{hide:02d}") for i in range(22)]
    table = pd.DataFrame(rows, columns=["file", "label", "group"]).drop_duplicates("file", ignore_index=True)
    return table.assign(path=table["file"], copy_of=table["file"], digest=table["file"])


@pytest.fixture(scope="module")
def numbers(images):
    targets = np.array([CLASS_NAMES.index(label) for label in images["label"]])
    values = np.eye(6)[targets] + np.random.default_rng(0).normal(0, 0.5, (len(images), 6))
    return pd.DataFrame(values, index=images["file"].to_list()).add_prefix("n")


def test_every_protocol_has_an_entry_and_answers_are_kept(images, numbers, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "protocol_report", lambda answers, protocol, seed: sorted(answers))
    made = []

    def create():
        made.append(1)
        return NumbersRecipe(numbers, (LogisticRegression(),), CLASSES)

    row = Row("linear", "logistic regression", create, CONFIG)
    report = fill_table(images, [row], ALL_PROTOCOLS, seed=42, splits=tmp_path / "splits", models=tmp_path)
    assert made == [1]
    entries = report["rows"]["linear"]["protocols"]
    assert set(entries) == set(ALL_PROTOCOLS)
    assert len(entries[HONEST_PROTOCOL]) == 5 and len(entries["leave-one-defect-out"]) == 25
    assert len(entries["within-hide"]) == 12
    again = fill_table(images, [row], ALL_PROTOCOLS, seed=42, splits=tmp_path / "splits", models=tmp_path)
    assert made == [1] and again == report
    with pytest.raises(ValueError, match="is missing.*Delete the file"):
        fill_table(images.iloc[1:], [row], (USUAL,), seed=42, splits=tmp_path / "splits", models=tmp_path)
    fill_table(images.iloc[1:], [row], (USUAL,), seed=42, splits=tmp_path / "others", models=tmp_path)
    assert made == [1, 1]  # other images, other answers


def test_answers_go_by_the_pictures_and_the_versions_of_what_computes(images, numbers, tmp_path):
    made = []

    def fill(table, *, seed=42, version=1):
        row = Row("linear", "logistic regression", lambda: made.append(1) or recipe, CONFIG, version=version)
        fill_table(table, [row], (USUAL,), seed=seed, splits=tmp_path / f"{seed}", models=tmp_path)
        return len(made)

    recipe = NumbersRecipe(numbers, (LogisticRegression(),), CLASSES)
    assert fill(images) == 1
    assert fill(images.assign(path="/elsewhere/" + images["file"])) == 1  # moved
    replaced = images.assign(digest=images["digest"].where(images.index != 5, "another picture"))
    assert fill(replaced) == 2
    assert fill(images, seed=1) == 3
    assert fill(images, version=2) == 4
    assert fill(images) == 4


def test_splits_are_files_and_files_decide(images, numbers, tmp_path):
    row = Row("linear", "logistic regression", lambda: NumbersRecipe(numbers, (LogisticRegression(),), CLASSES), CONFIG)
    options = {"splits": tmp_path / "splits", "models": tmp_path}
    fill_table(images, [row], ("random-60-20-20", HONEST_PROTOCOL), seed=42, **options)
    files = sorted(file.relative_to(tmp_path / "splits").as_posix() for file in options["splits"].rglob("*.csv.gz"))
    assert files == [*(f"hide-5fold/{i}.csv.gz" for i in range(1, 6)), "random-60-20-20.csv.gz"]
    one = options["splits"] / "random-60-20-20.csv.gz"
    kept, table = one.read_bytes(), pd.read_csv(one)
    assert list(table.columns) == ["path", "label", "group", "part"]
    table["part"] = table["part"].replace({"test": "train", "train": "test"})
    table.to_csv(one, index=False)
    report = fill_table(images, [row], ("random-60-20-20",), seed=42, **options)
    count = report["rows"]["linear"]["protocols"]["random-60-20-20"]["total_samples"]
    assert count == (table["part"] == "test").sum() > len(images) / 2
    one.unlink()
    fill_table(images, [row], ("random-60-20-20",), seed=42, **options)
    assert one.read_bytes() == kept


def test_kept_answers_give_the_same_report(images, numbers, tmp_path):
    row = Row("linear", "logistic regression", lambda: NumbersRecipe(numbers, (LogisticRegression(),), CLASSES), CONFIG)
    options = {"splits": tmp_path / "splits", "models": tmp_path}
    first, second = (fill_table(images, [row], (USUAL, HONEST_PROTOCOL), seed=42, **options) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    entry = first["rows"]["linear"]["protocols"][HONEST_PROTOCOL]
    assert entry["total_samples"] == len(images) and entry["hides"] == 12
    assert 0.5 < entry["macro_f1"] < 1


def test_rows_are_named_and_only_training_by_hours_waits_to_be_asked_for(images):
    rows = table_rows(images, HONEST)
    assert [row.name for row in rows] == [
        "colour",
        "sharpness",
        "texture",
        "frozen",
        "frozen-blocks",
        "honest",
        "cnn",
        "fine-tuned",
        "small",
    ]
    assert [row.name for row in rows if row.slow] == ["cnn", "fine-tuned", "small"]
    assert rows[-1].config.backbone == SMALL.backbone


def test_the_honest_recipe_takes_what_helps(images, numbers):
    noise = pd.DataFrame(np.random.default_rng(1).normal(size=(len(images), 4)), index=numbers.index).add_prefix("t")
    split = images.assign(part=np.resize(["train", "train", "validation", "test"], len(images)))

    def right(texture, features):
        candidates = honest_candidates(texture.columns, features.columns, 0)
        test = NumbersRecipe(texture.join(features), candidates, CLASSES).answer([split]).test
        return np.mean(test.predicted == test.targets)

    nothing = right(noise, noise.add_prefix("more_"))
    assert right(numbers, noise) > 3 * nothing
    assert right(noise, numbers) > 1.5 * nothing  # one of the three in the last mixture sees these numbers


def test_slow_rows_are_filled_on_the_two_leading_protocols_alone(images, numbers, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "protocol_report", lambda answers, protocol, seed: sorted(answers))
    rows = [
        Row(name, name, lambda: NumbersRecipe(numbers, (LogisticRegression(),), CLASSES), CONFIG, slow=name == "slow")
        for name in ("quick", "slow")
    ]
    chosen = (USUAL, HONEST_PROTOCOL, "within-hide")
    report = fill_table(images, rows, chosen, seed=42, splits=tmp_path / "splits", models=tmp_path)
    assert [list(row["protocols"]) for row in report["rows"].values()] == [list(chosen), [USUAL, HONEST_PROTOCOL]]


@pytest.mark.parametrize(("images", "kept"), [("same", ["colour", "honest"]), ("other", ["honest"])])
def test_rows_of_an_earlier_table_stay_if_its_images_are_the_same(tmp_path, images, kept):
    write_json(
        {"rows": {"colour": {"about": "old"}, "honest": {"about": "old"}}, "run": {"images": images}},
        tmp_path / "baselines.json",
    )
    table = with_earlier_rows({"rows": {"honest": {"about": "new"}}, "run": {"images": "same"}}, tmp_path)
    assert list(table["rows"]) == kept and table["rows"]["honest"] == {"about": "new"}
