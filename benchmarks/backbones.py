"""What the shipped backbone is worth: beside its teacher, beside random weights, and beside plain colour.

``python -m benchmarks.backbones --data FOLDER --teacher FILE`` needs the folder of the six-class set and of MVTec AD
leather, and weights of timm's ``vit_small_patch14_dinov2``. Backbones stay frozen; tokens of blocks 2, 5, 8 and 11
make the features (class token, mean and deviation of the patches), the same blocks for all, fixed beforehand.

Six-class set: logistic regression on 512 principal components, its strength chosen on validation images, (a) on the
published random 80/20 split, (b) on five folds that keep hides apart, hides from notebook 2.0's list, the strength
chosen on other hides.
MVTec AD: bank of patch tokens of the normal training images, input 448 px, the block chosen on painted defects.
Speed: forward pass of 32 images at 224 px, float32, the two networks in turns, median. Writes
``backbones.json`` and ``backbones.md`` into ``--output``; features are kept in ``models/cache``, so it can go on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from src.backbone.vit import Backbone
from src.classifier.features import compute_features
from src.classifier.model import ViTMultiClassClassifier, create_model
from src.config import MVTEC_FOLDER, SAMPLE, Config, paths
from src.data.download import run_name
from src.data.mvtec import index_mvtec, protocol_name
from src.data.pictures import load_image, load_mask
from src.data.splits import split_index
from src.data.tables import IMAGE_LIST, Classes, class_root, classes_of, read_image_list
from src.eda.audit import COLOUR_NUMBERS
from src.eda.describe import describe_images
from src.files import markdown_rows, write_results
from src.localisation.encoder import BankSettings
from src.localisation.localise import localise
from src.localisation.pixel_metrics import pixel_metrics
from src.localisation.thresholds import Normals, choose_settings

BLOCKS = (2, 5, 8, 11)
COMPONENTS = 512  # principal components that the regression sees: minutes instead of an hour
STRENGTHS = (0.001, 0.01, 0.1)  # inverse regularisation of the logistic regression
FOLDS, SEED = 5, 42


def six_classes(features: np.ndarray, table: pd.DataFrame, classifiers: list) -> dict[str, float]:
    """Accuracy on the random split's test part, and macro-F1 of the pooled predictions of five folds by hide."""
    labels = table["label"].to_numpy()
    parts = {name: np.flatnonzero(table["part"] == name) for name in ("train", "validation", "test")}
    model = _choose(features, labels, parts["train"], parts["validation"], classifiers)
    accuracy = float(np.mean(model.predict(features[parts["test"]]) == labels[parts["test"]]))
    found = np.empty_like(labels)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    for train, test in tqdm(list(folds.split(features, labels, table["group"])), desc="folds by hide"):
        inner = StratifiedGroupKFold(4, shuffle=True, random_state=SEED)
        fit, validation = next(inner.split(train, labels[train], table["group"].iloc[train]))
        model = _choose(features, labels, train[fit], train[validation], classifiers)
        found[test] = model.predict(features[test])
    return {
        "random_80_20_accuracy": accuracy,
        "hide_5fold_macro_f1": float(f1_score(labels, found, average="macro")),
        "hide_5fold_accuracy": float(np.mean(found == labels)),
    }


def _choose(features: np.ndarray, labels: np.ndarray, fit: np.ndarray, validation: np.ndarray, classifiers: list):
    """The classifier of highest macro-F1 on the validation images, fitted without them."""
    fitted = [classifier.fit(features[fit], labels[fit]) for classifier in classifiers]
    scores = [f1_score(labels[validation], c.predict(features[validation]), average="macro") for c in fitted]
    return fitted[int(np.argmax(scores))]


def localisation(backbone: Backbone, mvtec: pd.DataFrame) -> dict[str, object]:
    normals, test = _parts(mvtec)
    protocol = protocol_name(len(normals))
    depth = backbone.depth
    candidates = [BankSettings(blocks=(block,), side=448, tile=448) for block in range(1, depth)]
    choice = choose_settings(backbone, Normals.load(normals, protocol), candidates)
    localised = localise(backbone, normals, test, protocol=protocol, settings=choice.settings)
    pixels = _pixels(localised.maps, localised.masks)
    return {"block": choice.settings.blocks[0], "painted_ap": max(choice.scores), **pixels}


def colour_maps(mvtec: pd.DataFrame) -> dict[str, object]:
    """The colour baseline of localisation: mean colour of 8 px cells, distance to the nearest normal cell's."""
    normals, test = _parts(mvtec)

    def cells(path: str) -> torch.Tensor:
        return torch.tensor(np.asarray(load_image(path).resize((32, 32), 4)), dtype=torch.float32).view(-1, 3)

    bank = torch.cat([cells(path) for path in normals])
    maps = torch.stack([torch.cdist(cells(path), bank).amin(1).view(32, 32) for path in test["path"]])
    maps = torch.nn.functional.interpolate(maps[:, None], (256, 256), mode="bilinear")[:, 0].numpy()
    masks = [load_mask(row.mask, size=load_image(row.path).size) for row in test.itertuples()]
    return {"block": None, **_pixels(maps, np.stack(masks))}


