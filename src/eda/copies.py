"""Copies of one picture in a data set: byte for byte, and changed by recompression, flips or quarter turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from ..data.pictures import load_image
from .describe import in_threads

SIDE = 64  # pixels that pictures are compared at
SMOOTH = 4.0  # standard deviation in these pixels; what is smoother (uneven light) is not compared
NEAR = 0.45  # correlation of texture from which two pictures may be copies: strong recompression takes texture away
SAME_COLOUR = 3.0  # grey levels that the coarse colours of copies differ by on average, at most; neighbours differ more
COARSE = 8  # pixels a side of the coarse colours
BLOCK = 512  # pictures compared at a time


def near_duplicates(table: pd.DataFrame, *, same_colour: float = SAME_COLOUR) -> pd.DataFrame:
    """Pairs of pictures that are the same but for recompression, size, flips and quarter turns.

    Textures, grey at 64 x 64 px without their smooth part, are compared by normalised cross-correlation in all eight
    orientations. Pairs that reach `NEAR` must also agree in their colours at 8 x 8 px, to ``same_colour`` grey levels,
    in the orientation that fits best. A picture without any texture is like no other.

    Returns:
        One row a pair: ``first`` and ``second`` (files, in the table's order) and ``correlation``, highest first.

    Raises:
        UnreadableImageError: If a picture cannot be decoded.
    """
    views = in_threads(_views, table["path"], name="textures")
    textures, colours = (np.stack(parts) for parts in zip(*views, strict=True))
    flat = textures.reshape(len(textures), -1)  # (n, side * side)
    files, pairs = table["file"].to_numpy(), []
    for start in tqdm(range(0, len(flat), BLOCK), desc="comparing"):
        turned = _orientations(textures[start : start + BLOCK])
        correlation = np.stack([view.reshape(len(view), -1) @ flat.T for view in turned])  # (8, block, n)
        best = correlation.max(axis=0)
        for row, j in zip(*np.nonzero(best >= NEAR), strict=True):
            i = start + row
            if j <= i:
                continue  # each pair once, no picture with itself
            orientation = correlation[:, row, j].argmax()
            difference = _orientations(colours[i : i + 1])[orientation][0] - colours[j]
            if np.abs(difference).mean() <= same_colour:
                pairs.append((files[i], files[j], float(best[row, j])))
    near = pd.DataFrame(pairs, columns=["first", "second", "correlation"])
    return near.sort_values("correlation", ascending=False, kind="stable", ignore_index=True)


def _views(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Texture, unit length, (64, 64), all 0 without any, and coarse colours, (8, 8, 3), 0..255; float32."""
    picture = load_image(Path(path))
    colours = np.asarray(picture.resize((COARSE, COARSE), Image.Resampling.BOX), dtype=np.float32)
    values = np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    values = values - gaussian_filter(values, SMOOTH, mode="nearest")
    length = np.linalg.norm(values)
    return (values / length if length > 1 else np.zeros_like(values)), colours


def _orientations(pictures: np.ndarray) -> list[np.ndarray]:
    """The four quarter turns of pictures (n, side, side, ...) and of their mirror images."""
    return [np.rot90(p, turns, axes=(1, 2)) for p in (pictures, pictures[:, :, ::-1]) for turns in range(4)]


def copy_groups(files: pd.Series, pairs: pd.DataFrame) -> pd.Series:
    """For every file the first file that it is connected with by pairs (``first``, ``second``): its own if none."""
    number = pd.Series(range(len(files)), index=files.to_numpy())
    first, second = number[pairs["first"]].to_numpy(), number[pairs["second"]].to_numpy()
    links = coo_array((np.ones(len(pairs)), (first, second)), shape=(len(files), len(files)))
    _, component = connected_components(links, directed=False)
    return files.groupby(component).transform("first").rename("copy_of")
