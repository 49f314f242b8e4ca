"""From predictions to reports: thresholds from validation alone, figures as scikit-learn's, files by their names."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import accuracy_score, average_precision_score, confusion_matrix, f1_score, roc_auc_score

from src import metrics
from src.classifier import evaluation, report
from src.classifier.evaluation import METHODS, Answers, Predictions, choose_thresholds, fill_normal_bank, predict
from src.classifier.training import TrainingResult
from src.config import CLASS_NAMES
from src.data.pictures import load_image
from src.style import RIGHT, WRONG
from tests.conftest import CLASSES

FILES = {
    "matriz_de_confusion_multiclase.png",
    "evaluacion_integral.png",
    "ejemplos_multiclase.png",
    "loss_train.png",
    "loss_val.png",
    "acc_train.png",
    "acc_val.png",
    "lr.png",
    "results_summary.json",
}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """The bootstrap has its own tests; 25 draws are enough to see what is drawn."""
    monkeypatch.setattr(evaluation, "bootstrap_interval", partial(metrics.bootstrap_interval, repeats=25))


def predictions(table, part, *, seed=0):
    """Answers that are mostly right, with scores that mostly tell defects."""
    rows, generator = table[table["part"] == part].reset_index(drop=True), np.random.default_rng(seed)
    targets = np.array([CLASS_NAMES.index(label) for label in rows["label"]])
    logits = generator.normal(size=(len(rows), 6)) + np.eye(6)[targets]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    is_defect = rows["label"].to_numpy() != "non_defective"
    scores = {name: generator.normal(size=len(rows)) + 0.7 * is_defect for name in METHODS}
    return Predictions(rows, probabilities, scores, CLASSES)


@pytest.fixture
def result():
    epochs = np.arange(1, 4)
    history = pd.DataFrame(
        {
            "epoch": epochs,
            "loss_train": 1 / epochs,
            "loss_val": 1.1 / epochs,
            "acc_train": 1 - 1 / (1 + epochs),
            "acc_val": [0.5, 0.8, 0.7],
            "lr": 1e-3 / epochs,
            "seconds": [1.0, 1.0, 1.25],
        }
    )
    return TrainingResult(history, best_epoch=2, seconds=3.25, device="cpu", precision="torch.float32")


@pytest.fixture
def run(config, model, table, result):
    return evaluation.describe_run(config, model, table, result, dataset="tiny set")


def summary_of(table, run, *, seed=0, test=None):
    validation = predictions(table, "validation", seed=9)
    answers = Answers(validation, test or predictions(table, "test", seed=seed))
    return evaluation.evaluate({"hide-60-20-20": answers}, seed=0) | {"run": run, "protocols": {}}


# -- predictions ----------------------------------------------------------------------------------------


def test_the_bank_holds_the_normal_training_images(model, table):
    rows = table[(table["part"] == "train") & (table["label"] == "non_defective")]
    assert fill_normal_bank(model, table, device=torch.device("cpu"), workers=0) == len(rows) == 6
    images = torch.stack([model.transform(load_image(path)) for path in rows["path"]])
    torch.testing.assert_close(model.normal_features, model.extract_features(images))


def test_no_float64_is_made_on_the_device(model, table, no_float64):
    with no_float64:
        fill_normal_bank(model, table, device=torch.device("cpu"), workers=0)
        found = predict(model, table, "test", device=torch.device("cpu"), workers=0)
    assert {values.dtype for values in found.scores.values()} == {np.dtype(float)}


def test_predictions_are_the_models_in_the_order_of_the_rows(model, table):
    fill_normal_bank(model, table, device=torch.device("cpu"), workers=0)
    found = predict(model, table, "test", device=torch.device("cpu"), workers=0)
    rows = table[table["part"] == "test"]
    assert list(found.rows["file"]) == list(rows["file"]) and list(found.rows.index) == list(range(12))
    images = torch.stack([model.transform(load_image(path)) for path in rows["path"]])
    wanted = model.detect_anomaly_hybrid(images)
    assert [CLASS_NAMES[i] for i in found.targets] == list(rows["label"])
    assert found.predicted.tolist() == wanted["predicted_classes"].tolist()
    assert found.is_defect.tolist() == (rows["label"] != "non_defective").tolist()
    np.testing.assert_allclose(found.probabilities, wanted["class_probabilities"], atol=1e-5)
    for name, key in METHODS.items():
        np.testing.assert_allclose(found.scores[name], wanted[key], atol=1e-5)


# -- thresholds -----------------------------------------------------------------------------------------


def test_thresholds_by_hand(table):
    rows = pd.DataFrame({"label": ["non_defective", "non_defective", "pinhole", "grain_off"]})
    values = np.array([0.1, 0.3, 0.7, 0.9])
    scores = {"Hybrid (Paper Method)": values, "Cosine Similarity": values * 2}
    validation = Predictions(rows, np.zeros((4, 6)), scores, CLASSES)
    assert choose_thresholds(validation) == pytest.approx({"Hybrid (Paper Method)": 0.5, "Cosine Similarity": 1.0})


def test_thresholds_do_not_depend_on_test_images(table, config, run):
    found = [summary_of(table, run, seed=seed)["anomaly_detection_results"] for seed in (1, 2)]
    wanted = choose_thresholds(predictions(table, "validation", seed=9))
    for name in METHODS:
        assert found[0][name]["optimal_threshold"] == found[1][name]["optimal_threshold"] == wanted[name]
        assert found[0][name]["roc_auc"] != found[1][name]["roc_auc"]
        assert found[0][name]["threshold_source"].startswith("validation (n = 12)")


# -- summary --------------------------------------------------------------------------------------------


def test_figures_are_those_of_scikit_learn(table, config, run):
    test, summary = predictions(table, "test"), summary_of(table, run)
    assert summary["multiclass_accuracy"] == accuracy_score(test.targets, test.predicted)
    assert summary["macro_f1"] == pytest.approx(f1_score(test.targets, test.predicted, average="macro"))
    assert summary["confusion_matrix"] == confusion_matrix(test.targets, test.predicted).tolist()
    assert summary["total_samples"] == 12 and summary["class_distribution"] == dict.fromkeys(CLASS_NAMES, 2)
    for name, entry in summary["anomaly_detection_results"].items():
        scores, called = test.scores[name], test.scores[name] >= entry["optimal_threshold"]
        assert entry["roc_auc"] == pytest.approx(roc_auc_score(test.is_defect, scores))
        assert entry["avg_precision"] == pytest.approx(average_precision_score(test.is_defect, scores))
        assert entry["binary_accuracy"] == accuracy_score(test.is_defect, called)
        assert entry["f1"] == pytest.approx(f1_score(test.is_defect, called))
        assert (entry["n_defective"], entry["n_normal"]) == (10, 2)


def test_the_order_of_the_test_images_changes_nothing(table, config, run):
    test = predictions(table, "test")
    order = np.random.default_rng(4).permutation(12)
    shuffled = Predictions(
        test.rows.iloc[order].reset_index(drop=True),
        test.probabilities[order],
        {name: values[order] for name, values in test.scores.items()},
        CLASSES,
    )
    assert summary_of(table, run) == summary_of(table, run, test=shuffled)


@pytest.mark.parametrize("known", [True, False])
def test_whole_hides_are_drawn_where_they_are_known(table, run, known):
    table.loc[table["part"] == "test", "group"] = "hide_0"  # a single hide: every draw is the same set of images
    summary = summary_of(table if known else table.drop(columns="group"), run)
    entry = summary["anomaly_detection_results"]["Cosine Similarity"]
    for value, interval in (
        (summary["multiclass_accuracy"], summary["multiclass_accuracy_interval"]),
        (summary["macro_f1"], summary["macro_f1_interval"]),
        (entry["roc_auc"], entry["roc_auc_interval"]),
        (entry["avg_precision"], entry["avg_precision_interval"]),
    ):
        if known:
            assert interval == pytest.approx([value, value])
        else:
            assert interval[0] < interval[1] and interval[0] <= value <= interval[1]
    assert ("whole hides" in summary["intervals"]) == known and summary["hides"] == (1 if known else None)


def test_the_run_is_described(run, config, model):
    assert (run["dataset"], run["protocol"], run["backbone"]) == ("tiny set", "hide-60-20-20", "test_vit")
    assert (run["weights"], run["seed"], run["epochs"], run["best_epoch"]) == ("random weights of test_vit", 42, 3, 2)
    assert (run["device"], run["seconds"]) == ("cpu", 3.25) and run["versions"]["torch"] == torch.__version__
    assert run["images"] == {"train": 36, "validation": 12, "test": 12}


# -- reports --------------------------------------------------------------------------------------------


def strict(path):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_every_report_is_written_under_its_name(table, config, run, result, tmp_path):
    test, summary = predictions(table, "test"), summary_of(table, run)
    written = report.write_reports(summary, test, result.history, tmp_path / "resultados_multiclase")
    assert {path.name for path in (tmp_path / "resultados_multiclase").iterdir()} == FILES
    assert {path.name for path in written} == FILES and all(path.is_file() for path in written)
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert min(image.size) > 200 and np.ptp(np.asarray(image.convert("L"))) > 100

    found = strict(tmp_path / "resultados_multiclase" / "results_summary.json")
    assert found["multiclass_accuracy"] == pytest.approx(summary["multiclass_accuracy"], rel=1e-5)
    assert set(found) >= {
        "multiclass_accuracy",
        "confusion_matrix",
        "class_names",
        "class_distribution",
        "total_samples",
        "anomaly_detection_results",
        "per_class",
        "macro_f1",
        "run",
    }
    assert list(found["anomaly_detection_results"]) == list(METHODS)
    for entry in found["anomaly_detection_results"].values():
        assert {"roc_auc", "avg_precision", "binary_accuracy", "optimal_threshold", "threshold_source"} <= set(entry)
    assert list(found["per_class"]) == found["class_names"] == list(CLASS_NAMES)
    assert all(set(entry) == {"precision", "recall", "f1", "support"} for entry in found["per_class"].values())
    assert set(found["run"]) >= {
        "dataset",
        "protocol",
        "backbone",
        "weights",
        "seed",
        "epochs",
        "device",
        "seconds",
        "versions",
    }


def test_examples_are_the_surest_and_the_hardest_of_each_class(table, run, monkeypatch, tmp_path):
    table.loc[table["part"] == "train", "part"] = "test"  # more than two a class
    test, shown = predictions(table, "test"), {}
    monkeypatch.setattr(
        report,
        "plot_pictures",
        lambda images, captions, **options: shown.update(images=images, captions=captions, **options) or Figure(),
    )
    result = pd.DataFrame({"epoch": [1], **dict.fromkeys(report.CURVES, [0.5])})
    report.write_reports(summary_of(table, run, test=test), test, result, tmp_path)
    certainty = test.probabilities[np.arange(len(test.targets)), test.targets]
    assert len(shown["images"]) == len(shown["captions"]) == 12
    for index, name in enumerate(CLASS_NAMES):
        members = np.flatnonzero(test.targets == index)
        surest, hardest = members[certainty[members].argmax()], members[certainty[members].argmin()]
        for place, chosen in ((index, surest), (6 + index, hardest)):
            image = load_image(test.rows["path"][chosen]).resize((224, 224))
            assert np.array_equal(shown["images"][place], np.asarray(image))
            assert shown["frames"][place] == (RIGHT if test.predicted[chosen] == index else WRONG)
            assert shown["captions"][place].startswith(f"true: {name.replace('_', ' ')}\n")


def test_classifier_scores_are_the_models(model, test_rows):
    model.store_normal_features(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)))
    found = evaluation.classifier_on_mvtec(model, test_rows)
    images = torch.stack([model.transform(load_image(path)) for path in test_rows["path"]])
    wanted = model.detect_anomaly_hybrid(images)
    assert list(found) == list(METHODS)
    for name, key in METHODS.items():
        assert found[name]["image_auroc"] == pytest.approx(roc_auc_score(test_rows["defect"] != "good", wanted[key]))
