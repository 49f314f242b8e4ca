"""Where the defect is: anomaly maps on MVTec AD from patch tokens, their metrics, and ``resultados_mvtec_visual/``.

Two questions are kept apart. ``six-class-transfer``: does the trained classifier, with the normal images it knows,
carry over to this other leather? ``<k>-shot`` (``mvtec-full`` with all 245): what do k normal images of this very
leather give?
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from tqdm import tqdm

from src.datasets import load_image, load_mask
from src.evaluation import METHODS, write_json
from src.features import choose_device, compute_features
from src.metrics import best_pixel_threshold, bootstrap_interval, pixel_metrics
from src.model import ViTMultiClassClassifier
from src.patch_bank import BankSettings, PatchBank, default_settings, image_score
from src.plots import plot_attention, plot_defect_examples, plot_localisation, save_figure
from src.regions import find_regions
from src.scoring import upsample_maps
from src.splits import FULL_TRAINING_SET
from src.synthetic_defects import add_synthetic_defect

log = logging.getLogger(__name__)

EVALUATION_SIZE = 256  # maps and masks are compared at 256 x 256 px, as most of the field does
TRANSFER_BANK_IMAGES = 64
FURTHER = 3  # misses and false alarms that the figure shows beside those chosen by score
PAINTED = 40  # pictures with a painted defect, at least, that the thresholds are chosen on


@dataclass(frozen=True)
class Localisation:
    """Maps of all test images of one protocol, and the threshold that was chosen without any test image."""

    protocol: str
    test: pd.DataFrame  # rows of index_mvtec, part test
    maps: np.ndarray  # (n, 256, 256) float32, in [0, 2], higher is more anomalous
    masks: np.ndarray  # (n, 256, 256) bool
    image_scores: np.ndarray  # (n,), mean of the highest 1 % of patches
    threshold: float  # of the maps
    settings: dict[str, Any]

    @property
    def is_defect(self) -> np.ndarray:
        return (self.test["defect"] != "good").to_numpy()

    @property
    def called(self) -> np.ndarray:
        """True for images that are called defective, shape (n,)."""
        return self.maps.max(axis=(1, 2)) >= self.threshold


def localise(
    model: ViTMultiClassClassifier,
    normal_paths: list[str],
    test: pd.DataFrame,
    *,
    protocol: str,
    settings: BankSettings | None = None,
    device: torch.device | None = None,
) -> Localisation:
    """Anomaly maps of test images by distance to the patches of normal images.

    The threshold comes from the normal images alone: defects are painted on them, each is scored against the other
    normal images' patches, and the value of highest F1 against the painted masks is taken. An image counts as
    defective if any pixel of its map reaches the threshold.

    Args:
        model: Its backbone gives the patch tokens.
        normal_paths: Normal images, two at least.
        test: Rows of `index_mvtec`, part ``test``.
        protocol: Name under which the figures are reported.
        settings: Of the bank of patches; None takes `default_settings` for the first normal image.
        device: None chooses.

    Raises:
        ValueError: With fewer than two normal images.
        UnreadableImageError: If an image cannot be decoded.
    """
    normals = _load_normals(normal_paths, protocol)
    model = model.to(device or choose_device())
    empty = PatchBank(model, settings or default_settings(model, normals[0]), torch.empty(0))
    tokens = [empty.tokens(image) for image in tqdm(normals, desc=f"normal images {protocol}", unit="img")]
    threshold = best_pixel_threshold(*_painted(empty, normals, tokens))
    bank = empty.with_rows(torch.cat(tokens))
    bar = tqdm(test["path"], desc=f"maps {protocol}", unit="img")
    patches = [bank.patch_map(load_image(path)) for path in bar]
    return Localisation(
        protocol=protocol,
        test=test.reset_index(drop=True),
        maps=np.stack([_evaluated(bank, found) for found in patches]),
        masks=np.stack([_small_mask(load_mask(r.mask, size=load_image(r.path).size)) for r in test.itertuples()]),
        image_scores=np.array([image_score(found) for found in patches]),
        threshold=threshold,
        settings={
            "normal_images": len(normals), "bank_patches": len(bank.rows), "evaluation_size": EVALUATION_SIZE,
            **asdict(bank.settings),
        },  # fmt: skip
    )


def choose_settings(
    model: ViTMultiClassClassifier,
    normal_paths: list[str],
    candidates: Iterable[BankSettings],
    *,
    device: torch.device | None = None,
) -> tuple[BankSettings, list[float]]:
    """The settings whose maps find painted defects best, without any test image.

    Args:
        model: Its backbone gives the patch tokens.
        normal_paths: Normal images, two at least; each is painted on and compared with the others.
        candidates: One or more.
        device: None chooses.

    Returns:
        The best candidate, and each one's pixel average precision, in [0, 1], on 40 or more painted images.

    Raises:
        ValueError: With fewer than two normal images.
    """
    normals = _load_normals(normal_paths, "choosing settings")
    model, candidates, scores = model.to(device or choose_device()), list(candidates), []
    for settings in candidates:
        bank = PatchBank(model, settings, torch.empty(0))
        maps, masks = _painted(bank, normals, [bank.tokens(image) for image in normals])
        scores.append(float(average_precision_score(masks.ravel(), maps.ravel())))
    return candidates[int(np.argmax(scores))], scores


def _load_normals(normal_paths: list[str], what: str) -> list[Image.Image]:
    if len(normal_paths) < 2:
        raise ValueError(f"{what} has {len(normal_paths)} normal images; the threshold needs at least 2")
    return [load_image(path) for path in normal_paths]


def protocol_name(normal_images: int) -> str:
    """``mvtec-full`` with the published training set, else ``<k>-shot``."""
    return "mvtec-full" if normal_images == FULL_TRAINING_SET else f"{normal_images}-shot"


def transfer_normals(table: pd.DataFrame, normal_class: str, *, seed: int) -> list[str]:
    """Some normal training images of the six-class set, for the bank of ``six-class-transfer``."""
    rows = table[(table["part"] == "train") & (table["label"] == normal_class)]
    return list(rows.sample(min(len(rows), TRANSFER_BANK_IMAGES), random_state=seed)["path"])


def classifier_on_mvtec(model: ViTMultiClassClassifier, test: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Image AUROC and AP of the classifier's three scores on MVTec: what the trained model itself carries over."""
    rows = test.assign(label=model.normal_class)  # the label is not used
    found = model.detect_from_features(compute_features(model, rows).to(model.normal_features.device))
    is_defect = (test["defect"] != "good").to_numpy()
    return {name: _image_metrics(is_defect, found[key].cpu().numpy()) for name, key in METHODS.items()}


