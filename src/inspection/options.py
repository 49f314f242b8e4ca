"""What people choose for an inspection, beside the pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides the result beside the pictures."""

    normals: Path | None = None  # folder of pictures without defects
    classifier: Path | None = None  # checkpoint that names the class of regions
    mm_per_pixel: float | None = None
    threshold: float | None = None  # probability, in place of the head's
    mask: Path | str | None = None  # folder of masks (leather is white), "auto", or None: all is leather
    weights: str = "shipped"  # "shipped", "timm" or a file
    backbone: str | None = None  # timm's name; None: that of the shipped weights, else `LARGER`
    rules: Path | None = None  # rule file of grades
    engine: str | None = None  # one of `config.ENGINES`; None asks LEATHER_ENGINE
