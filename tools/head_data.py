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
from src.localisation.channels import CELL, distance_channels, fine_picture, on_cells, pixel_channels
from src.localisation.encoder import TILE, Encoder
from src.localisation.references import gather, own_distances, sample_rows
from tools.boxes import BOX, box_mask, read_boxes
from tools.paintings import paint_picture

ALIKE = 0.6  # correlation from which two textures are copies of one original, whatever their colour
LARGEST_GROUP = 10  # pictures; larger groups of copies stay in training
BOXED, GREY_SHARE = 300, 0.12  # validation: pictures with boxes at least, and share of those without
TOGETHER = 8  # like textures that are painted at a time and are each other's references
SIDE = 256  # px of painted pictures
CELLS = (TILE // CELL, TILE // CELL)
PIECES = 2  # painted pictures of a texture, as if of two places of one leather: each other's references
ROWS_EACH = 256, 512, 1024  # reference patches of a picture of the same leather
PIECE_ROWS = 16, 32, 64, 128  # of one picture of a folder of the same leather, which gives several
LIKE_ROWS = 128  # of a picture of a like leather
MODES = ("own", "normals", "folder")  # references: none, patches without defects, or all patches of others
LIKE = ("like normals", "like folder")  # the same of pictures of like leathers, after `MODES`, of painted pictures


def read_textures(folder: Path, boxes: Path) -> pd.DataFrame:
    """A row a texture: ``path``, ``file``, ``copy_of``; ``boxed`` if ``boxes`` (file, left, ...) lists its name."""
    paths = sorted(path for path in folder.rglob("*") if is_picture(path))
    table = pd.DataFrame({"path": map(str, paths), "file": [path.relative_to(folder).as_posix() for path in paths]})
    listed = read_boxes(boxes)["file"]
    pairs = near_duplicates(table, same_colour=np.inf)
    copies = copy_groups(table["file"], pairs[pairs["correlation"] >= ALIKE])
    return table.assign(copy_of=copies, boxed=table["file"].isin(listed))


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
    """The rows in groups of up to `TOGETHER` of like look, in a random order: cut in two again and again."""
    looks = np.stack([_look(path) for path in tqdm(table["path"], desc="textures", unit="img")])
    looks = (looks - looks.mean(0)) / np.maximum(looks.std(0), 1e-6)

    def halves(rows: np.ndarray) -> list[np.ndarray]:
        if len(rows) <= TOGETHER:
            return [rows]
        centred = looks[rows] - looks[rows].mean(0)
        order = rows[np.argsort(centred @ np.linalg.svd(centred, full_matrices=False)[2][0], kind="stable")]
        return [part for cut in np.array_split(order, 2) for part in halves(cut)]

    groups = halves(np.arange(len(table)))
    return [table.iloc[groups[number]] for number in np.random.default_rng(0).permutation(len(groups))]


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
    distances: Tensor  # (n, modes, channels, 32, 32) float16; the first modes are `MODES`, then may come `LIKE`
    pixels: Tensor  # (n, 8, 256, 256) int8, `pixel_channels` in sixteenths
    labels: Tensor  # (n, 256, 256) uint8: 1 core of a painted defect, 2 around it, 3 in a box of a real one


def painted_examples(
    groups: list[pd.DataFrame],
    encoder: Encoder,
    folder: Path,
    boxes: Path,
    *,
    seed: int,
    kinds: tuple[str, ...] | None = None,
) -> Examples:
    """Every texture as another leather, `PIECES` times, with painted defects; ``folder`` keeps finished groups."""
    listed = read_boxes(boxes)

    def paint(number: int, rows: pd.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        generator = np.random.default_rng([seed, number])
        shared = int(generator.integers(2**31)) if generator.uniform() < 0.5 else None  # one leather, or several
        for row in rows.itertuples():
            texture = np.asarray(load_image(row.path).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            look = int(generator.integers(2**31)) if shared is None else shared
            real = box_mask(listed, row.file, SIDE)
            for piece in generator.permutation(4)[:PIECES]:
                yield paint_picture(texture, generator, look=look, kinds=kinds, piece=int(piece), boxes=real)

    return _examples(groups, encoder, folder, paint, pieces=PIECES)


def boxed_examples(groups: list[pd.DataFrame], encoder: Encoder, folder: Path, boxes: Path) -> Examples:
    """Real pictures, references are those of like leathers; the label is 3 inside the boxes of their defects."""
    listed = read_boxes(boxes)

    def read(number: int, rows: pd.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for row in rows.itertuples():
            picture = np.asarray(load_image(row.path).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            yield picture, BOX * box_mask(listed, row.file, SIDE).astype(np.uint8)

    return _examples(groups, encoder, folder, read, pieces=1)


def _examples(
    groups: list[pd.DataFrame], encoder: Encoder, folder: Path, pictures_of: object, *, pieces: int
) -> Examples:
    parts = []
    for number, rows in enumerate(tqdm(groups, desc=folder.name, unit="group")):
        file = folder / f"{number:04d}.pt"
        if not file.is_file():
            copies = rows["copy_of"].repeat(pieces).to_numpy()
            made = _read_group(list(pictures_of(number, rows)), copies, encoder, number, pieces=pieces)
            save_tensors(made, file)
        parts.append(load_tensors(file))
    files = [file for rows in groups for file in rows["file"].repeat(pieces)]
    distances, labels = (torch.cat([part[name] for part in parts]) for name in ("distances", "labels"))
    pixels = [(16 * pixel_channels(part["pictures"])).round().clamp(-127, 127).to(torch.int8) for part in parts]
    return Examples(files, distances, torch.cat(pixels), labels)


def _read_group(
    pictures: list[tuple[np.ndarray, np.ndarray]], copies: np.ndarray, encoder: Encoder, number: int, *, pieces: int
) -> dict[str, Tensor]:
    """Channels of every mode of pictures with labels; ``pieces`` pictures in a row are of one texture.

    References are the other pieces, and one piece each of some other textures that are no copies. Patches of real
    defects in boxes, which another place would not have, are none; normal references have no defect at all.
    """
    with torch.autocast("cpu", torch.bfloat16):  # twice as fast; the log channels differ by about 0.01
        tokens = [encoder.tokens(Image.fromarray(picture)) for picture, _ in pictures]
    labels = torch.from_numpy(np.stack([label for _, label in pictures]))
    free = [~_touched(labels > 0, tokens[0]), ~_touched(labels == BOX, tokens[0])]  # for normals, for a folder
    generator, distances = np.random.default_rng(number), []

    def rows_of(other: int, count: int, *, are_normal: bool) -> Tensor:
        valid = free[0 if are_normal else 1][other]
        return sample_rows(tokens[other], count, seed=int(generator.integers(2**31)), valid=valid)[0]

    for index, each in enumerate(tokens):
        own = own_distances(each)
        modes = [distance_channels(own, None)] * (3 if pieces == 1 else 5)
        siblings = [n for n in range(index - index % pieces, index - index % pieces + pieces) if n != index]
        likes = generator.permutation(np.flatnonzero(copies[::pieces] != copies[index]))
        likes = [int(n) * pieces + generator.integers(pieces) for n in likes[: generator.integers(1, len(likes) + 2)]]
        for mode, are_normal in ((1, True), (2, False)):
            same = [rows_of(n, int(generator.choice(ROWS_EACH)), are_normal=are_normal) for n in siblings]
            if not are_normal:
                size = int(generator.choice(PIECE_ROWS))
                same = [part for rows in same for part in _parts(rows, size, generator)]
            like = [rows_of(n, LIKE_ROWS, are_normal=are_normal) for n in likes]
            for place, rows in ((mode, same), (mode + 2, like)) if siblings else ((mode, like),):
                if rows := [part for part in rows if part.shape[1]]:
                    to_others = gather(rows, are_normal=are_normal).distances(each)
                    modes[place] = distance_channels(own, to_others)
        distances.append(torch.stack([on_cells(mode, CELLS) for mode in modes]).half())
    fine = torch.stack([fine_picture(Image.fromarray(picture), CELLS) for picture, _ in pictures])
    return {"distances": torch.stack(distances), "pictures": fine, "labels": labels}


def _touched(places: Tensor, tokens: Tensor) -> Tensor:
    """Patches (n, rows, columns) with a pixel of places (n, h, w)."""
    return F.adaptive_max_pool2d(places.float()[:, None], tokens.shape[1:3])[:, 0].bool()


def _parts(rows: Tensor, size: int, generator: np.random.Generator) -> tuple[Tensor, ...]:
    """Rows (blocks, m, d) in random parts of a size: as if each were of another picture."""
    return rows[:, torch.from_numpy(generator.permutation(rows.shape[1]))].split(size, 1)
