"""Where things are. Importing this module creates nothing on disk.

Three environment variables move the parts that people like to keep elsewhere: ``LEATHER_DATA`` (a folder that holds
``leather_defect_classification/`` and ``mvtec/``), ``LEATHER_SAMPLE`` (the built-in sample) and ``LEATHER_OUTPUT``
(receives ``models/``, ``logs/``, ``reports/`` and the manifest of the data).
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

DATA = Path(os.environ.get("LEATHER_DATA") or ROOT / "data").expanduser().resolve()
OUTPUT = Path(os.environ.get("LEATHER_OUTPUT") or ROOT).expanduser().resolve()

SAMPLE = Path(os.environ.get("LEATHER_SAMPLE") or ROOT / "data" / "sample").expanduser().resolve()
TINY = os.environ.get("LEATHER_TINY", "0") not in ("", "0")  # a sample of few, small images, for testing the notebooks
MANIFEST = OUTPUT / "data" / "manifest.json"
KAGGLE_FOLDER = "leather_defect_classification"
MVTEC_FOLDER = "mvtec"

MODELS = OUTPUT / "models"
LOGS = OUTPUT / "logs"
REPORTS = OUTPUT / "reports"
EDA = REPORTS / "eda"
SHIPPED_BACKBONE = ROOT / "models" / "backbones" / "leather_vit_tiny_patch16_224.safetensors"


def relative(path: Path) -> str:
    """The path as reports print it: below the project's root or ``OUTPUT`` from there, below ``DATA`` from that
    folder's name on, else its last three parts.

    Reports are published, so they never carry the folders that these lie in on the machine they were made on.
    """
    path = Path(path).resolve()
    for base, name in ((ROOT, ""), (OUTPUT, ""), (DATA, DATA.name)):
        if path.is_relative_to(base):
            return (name / path.relative_to(base)).as_posix()
    return Path(*path.relative_to(path.anchor).parts[-3:]).as_posix()
