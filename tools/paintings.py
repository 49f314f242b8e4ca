"""Paintings that a head learns from: a texture as another leather, in some light, with defects, seen by a camera."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from src.synthetic.painter import paint_defect

from .camera import another_piece, cast_light, change_leather, photograph, reframe


def paint_picture(
    texture: np.ndarray,
    generator: np.random.Generator,
    *,
    look: int | None = None,
    defects: int | None = None,
    kinds: Sequence[str] | None = None,
    piece: int | None = None,
    boxes: np.ndarray | None = None,
    scale=1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The texture, uint8 (h, w, 3), as another leather in some light with defects, uint8, and its label (h, w), uint8.

    Pictures of the same texture and look, a seed, are of the same leather and colour; those of other ``piece``, 0 to 3,
    show other places of it. Without a number of defects 0 to 3 are drawn, without ``kinds`` any kind, each as often as
    `KINDS` says. Where ``boxes``, bool (h, w), mark real defects, and no core covers them, the label is 3.
    """
    place, piece = generator.integers(2**31), generator.integers(4) if piece is None else piece
    look = generator.integers(2**31) if look is None else look
    marked = np.zeros(texture.shape, np.uint8) if boxes is None else np.repeat(np.uint8(boxes)[..., None], 3, axis=2)
    pieces = (another_piece(each, np.random.default_rng(place), piece=piece) for each in (texture, marked))
    texture, marked = (reframe(each, np.random.default_rng(look)) for each in pieces)
    picture = change_leather(texture, np.random.default_rng([look, 1]), scale=scale)
    picture, marked = cast_light(picture, generator, scale=scale), marked[..., 0] > 0.5
    label, light = np.zeros(picture.shape[:2], np.uint8), generator.uniform(0, 2 * np.pi)
    for _ in range(generator.choice(4, p=(0.25, 0.4, 0.2, 0.15)) if defects is None else defects):
        kind = None if kinds is None else kinds[generator.integers(len(kinds))]
        painted = paint_defect(picture, generator, kind=kind, light=light, scale=scale)
        label = np.where((painted == 1) | (label == 0), painted, label)
    return photograph(picture, generator), np.where(marked & (label != 1), np.uint8(3), label)
