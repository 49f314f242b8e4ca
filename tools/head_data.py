"""What a defect head learns from: painted pictures of many leathers, and real ones with boxes to validate on.

Textures are shared out by groups of near copies, so that no original stands on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor
from tqdm import tqdm

from src.data.pictures import is_picture, load_image
from src.eda.copies import copy_groups, near_duplicates
from src.files import load_tensors, save_tensors
from src.localisation.encoder import TILE, Encoder
from src.localisation.head import CELL, distance_channels, fine_picture, on_cells
from src.localisation.references import gather, own_distances, sample_rows
from src.synthetic.painter import paint_picture

ALIKE = 0.6  # correlation from which two textures are copies of one original, whatever their colour
LARGEST_GROUP = 10  # pictures; larger groups of copies stay in training
BOXED, GREY_SHARE = 300, 0.12  # validation: pictures with boxes at least, and share of those without
TOGETHER = 8  # like textures that are painted at a time and are each other's references
SIDE = 256  # px of painted pictures
CELLS = (TILE // CELL, TILE // CELL)
ROWS_EACH = 256  # reference patches of a picture
MODES = ("own", "normals", "folder")  # references: none, patches without defects, or all patches of others


def read_textures(folder: Path, boxes: Path) -> pd.DataFrame:
    """A row a texture: ``path``, ``file``, ``copy_of``; ``boxed`` if ``boxes`` (file, left, ...) lists its name."""
    paths = sorted(path for path in folder.rglob("*") if is_picture(path))
    table = pd.DataFrame({"path": map(str, paths), "file": [path.relative_to(folder).as_posix() for path in paths]})
    listed = read_boxes(boxes)["file"]
    pairs = near_duplicates(table, same_colour=np.inf)
    copies = copy_groups(table["file"], pairs[pairs["correlation"] >= ALIKE])
    return table.assign(copy_of=copies, boxed=table["file"].isin(listed))


def read_boxes(boxes: Path) -> pd.DataFrame:
    """The rows of ``<folder>_boxes.csv``, with ``file`` as `read_textures` has it."""
    listed = pd.read_csv(boxes, dtype={"file": str})
    return listed.assign(file=boxes.stem.removesuffix("_boxes") + "/" + listed["file"])


def draw_validation(table: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """The rows that validate: whole groups of copies, until `BOXED` have boxes and `GREY_SHARE` of the rest are in."""
    groups = table.groupby("copy_of").agg(size=("file", "size"), boxed=("boxed", "any"))
    groups = groups[groups["size"] <= LARGEST_GROUP].sample(frac=1, random_state=seed)
    with_boxes, without = groups[groups["boxed"]], groups[~groups["boxed"]]
    wanted = GREY_SHARE * (~table["boxed"]).sum()
    chosen = [
        *with_boxes.index[with_boxes["size"].cumsum().shift(fill_value=0) < BOXED],
        *without.index[without["size"].cumsum().shift(fill_value=0) < wanted],
    ]
    return table[table["copy_of"].isin(chosen)]


def like_groups(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows in groups of up to `TOGETHER` of like colour and grain: cut in two again and again."""
    looks = np.stack([_look(path) for path in tqdm(table["path"], desc="textures", unit="img")])
    looks = (looks - looks.mean(0)) / np.maximum(looks.std(0), 1e-6)

    def halves(rows: np.ndarray) -> list[np.ndarray]:
        if len(rows) <= TOGETHER:
            return [rows]
        centred = looks[rows] - looks[rows].mean(0)
        order = rows[np.argsort(centred @ np.linalg.svd(centred, full_matrices=False)[2][0], kind="stable")]
        return [part for cut in np.array_split(order, 2) for part in halves(cut)]

    return [table.iloc[rows] for rows in halves(np.arange(len(table)))]