def brightness_control(test: pd.DataFrame) -> float:
    """Image AUROC of nothing but the mean grey level, the better of both directions: what any method must beat."""
    grey = np.array([np.asarray(load_image(path).convert("L")).mean() for path in test["path"]])
    area = roc_auc_score(test["defect"] != "good", grey)
    return float(max(area, 1 - area))


def localisation_metrics(found: Localisation, *, seed: int = 0) -> dict[str, Any]:
    """One entry of ``mvtec_metrics.json``: image and pixel figures, at the thresholds and without, per defect type."""
    is_defect = found.is_defect
    called = found.called
    marked = found.maps >= found.threshold
    overlap = int((marked & found.masks).sum())
    precision_recall = 2 * overlap / max(int(marked.sum()) + int(found.masks.sum()), 1)
    per_defect = {}
    for name in sorted(set(found.test.loc[is_defect, "defect"])):
        chosen = (found.test["defect"] == name).to_numpy()
        both = chosen | ~is_defect
        per_defect[name] = {
            "n": int(chosen.sum()),
            "image_auroc": float(roc_auc_score(chosen[both], found.image_scores[both])),
            "found_at_threshold": float(called[chosen].mean()),
            **pixel_metrics(found.maps[both], found.masks[both]),
        }
    return {
        **_image_metrics(is_defect, found.image_scores),
        "image_auroc_interval": bootstrap_interval(roc_auc_score, is_defect, found.image_scores, seed=seed),
        "image_accuracy_at_threshold": float((called == is_defect).mean()),
        "image_false_alarm_rate": float(called[~is_defect].mean()) if (~is_defect).any() else None,
        **pixel_metrics(found.maps, found.masks),
        "pixel_f1_at_threshold": precision_recall,
        "threshold": found.threshold,
        "threshold_source": "defects painted on normal images, scored against the others (no test image, no mask)",
        "oracle": ["pixel_f1_max"],
        "n": {name: int(count) for name, count in found.test["defect"].value_counts().items()},
        "per_defect": per_defect,
        **found.settings,
    }


