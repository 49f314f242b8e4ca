"""``resultados_mvtec_visual/``: the figure of anomaly maps, its summary in words, and ``mvtec_metrics.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..data.pictures import load_image
from ..files import whole_file, write_json
from ..style import plot_pictures, save_figure
from .bank import EVALUATION_SIZE
from .figures import Case, plot_localisation
from .localise import Localisation
from .regions import find_regions

FURTHER = 3  # misses and false alarms that the figure shows beside those chosen by score


def write_mvtec_reports(localised: Localisation, metrics: dict[str, Any], folder: Path, *, about: str) -> list[Path]:
    """All files of ``resultados_mvtec_visual/``; returns their paths.

    Args:
        localised: The protocol that the pictures show.
        metrics: The whole content of ``mvtec_metrics.json``; ``protocols`` holds one entry a protocol.
        folder: ``reports/<run>/resultados_mvtec_visual``.
        about: Data set, run and backbone, for titles.
    """
    folder = Path(folder)
    written = [write_json(metrics, folder / "mvtec_metrics.json"), folder / "visual_validation_summary.txt"]
    with whole_file(written[1]) as stream:
        stream.write(("\n".join(_summary_lines(localised, metrics, about)) + "\n").encode())
    cases = [_case(localised, index, reason) for index, reason in _chosen_rows(localised)]
    title = (
        f"{about}; protocol {localised.protocol}\nby rule: the images of highest, median and lowest score of every "
        "defect type, the normal image of the highest score, then misses and false alarms\n"
        "verdict: by the image score, in units of its threshold; outlines: by the map, in units of the pixel threshold"
    )
    first_two = localised.test.groupby("defect").head(2).sort_values("defect").index
    examples = plot_pictures(
        [_image(localised, index) for index in first_two],
        [f"{localised.test['defect'][index]}" for index in first_two],
        title=f"{about}\ntest images with the outline of the truth",
        outlines=localised.masks[first_two],
    )
    shown = plot_localisation(cases, threshold=localised.thresholds.pixel, title=title)
    for name, figure in (("validacion_visual_mvtec", shown), ("imagenes_ejemplo_mvtec", examples)):
        written.append(save_figure(figure, folder / f"{name}.png", photographs=True))
    return written


def _image(localised: Localisation, index: int) -> np.ndarray:
    return np.asarray(load_image(localised.test["path"][index]).resize((EVALUATION_SIZE, EVALUATION_SIZE)))


def _chosen_rows(localised: Localisation) -> list[tuple[int, str]]:
    """Images that the figure shows, with the rule that chose them; none twice."""
    chosen: dict[int, str] = {}
    for name in sorted(set(localised.test.loc[localised.is_defect, "defect"])):
        members = np.flatnonzero(localised.test["defect"] == name)
        order = members[np.argsort(-localised.image_scores[members], kind="stable")]
        for index, rule in ((order[0], "highest"), (order[len(order) // 2], "median"), (order[-1], "lowest")):
            chosen.setdefault(int(index), rule)
    order = np.argsort(-localised.image_scores, kind="stable")
    normals = [int(i) for i in order if not localised.is_defect[i]]
    if normals:
        chosen.setdefault(normals[0], "highest normal")
    misses = [
        int(i) for i in order[::-1] if localised.is_defect[i] and not localised.called[i] and int(i) not in chosen
    ]
    alarms = [i for i in normals if localised.called[i] and i not in chosen]
    return [*chosen.items(), *((i, "missed") for i in misses[:FURTHER]), *((i, "alarm") for i in alarms[:FURTHER])]


def _case(localised: Localisation, index: int, reason: str) -> Case:
    row, thresholds = localised.test.iloc[index], localised.thresholds
    truth, called = row["defect"] != "good", bool(localised.called[index])
    regions = find_regions(localised.maps[index], thresholds.pixel)
    verdict = [
        f"truth: {'defect, ' + format(localised.masks[index].mean(), '.2%') if truth else 'normal'}",
        f"verdict: {'defect' if called else 'normal'}",
        f"image score: {localised.image_scores[index] / thresholds.image:.2f}",
        f"regions: {len(regions)}" if regions else "no pixel above 1",
        *([f"largest: {max(region.share for region in regions):.2%}"] if regions else []),
    ]
    return Case(
        image=_image(localised, index),
        map=localised.maps[index],
        mask=localised.masks[index],
        boxes=[region.box for region in regions],
        verdict="\n".join(verdict),
        right=called == truth,
        name="\n".join(filter(None, (row["defect"], Path(row["file"]).name, reason))),
    )


def _summary_lines(localised: Localisation, metrics: dict[str, Any], about: str) -> list[str]:
    facts, settings, thresholds = localised.facts, localised.bank_settings, localised.thresholds
    blocks = ", ".join(map(str, settings.blocks))
    lines = [
        about,
        "",
        f"Maps shown: protocol {localised.protocol}, {facts['normal_images']} normal images, patch tokens after "
        f"block {blocks} (from 0) at {settings.side} px, cosine distance to the nearest of "
        f"{facts['bank_patches']} normal patches.",
        f"Settings: {facts['settings_source']}.",
        f"Pixels: 1 on the scale is the threshold ({thresholds.pixel:.4f}), {thresholds.pixel_source}.",
        "Images: called defective if the mean of the highest 1 % of patches, divided by the picture's median, reaches "
        f"{thresholds.image:.4f}: {thresholds.image_source}.",
        "No test image and no mask had a say in either.",
        "",
        f"{'type':<10}{'images':>8}{'called defective':>18}",
    ]
    for name, rows in localised.test.groupby("defect").groups.items():
        lines.append(f"{name:<10}{len(rows):>8}{int(localised.called[rows].sum()):>18}")
    names = {
        "image_auroc": "image AUROC",
        "image_accuracy_at_threshold": "accuracy",
        "pixel_auroc": "pixel AUROC",
        "pixel_ap": "pixel AP",
        "pixel_f1_at_threshold": "pixel F1",
        "aupro_30": "AUPRO",
    }
    lines += ["", f"{'protocol':<22}" + "".join(f"{name:>13}" for name in names.values())]
    for protocol, entry in metrics["protocols"].items():
        lines.append(f"{protocol:<22}" + "".join(f"{entry[name]:>13.3f}" for name in names))
    for kind, entry in metrics.get("attention", {}).items():
        cells = (f"{entry[name]:>13.3f}" if name in entry else " " * 13 for name in names)
        lines.append(f"{'attention, ' + kind:<22}" + "".join(cells))
    lines += [
        "",
        "Accuracy and pixel F1 are at the thresholds above.",
        f"Control: the mean grey level alone has an image AUROC of {metrics['brightness_control_image_auroc']:.3f}; "
        "read the image figures against it.",
        "Limits: maps and masks are compared at 256 x 256 px; only some images are shown, chosen by rule.",
    ]
    return lines
