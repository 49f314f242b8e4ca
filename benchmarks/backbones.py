"""What the shipped backbone is worth: beside its teacher, beside random weights, and beside plain colour.

``python -m benchmarks.backbones --data FOLDER --teacher FILE`` needs the folder of the six-class set and of MVTec AD
leather, and weights of timm's ``vit_small_patch14_dinov2``. Backbones stay frozen; tokens of blocks 2, 5, 8 and 11
make the features (class token, mean and deviation of the patches), the same blocks for all, fixed beforehand.

Six-class set: logistic regression on 512 principal components, its strength chosen on validation images, (a) on the
published random 80/20 split, (b) on five folds that keep hides apart, without copies, the strength chosen on other
hides. Hides and copies come from the list that notebook 2.0 writes.
MVTec AD: plain distances to the normal training images, input 448 px, one block for all, no head. Writes
``backbones.json`` and ``backbones.md`` into ``--output``; features are kept in ``models/cache``, so it can go on.
Speed is measured by ``benchmarks.speed``.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from benchmarks.tables import markdown_rows, write_results
from src.backbone.vit import Backbone
from src.classifier.features import compute_features
from src.classifier.model import create_model
from src.config import MVTEC_FOLDER, SAMPLE, paths
from src.data.download import run_name
from src.data.pictures import load_image, load_mask, picture_size
from src.data.splits import FOLDS, hide_folds, protocol_name, split_index
from src.data.tables import IMAGE_LIST, class_root, classes_of, index_mvtec, read_image_list
from src.eda.audit import COLOUR_NUMBERS
from src.eda.describe import describe_images
from src.localisation.encoder import camera_zoom
from src.localisation.localise import Detector, evaluated_map, evaluated_mask, localise, read_tokens
from src.localisation.pixel_metrics import pixel_metrics
from src.localisation.thresholds import make_encoder, references_of

BLOCKS = (2, 5, 8, 11)
COMPONENTS = 512  # principal components that the regression sees: minutes instead of an hour
STRENGTHS = (0.001, 0.01, 0.1)  # inverse regularisation of the logistic regression
SEED = 42


def six_classes(features: np.ndarray, table: pd.DataFrame, classifiers: list) -> dict[str, float]:
    """Accuracy on the random split's test part, and macro-F1 of the pooled answers of five folds by hide."""
    answers, labels = _answers(features, split_index(table, "random-80-20", seed=SEED), classifiers)
    folds = tqdm(hide_folds(table, seed=SEED).values(), desc="folds by hide")
    of_folds = [_answers(features, fold, classifiers) for fold in folds]
    answers_by_hide, labels_by_hide = (np.concatenate(parts) for parts in zip(*of_folds, strict=True))
    return {
        "random_80_20_accuracy": float(np.mean(answers == labels)),
        "hide_5fold_macro_f1": float(f1_score(labels_by_hide, answers_by_hide, average="macro")),
        "hide_5fold_accuracy": float(np.mean(answers_by_hide == labels_by_hide)),
    }


def _answers(features: np.ndarray, split: pd.DataFrame, classifiers: list) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true labels of the test part by the classifier of highest macro-F1 on validation.

    ``features`` (n, d) are of the whole table, whose index the split has kept.
    """
    parts = {name: (features[rows.index], rows["label"].to_numpy()) for name, rows in split.groupby("part")}
    fitted = [classifier.fit(*parts["train"]) for classifier in classifiers]
    pictures, labels = parts["validation"]
    scores = [f1_score(labels, classifier.predict(pictures), average="macro") for classifier in fitted]
    pictures, labels = parts["test"]
    return fitted[int(np.argmax(scores))].predict(pictures), labels


def localisation(backbone: Backbone, mvtec: pd.DataFrame) -> dict[str, object]:
    """Plain distances to the normal images."""
    normals, test = _parts(mvtec)
    encoder = make_encoder(backbone, zoom=camera_zoom(map(picture_size, mvtec["path"])), head=None)
    references = references_of([encoder.tokens(load_image(path)) for path in normals], are_normal=True)
    detector = Detector(protocol_name(len(normals)), encoder, references, head=None)
    shown = localise(detector, test, read_tokens(encoder, test))
    return {"block": encoder.blocks[0], **_pixels(shown.maps, shown.masks)}


def colour_maps(mvtec: pd.DataFrame) -> dict[str, object]:
    """The colour baseline of localisation: mean colour of 8 px cells, distance to the nearest normal cell's."""
    normals, test = _parts(mvtec)

    def cells(path: str) -> torch.Tensor:
        return torch.tensor(np.asarray(load_image(path).resize((32, 32), 4)), dtype=torch.float32).view(-1, 3)

    bank = torch.cat([cells(path) for path in normals])
    maps = [evaluated_map(torch.cdist(cells(path), bank).amin(1).view(32, 32).numpy()) for path in test["path"]]
    masks = [evaluated_mask(load_mask(row.mask, size=picture_size(row.path))) for row in test.itertuples()]
    return {"block": "", **_pixels(np.stack(maps), np.stack(masks))}


