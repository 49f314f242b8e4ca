"""How every figure looks: one palette with one meaning a colour, one grid of pictures, one way to save."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from .files import whole_file

WIDTH = 9.0  # inches: the text of a figure can be read in a README
NORMAL, DEFECT, NEUTRAL = "#2F6F9F", "#D0703C", "#57606a"  # leather; told apart by the colour-blind too
RIGHT, WRONG = "#117733", "#AA3377"  # answers
TRUTH, PREDICTED = "#00b8d4", "#ffd33d"  # outlines on pictures
METHOD_COLOURS = ("#111418", "#8250df", "#9A8700")  # the three scores
STYLE = {
    "figure.constrained_layout.use": True,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E3E6EA",
    "text.parse_math": False,  # a $ in a name is no formula
}


def set_title(figure: Figure, text: str) -> None:
    text = "\n".join(textwrap.fill(line, int(9.8 * figure.get_figwidth())) for line in text.splitlines())
    figure.suptitle(text, x=0.012, ha="left", fontsize=12, fontweight="bold")


def bare(axes: np.ndarray) -> None:
    """Panels for pictures: no ticks, no frame, and nothing where there is no picture."""
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], visible=axis.has_data())
        axis.spines[:].set_visible(False)


@mpl.rc_context(STYLE)
def plot_pictures(
    pictures: list, captions: list[str], *, title: str, columns: int = 6, frames: Sequence = (), outlines: Sequence = ()
) -> Figure:
    """Pictures (h, w, 3) in rows, with captions; optionally framed in colours, with the outline of a mask (h, w)."""
    rows, lines = -(-len(pictures) // columns), 1 + max(caption.count("\n") for caption in captions)
    height = 14 / columns * len(pictures[0]) / len(pictures[0][0])  # inches
    figure, axes = plt.subplots(rows, columns, figsize=(14, (height + 0.17 * lines) * rows + 0.6), squeeze=False)
    for number, (axis, picture, caption) in enumerate(zip(axes.flat, pictures, captions, strict=False)):
        axis.imshow(picture)
        axis.set_title(caption, fontsize=9, loc="center")
        if len(outlines) and outlines[number].max() > 0.5:
            axis.contour(outlines[number], levels=[0.5], colors=TRUTH, linewidths=1.6)
    bare(axes)
    for axis, colour in zip(axes.flat, frames, strict=False):
        axis.spines[:].set(visible=True, color=colour, linewidth=3)
    set_title(figure, title)
    return figure


def save_figure(figure: Figure, path: Path, *, photographs: bool = False) -> Path:
    """Writes a PNG, closes the figure and returns the path. Steps of 5 grey levels are unseen and save a quarter."""
    drawn = io.BytesIO()
    with mpl.rc_context(STYLE):  # labels of ticks are made only now
        figure.savefig(drawn, format="png", dpi=100 if photographs else 150, bbox_inches="tight")
    plt.close(figure)
    coarse = Image.open(drawn).convert("RGB").point([min((value + 2) // 5 * 5, 255) for value in range(256)] * 3)
    with whole_file(path) as stream:
        coarse.save(stream, format="png", optimize=True)
    return Path(path)


def preview(path: Path, *, width: int = 1000) -> object:
    """A report's picture as JPEG of at most that width, small enough to stand in a notebook."""
    from IPython import display  # here: only notebooks have it

    stream = io.BytesIO()
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((width, 10 * width))
    picture.save(stream, "JPEG", quality=70)
    return display.Image(stream.getvalue())


def readable(class_name: str) -> str:
    """``grain_off`` as people write it: ``grain off``."""
    return class_name.replace("_", " ")
