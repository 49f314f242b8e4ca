"""Where the defect is: a picture's way from its tokens to a map, its regions and a verdict."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from ..data.pictures import UnreadableImageError, load_image, load_mask
from .channels import FINE, cells_of, distance_channels, fine_picture, gaussian_blur, on_cells, pixel_channels
from .encoder import Encoder
from .head import Head
from .references import References, choose_pictures, own_distances
from .regions import Judgement, Thresholds, judge_map
from .stream import each_picture

EVALUATION_SIZE = 256, 256  # px at which maps and masks are compared, as most of the field does
PATCH_SHARE = 0.9  # of a patch that has to be leather, for its tokens to be compared with
EDGE = 0.003  # of a picture's longer side: the rim of the leather is shadow and table
MIRRORED = 0.05  # of the longer side: how far the mirror reaches into the leather


@dataclass(frozen=True)
class Detector:
    """All that judges a picture. Without a head the map is the plain distance, see `anomaly_map`."""

    protocol: str  # name under which its figures are reported
    encoder: Encoder
    references: References | None  # None: each picture is compared with itself alone
    head: Head | None
    thresholds: Thresholds = Thresholds(np.inf, np.inf, "none yet")
    facts: dict[str, Any] = field(default_factory=dict)  # what a report says beside the figures

    def judge(
        self, picture: Image.Image, *, leather: np.ndarray | None = None, without: int | None = None
    ) -> Judgement:
        """The map, defects and verdict of a picture; ``leather``, bool (height, width), leaves the table out."""
        picture = without_table(picture, leather)
        values = self.anomaly_map(picture, self.encoder.tokens(picture), leather=leather, without=without)
        return judge_map(values, self.thresholds)

    def anomaly_map(
        self, picture: Image.Image, tokens: Tensor, *, leather: np.ndarray | None = None, without: int | None = None
    ) -> np.ndarray:
        """Map, float32, 8 x 8 pixels for 14 x 14 of the network's input: probability of a defect, by the head.

        Without a head: log of the distance over the picture's median, to the references if there are any, else to the
        rest of the picture. ``without`` leaves one picture of the references out. What is no leather has the lowest
        value; ValueError if there is none. A picture with a table and its tokens come from `without_table`.
        """
        cells = cells_of(*self.encoder.input_size(picture))
        valid = leather_patches(leather, tokens)
        reference = None if self.references is None else self.references.distances(tokens, without=without)
        own = own_distances(tokens, valid=valid) if self.head or reference is None else None
        del tokens  # of a large picture more than all that follows
        fine = tuple(FINE * side for side in cells)
        inside = None if leather is None else _shares(leather, fine) >= 0.5
        if self.head is None:
            plain = own if reference is None else reference
            channels = distance_channels(plain, None, valid=valid)[: len(plain)]
            values = _plain_map(on_cells(channels, cells), fine)
        else:
            channels = on_cells(distance_channels(own, reference, valid=valid), cells)
            pixels = pixel_channels(fine_picture(picture, cells)[None], valid=None if inside is None else inside[None])
            values = self.head.probabilities(channels, pixels)
        return values if inside is None else np.where(inside.numpy(), values, values.min())


def _plain_map(channels: Tensor, size: tuple[int, int]) -> np.ndarray:
    large = F.interpolate(channels.mean(0)[None, None], size, mode="bilinear", align_corners=False)
    return gaussian_blur(large, FINE / 2)[0, 0].numpy()


def leather_patches(leather: np.ndarray | None, tokens: Tensor) -> Tensor | None:
    """Which patches of tokens (blocks, h, w, d) lie on leather, bool (h, w); ValueError if none does."""
    valid = None if leather is None else _shares(leather, tokens.shape[1:3]) >= PATCH_SHARE
    if valid is not None and not valid.any():
        raise ValueError(f"no patch of a picture of {leather.shape[::-1]} lies on leather: check its mask")
    return valid


def _shares(mask: np.ndarray, size: tuple[int, int]) -> Tensor:
    """How much of each place of a grid (rows, columns) a bool mask covers, in [0, 1]."""
    values = Image.fromarray(mask.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)
    return Tensor(np.array(values))


def without_table(picture: Image.Image, leather: np.ndarray | None) -> Image.Image:
    """The picture with its leather, bool (height, width), mirrored into what is none: an edge would look like a defect.

    Deep in the table the mirror goes to and fro. Raises ValueError if the mask has no leather, or another size.
    """
    if leather is None or leather.all():
        return picture
    if leather.shape != picture.size[::-1] or not leather.any():
        raise ValueError(f"a mask of shape {leather.shape} with {leather.sum()} pixels of leather, for {picture.size}")
    side = max(leather.shape)
    inner = ndimage.binary_erosion(leather, iterations=max(1, round(EDGE * side)), border_value=1)
    leather = inner if inner.any() else leather
    nearest = ndimage.distance_transform_edt(~leather, return_distances=False, return_indices=True)
    pixels, reach, limits = np.array(picture), MIRRORED * side, np.array(leather.shape)[:, None] - 1
    for top in range(0, len(leather), 256):  # in bands: indices of a large picture are large
        rows, columns = np.nonzero(~leather[top : top + 256])
        edge = nearest[:, top + rows, columns]
        inwards = edge - np.stack([top + rows, columns])
        depth = np.maximum(np.hypot(*inwards), 1)
        folded = reach - np.abs(reach - depth % (2 * reach))
        source = np.clip(np.rint(edge + inwards * (folded / depth)).astype(int), 0, limits)
        source = np.where(leather[tuple(source)], source, edge)
        pixels[top + rows, columns] = pixels[tuple(source)]
    return Image.fromarray(pixels)


@dataclass(frozen=True)
class Localisation:
    """What one detector says of all test images; its thresholds were chosen without any of them."""

    protocol: str
    test: pd.DataFrame  # rows of index_mvtec, part test
    judgements: list[Judgement]  # maps as fine as they came
    maps: np.ndarray  # (n, 256, 256) float32, these maps as they are compared with masks
    masks: np.ndarray  # (n, 256, 256) bool
    thresholds: Thresholds
    has_head: bool
    facts: dict[str, Any]

    @property
    def unit(self) -> str:
        return "probability of a defect" if self.has_head else "log of the distance over the picture's median"

    @property
    def scores(self) -> np.ndarray:
        return np.array([judgement.score for judgement in self.judgements])

    @property
    def called(self) -> np.ndarray:
        """True for images whose verdict is defective, shape (n,)."""
        return np.array([judgement.is_defective for judgement in self.judgements])

    @property
    def is_defect(self) -> np.ndarray:
        return (self.test["defect"] != "good").to_numpy()

    def image(self, index: int) -> np.ndarray:
        """One of the images at the size of its map, (256, 256, 3) uint8."""
        return np.asarray(load_image(self.test["path"][index]).resize(EVALUATION_SIZE))

    def of_rows(self, rows: np.ndarray) -> Localisation:
        """The same of some images; ``rows`` (n,) is True for them."""
        judgements = [judgement for judgement, chosen in zip(self.judgements, rows, strict=True) if chosen]
        test, maps, masks = self.test[rows].reset_index(drop=True), self.maps[rows], self.masks[rows]
        return replace(self, test=test, judgements=judgements, maps=maps, masks=masks)


def read_tokens(encoder: Encoder, test: pd.DataFrame) -> list[Tensor]:
    """Tokens of every image of a table: its one way through the network. Raises UnreadableImageError."""
    answers, tokens = each_picture(encoder, list(test["path"]), lambda path, picture, its_tokens: its_tokens), []
    for _, answer in tqdm(answers, total=len(test), desc="tokens", unit="img"):
        if isinstance(answer, UnreadableImageError):
            raise answer
        tokens.append(answer)
    return tokens


def localise(detector: Detector, test: pd.DataFrame, tokens: list[Tensor], *, among: bool = False) -> Localisation:
    """Judges test images (rows of `index_mvtec`) from their tokens.

    ``among`` says that the references are these very images, by `choose_pictures`: each is compared with the others.
    """
    if test.empty:
        raise ValueError("there is no test image to localise on: expected rows of part test, see index_mvtec")
    own_number = {index: number for number, index in enumerate(choose_pictures(len(test)))} if among else {}
    judgements, masks, started = [], [], time.perf_counter()
    for index, row in enumerate(tqdm(test.itertuples(), total=len(test), desc=detector.protocol, unit="img")):
        picture = load_image(row.path)
        values = detector.anomaly_map(picture, tokens[index], without=own_number.get(index))
        judgements.append(judge_map(values, detector.thresholds))
        masks.append(evaluated_mask(load_mask(row.mask, size=picture.size)))
    facts = detector.facts | {"images_per_second_after_tokens": len(test) / (time.perf_counter() - started)}
    return Localisation(
        protocol=detector.protocol,
        test=test.reset_index(drop=True),
        judgements=judgements,
        maps=np.stack([evaluated_map(judgement.map) for judgement in judgements]),
        masks=np.stack(masks),
        thresholds=detector.thresholds,
        has_head=detector.head is not None,
        facts=facts,
    )


def evaluated_map(values: np.ndarray) -> np.ndarray:
    """A map (h, w) as it is compared with masks: float32 (256, 256)."""
    return np.asarray(Image.fromarray(values).resize(EVALUATION_SIZE, Image.Resampling.BILINEAR))


def evaluated_mask(mask: np.ndarray) -> np.ndarray:
    """A mask as it is compared with maps: bool (256, 256), True where any of its pixels is: no small defect is lost."""
    larger = tuple(map(max, mask.shape[::-1], EVALUATION_SIZE))
    mask = np.asarray(Image.fromarray(mask).resize(larger, Image.Resampling.NEAREST))
    for axis, side in enumerate(EVALUATION_SIZE[::-1]):
        mask = np.logical_or.reduceat(mask, -(-np.arange(side) * mask.shape[axis] // side), axis=axis)
    return mask