def _look(path: str) -> np.ndarray:
    """Mean and deviation of colour, and the log deviation of grey in five bands of fineness."""
    pixels = np.asarray(load_image(path).resize((SIDE // 2, SIDE // 2), Image.Resampling.BOX), dtype=np.float32)
    grey, bands = pixels.mean(2), [1, 2, 4, 8, 16]
    smooth = [gaussian_filter(grey, sigma) for sigma in bands]
    fine = [np.log(np.std(one - other) + 0.5) for one, other in zip([grey, *smooth], smooth, strict=False)]
    return np.concatenate([pixels.mean((0, 1)), pixels.std((0, 1)), 30 * np.array(fine)])


@dataclass(frozen=True)
class Examples:
    """Pictures as a head reads them. Tensors of one length n, in the order of ``files``."""

    files: list[str]
    distances: Tensor  # (n, modes, channels, 32, 32) float16
    pictures: Tensor  # (n, 3, 256, 256) uint8
    labels: Tensor  # (n, 256, 256) uint8: 1 core of a painted defect, 2 around it


def painted_examples(
    groups: list[pd.DataFrame], encoder: Encoder, folder: Path, *, seed: int, kinds: tuple[str, ...] | None = None
) -> Examples:
    """Every texture once as another leather with painted defects; groups that are in ``folder`` are taken from it."""

    def paint(number: int, rows: pd.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        generator = np.random.default_rng([seed, number])
        shared = int(generator.integers(2**31)) if generator.uniform() < 0.5 else None  # one leather, or several
        for path in rows["path"]:
            texture = np.asarray(load_image(path).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            yield paint_picture(texture, generator, look=shared, kinds=kinds)

    return _examples(groups, encoder, folder, paint)


def boxed_examples(groups: list[pd.DataFrame], encoder: Encoder, folder: Path, boxes: Path) -> Examples:
    """Real pictures; the label is 1 inside the boxes of their defects."""
    listed = read_boxes(boxes)

    def read(number: int, rows: pd.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for row in rows.itertuples():
            label = np.zeros((SIDE, SIDE), np.uint8)
            for box in listed[listed["file"] == row.file].itertuples():
                left, right = int(box.left * SIDE), int(np.ceil(box.right * SIDE))
                label[int(box.top * SIDE) : int(np.ceil(box.bottom * SIDE)), left:right] = 1
            yield np.asarray(load_image(row.path).resize((SIDE, SIDE), Image.Resampling.BICUBIC)), label

    return _examples(groups, encoder, folder, read)


def _examples(groups: list[pd.DataFrame], encoder: Encoder, folder: Path, pictures_of: object) -> Examples:
    parts = []
    for number, rows in enumerate(tqdm(groups, desc=folder.name, unit="group")):
        file = folder / f"{number:04d}.pt"
        if not file.is_file():
            save_tensors(_read_group(list(pictures_of(number, rows)), rows, encoder, number), file)
        parts.append(load_tensors(file))
    files = [file for rows in groups for file in rows["file"]]
    return Examples(files, *(torch.cat([part[name] for part in parts]) for name in ("distances", "pictures", "labels")))


def _read_group(
    pictures: list[tuple[np.ndarray, np.ndarray]], rows: pd.DataFrame, encoder: Encoder, number: int
) -> dict[str, Tensor]:
    """Channels of every mode of pictures with labels; references are the others of the group, without its copies."""
    tokens = [encoder.tokens(Image.fromarray(picture)) for picture, _ in pictures]
    labels = torch.from_numpy(np.stack([label for _, label in pictures]))
    touched = F.adaptive_max_pool2d((labels == 1).float()[:, None], tokens[0].shape[1:3])[:, 0].bool()
    everywhere = [sample_rows(each, ROWS_EACH, seed=number)[0] for each in tokens]
    clean = [
        sample_rows(each, ROWS_EACH, seed=number, valid=~places)[0]
        for each, places in zip(tokens, touched, strict=True)
    ]
    generator, distances, copies = np.random.default_rng(number), [], rows["copy_of"].to_numpy()
    for index, each in enumerate(tokens):
        own = own_distances(each)
        modes, others = [distance_channels(own, None)] * 3, np.flatnonzero(copies != copies[index])
        if len(others):
            some = generator.permutation(others)[: generator.integers(1, len(others) + 1)]
            for mode, rows_of, are_normal in ((1, clean, True), (2, everywhere, False)):
                usable = [rows_of[other] for other in some if rows_of[other].shape[1]]
                if usable:
                    modes[mode] = distance_channels(own, gather(usable, are_normal=are_normal).distances(each))
        distances.append(torch.stack([on_cells(mode, CELLS) for mode in modes]).half())
    fine = torch.stack([fine_picture(Image.fromarray(picture), CELLS) for picture, _ in pictures])
    return {"distances": torch.stack(distances), "pictures": fine, "labels": labels}
