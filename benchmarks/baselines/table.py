"""One table: ways of judging a leather image, simple to strong, on the usual protocol and on the honest ones.

``python -m benchmarks.baselines`` fills it. Answers on every split are kept in ``models/cache/answers``, so an
interrupted run goes on and rows can be added one by one. Writes ``baselines.json``, ``baselines.md``, figures, and
every split as a file in ``splits/``; splits that are there already are used as they are. Images count as the same by
name and label: delete the kept answers after replacing pictures under their old names.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import logging
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
import timm
import torch
from tqdm import tqdm

from benchmarks.baselines.report import write_baselines
from benchmarks.baselines.rows import Row, table_rows
from src.backbone.vit import WeightsError
from src.classifier.evaluation import Answers, Predictions, protocol_report
from src.classifier.report import DISTINCT, HONEST_PROTOCOL, USUAL, images_digest
from src.config import KAGGLE_FOLDER, PRESETS, Config, paths
from src.data.images import class_indices, index_images
from src.data.splits import FOLD_PROTOCOLS, load_split, rotations, save_split, split_folds, split_index
from src.eda.audit import audit
from src.eda.describe import describe_images
from src.files import load_file, save_atomically

ALL_PROTOCOLS = (USUAL, DISTINCT, *FOLD_PROTOCOLS)
SLOW_PROTOCOLS = (USUAL, HONEST_PROTOCOL)  # of rows that train networks


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baselines", description=__doc__)
    parser.add_argument("--data", type=Path, default=paths.data / KAGGLE_FOLDER, help="the six class folders")
    parser.add_argument("--preset", choices=PRESETS, default="honest", help="whose backbone the ViT rows use")
    parser.add_argument("--weights", help="a backbone's weights file instead of the preset's source")
    parser.add_argument("--rows", nargs="+", help="names of rows; default: all but the slow ones")
    parser.add_argument("--slow", action="store_true", help="also the rows that train networks, about two hours")
    parser.add_argument("--protocols", nargs="+", choices=ALL_PROTOCOLS, default=ALL_PROTOCOLS)
    parser.add_argument("--reports", type=Path, default=paths.reports / "baselines", help="folder that is written")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    config = PRESETS[arguments.preset]
    if arguments.weights:
        config = config.but(weights=arguments.weights)
    try:
        table = audit(describe_images(index_images(arguments.data))).table
        rows = table_rows(table, config)
        unknown = set(arguments.rows or ()) - {row.name for row in rows}
        if unknown:
            parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(row.name for row in rows)}")
        chosen = [r for r in rows if (r.name in arguments.rows if arguments.rows else arguments.slow or not r.slow)]
        report = fill_table(table, chosen, arguments.protocols, config, splits=arguments.reports / "splits")
    except (FileNotFoundError, WeightsError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    for path in write_baselines(report, arguments.reports):
        print(paths.relative(path))


def fill_table(
    table: pd.DataFrame,
    rows: list[Row],
    protocols: tuple[str, ...],
    config: Config,
    *,
    splits: Path,
    models: Path = paths.models,
) -> dict[str, Any]:
    """Every row on every protocol; answers that are there already, of the same code and images, are taken.

    Args:
        table: `src.eda.audit.Audit.table`.
        rows: Of `table_rows`.
        protocols: Names, see `data.splits`.
        config: Its seed decides the splits that are not there yet.
        splits: Folder of the splits' files.
        models: Folder of the cache.

    Returns:
        The content of ``baselines.json``: ``rows``, by name ``about`` and ``protocols`` (see
        `evaluation.protocol_report`); ``run``.

    Raises:
        ValueError: If a split's file is of other images.
    """
    members_of = {protocol: _splits(table, protocol, config.seed, splits) for protocol in protocols}
    jobs = [(r, protocol) for r in rows for protocol in protocols if not r.slow or protocol in SLOW_PROTOCOLS]
    weights = _digest_of(config.weights)
    create = {row.name: functools.cache(row.create) for row in rows}
    report: dict[str, Any] = {"rows": {}, "run": _describe_run(config, table)}
    for row, protocol in (bar := tqdm(jobs, desc="table", unit="entry")):
        bar.set_postfix_str(f"{row.name}, {protocol}")
        answers = {}
        for name, members in tqdm(members_of[protocol].items(), desc=row.name, unit="split", leave=False):
            file = models / "cache" / "answers" / f"{row.name}-{_identity(row, members, config, weights)}.pt"
            if not file.is_file():
                _save_answers(create[row.name]().answer(members), file)
            answers[name] = _load_answers(file, table)
        entry = report["rows"].setdefault(row.name, {"about": row.about, "protocols": {}})
        entry["protocols"][protocol] = protocol_report(answers, protocol, seed=config.seed)
    return report


def _splits(table: pd.DataFrame, protocol: str, seed: int, folder: Path) -> dict[str, list[pd.DataFrame]]:
    """The splits of a protocol by name, each with the members that a recipe is fitted for."""
    folds = protocol in FOLD_PROTOCOLS
    made = split_folds(table, protocol, seed=seed) if folds else {protocol: split_index(table, protocol, seed=seed)}
    found = {name: _kept(split, table, folder / f"{name}.csv.gz") for name, split in made.items()}
    return {name: rotations(s, seed=seed) if protocol == HONEST_PROTOCOL else [s] for name, s in found.items()}


def _kept(split: pd.DataFrame, table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The split in its file, which is written if it is not there."""
    if file.is_file():
        return load_split(file, table)
    save_split(split, file)
    return split


def _digest_of(weights: str) -> str:
    """Changes with a weights file's content; the hub's weights are known by name."""
    file = paths.shipped_backbone if weights == "shipped" else Path(weights)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else weights


def _identity(row: Row, members: list[pd.DataFrame], config: Config, weights: str) -> str:
    """Changes with the images' names, the split, the settings, the weights and the row's code."""
    code = [(paths.root / name).read_text(encoding="utf-8") for name in row.code]
    images = ["|".join(split["file"] + " " + split["label"] + " " + split["part"]) for split in members]
    text = repr((row.name, row.about, sorted(config.but(weights=weights).to_dict().items()), images, code))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _save_answers(answers: Answers, file: Path) -> None:
    parts = {
        name: {
            "files": part.rows["file"].to_list(),
            "probabilities": torch.from_numpy(part.probabilities),
            "scores": {method: torch.from_numpy(values) for method, values in part.scores.items()},
        }
        for name, part in (("validation", answers.validation), ("test", answers.test))
    }
    save_atomically({**parts, "members": [torch.tensor(each) for each in answers.members]}, file)


def _load_answers(file: Path, table: pd.DataFrame) -> Answers:
    by_file, content = table.set_index("file", drop=False), load_file(file)

    def part(name: str) -> Predictions:
        found = content[name]
        rows = by_file.loc[found["files"]].reset_index(drop=True)
        probabilities = found["probabilities"].numpy()
        scores = {method: values.numpy() for method, values in found["scores"].items()}
        return Predictions(rows, class_indices(rows), probabilities.argmax(1), probabilities, scores)

    return Answers(part("validation"), part("test"), tuple(each.numpy() for each in content["members"]))


def _describe_run(config: Config, table: pd.DataFrame) -> dict[str, Any]:
    return {
        "images": len(table),
        "images_digest": images_digest(table),
        "backbone": config.backbone,
        "weights": Path(config.weights).name,
        "seed": config.seed,
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "timm": timm.__version__,
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
        },
    }


if __name__ == "__main__":
    main()
