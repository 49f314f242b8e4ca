"""``resultados_mvtec_visual/``: ``mvtec_metrics.json``, its summary in words, and figures of anomaly maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..files import whole_file, write_json
from ..style import plot_pictures, save_figure
from .figures import plot_localisation
from .localise import Localisation
from .study import Study

MOST = 10  # images of the figure: more would be too small to see anything
COLUMNS = {
    "image_auroc": "image AUROC",
    "image_accuracy_at_threshold": "accuracy",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_at_threshold": "pixel F1",
    "aupro_30": "AUPRO",
}


def write_mvtec_reports(study: Study, metrics: dict[str, Any], folder: Path, *, about: str) -> list[Path]:
    """All files of ``resultados_mvtec_visual/``, data first; returns their paths.

    ``metrics`` is all of ``mvtec_metrics.json``; ``about`` names data and backbone in titles.
    """
    shown = study.zero_shot
    written = write_json(metrics, folder / "mvtec_metrics.json")
    with whole_file(folder / "visual_validation_summary.txt") as stream:
        stream.write(_summary(study, metrics, about).encode())
    counts, normal = metrics["protocols"][shown.protocol], int((~shown.is_defect).sum())
    title = (
        f"{about}\n{shown.protocol}: {counts['false_alarms']} false alarms among {normal} normal images, "
        f"{counts['misses']} misses among {len(shown.test) - normal} defective ones\nShown by rule: the median score "
        f"of each type, the lowest of a defect, the highest of a normal image, then errors, {MOST} at most"
    )
    by_rule = plot_localisation((shown, study.k_shot), choose_examples(shown), title=title)
    first_two = shown.test.groupby("defect").head(2).sort_values("defect").index
    by_defect = plot_pictures(
        [shown.image(index) for index in first_two],
        list(shown.test["defect"][first_two]),
        title=f"{about}\ntest images with the outline of the truth",
        outlines=shown.masks[first_two],
    )
    return [
        written,
        folder / "visual_validation_summary.txt",
        save_figure(by_rule, folder / "validacion_visual_mvtec.png", photographs=True),
        save_figure(by_defect, folder / "imagenes_ejemplo_mvtec.png", photographs=True),
    ]


def choose_examples(shown: Localisation) -> list[tuple[int, str]]:
    """At most `MOST` images for a figure, with the rule that chose each; none twice."""
    order = np.argsort(-shown.scores, kind="stable")
    defects = shown.test["defect"].to_numpy()
    by_type = {name: order[defects[order] == name] for name in sorted(set(defects) - {"good"})}
    chosen = {int(ranked[len(ranked) // 2]): "median" for ranked in list(by_type.values())[: MOST - 2]}
    for index in order[shown.is_defect[order]][-1:]:
        chosen.setdefault(int(index), "lowest")
    for index in order[~shown.is_defect[order]][:1]:
        chosen.setdefault(int(index), "highest normal")
    wrong = [int(index) for index in order if shown.called[index] != shown.is_defect[index]]
    for index in (index for index in wrong if not shown.is_defect[index]):
        chosen.setdefault(index, "false alarm")
    for index in (index for index in reversed(wrong) if shown.is_defect[index]):
        chosen.setdefault(index, "missed")
    return list(chosen.items())[:MOST]


def _summary(study: Study, metrics: dict[str, Any], about: str) -> str:
    lines = [f"{about}\n"]
    for shown in (study.zero_shot, study.k_shot):
        facts, thresholds = shown.facts, shown.thresholds
        lines += [
            f"Protocol {shown.protocol}: {facts['normal_images']} normal images of this leather, patch tokens after "
            f"block {', '.join(map(str, facts['blocks']))} (from 0). {facts['settings_source'].capitalize()}.",
            f"Outlines from {thresholds.outline:.4f}, verdict from {thresholds.verdict:.4f}: {thresholds.source}.",
            f"{len(shown.test)} images: {metrics['protocols'][shown.protocol]['false_alarms']} false alarms among "
            f"{int((~shown.is_defect).sum())}, {metrics['protocols'][shown.protocol]['misses']} misses among "
            f"{int(shown.is_defect.sum())}.\n",
        ]
    called = {shown.protocol: shown.called for shown in (study.zero_shot, study.k_shot)}
    types = pd.DataFrame(called).groupby(study.k_shot.test["defect"]).sum()
    types.insert(0, "images", study.k_shot.test["defect"].value_counts())
    rows = metrics["protocols"] | {f"attention, {name}": entry for name, entry in metrics["attention"].items()}
    table = pd.DataFrame({name: {key: entry.get(key) for key in COLUMNS} for name, entry in rows.items()}, dtype=float)
    lines += [
        "Images called defective, by type:",
        types.to_string(),
        "\n" + table.T.rename(columns=COLUMNS).to_string(float_format="{:.3f}".format, na_rep=""),
        "\nAccuracy and pixel F1 are at the thresholds above; no test image or mask was used for these.",
        f"Control: the mean grey level alone has an image AUROC of {metrics['brightness_control_image_auroc']:.3f}; "
        "read the image figures against it.",
        "Limits: maps and masks are compared at 256 x 256 px; only some images are shown, chosen by rule.\n",
    ]
    return "\n".join(lines)
