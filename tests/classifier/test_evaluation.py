"""From a model to figures: one pass over the pictures, thresholds from validation alone, figures as scikit-learn's."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, average_precision_score, confusion_matrix, f1_score, roc_auc_score

from src.classifier import evaluation, features
from src.classifier.evaluation import METHODS, Answers, Predictions, classifier_on_mvtec, evaluate, predict
from src.classifier.model import create_model
from src.classifier.training import train_model
from src.config import CLASS_NAMES
from src.data.pictures import load_image
from src.data.splits import split_index
from src.data.tables import classes_of, index_images
from src.metrics import choose_threshold
from tests.classifier.conftest import predictions, summary_of
from tests.conftest import CLASSES

CPU = {"device": torch.device("cpu"), "workers": 0}


# -- predictions ----------------------------------------------------------------------------------------


def images_of(model, rows):
    return torch.stack([model.transform(load_image(path)) for path in rows["path"]])


def test_the_bank_holds_the_normal_training_images(model, table):
    predict(model, table, **CPU)
    rows = table[(table["part"] == "train") & (table["label"] == "non_defective")]
    assert len(model.normal_features) == len(rows) == 6
    torch.testing.assert_close(model.normal_features, model.extract_features(images_of(model, rows)))


def test_no_float64_is_made_on_the_device(model, table, no_float64):
    with no_float64:
        answers = predict(model, table, **CPU)
    assert {values.dtype for values in answers.test.scores.values()} == {np.dtype(float)}


@pytest.mark.parametrize("part", ["validation", "test"])
def test_predictions_are_the_models_in_the_order_of_the_rows(model, table, part):
    answers = getattr(predict(model, table, **CPU), part)
    rows = table[table["part"] == part]
    assert list(answers.rows["file"]) == list(rows["file"]) and list(answers.rows.index) == list(range(12))
    wanted = model.detect_anomaly_hybrid(images_of(model, rows))
    assert [CLASS_NAMES[i] for i in answers.targets] == list(rows["label"])
    assert answers.predicted.tolist() == wanted["predicted_classes"].tolist()
    assert answers.is_defect.tolist() == (rows["label"] != "non_defective").tolist()
    np.testing.assert_allclose(answers.probabilities, wanted["class_probabilities"], atol=1e-5)
    for name, key in METHODS.items():
        np.testing.assert_allclose(answers.scores[name], wanted[key], atol=1e-5)


def test_without_normal_training_images_there_is_no_score(model, table):
    defects = table[(table["label"] != "non_defective") | (table["part"] != "train")]
    answers = predict(model, defects, **CPU)
    assert answers.test.scores == answers.validation.scores == {} and len(answers.test.rows) == 12


@pytest.mark.parametrize("mode", ["head", "all"])
def test_each_picture_passes_the_network_once_for_each_state_of_its_weights(table, config, tmp_path, mode):
    """As notebook 4.0 does it: training, bank, validation, test; then the same cells again."""
    config, passed = config.but(train_mode=mode, epochs=2), []
    model = create_model(config, CLASSES, pretrained=False)
    model.backbone.register_forward_hook(lambda _, images, __: passed.append(len(images[0])))
    for run in range(2):
        train_model(model, table, config, models=tmp_path, logs=tmp_path)
        if mode == "all" and run == 0:
            assert sum(passed) == 2 * (36 + 12)  # epochs of training and validation
            passed.clear()  # the weights are others now
        predict(model, table, cache=tmp_path / "cache", precision=config.precision, **CPU)
    # The head's training has computed 36 + 12 already; otherwise 6 normal training images go into the bank.
    assert sum(passed) == {"head": 36 + 12 + 12, "all": 6 + 12 + 12}[mode]


# -- thresholds -----------------------------------------------------------------------------------------


def test_thresholds_by_hand():
    rows = pd.DataFrame({"label": ["non_defective", "non_defective", "pinhole", "grain_off"]})
    values = np.array([0.1, 0.3, 0.7, 0.9])
    scores = {"Hybrid (Paper Method)": values, "Cosine Similarity": values * 2}
    validation = Predictions(rows, np.zeros((4, 6)), scores, CLASSES)
    results = evaluate({"a": Answers(validation, validation)}, seed=0)["anomaly_detection_results"]
    thresholds = {name: figures["optimal_threshold"] for name, figures in results.items()}
    assert thresholds == pytest.approx({"Hybrid (Paper Method)": 0.5, "Cosine Similarity": 1.0})


def test_thresholds_do_not_depend_on_test_images(table, run):
    first, second = (summary_of(table, run, seed=seed)["anomaly_detection_results"] for seed in (1, 2))
    validation = predictions(table, "validation", seed=9)
    for name in METHODS:
        wanted = choose_threshold(validation.is_defect, validation.scores[name])
        assert first[name]["optimal_threshold"] == second[name]["optimal_threshold"] == wanted
        assert first[name]["roc_auc"] != second[name]["roc_auc"]
        assert first[name]["threshold_source"] == "validation (n = 12), rule youden"


def test_several_splits_are_pooled_each_with_its_own_threshold(table):
    splits = {
        str(i): Answers(predictions(table, "validation", seed=i), predictions(table, "test", seed=10 + i))
        for i in range(2)
    }
    summary = evaluate(splits, seed=0)
    called, is_defect = [], np.tile(splits["0"].test.is_defect, 2)
    for split in splits.values():
        threshold = choose_threshold(split.validation.is_defect, split.validation.scores["Cosine Similarity"])
        called.append(split.test.scores["Cosine Similarity"] >= threshold)
    figures = summary["anomaly_detection_results"]["Cosine Similarity"]
    assert figures["recall"] == np.concatenate(called)[is_defect].mean()
    assert figures["optimal_threshold"] is None and "24 in 2 splits" in figures["threshold_source"]
    assert (summary["splits"], summary["total_samples"]) == (2, 24)


# -- summary --------------------------------------------------------------------------------------------


def test_figures_are_those_of_scikit_learn(table, run):
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


def test_the_order_of_the_test_images_changes_nothing(table, run):
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


def test_the_run_is_described(run):
    assert (run["dataset"], run["protocol"], run["backbone"]) == ("tiny set", "hide-60-20-20", "test_vit")
    assert (run["weights"], run["seed"], run["epochs"], run["best_epoch"]) == ("random weights of test_vit", 42, 3, 2)
    assert (run["device"], run["seconds"]) == ("cpu", 3.25) and run["versions"]["torch"] == torch.__version__
    assert run["images"] == {"train": 36, "validation": 12, "test": 12}
    assert (run["name"], run["learning_rate"], run["image_size"]) == ("tiny", 1e-3, 48)  # and every other setting


@pytest.mark.parametrize("count", [2, 7])
def test_any_number_of_classes_goes_from_pictures_to_figures(config, tmp_path, count):
    names = ("ok", "scar", "hole", "fold", "ink", "mould", "burn")[:count]
    generator = np.random.default_rng(0)
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(8):
            pixels = generator.integers(0, 255, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    images = index_images(tmp_path / "data")
    classes, table = classes_of(images), split_index(images, "random-80-20")
    config = config.but(protocol="random-80-20", train_mode="head", epochs=1)
    model = create_model(config, classes, pretrained=False)
    train_model(model, table, config, models=tmp_path / "models", logs=tmp_path / "logs")
    summary = evaluate({"random-80-20": predict(model, table, **CPU)}, seed=0)
    assert summary["class_names"] == sorted(names) and np.shape(summary["confusion_matrix"]) == (count, count)
    assert classes.normal == "ok" and summary["hides"] is None and "over images" in summary["intervals"]
    figures = summary["anomaly_detection_results"]["Hybrid (Paper Method)"]
    assert figures["n_normal"] == 2 and figures["n_defective"] == 2 * (count - 1)


# -- MVTec ----------------------------------------------------------------------------------------------


def test_classifier_scores_are_the_models(model, test_rows):
    model.store_normal_features(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)))
    figures = evaluation.classifier_on_mvtec(model, test_rows)
    wanted = model.detect_anomaly_hybrid(images_of(model, test_rows))
    assert list(figures) == list(METHODS)
    for name, key in METHODS.items():
        assert figures[name]["image_auroc"] == pytest.approx(roc_auc_score(test_rows["defect"] != "good", wanted[key]))


def test_no_process_is_started_where_none_is_wanted(model, table, test_rows, monkeypatch):
    asked = []
    plain = features.load_batches
    monkeypatch.setattr(
        features, "load_batches", lambda *args, **options: asked.append(options) or plain(*args, **options)
    )
    predict(model, table, device=torch.device("cpu"), workers=0)
    classifier_on_mvtec(model, test_rows, workers=0)
    assert [options["workers"] for options in asked] == [0, 0]
