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

FURTHER = 3  # misses and false alarms that the figure shows beside those chosen by score
COLUMNS = {
    "image_auroc": "image AUROC",
    "image_accuracy_at_threshold": "accuracy",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_at_threshold": "pixel F1",
    "aupro_30": "AUPRO",
}


def write_mvtec_reports(shown: Localisation, metrics: dict[str, Any], folder: Path, *, about: str) -> list[Path]:
    """All files of ``resultados_mvtec_visual/``, data first; returns their paths.

    Figures are of ``shown``; ``metrics`` is all of ``mvtec_metrics.json``; ``about`` names data and backbone in titles.
    """
    written = write_json(metrics, folder / "mvtec_metrics.json")
    with whole_file(folder / "visual_validation_summary.txt") as stream:
        stream.write(_summary(shown, metrics, about).encode())
    title = (
        f"{about}; protocol {shown.protocol}\nby rule: the images of highest, median and lowest score of every defect "
        "type, the normal image of the highest score, then misses and false alarms\n"
        "verdict: by the image score, in units of its threshold; outlines: by the map, in units of the pixel threshold"
    )
    by_rule = plot_localisation(shown, choose_examples(shown), title=title)
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
    """Images for a figure, with the rule that chose each; none twice."""
    chosen: dict[int, str] = {}
    order = np.argsort(-shown.image_scores, kind="stable")
    defects = shown.test["defect"].to_numpy()
    for name in sorted(set(defects) - {"good"}):
        ranked = order[defects[order] == name]
        for index, rule in ((ranked[0], "highest"), (ranked[len(ranked) // 2], "median"), (ranked[-1], "lowest")):
            chosen.setdefault(int(index), rule)
    for index in order[~shown.is_defect[order]][:1]:
        chosen.setdefault(int(index), "highest normal")
    wrong = [int(index) for index in order if shown.called[index] != shown.is_defect[index] and index not in chosen]
    misses = [(index, "missed") for index in reversed(wrong) if shown.is_defect[index]]
    alarms = [(index, "alarm") for index in wrong if not shown.is_defect[index]]
    return [*chosen.items(), *misses[:FURTHER], *alarms[:FURTHER]]


def _summary(shown: Localisation, metrics: dict[str, Any], about: str) -> str:
    facts, settings, thresholds = shown.facts, shown.bank_settings, shown.thresholds
    lines = [
        f"{about}\n",
        f"Maps shown: protocol {shown.protocol}, {facts['normal_images']} normal images, patch tokens after block "
        f"{', '.join(map(str, settings.blocks))} (from 0) at {settings.side} px, cosine distance to the nearest "
        f"of {facts['bank_patches']} normal patches.",
        f"Settings: {facts['settings_source']}.",
        f"Pixels: 1 on the scale is the threshold ({thresholds.pixel:.4f}), {thresholds.pixel_source}.",
        "Images: called defective if the mean of the highest 1 % of patches, divided by the picture's median, reaches "
        f"{thresholds.image:.4f}: {thresholds.image_source}.",
        "No test image or mask was used for either.\n",
        f"{'type':<10}{'images':>8}{'called defective':>18}",
    ]
    for name, rows in shown.test.groupby("defect").groups.items():
        lines.append(f"{name:<10}{len(rows):>8}{int(shown.called[rows].sum()):>18}")
    rows = metrics["protocols"] | {f"attention, {name}": entry for name, entry in metrics["attention"].items()}
    table = pd.DataFrame({name: {key: entry.get(key) for key in COLUMNS} for name, entry in rows.items()}, dtype=float)
    lines += [
        "\n" + table.T.rename(columns=COLUMNS).to_string(float_format="{:.3f}".format, na_rep=""),
        "\nAccuracy and pixel F1 are at the thresholds above.",
        f"Control: the mean grey level alone has an image AUROC of {metrics['brightness_control_image_auroc']:.3f}; "
        "read the image figures against it.",
        "Limits: maps and masks are compared at 256 x 256 px; only some images are shown, chosen by rule.\n",
    ]
    return "\n".join(lines)