def write_mvtec_reports(found: Localisation, metrics: dict[str, Any], folder: Path, *, about: str) -> list[Path]:
    """All files of ``resultados_mvtec_visual/``; returns their paths.

    Args:
        found: The protocol that the pictures show.
        metrics: The whole content of ``mvtec_metrics.json``; ``protocols`` holds one entry a protocol.
        folder: ``reports/<run>/resultados_mvtec_visual``.
        about: Data set, run and backbone, for titles.
    """
    folder = Path(folder)
    shown = [_figure_row(found, index, reason) for index, reason in _chosen_rows(found)]
    title = (
        f"{about}; protocol {found.protocol}\nby rule: the images of highest, median and lowest score of every defect "
        "type, the normal image of the highest score, then misses and false alarms"
    )
    first_two = found.test.groupby("defect").head(2).sort_values("defect").index
    examples = [_figure_row(found, int(index), "") for index in first_two]
    for row in examples:
        row["name"] = row["name"].split("\n")[0]
    text = "\n".join(_summary_lines(found, metrics, about)) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    summary = folder / "visual_validation_summary.txt"
    summary.write_text(text, encoding="utf-8")
    return [
        save_figure(plot_localisation(shown, threshold=found.threshold, title=title),
                    folder / "validacion_visual_mvtec.png", photographs=True),
        save_figure(plot_defect_examples(examples, title=f"{about}\ntest images with the outline of the truth"),
                    folder / "imagenes_ejemplo_mvtec.png", photographs=True),
        summary,
        write_json(metrics, folder / "mvtec_metrics.json"),
    ]  # fmt: skip


def attention_figure(model: ViTMultiClassClassifier, path: str, *, title: str) -> Figure:
    """One image beside the model's attention to it: class token of the last block, and rollout."""
    image = load_image(path)
    found = model.extract_attention_maps(model.transform(image)[None].to(next(model.parameters()).device))
    maps = {"class token, last block": found["cls"], "rollout, all blocks": found["rollout"]}
    shown = {name: upsample_maps(m.cpu(), (EVALUATION_SIZE,) * 2)[0].numpy() for name, m in maps.items()}
    return plot_attention(np.asarray(image.resize((EVALUATION_SIZE,) * 2)), shown, title=title)


