"""What a patch is compared with: the rest of its own picture, the other pictures of a folder, or normal pictures.

Distances are 1 - cosine of patch tokens of unit length, in [0, 2], one map a block; higher is more anomalous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NEIGHBOURHOODS = (5 / 1024, 100 / 1024, 300 / 1024)  # shares of the own picture whose mean distance is a channel
APART = 2  # patches: nearer ones of the own picture are no reference, they may show the same defect
OWN_ROWS = 1024  # patches of the own picture, at most, that each patch is compared with
ROWS = 2048  # patches of other pictures, in all
FEWEST_ROWS = 16  # of one of them
FOLDER_SHARE = 0.3  # of a folder's pictures: those nearest to a patch count, so that a rare defect excuses nobody
QUERIES_AT_ONCE = 4096


@dataclass(frozen=True)
class References:
    """Patches of other pictures: ``rows`` (blocks, pictures, m, d), of unit length, float16.

    ``are_normal`` says that none shows a defect; else they come from an unlabelled folder.
    """

    rows: Tensor
    are_normal: bool

    def distances(self, tokens: Tensor, *, without: int | None = None) -> Tensor:
        """Distance (blocks, h, w) of tokens (blocks, h, w, d) to these pictures; one of them can be left out.

        To normal pictures: the nearest patch of all. To an unlabelled folder: the nearest patch of each picture, mean
        over the nearest 30 % of the pictures.

        Source:
            The mean over pictures: MuSc (Li et al., ICLR 2024), here on a sample of patches.
        """
        pictures = [number for number in range(self.rows.shape[1]) if number != without]
        if not pictures:
            raise ValueError("no other picture is left to compare with; judge a single picture by itself (zero-shot)")
        tokens, size = tokens.flatten(1, 2), tokens.shape[:3]
        distances = torch.empty(*tokens.shape[:2], len(pictures))  # small pieces would leave holes in the memory
        for block, rows in enumerate(self.rows[:, pictures]):
            flat = rows.flatten(0, 1).float().T  # (d, pictures * m)
            for part in torch.arange(tokens.shape[1]).split(QUERIES_AT_ONCE):
                products = tokens[block, part].float() @ flat
                distances[block, part] = 1 - products.unflatten(1, rows.shape[:2]).amax(2)
        if self.are_normal:
            distances = distances.amin(2)
        else:
            count = max(1, round(FOLDER_SHARE * len(pictures)))
            distances = distances.topk(count, dim=2, largest=False).values.mean(2)
        return distances.clamp(0, 2).view(size)


def choose_pictures(count: int, *, seed: int = 0) -> list[int]:
    """Which of so many pictures are references, in their order: all, or as many as bound time and memory."""
    most = ROWS // FEWEST_ROWS
    return sorted(np.random.default_rng(seed).choice(count, min(count, most), replace=False).tolist())


def gather(rows: Sequence[Tensor], *, are_normal: bool) -> References:
    """References of the `sample_rows` of some pictures, one row each at least; where there are fewer they are repeated.

    Raises ValueError if a picture has none, or there is no picture.
    """
    counts = [part.shape[1] for part in rows]
    if min(counts, default=0) == 0:
        raise ValueError(f"pictures with {counts} patches cannot be references; each needs one at least")
    filled = [part[:, torch.arange(max(counts)) % part.shape[1]] for part in rows]
    return References(torch.stack(filled, dim=1), are_normal)


def sample_rows(tokens: Tensor, count: int, *, seed: int = 0, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Tokens (blocks, m, d) and positions (m, 2) of at most ``count`` patches of a picture, drawn at random.

    ``tokens`` are (blocks, h, w, d); of ``valid``, bool (h, w), only patches that are True are drawn.
    """
    height, width = tokens.shape[1:3]
    places = torch.arange(height * width) if valid is None else valid.flatten().nonzero()[:, 0]
    if len(places) > count:
        order = np.random.default_rng(seed).permutation(len(places))[:count]
        places = places[torch.from_numpy(np.sort(order))]
    return tokens.flatten(1, 2)[:, places], torch.stack([places // width, places % width], dim=1)


def own_distances(tokens: Tensor, *, valid: Tensor | None = None, seed: int = 0) -> Tensor:
    """Mean distances (3 * blocks, h, w) to the nearest 0.5, 10 and 30 % of the own picture outside 5 x 5 patches.

    ``tokens`` are (blocks, h, w, d). Of ``valid``, bool (h, w), only patches that are True are compared with: the table
    under a hide is none. Of a large picture 1,024 patches are drawn by the seed.
    """
    blocks, height, width, _ = tokens.shape
    rows, places = sample_rows(tokens, OWN_ROWS, seed=seed, valid=valid)
    near_row, near_column = (
        (torch.arange(n)[:, None] - places[:, axis]).abs() <= APART for axis, n in ((0, height), (1, width))
    )
    counts = [max(1, round(share * len(places))) for share in NEIGHBOURHOODS]
    means = torch.empty(blocks, len(counts), height * width)
    for block, references in enumerate(rows.float()):
        queries = tokens[block].flatten(0, 1)
        for part in torch.arange(height * width).split(QUERIES_AT_ONCE):
            distances = 1 - queries[part].float() @ references.T  # (queries, m)
            distances.masked_fill_(near_row[part // width] & near_column[part % width], 9)
            ordered = torch.from_numpy(np.sort(distances.numpy(), axis=1))  # faster here than torch's or the lowest k
            for number, count in enumerate(counts):
                means[block, number, part] = ordered[:, :count].mean(1)
    return means.clamp(0, 2).view(blocks * len(counts), height, width)
