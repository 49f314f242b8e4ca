"""How every figure looks: one palette with one meaning a colour, one grid of pictures, one way to save.

No two meanings differ in red and green alone; where lines may lie on each other they also differ in their dashes.
"""

from __future__ import annotations

import io
import logging
import textwrap
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from PIL import Image

from .files import whole_file

log = logging.getLogger(__name__)

OWN_FONT = "DejaVu Sans"  # comes with matplotlib
WIDTH = 9.0  # inches: the text of a figure can be read in a README
INK, NEUTRAL = "#111418", "#57606a"  # what has no meaning of its own; grey and dashed before, ink and solid after
NORMAL, DEFECT = "#2F6F9F", "#D0703C"  # leather
USUAL, HONEST = "#9AA1A9", "#332288"  # a split of tiles at random, and one that keeps hides apart
RIGHT, WRONG = "#117733", "#AA3377"  # answers
TRUTH, PREDICTED = "#00b8d4", "#ffd33d"  # outlines on pictures
METHOD_LINES = (("#111418", "-"), ("#8250df", "--"), ("#9A8700", ":"))  # colour and dashes of the three scores
SHARES, HEAT = "Greys", "magma"  # scales: shares in a table, values on a picture (as in the overlays of an inspection)
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
    height = WIDTH / columns * len(pictures[0]) / len(pictures[0][0])  # inches
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, (height + 0.17 * lines) * rows + 0.6), squeeze=False)
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
    dots = 100 if photographs else 150
    with mpl.rc_context(STYLE), warnings.catch_warnings():  # labels of ticks are made only now
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a font is looked for, or its lack is said below
        drawn = _draw(figure, dots)
        if _find_letters(figure):
            drawn = _draw(figure, dots)
    plt.close(figure)
    coarse = Image.open(drawn).convert("RGB").point([min((value + 2) // 5 * 5, 255) for value in range(256)] * 3)
    with whole_file(path) as stream:
        coarse.save(stream, format="png", optimize=True)
    return Path(path)


def _draw(figure: Figure, dots: int) -> io.BytesIO:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dots, bbox_inches="tight")
    return stream


def _find_letters(figure: Figure) -> bool:
    """Whether a text had letters that matplotlib's own font lacks; it gets a font of this machine that has them."""
    own, changed = _letters_of(font_manager.findfont(OWN_FONT)), False
    for text in figure.findobj(Text):
        lacking = frozenset(letter for letter in text.get_text() if not letter.isspace()) - own
        if lacking:
            text.set_fontfamily([OWN_FONT, *_fonts_with(lacking)])
            changed = True
    return changed


@cache
def _letters_of(file: str) -> frozenset[str]:
    return frozenset(map(chr, FT2Font(file).get_charmap()))


@cache
def _fonts_with(letters: frozenset[str]) -> tuple[str, ...]:
    """Installed families that have the letters together, upright ones first; warns of letters that none has."""
    fonts, chosen = font_manager.fontManager.ttflist, []
    for font in sorted(fonts, key=lambda font: (font.style != "normal", font.weight != 400, font.name)):
        if letters and "Last Resort" not in font.name and letters & _letters_of(font.fname):
            chosen.append(font.name)
            letters -= _letters_of(font.fname)
    if letters:
        log.warning("no installed font has %s: figures show boxes; docs/troubleshooting.md", "".join(sorted(letters)))
    return tuple(chosen)


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
