"""Whole hides drawn for parts and folds by code of our own: no version of a library changes what a seed gives."""

from __future__ import annotations

import numpy as np
import pandas as pd

PARTS = ("train", "validation", "test")
SHARES = np.array([0.6, 0.2, 0.2])  # of the pictures
DRAWS = 100  # until every class is in every part


def group_parts(table: pd.DataFrame, generator: np.random.Generator) -> pd.Series:
    """The part of each row; that of the last draw if none of them brings every class into every part."""
    counts = pd.crosstab(table["group"], table["label"])
    images = counts.to_numpy()  # (hides, classes)
    for _ in range(DRAWS):
        parts = _draw_parts(images.sum(axis=1), generator)
        if _cost(np.eye(3)[parts].T @ images) >= 1:
            parts = _move_hides(parts, images)
        if _cost(np.eye(3)[parts].T @ images) < 1:
            break
    return table["group"].map(dict(zip(counts.index, np.take(PARTS, parts), strict=True)))


def _draw_parts(sizes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The number in `PARTS` of each hide."""
    order = generator.permutation(len(sizes))
    ends, parts = np.cumsum(sizes[order]) / sizes.sum(), np.zeros(len(sizes), dtype=int)
    for position, (hide, end) in enumerate(zip(order, ends, strict=True)):
        left = len(order) - position  # the last two hides are kept for parts that have none yet
        if position == 0 or (end <= 0.2 and left > 2):
            parts[hide] = 2
        elif end <= 0.4 or 1 not in parts:
            parts[hide] = 1
    return parts


def _move_hides(parts: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Moves one hide at a time to another part, the one that helps most, until none helps."""
    while True:
        held, places = np.eye(3)[parts].T @ images, np.eye(3)[parts][:, None]
        change = (np.eye(3) - places)[..., None] * images[:, None, None]  # (hides, new part, parts, classes)
        costs = _cost(held + change)
        hide, part = np.unravel_index(costs.argmin(), costs.shape)
        if costs[hide, part] >= _cost(held):
            return parts
        parts[hide] = part


def _cost(images: np.ndarray) -> np.ndarray:
    """Of images (..., parts, classes): how often a class lacks in a part, plus up to 0.5 for shares that are off."""
    totals = images.sum(axis=-1)
    off = np.abs(totals / totals.sum(axis=-1, keepdims=True) - SHARES).sum(axis=-1)
    return ((images == 0).sum(axis=(-2, -1)) + off / 4).round(9)


def stratified_folds(table: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """The fold (n,) of each row. A hide goes where it makes the classes' shares of the folds most even.

    Hides of most uneven classes come first, like ones in random order; of equally good folds the smallest is taken.

    Source: StratifiedGroupKFold of scikit-learn 1.8, which gives these folds; before, its shuffle mixed up the hides.
    """
    counts = pd.crosstab(table["group"], table["label"])
    images, filled, fold_of = counts.to_numpy(), np.zeros((folds, counts.shape[1])), {}
    order = np.arange(len(counts))
    np.random.RandomState(seed).shuffle(order)  # a generator whose numbers never change
    for hide in order[np.argsort(-images[order].std(axis=1).round(9), kind="stable")]:
        added = filled + np.eye(folds)[:, :, None] * images[hide]  # (folds that may take it, folds, classes)
        uneven = (added / images.sum(axis=0)).std(axis=1).mean(axis=1)
        equal = np.flatnonzero(np.isclose(uneven, uneven.min()))
        fold = equal[filled[equal].sum(axis=1).argmin()]
        filled[fold] += images[hide]
        fold_of[counts.index[hide]] = fold
    return table["group"].map(fold_of).to_numpy()
