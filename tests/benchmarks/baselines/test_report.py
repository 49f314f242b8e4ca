"""The table of baselines as Markdown and figures; docs quote the committed one."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from benchmarks.baselines.protocols import protocol_report
from benchmarks.baselines.report import markdown_table, write_baselines
from src.classifier.evaluation import METHODS, Answers, Predictions
from src.classifier.report import HONEST_PROTOCOL, USUAL
from src.config import CLASS_NAMES, paths
from tests.conftest import CLASSES


def answers(seed, strength, *, prefix):
    generator = np.random.default_rng(seed)
    rows = pd.DataFrame({"label": np.resize(CLASS_NAMES, 48), "group": [f"{prefix}{i % 6}" for i in range(48)]})
    rows["file"] = [f"{prefix}{i}" for i in range(48)]
    logits = generator.normal(size=(48, 6)) + strength * np.eye(6)[np.resize(range(6), 48)]
    score = generator.random(48) + strength / 3 * (rows["label"] != "non_defective").to_numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Predictions(rows, probabilities, dict.fromkeys(METHODS, score), CLASSES)


@pytest.fixture
def report():
    rows = {}
    for number, name in enumerate(("colour", "honest")):
        protocols = {}
        for protocol, strength in ((USUAL, 4.0), (HONEST_PROTOCOL, 1.0 + number)):
            split = Answers(answers(1, strength, prefix="v"), answers(2, strength, prefix="t"))
            protocols[protocol] = protocol_report({protocol: split}, protocol)
        rows[name] = {"about": f"the {name} row", "protocols": protocols}
    return {"rows": rows, "run": {"seed": 42}}


def test_files_are_written_and_say_the_same(report, tmp_path):
    plt.close("all")
    written = write_baselines(report, tmp_path)
    assert [path.name for path in written] == [
        "baselines.json",
        "baselines.md",
        "usual_and_honest.png",
        "reliability.png",
        "confusion_hide_5fold.png",
    ]
    assert all(path.stat().st_size > 200 for path in written)
    assert json.loads(written[0].read_text())["rows"].keys() == report["rows"].keys()
    assert not plt.get_fignums()


def test_the_table_holds_the_figures_with_their_intervals(report):
    text = markdown_table(report)
    entry = report["rows"]["honest"]["protocols"][HONEST_PROTOCOL]
    low, high = entry["macro_f1_interval"]
    assert f"{entry['macro_f1']:.3f} [{low:.2f}, {high:.2f}]" in text
    hybrid = entry["anomaly_detection_results"][next(iter(METHODS))]
    assert f"{hybrid['roc_auc']:.3f}" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    first, second = lines[:4], lines[4:]
    assert len({line.count("|") for line in first}) == len({line.count("|") for line in second}) == 1
    assert len(second) == 2 + len(METHODS) + 1  # and the learned mix
    rule = hybrid["rules"]["youden"]
    assert f"{rule['recall']:.3f} ({rule['false_alarm_rate']:.3f})" in second[2]
    assert "- honest: the honest row" in text
    assert "hide 5-fold: macro-F1" in lines[0] and "60/20/20" not in lines[0]  # no row was filled on it


def test_a_table_without_both_numbers_has_no_figures(report, tmp_path):
    for row in report["rows"].values():
        del row["protocols"][USUAL]
    assert [path.name for path in write_baselines(report, tmp_path)] == ["baselines.json", "baselines.md"]


def test_docs_quote_the_committed_table():
    report = json.loads((paths.root / "reports" / "baselines" / "baselines.json").read_text(encoding="utf-8"))
    page = (paths.root / "docs" / "results.md").read_text(encoding="utf-8")
    for row in report["rows"].values():
        entry = row["protocols"][HONEST_PROTOCOL]
        low, high = entry["macro_f1_interval"]
        assert f"| {entry['macro_f1']:.3f} [{low:.2f}, {high:.2f}] | {entry['multiclass_accuracy']:.3f} |" in page
        hybrid = entry["anomaly_detection_results"][next(iter(METHODS))]
        low, high = hybrid["roc_auc_interval"]
        assert f"| {hybrid['roc_auc']:.3f} [{low:.2f}, {high:.2f}] | {hybrid['roc_auc_split_mean']:.3f} |" in page
