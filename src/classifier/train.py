"""Trains and tests the classifier as notebook 4.0 does: ``python -m src.classifier.train --preset small``.

On several GPUs ``accelerate launch -m src.classifier.train --preset paper``: the processes share each batch, so the
result is that of one. After an interruption the same command goes on. The notebook's ``LEATHER_`` variables count.
"""

from __future__ import annotations

import argparse
import logging
import sys

from ..config import PRESETS, paths, run_config, setting


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 0 if done, 1 if not possible (the reason is printed)."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}.train", description=__doc__, formatter_class=style)
    parser.add_argument("--preset", choices=PRESETS, help="settings of the run, see config.py (LEATHER_PRESET)")
    parser.add_argument("--anew", action="store_true", help="forget an earlier training of this run")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        train(options.preset, resume=not options.anew)
    except (OSError, ValueError, ImportError, FloatingPointError, MemoryError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def train(preset: str | None, *, resume: bool) -> None:
    """One run with all its files; of several processes one writes and prints."""
    from ..data import download, splits, tables  # here: --help needs no torch
    from . import checkpoints, evaluation, report, training
    from .model import create_model

    run, data = download.find_data(setting("LEATHER_SOURCE", "auto", allowed=download.SOURCES))
    config, root, listed = run_config(run, preset), tables.class_root(data), paths.eda_of(run) / tables.IMAGE_LIST
    images = tables.read_image_list(root, listed) if listed.is_file() else tables.index_images(root)
    table = splits.split_index(images, config.protocol, seed=config.seed)
    model = create_model(config, tables.classes_of(images))
    result = training.train_model(model, table, config, models=paths.models, logs=paths.logs, resume=resume)
    if not result.is_main_process:
        return
    reports, checkpoint = paths.reports / run / "resultados_multiclase", paths.models / f"{run}.pth"
    options = {"precision": config.precision, "workers": config.workers, "cache": paths.models / "cache"}
    answers = evaluation.predict(model, table, **options)
    summary = evaluation.evaluate({config.protocol: answers}, seed=config.seed)
    summary["run"] = evaluation.describe_run(config, model, table, result, dataset=run)
    summary["protocols"] = report.read_protocols(paths.reports / "baselines" / "baselines.json", images)
    report.write_reports(summary, answers.test, result.history, reports)
    thresholds = {name: row["optimal_threshold"] for name, row in summary["anomaly_detection_results"].items()}
    extra = {"config": config.to_dict(), "thresholds": thresholds, "run": summary["run"]}
    checkpoints.save_checkpoint(model, checkpoint, **extra)
    print(f"{report.headline(summary)}\nkept epoch {result.best_epoch}; {result.seconds:.0f} s on {result.device}")
    print(*(paths.relative(path) for path in (checkpoint, reports, paths.logs / run)), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
