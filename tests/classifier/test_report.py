"""Reports of a run: every file under its name, and the two numbers of the table of baselines beside the run's own."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from src.classifier import report
from src.classifier.evaluation import METHODS, Answers, evaluate
from src.classifier.figures import CURVES
from src.classifier.report import BEST, HONEST_PROTOCOL, USUAL, headline, images_identity, read_protocols, write_reports
from src.config import CLASS_NAMES
from src.data.pictures import load_image
from src.files import write_json
from src.style import RIGHT, WRONG
from tests.classifier.conftest import predictions, summary_of

FIGURES = {"matriz_de_confusion_multiclase", "evaluacion_integral", "ejemplos_multiclase", "loss_and_accuracy", *CURVES}
OF_RUN = {"dataset", "protocol", "backbone", "weights", "seed", "epochs", "device", "seconds", "versions"}
OF_SUMMARY = {"multiclass_accuracy", "confusion_matrix", "class_names", "class_distribution", "total_samples"}
OF_SUMMARY |= {"anomaly_detection_results", "per_class", "macro_f1", "run", "protocols"}
OF_SCORES = {"roc_auc", "avg_precision", "binary_accuracy", "optimal_threshold", "threshold_source"}


def strict(path):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_every_report_is_written_under_its_name(table, run, result, tmp_path):
    test, summary = predictions(table, "test"), summary_of(table, run)
    written = write_reports(summary, test, result.history, tmp_path / "resultados_multiclase")
    assert set(written) == set((tmp_path / "resultados_multiclase").iterdir())
    assert {path.name for path in written} == {"results_summary.json", *(f"{name}.png" for name in FIGURES)}
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert min(image.size) > 200 and np.ptp(np.asarray(image.convert("L"))) > 100
    content = strict(tmp_path / "resultados_multiclase" / "results_summary.json")
    assert content["multiclass_accuracy"] == pytest.approx(summary["multiclass_accuracy"], rel=1e-5)
    assert set(content) >= OF_SUMMARY and set(content["run"]) >= OF_RUN
    assert list(content["anomaly_detection_results"]) == list(METHODS)
    assert all(set(entry) >= OF_SCORES for entry in content["anomaly_detection_results"].values())
    assert list(content["per_class"]) == content["class_names"] == list(CLASS_NAMES)
    assert all(set(entry) == {"precision", "recall", "f1", "support"} for entry in content["per_class"].values())


def test_data_is_written_before_figures(table, run, result, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no font")

    monkeypatch.setattr(report, "plot_evaluation", fail)
    with pytest.raises(RuntimeError, match="no font"):
        write_reports(summary_of(table, run), predictions(table, "test"), result.history, tmp_path)
    assert strict(tmp_path / "results_summary.json")["total_samples"] == 12


def test_examples_are_the_surest_and_the_hardest_of_each_class(table, run, monkeypatch, tmp_path):
    table.loc[table["part"] == "train", "part"] = "test"  # more than two a class
    test, shown = predictions(table, "test"), {}
    monkeypatch.setattr(
        report,
        "plot_pictures",
        lambda images, captions, **options: shown.update(images=images, captions=captions, **options) or Figure(),
    )
    history = pd.DataFrame({"epoch": [1], **dict.fromkeys(CURVES, [0.5])})
    write_reports(summary_of(table, run, test=test), test, history, tmp_path)
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


# -- the two numbers ------------------------------------------------------------------------------------


@pytest.fixture
def baselines(table, tmp_path):
    """A table of baselines of these images; its file."""
    protocols = {}
    for seed, protocol in enumerate((USUAL, HONEST_PROTOCOL)):
        answers = Answers(predictions(table, "validation", seed=9), predictions(table, "test", seed=seed))
        protocols[protocol] = evaluate({protocol: answers}, seed=0)
    content = {"rows": {BEST: {"protocols": protocols}}, "run": {"images": images_identity(table.iloc[::-1])}}
    return protocols, write_json(content, tmp_path / "baselines.json")


def test_protocols_are_read_back_for_the_same_images_only(table, baselines, tmp_path, caplog):
    entries, file = baselines
    headlines = read_protocols(file, table)
    assert list(headlines) == [USUAL, HONEST_PROTOCOL]
    for name, figures in headlines.items():
        assert figures["macro_f1"] == pytest.approx(entries[name]["macro_f1"], rel=1e-5)
        assert figures["source"].endswith("baselines.json") and figures["n"] == 12
    assert not caplog.text
    assert read_protocols(file, table.assign(label="pinhole")) == read_protocols(tmp_path / "none.json", table) == {}
    assert "python -m benchmarks.baselines" in caplog.text


def test_both_numbers_lead(table, run, baselines):
    entries, file = baselines
    summary = summary_of(table.drop(columns="group"), run) | {"protocols": read_protocols(file, table)}
    own, usual, honest = headline(summary).splitlines()
    assert "hide-60-20-20 (n = 12, hides: unknown)" in own and f"{summary['macro_f1']:.3f}" in own
    assert USUAL in usual and f"{entries[USUAL]['macro_f1']:.3f}" in usual
    assert f"{entries[HONEST_PROTOCOL]['macro_f1']:.3f}" in honest and "hides: 1" in honest
