"""How every figure looks: one palette, one way to save."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython import display
from matplotlib.figure import Figure
from PIL import Image

WIDTH = 9.0  # inches
NORMAL, DEFECT, NEUTRAL = "#2F6F9F", "#D0703C", "#57606a"
STYLE = {
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "text.color": "#22272E",
    "axes.edgecolor": "#8A929C",
    "axes.labelcolor": "#22272E",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E3E6EA",
    "xtick.color": "#4A525C",
    "ytick.color": "#22272E",
    "ytick.major.size": 0,
}


def set_title(figure: Figure, text: str) -> None:
    figure.suptitle(textwrap.fill(text, 88), x=0.012, ha="left", fontsize=12, fontweight="bold")


def bare(axes: np.ndarray) -> None:
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_visible(axis.has_data())


def preview(path: Path, *, width: int = 1000) -> display.Image:
    """A report's picture as JPEG of at most that width, small enough to stand in a notebook."""
    stream = io.BytesIO()
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
    picture.thumbnail((width, 10 * width))
    picture.save(stream, "JPEG", quality=70)
    return display.Image(stream.getvalue())


RIGHT, WRONG, TRUTH = "#1a7f37", "#cf222e", "#00b8d4"
PREDICTED = "#ffd33d"
METHOD_COLOURS = ("#0550ae", "#bc4c00", "#8250df")
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100, "font.size": 10})


def save_figure(figure: Figure, path: Path, *, dpi: int | None = None, photographs: bool = False) -> Path:
    """Writes the figure as PNG, whole or not at all, closes it and returns the path. 150 dpi, or 100 with photographs.

    Photographs do not pack well as PNG. With them, channels are rounded to multiples of 5, which no eye sees in a
    texture and which makes the file about a quarter smaller.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=dpi or (100 if photographs else 150), bbox_inches="tight")
    if photographs:
        with Image.open(part) as whole:
            values = np.asarray(whole.convert("RGB"), dtype=np.uint16)
        coarse = np.minimum((values + 2) // 5 * 5, 255).astype(np.uint8)
        Image.fromarray(coarse).save(part, format="png", optimize=True)
    part.replace(path)
    plt.close(figure)
    return path


def readable(class_name: str) -> str:
    """``grain_off`` as people write it: ``grain off``."""
    return class_name.replace("_", " ")
