"""One table: ways of judging a leather image, simple to strong, on the usual protocol and on the honest ones.

``python -m benchmarks.baselines`` fills it. It reads the list of pictures that notebook 2.0 wrote. Answers on every
split are kept in ``models/cache/answers``, so an interrupted run goes on and rows can be added one by one. Writes
``baselines.json``, ``baselines.md``, figures, and every split as a file in ``splits/``; splits that are there already
are used as they are.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from src.backbone.vit import WeightsError
from src.classifier.evaluation import METHODS, Answers, Predictions, describe_machine
from src.classifier.features import weights_identity
from src.classifier.report import HONEST_PROTOCOL, USUAL, images_identity
from src.config import FOLD_PROTOCOLS, HONEST, SMALL, paths
from src.data.download import run_name
from src.data.tables import IMAGE_LIST, class_root, classes_of, picture_identities, read_image_list
from src.files import identity_of, read_kept, write_kept

from .protocols import protocol_report
from .report import DISTINCT, write_baselines
from .rows import ABOUT, Row, table_rows
from .splits import splits_of

ALL_PROTOCOLS = (USUAL, DISTINCT, *FOLD_PROTOCOLS)
SLOW_PROTOCOLS = (USUAL, HONEST_PROTOCOL)  # of rows that train networks
ANSWERS_VERSION = 1  # of what a kept answer holds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baselines", description=__doc__)
    parser.add_argument("--data", type=Path, default=paths.data, help="folder that LEATHER_DATA could name")
    parser.add_argument("--weights", default=HONEST.weights, help="a weights file instead of the shipped backbone")
    parser.add_argument("--small-weights", default=SMALL.weights, help="a file of DINOv2 ViT-S/14 for the row small")
    parser.add_argument("--rows", nargs="+", choices=ABOUT, help="default: all but the slow ones")
    parser.add_argument("--slow", action="store_true", help="also the rows that train networks, about two hours")
    parser.add_argument("--protocols", nargs="+", choices=ALL_PROTOCOLS, default=ALL_PROTOCOLS)
    parser.add_argument("--reports", type=Path, default=paths.reports / "baselines", help="folder that is written")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    config = HONEST.but(weights=options.weights)
    try:
        table = read_image_list(class_root(options.data), paths.eda_of(run_name(options.data)) / IMAGE_LIST)
        rows = table_rows(table, config, small_weights=options.small_weights)
        rows = [row for row in rows if row.name in (options.rows or ABOUT)]
        rows = [row for row in rows if options.rows or options.slow or not row.slow]
        report = fill_table(table, rows, options.protocols, seed=config.seed, splits=options.reports / "splits")
    except (FileNotFoundError, WeightsError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    for path in write_baselines(with_earlier_rows(report, options.reports), options.reports):
        print(paths.relative(path))


def fill_table(
    table: pd.DataFrame,
    rows: list[Row],
    protocols: tuple[str, ...],
    *,
    seed: int,
    splits: Path,
    models: Path = paths.models,
) -> dict[str, Any]:
    """The content of ``baselines.json``: ``rows``, by name ``about`` and ``protocols`` of `protocol_report`; ``run``.

    Answers that are there already, of the same pictures and settings, are taken, and so are the splits of the files in
    ``splits``; others are drawn by the seed. Raises ValueError if a split's file is of other images.
    """
    members_of = {protocol: splits_of(table, protocol, seed, splits) for protocol in protocols}
    jobs = [(r, protocol) for r in rows for protocol in protocols if not r.slow or protocol in SLOW_PROTOCOLS]
    create = {row.name: functools.cache(row.create) for row in rows}
    run = {"n": len(table), "images": images_identity(table), "seed": seed}
    report: dict[str, Any] = {"rows": {}, "run": run}
    for row, protocol in (bar := tqdm(jobs, desc="table", unit="entry")):
        bar.set_postfix_str(f"{row.name}, {protocol}")
        answers = {}
        for name, members in tqdm(members_of[protocol].items(), desc=row.name, unit="split", leave=False):
            file = models / "cache" / "answers" / f"{row.name}-{_identity(row, members)[:24]}.pt"
            if (answer := read_kept(file, lambda kept: _from_kept(kept, table))) is None:
                write_kept(kept := _to_keep(create[row.name]().answer(members)), file)
                answer = _from_kept(kept, table)
            answers[name] = answer
        network = {"backbone": row.config.backbone, "weights": Path(row.config.weights).name}
        new = {"about": row.about, "protocols": {}, "run": network | describe_machine()}
        entry = report["rows"].setdefault(row.name, new)
        entry["protocols"][protocol] = protocol_report(answers, protocol, seed=seed)
    return report


def with_earlier_rows(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The table with the rows that it lacks of the one in ``folder``, if that is of the same images and seed."""
    file = folder / "baselines.json"
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"run": None}
    rows = earlier["rows"] | report["rows"] if earlier["run"] == report["run"] else report["rows"]
    return report | {"rows": {name: rows[name] for name in ABOUT if name in rows}}


def _identity(row: Row, members: list[pd.DataFrame]) -> str:
    """Changes with the pictures, the split, the settings, the weights and the versions of what computes."""
    settings = row.config.but(weights=weights_identity(row.config.weights)).to_dict()
    splits = [list(zip(picture_identities(m), m["label"], m["part"], strict=True)) for m in members]
    return identity_of(ANSWERS_VERSION, row.name, row.version, settings, splits)


def _to_keep(answers: Answers) -> dict[str, Any]:
    kept = {"members": [torch.tensor(each) for each in answers.members]}
    for name, part in (("validation", answers.validation), ("test", answers.test)):
        scores = {method: torch.from_numpy(values) for method, values in part.scores.items()}
        kept[name] = {"files": list(part.rows["file"]), "probabilities": torch.tensor(part.probabilities)} | scores
    return kept


def _from_kept(kept: dict[str, Any], table: pd.DataFrame) -> Answers:
    by_file, parts = table.set_index("file", drop=False), []
    for name in ("validation", "test"):
        rows = by_file.loc[kept[name]["files"]].reset_index(drop=True)
        scores = {method: kept[name][method].numpy() for method in METHODS if method in kept[name]}
        parts.append(Predictions(rows, kept[name]["probabilities"].numpy(), scores, classes_of(table)))
    return Answers(*parts, tuple(each.numpy() for each in kept["members"]))
