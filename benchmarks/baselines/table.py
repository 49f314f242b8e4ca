"""One table: ways of judging a leather image, simple to strong, on the usual protocol and on the honest ones.

``python -m benchmarks.baselines`` fills it. It reads the list of pictures that notebook 2.0 wrote. Answers on every
split are kept in ``models/cache/answers``, so an interrupted run goes on and rows can be added one by one. Writes
``baselines.json``, ``baselines.md``, figures, and every split as a file in ``splits/``; splits that are there already
are used as they are.
"""

from __future__ import annotations

import argparse
import functools
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from src.backbone.vit import WeightsError
from src.classifier.evaluation import Answers, Predictions, describe_machine
from src.classifier.report import HONEST_PROTOCOL, USUAL, images_identity
from src.config import FOLD_PROTOCOLS, PRESETS, Config, paths
from src.data.download import run_name
from src.data.splits import load_split, rotations, save_split, split_folds, split_index
from src.data.tables import IMAGE_LIST, Classes, class_root, classes_of, digest, picture_identities, read_image_list
from src.files import identity_of, load_tensors, save_tensors

from .protocols import protocol_report
from .report import DISTINCT, write_baselines
from .rows import Row, table_rows

ALL_PROTOCOLS = (USUAL, DISTINCT, *FOLD_PROTOCOLS)
SLOW_PROTOCOLS = (USUAL, HONEST_PROTOCOL)  # of rows that train networks
ANSWERS_VERSION = 1  # of what a kept answer holds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baselines", description=__doc__)
    parser.add_argument("--data", type=Path, default=paths.data, help="folder that LEATHER_DATA could name")
    parser.add_argument("--preset", choices=PRESETS, default="honest", help="whose backbone the ViT rows use")
    parser.add_argument("--weights", help="a backbone's weights file instead of the preset's source")
    parser.add_argument("--rows", nargs="+", help="names of rows; default: all but the slow ones")
    parser.add_argument("--slow", action="store_true", help="also the rows that train networks, about two hours")
    parser.add_argument("--protocols", nargs="+", choices=ALL_PROTOCOLS, default=ALL_PROTOCOLS)
    parser.add_argument("--reports", type=Path, default=paths.reports / "baselines", help="folder that is written")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    config = PRESETS[options.preset]
    if options.weights:
        config = config.but(weights=options.weights)
    try:
        table = read_image_list(class_root(options.data), paths.eda_of(run_name(options.data)) / IMAGE_LIST)
        rows = table_rows(table, config)
        unknown = set(options.rows or ()) - {row.name for row in rows}
        if unknown:
            parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(row.name for row in rows)}")
        chosen = [r for r in rows if (r.name in options.rows if options.rows else options.slow or not r.slow)]
        report = fill_table(table, chosen, options.protocols, config, splits=options.reports / "splits")
    except (FileNotFoundError, WeightsError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    for path in write_baselines(report, options.reports):
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
    """Every row on every protocol; answers that are there already, of the same pictures and settings, are taken.

    Args:
        table: Of `tables.read_image_list`.
        rows: Of `table_rows`.
        protocols: Names, see `splits`.
        config: Its seed decides the splits that are not there yet.
        splits: Folder of the splits' files.
        models: Folder of the cache.

    Returns:
        The content of ``baselines.json``: ``rows``, by name ``about`` and ``protocols`` of `protocol_report`; ``run``.

    Raises:
        ValueError: If a split's file is of other images.
    """
    members_of = {protocol: _splits(table, protocol, config.seed, splits) for protocol in protocols}
    jobs = [(r, protocol) for r in rows for protocol in protocols if not r.slow or protocol in SLOW_PROTOCOLS]
    keep = _Answers(table, config, models / "cache" / "answers")
    report: dict[str, Any] = {"rows": {}, "run": _describe_run(config, table)}
    create = {row.name: functools.cache(row.create) for row in rows}
    for row, protocol in (bar := tqdm(jobs, desc="table", unit="entry")):
        bar.set_postfix_str(f"{row.name}, {protocol}")
        answers = {}
        for name, members in tqdm(members_of[protocol].items(), desc=row.name, unit="split", leave=False):
            file = keep.file(row, members)
            if not file.is_file():
                save_tensors(keep.content(create[row.name]().answer(members)), file)
            answers[name] = keep.answers(load_tensors(file))
        entry = report["rows"].setdefault(row.name, {"about": row.about, "protocols": {}})
        entry["protocols"][protocol] = protocol_report(answers, protocol, seed=config.seed)
    return report


def _splits(table: pd.DataFrame, protocol: str, seed: int, folder: Path) -> dict[str, list[pd.DataFrame]]:
    """The splits of a protocol by name, each with the members that a recipe is fitted for."""
    folds = protocol in FOLD_PROTOCOLS
    drawn = split_folds(table, protocol, seed=seed) if folds else {protocol: split_index(table, protocol, seed=seed)}
    splits = {name: _kept(split, table, folder / f"{name}.csv.gz") for name, split in drawn.items()}
    return {name: rotations(s, seed=seed) if protocol == HONEST_PROTOCOL else [s] for name, s in splits.items()}


def _kept(split: pd.DataFrame, table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The split in its file, which is written if it is not there."""
    if file.is_file():
        return load_split(file, table)
    save_split(split, file)
    return split


class _Answers:
    """Kept answers on splits of a table."""

    def __init__(self, table: pd.DataFrame, config: Config, folder: Path) -> None:
        self.by_file = table.set_index("file", drop=False)
        self.identities = dict(zip(table["file"], picture_identities(table), strict=True))
        self.classes: Classes = classes_of(table)
        weights = paths.shipped_backbone if config.weights == "shipped" else Path(config.weights)
        self.settings = config.but(weights=digest(weights) if weights.is_file() else config.weights).to_dict()
        self.folder = folder

    def file(self, row: Row, members: list[pd.DataFrame]) -> Path:
        """Changes with the pictures, the split, the settings, the weights and the versions of what computes."""
        splits = [
            [(self.identities[file], label, part) for file, label, part in split[["file", "label", "part"]].to_numpy()]
            for split in members
        ]
        identity = identity_of(ANSWERS_VERSION, row.name, row.version, self.settings, splits)
        return self.folder / f"{row.name}-{identity[:24]}.pt"

    def content(self, answers: Answers) -> dict[str, Any]:
        parts = {
            name: {
                "files": part.rows["file"].to_list(),
                "probabilities": torch.from_numpy(part.probabilities),
                "scores": {method: torch.from_numpy(values) for method, values in part.scores.items()},
            }
            for name, part in (("validation", answers.validation), ("test", answers.test))
        }
        return {**parts, "members": [torch.tensor(each) for each in answers.members]}

    def answers(self, content: dict[str, Any]) -> Answers:
        parts = (self._predictions(content[name]) for name in ("validation", "test"))
        return Answers(*parts, tuple(each.numpy() for each in content["members"]))

    def _predictions(self, part: dict[str, Any]) -> Predictions:
        rows = self.by_file.loc[part["files"]].reset_index(drop=True)
        scores = {method: values.numpy() for method, values in part["scores"].items()}
        return Predictions(rows, part["probabilities"].numpy(), scores, self.classes)


def _describe_run(config: Config, table: pd.DataFrame) -> dict[str, Any]:
    return {
        "n": len(table),
        "images": images_identity(table),
        "backbone": config.backbone,
        "weights": Path(config.weights).name,
        "seed": config.seed,
        **describe_machine(),
    }
