"""What image files are and look like: size and format, faults, brightness, contrast and colour, by class.

Grey levels are 0 (black) to 255 (white) of the picture as `pictures.load_image` gives it, which is what a model sees.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from ..data.pictures import UnreadableImageError, load_image, open_picture, orientation
from ..data.tables import order_classes

COLOURS = ("red", "green", "blue")


def describe_images(table: pd.DataFrame) -> pd.DataFrame:
    """The table with what each image file is and looks like, from its ``path``. New columns:

    ``width``, ``height`` (pixels, upright), ``mode``, ``format`` (as stored) and ``bytes``;
    ``brightness``, ``contrast``: mean and standard deviation of grey (Rec. 601 luma), grey levels;
    ``red``, ``green``, ``blue``, ``red_std``, ``green_std``, ``blue_std``: the same of each channel;
    ``problem``: what is odd, separated by semicolons. A size or mode is odd if more than half of the images have
    another one. Only an unreadable image has no brightness.

    Raises ValueError if the table is empty.
    """
    if table.empty:
        raise ValueError("the table of images is empty")
    formats = Image.registered_extensions()  # here, because it loads plug-ins, which threads must not do at once
    rows = in_threads(lambda path: _describe(Path(path), formats), table["path"], name="images")
    described = table.join(pd.DataFrame(rows, index=table.index))
    described = described.astype(dict.fromkeys(("width", "height", "bytes"), "Int64"))
    for what, values in (("size", _sizes(described)), ("mode", described["mode"])):
        counts = values.value_counts()
        if len(counts) and counts.iloc[0] > len(values) / 2:
            odd = values.notna() & (values != counts.index[0])
            described.loc[odd, "problem"] += f"odd {what}: " + values[odd] + f", usual is {counts.index[0]}; "
    described["problem"] = described["problem"].str.removesuffix("; ")
    return described


def _describe(path: Path, formats: dict[str, str]) -> dict[str, object]:
    row = {"width": None, "height": None, "mode": None, "format": None, "bytes": None, "problem": ""}
    row |= dict.fromkeys(("brightness", "contrast", *COLOURS, *(f"{name}_std" for name in COLOURS)), np.nan)
    try:
        row["bytes"] = path.stat().st_size
        with open_picture(path) as image:
            row |= {"width": image.width, "height": image.height, "mode": image.mode, "format": image.format}
            turned = orientation(image)
        picture = load_image(path)
    except (UnreadableImageError, OSError) as error:
        return row | {"problem": f"unreadable: {_reason(error)}; "}
    row["width"], row["height"] = picture.size
    (row["brightness"],), (row["contrast"],) = _moments(picture.convert("L"))
    means, deviations = _moments(picture)
    row |= dict(zip(COLOURS, means, strict=True))
    row |= {f"{name}_std": value for name, value in zip(COLOURS, deviations, strict=True)}

    expected = formats.get(path.suffix.lower())
    if expected != row["format"] and (expected, row["format"]) != ("JPEG", "MPO"):  # MPO: JPEGs of some phones
        row["problem"] += f"the file is {row['format']}, its name says {path.suffix}; "
    if turned in range(2, 9):
        row["problem"] += f"turned by EXIF (orientation {turned}); "
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


def in_threads(function: Callable[[Any], Any], items: Iterable[Any], *, name: str) -> list[Any]:
    """The function's results for all items, in their order, with a progress bar."""
    items = list(items)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        return list(tqdm(pool.map(function, items), total=len(items), desc=name))
    finally:
        pool.shutdown(cancel_futures=True)  # else Ctrl-C would wait for all the rest


def odd_files(described: pd.DataFrame) -> pd.DataFrame:
    """The images that have a problem: ``file``, size, ``mode``, ``format``, ``bytes`` and ``problem``."""
    columns = ["file", "width", "height", "mode", "format", "bytes", "problem"]
    return described.loc[described["problem"] != "", columns].reset_index(drop=True)


def count_classes(table: pd.DataFrame) -> pd.Series:
    """Images of each class, in the classes' order."""
    return table["label"].value_counts().reindex(order_classes(table["label"])).rename("images")


def count_sizes(described: pd.DataFrame) -> pd.DataFrame:
    """Images of each size, format and mode (rows, the most frequent first) in each class (columns) and in ``all``."""
    kinds = [_sizes(described).rename("size"), described["format"], described["mode"]]
    counts = pd.crosstab(kinds, described["label"])
    return counts.assign(all=counts.sum(axis=1)).sort_values("all", ascending=False)


def class_share_of_variance(described: pd.DataFrame) -> pd.Series:
    """Share of the variance of brightness, contrast and colours that lies between the classes' means (eta squared).

    In [0, 1]: 0 if all classes have the same mean, also if all readable images are alike, 1 if only classes differ.
    """
    columns = ["brightness", "contrast", *COLOURS]
    readable = described.dropna(subset=columns)
    between = readable.groupby("label")[columns].transform("mean").var(ddof=0)
    return (between / readable[columns].var(ddof=0)).fillna(0.0)


def example_pictures(table: pd.DataFrame, *, by: str, number: int, side: int = 256) -> dict[str, list[np.ndarray]]:
    """Up to ``number`` pictures (side, side, 3), uint8, for each value of a column, cut to their middle square.

    They stand at even steps through the rows, so that nobody's taste chose them.
    """
    examples = {}
    for name, rows in table.groupby(by, sort=False):
        steps = np.linspace(0, len(rows) - 1, min(number, len(rows))).round().astype(int)
        examples[name] = [np.asarray(ImageOps.fit(load_image(path), (side, side))) for path in rows["path"].iloc[steps]]
    return examples
