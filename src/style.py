"""How every figure looks: one palette with one meaning a colour, one grid of pictures, one way to save."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from .files import whole_file

if TYPE_CHECKING:
    from IPython import display

WIDTH = 9.0  # inches: the text of a figure can be read in a README
NORMAL, DEFECT, NEUTRAL = "#2F6F9F", "#D0703C", "#57606a"  # leather; told apart by the colour-blind too
RIGHT, WRONG = "#117733", "#AA3377"  # answers
TRUTH, PREDICTED = "#00b8d4", "#ffd33d"  # outlines on pictures
METHOD_COLOURS = ("#0550ae", "#bc4c00", "#8250df")  # the three scores
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
    wide = int(88 * figure.get_figwidth() / WIDTH)  # letters that fit
    lines = [textwrap.fill(line, wide) for line in text.splitlines()]
    figure.suptitle("\n".join(lines), x=0.012, ha="left", fontsize=12, fontweight="bold")


def bare(axes: np.ndarray) -> None:
    """Panels for pictures: no ticks, no frame, and nothing where there is no picture."""
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_visible(axis.has_data())


@mpl.rc_context(STYLE)
def plot_pictures(
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    title: str,
    columns: int = 6,
    frames: Sequence[str] = (),
    outlines: Sequence[np.ndarray] = (),
) -> Figure:
    """Pictures (h, w, 3) in rows, with captions; optionally framed in colours, with the outline of a mask (h, w)."""
    rows = -(-len(pictures) // columns)
    lines = 1 + max(caption.count("\n") for caption in captions)
    size = (14, (14 / columns + 0.17 * lines) * rows + 0.6)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for number, (axis, picture, caption) in enumerate(zip(axes.flat, pictures, captions, strict=False)):
        axis.imshow(picture)
        axis.set_title(caption, fontsize=9, loc="center")
        if len(outlines) and outlines[number].any():
            axis.contour(outlines[number], levels=[0.5], colors=TRUTH, linewidths=1.6)
    bare(axes)
    for axis, colour in zip(axes.flat, frames, strict=False):
        axis.spines[:].set(visible=True, color=colour, linewidth=3)
        axis.title.set_color(colour)
    set_title(figure, title)
    return figure


def save_figure(figure: Figure, path: Path, *, dpi: int | None = None, photographs: bool = False) -> Path:
    """Writes the figure as PNG, whole or not at all, closes it and returns the path. 150 dpi, or 100 with photographs.

    Photographs do not pack well as PNG. With them, channels are rounded to multiples of 5, which no eye sees in a
    texture and which makes the file about a quarter smaller.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi or (100 if photographs else 150), bbox_inches="tight")
    plt.close(figure)
    with whole_file(path) as stream:
        if photographs:
            values = np.asarray(Image.open(drawn).convert("RGB"), dtype=np.uint16)
            coarse = np.minimum((values + 2) // 5 * 5, 255).astype(np.uint8)
            Image.fromarray(coarse).save(stream, format="png", optimize=True)
        else:
            stream.write(drawn.getvalue())
    return Path(path)


def preview(path: Path, *, width: int = 1000) -> display.Image:
    """A report's picture as JPEG of at most that width, small enough to stand in a notebook."""
    from IPython import display  # here: only notebooks have it

    stream = io.BytesIO()
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
    picture.thumbnail((width, 10 * width))
    picture.save(stream, "JPEG", quality=70)
    return display.Image(stream.getvalue())


def readable(class_name: str) -> str:
    """``grain_off`` as people write it: ``grain off``."""
    return class_name.replace("_", " ")