def _painted(
    bank: PatchBank, normals: list[Image.Image], tokens: list[Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """Maps and masks, (n, 256, 256), of defects painted on normal images, whose bank tokens are given.

    Each painted image is compared with the other normal images only, as a new picture would be.
    """
    repeats = -(-PAINTED // len(normals))
    maps, masks = [], []
    for number, image in enumerate(tqdm(normals, desc="painted defects", unit="img")):
        others = bank.with_rows(torch.cat(tokens[:number] + tokens[number + 1 :]))
        generator = np.random.default_rng([0, number])
        for _ in range(repeats):
            painted, mask = add_synthetic_defect(np.asarray(image), generator)
            maps.append(_evaluated(bank, others.patch_map(Image.fromarray(painted))))
            masks.append(_small_mask(mask.astype(bool)))
    return np.stack(maps), np.stack(masks)


def _evaluated(bank: PatchBank, patches: Tensor) -> np.ndarray:
    return bank.full_size(patches, (EVALUATION_SIZE, EVALUATION_SIZE))


def _small_mask(mask: np.ndarray) -> np.ndarray:
    if mask.shape == (EVALUATION_SIZE, EVALUATION_SIZE):
        return mask
    return np.asarray(Image.fromarray(mask).resize((EVALUATION_SIZE, EVALUATION_SIZE), Image.NEAREST))


def _image_metrics(is_defect: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    return {
        "image_auroc": float(roc_auc_score(is_defect, scores)),
        "image_ap": float(average_precision_score(is_defect, scores)),
    }


def _chosen_rows(found: Localisation) -> list[tuple[int, str]]:
    """Images that the figure shows, with the rule that chose them; none twice."""
    chosen: dict[int, str] = {}
    for name in sorted(set(found.test.loc[found.is_defect, "defect"])):
        members = np.flatnonzero(found.test["defect"] == name)
        order = members[np.argsort(-found.image_scores[members], kind="stable")]
        for index, rule in ((order[0], "highest"), (order[len(order) // 2], "median"), (order[-1], "lowest")):
            chosen.setdefault(int(index), rule)
    order = np.argsort(-found.image_scores, kind="stable")
    normals = [int(i) for i in order if not found.is_defect[i]]
    if normals:
        chosen.setdefault(normals[0], "highest normal")
    misses = [int(i) for i in order[::-1] if found.is_defect[i] and not found.called[i] and int(i) not in chosen]
    alarms = [i for i in normals if found.called[i] and i not in chosen]
    return [*chosen.items(), *((i, "missed") for i in misses[:FURTHER]), *((i, "alarm") for i in alarms[:FURTHER])]


def _figure_row(found: Localisation, index: int, reason: str) -> dict[str, Any]:
    row = found.test.iloc[index]
    truth, called = row["defect"] != "good", bool(found.called[index])
    regions = find_regions(found.maps[index], found.threshold)
    largest = max((region.share for region in regions), default=0.0)
    verdict = (
        f"truth: {'defect' if truth else 'normal'}, {found.masks[index].mean():.2%} of the image\n"
        f"verdict: {'defect' if called else 'normal'}\n"
        f"highest: {found.maps[index].max() / found.threshold:.2f} x threshold\n"
        f"regions: {len(regions)}" + (f", largest {largest:.2%}" if regions else "")
    )
    image = load_image(row["path"]).resize((EVALUATION_SIZE, EVALUATION_SIZE))
    return {
        "image": np.asarray(image), "map": found.maps[index], "mask": found.masks[index],
        "boxes": [region.box for region in regions], "verdict": verdict, "right": called == truth,
        "name": "\n".join(filter(None, (row["defect"], Path(row["file"]).name, reason))),
    }  # fmt: skip


def _summary_lines(found: Localisation, metrics: dict[str, Any], about: str) -> list[str]:
    blocks = ", ".join(map(str, found.settings["blocks"]))
    lines = [
        about, "",
        f"Maps shown: protocol {found.protocol}, {found.settings['normal_images']} normal images, patch tokens after "
        f"block {blocks} at {found.settings['side']} px, cosine distance to the nearest of "
        f"{found.settings['bank_patches']} normal patches.",
        f"Scale: 1 is the threshold ({found.threshold:.4f}), chosen on defects painted on the normal images, without a "
        "test image or its mask. An image is called defective if any pixel reaches it.", "",
        f"{'type':<10}{'images':>8}{'called defective':>18}",
    ]  # fmt: skip
    for name, rows in found.test.groupby("defect").groups.items():
        lines.append(f"{name:<10}{len(rows):>8}{int(found.called[rows].sum()):>18}")
    lines += ["", f"{'protocol':<22}{'image AUROC':>12}{'pixel AUROC':>12}{'pixel AP':>10}{'AUPRO':>8}"]
    for name, entry in metrics["protocols"].items():
        values = (entry[k] for k in ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_30"))
        lines.append(f"{name:<22}" + "".join(f"{v:>{w}.3f}" for v, w in zip(values, (12, 12, 10, 8), strict=True)))
    control = metrics["brightness_control_image_auroc"]
    lines += [
        "",
        f"Control: the mean grey level alone has an image AUROC of {control:.3f}; read the image figures against it.",
        "Limits: maps and masks are compared at 256 x 256 px; only one image a type is shown, chosen by rule.",
    ]
    return lines
