"""Looks at data sets before anything is trained: images, classes, colours, and MVTec AD's defects as numbers.

Grey levels are 0 (black) to 255 (white) of the picture as `images.load_image` gives it, which is what a model
sees. Figures of these tables are in `eda.figures`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from ..data.pictures import UnreadableImageError, load_image
from ..data.tables import order_classes

Item = TypeVar("Item")
Result = TypeVar("Result")

COLOURS = ("red", "green", "blue")


def describe_images(table: pd.DataFrame, *, progress: bool = True) -> pd.DataFrame:
    """The table with what each image file is and looks like, one row an image.

    Args:
        table: Rows with ``path``; other columns and the index are kept.
        progress: Show a progress bar.

    Returns:
        The table with these columns more:
        ``width``, ``height``: pixels, upright (as stored if the pixels cannot be read); missing without a header.
        ``mode``, ``format``: as stored, e.g. ``RGB`` or ``I;16``, and ``JPEG``.
        ``bytes``: size of the file.
        ``brightness``, ``contrast``: mean and standard deviation of grey (Rec. 601 luma), grey levels.
        ``red``, ``green``, ``blue`` and ``red_std``, ``green_std``, ``blue_std``: the same of each channel.
        ``problem``: what is odd, separated by semicolons; empty if nothing. A size or mode is odd if more than half
        of the table's images have another one. Only an unreadable image has no brightness.

    Raises:
        ValueError: If the table is empty.
    """
    if table.empty:
        raise ValueError("the table of images is empty")
    formats = Image.registered_extensions()  # here, because it loads plug-ins, which threads must not do at once
    rows = in_threads(lambda path: _describe(Path(path), formats), table["path"], name="images", progress=progress)
    described = table.join(pd.DataFrame(rows, index=table.index))
    described = described.astype(dict.fromkeys(("width", "height", "bytes"), "Int64"))
    for what, values in (("size", _sizes(described)), ("mode", described["mode"])):
        counts = values.value_counts()
        if len(counts) and counts.iloc[0] > len(values) / 2:
            usual = counts.index[0]
            odd = values.notna() & (values != usual)
            described.loc[odd, "problem"] += f"odd {what}: " + values[odd] + f", usual is {usual}; "
    described["problem"] = described["problem"].str.removesuffix("; ")
    return described


def _describe(path: Path, formats: dict[str, str]) -> dict[str, object]:
    row = {"width": None, "height": None, "mode": None, "format": None, "bytes": None}
    numbers = ("brightness", "contrast", *COLOURS, *(f"{name}_std" for name in COLOURS))
    row |= dict.fromkeys(numbers, np.nan) | {"problem": ""}
    try:
        row["bytes"] = path.stat().st_size
        with Image.open(path) as image:
            row |= {"width": image.width, "height": image.height, "mode": image.mode, "format": image.format}
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        picture = load_image(path)
    except (UnreadableImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return row | {"problem": f"unreadable: {_reason(error)}; "}
    row["width"], row["height"] = picture.size
    (row["brightness"],), (row["contrast"],) = _moments(picture.convert("L"))
    means, deviations = _moments(picture)
    row |= dict(zip(COLOURS, means, strict=True))
    row |= {f"{name}_std": value for name, value in zip(COLOURS, deviations, strict=True)}

    expected = formats.get(path.suffix.lower())
    if expected != row["format"] and (expected, row["format"]) != ("JPEG", "MPO"):  # MPO: JPEGs of some phones
        row["problem"] += f"the file is {row['format']}, its name says {path.suffix}; "
    if orientation in range(2, 9):
        row["problem"] += f"turned by EXIF (orientation {orientation}); "
    if row["contrast"] == 0:
        row["problem"] += "one single colour; "
    return row


def _reason(error: Exception) -> str:
    """Why a file cannot be read, without its path: reports never carry the folders of a machine."""
    cause = error.__cause__ or error
    if isinstance(cause, UnidentifiedImageError):
        return "no known image format"
    return getattr(cause, "strerror", None) or str(cause)


def _moments(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, from the histogram: exact, and light on 15 megapixels."""
    histogram = np.asarray(picture.histogram(), dtype=float).reshape(-1, 256)  # (channels, 256)
    shares = histogram / histogram.sum(axis=1, keepdims=True)
    levels = np.arange(256)
    means = shares @ levels
    return means, np.sqrt((shares * (levels - means[:, None]) ** 2).sum(axis=1))


def _sizes(described: pd.DataFrame) -> pd.Series:
    return described["width"].astype("string") + "x" + described["height"].astype("string")


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], *, name: str, progress: bool) -> list[Result]:
    items = list(items)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        return list(tqdm(pool.map(function, items), total=len(items), desc=name, disable=not progress))
    finally:
        pool.shutdown(cancel_futures=True)  # else Ctrl-C would wait for all the rest


def count_sizes(described: pd.DataFrame) -> pd.DataFrame:
    """Images of each size, format and mode (rows, the most frequent first) in each class (columns) and in ``all``."""
    kinds = [_sizes(described).rename("size"), described["format"], described["mode"]]
    counts = pd.crosstab(kinds, described["label"])
    return counts.assign(all=counts.sum(axis=1)).sort_values("all", ascending=False)


def count_classes(table: pd.DataFrame) -> pd.Series:
    """Images of each class, in the classes' order."""
    return table["label"].value_counts().reindex(order_classes(table["label"])).rename("images")


def odd_files(described: pd.DataFrame) -> pd.DataFrame:
    """The images that have a problem: ``file``, size, ``mode``, ``format``, ``bytes`` and ``problem``."""
    columns = ["file", "width", "height", "mode", "format", "bytes", "problem"]
    return described.loc[described["problem"] != "", columns].reset_index(drop=True)


def class_share_of_variance(described: pd.DataFrame) -> pd.Series:
    """How much of the differences between images goes along with their class, by brightness, contrast and colour.

    The share of a column's variance that lies between the means of the classes (eta squared, the correlation ratio).

    Returns:
        One number in [0, 1] a column, no unit: 0 if all classes have the same mean, 1 if all images of a class are
        alike and classes differ, NaN if all images are alike. Unreadable images are left out.
    """
    columns = ["brightness", "contrast", *COLOURS]
    readable = described.dropna(subset=columns)
    between = readable.groupby("label")[columns].transform("mean").var(ddof=0)
    return between / readable[columns].var(ddof=0)


def example_pictures(
    table: pd.DataFrame, *, number: int, by: str = "label", side: int = 256
) -> dict[str, list[np.ndarray]]:
    """Pictures of every class at even steps through its files, so that nobody's taste chose them.

    Args:
        table: Rows with ``path`` and the column ``by``.
        number: Pictures a class; fewer where a class has fewer.
        by: Column of the classes, ``label`` or ``defect``.
        side: Pixels; what is not square loses its longer ends.

    Returns:
        Class name to arrays of shape (side, side, 3), uint8.

    Raises:
        UnreadableImageError: If one of the chosen files cannot be decoded.
    """
    return {
        name: [np.asarray(ImageOps.fit(load_image(path), (side, side))) for path in rows["path"]]
        for name, rows in even_steps(table, number, by)
    }


def even_steps(table: pd.DataFrame, number: int, by: str) -> list[tuple[str, pd.DataFrame]]:
    chosen = []
    for name, rows in table.groupby(by, sort=False):
        steps = np.linspace(0, len(rows) - 1, min(number, len(rows))).round().astype(int)
        chosen.append((name, rows.iloc[steps]))
    return chosen