def _parts(mvtec: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    return list(mvtec.loc[mvtec["part"] == "train", "path"]), mvtec[mvtec["part"] == "test"].reset_index(drop=True)


def _pixels(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    figures = pixel_metrics(maps, masks)
    return {name: figures[name] for name in ("pixel_auroc", "pixel_ap", "aupro_30")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=paths.data, help="holds leather_defect_classification/ and mvtec/")
    parser.add_argument("--teacher", required=True, help="weights file of vit_small_patch14_dinov2")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()

    table = read_image_list(class_root(options.data), paths.eda_of(run_name(options.data)) / IMAGE_LIST)
    classes, colours = classes_of(table), describe_images(table)[list(COLOUR_NUMBERS)].to_numpy()
    mvtec = index_mvtec(options.data / MVTEC_FOLDER)
    shipped = SAMPLE.but(feature_blocks=BLOCKS)
    teacher = shipped.but(backbone="vit_small_patch14_dinov2", weights=options.teacher, image_size=224)
    models = {
        "teacher, DINOv2 ViT-S/14": create_model(teacher, classes),
        "shipped ViT-Ti/16": create_model(shipped, classes),
        "random ViT-Ti/16": create_model(shipped, classes, pretrained=False),
    }
    classifiers = [LogisticRegression(C=strength, max_iter=500) for strength in STRENGTHS]
    reduce = partial(PCA, COMPONENTS, svd_solver="randomized", random_state=SEED)
    logistic = [make_pipeline(StandardScaler(), reduce(), classifier) for classifier in classifiers]
    forest = [RandomForestClassifier(300, random_state=SEED, n_jobs=-1)]
    rows = {"colour: six numbers, forest": {**six_classes(colours, table, forest), **colour_maps(mvtec)}}
    for name, model in models.items():
        features = compute_features(model, table, cache=paths.models / "cache").numpy()
        rows[name] = {**six_classes(features, table, logistic), **localisation(model.vit, mvtec)}
    normals, test = _parts(mvtec)
    about = {
        "six_classes": f"{len(table)} images, seed {SEED}; {table['group'].nunique()} hides, {FOLDS} folds",
        "mvtec": f"{protocol_name(len(normals))}, {len(test)} test images, 448 px",
        "feature_blocks": BLOCKS,
    }
    text = markdown(rows)
    write_results({"protocol": about, "rows": rows}, text, options.output / "backbones")
    print(text)


def markdown(rows: dict[str, dict]) -> str:
    columns = {
        "random 80/20 accuracy": "random_80_20_accuracy",
        "hide 5-fold macro-F1": "hide_5fold_macro_f1",
        "MVTec AUPRO": "aupro_30",
        "pixel AP": "pixel_ap",
        "block": "block",
    }
    lines = []
    for name, row in rows.items():
        figures = (row[key] for key in columns.values())
        lines.append([name, *(f"{value:.3f}" if isinstance(value, float) else str(value) for value in figures)])
    return "\n".join(markdown_rows(["backbone", *columns], lines)) + "\n"


if __name__ == "__main__":
    main()