def _parts(mvtec: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    return list(mvtec.loc[mvtec["part"] == "train", "path"]), mvtec[mvtec["part"] == "test"].reset_index(drop=True)


def _pixels(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    found = pixel_metrics(maps, masks)
    return {name: found[name] for name in ("pixel_auroc", "pixel_ap", "aupro_30")}


@torch.inference_mode()
def forward_rates(models: dict[str, ViTMultiClassClassifier], repeats: int = 7) -> dict[str, float]:
    """Images a second of each backbone's bare forward pass at its own input size, measured in turns."""
    seconds = {name: [] for name in models}
    for _ in range(repeats + 1):  # the first round warms up
        for name, model in models.items():
            images = torch.zeros(32, 3, model.image_size, model.image_size)
            started = time.perf_counter()
            model.eval().backbone(images)
            seconds[name].append(time.perf_counter() - started)
    return {name: 32 / statistics.median(values[1:]) for name, values in seconds.items()}


def loading_seconds(config: Config, classes: Classes) -> float:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        create_model(config, classes)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=paths.data, help="holds leather_defect_classification/ and mvtec/")
    parser.add_argument("--teacher", required=True, help="weights file of vit_small_patch14_dinov2")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()

    images = read_image_list(class_root(options.data), paths.eda_of(run_name(options.data)) / IMAGE_LIST)
    table, classes = split_index(images, "random-80-20", seed=SEED), classes_of(images)
    described = describe_images(table)
    mvtec = index_mvtec(options.data / MVTEC_FOLDER)
    shipped = SAMPLE.but(feature_blocks=BLOCKS)
    teacher = shipped.but(backbone="vit_small_patch14_dinov2", weights=options.teacher, image_size=224)
    models = {
        "teacher, DINOv2 ViT-S/14": create_model(teacher, classes),
        "shipped ViT-Ti/16": create_model(shipped, classes),
        "random ViT-Ti/16": create_model(shipped, classes, pretrained=False),
    }
    rates = forward_rates(models)
    loading = {
        "teacher, DINOv2 ViT-S/14": loading_seconds(teacher, classes),
        "shipped ViT-Ti/16": loading_seconds(shipped, classes),
    }
    logistic = [
        make_pipeline(
            StandardScaler(),
            PCA(COMPONENTS, svd_solver="randomized", random_state=SEED),
            LogisticRegression(C=c, max_iter=500),
        )
        for c in STRENGTHS
    ]
    forest = [RandomForestClassifier(300, random_state=SEED, n_jobs=-1)]
    rows = {
        "colour: six numbers, forest": {
            **six_classes(described[list(COLOUR_NUMBERS)].to_numpy(), table, forest),
            **colour_maps(mvtec),
        }
    }
    for name, model in models.items():
        features = compute_features(model, table, cache=paths.models / "cache").numpy()
        rows[name] = {
            **six_classes(features, table, logistic),
            **localisation(model.vit, mvtec),
            "images_per_second": rates[name],
            "loading_seconds": loading.get(name),
        }
    result = {
        "protocol": {
            "six_classes": f"{len(table)} images, seed {SEED}; test {int((table['part'] == 'test').sum())}; "
            f"{table['group'].nunique()} hides by colour, {FOLDS} folds",
            "mvtec": f"{protocol_name(len(_parts(mvtec)[0]))}, {len(_parts(mvtec)[1])} test images, 448 px",
            "feature_blocks": BLOCKS,
            "threads": torch.get_num_threads(),
        },
        "rows": rows,
    }
    text = markdown(rows)
    write_results(result, text, options.output / "backbones")
    print(text)


def markdown(rows: dict[str, dict]) -> str:
    columns = {
        "random 80/20 accuracy": "random_80_20_accuracy",
        "hide 5-fold macro-F1": "hide_5fold_macro_f1",
        "MVTec AUPRO": "aupro_30",
        "pixel AP": "pixel_ap",
        "block": "block",
        "images/s": "images_per_second",
        "loading, s": "loading_seconds",
    }
    digits = {"block": 0, "images_per_second": 0, "loading_seconds": 2}
    lines = []
    for name, row in rows.items():
        cells = ("" if row.get(key) is None else f"{row[key]:.{digits.get(key, 3)}f}" for key in columns.values())
        lines.append([name, *cells])
    return "\n".join(markdown_rows(["backbone", *columns], lines)) + "\n"


if __name__ == "__main__":
    main()
