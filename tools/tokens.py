"""Tokens of teacher and student, and how well they find painted defects."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from src.synthetic.defects import add_synthetic_defect
from tools.crops import to_tensor


def tokens_after(model: nn.Module, images: Tensor, blocks: list[int]) -> list[Tensor]:
    """All tokens after the given blocks, class token first, each of shape (n, 1 + patches, width)."""
    of_blocks = model.forward_intermediates(
        images, indices=blocks, intermediates_only=True, return_prefix_tokens=True, output_fmt="NLC", stop_early=True
    )
    return [torch.cat([prefix, patches], dim=1) for patches, prefix in of_blocks]


def summarise(targets: list[Tensor]) -> Tensor:
    """What a class token should know of a picture: the teacher's class token after the last wanted block, mean and
    deviation over the patches after that block and after an earlier one. Shape (n, 5 * width).
    """
    early, late = targets[1][:, 1:], targets[-1][:, 1:]
    return torch.cat([targets[-1][:, 0], early.mean(1), early.std(1), late.mean(1), late.std(1)], dim=1)


@torch.inference_mode()
def project(teacher: nn.Module, images: Tensor, projection: Tensor, blocks: tuple[int, ...]) -> list[Tensor]:
    """The teacher's tokens in the student's coordinates, by block: (n, 1 + patches, student width)."""
    return [tokens @ projection.T for tokens in tokens_after(teacher, images, list(blocks))]


@torch.inference_mode()
def synthetic_localisation(
    model: nn.Module, pictures: list[np.ndarray], *, patch: int, blocks: list[int], seed: int = 5
) -> dict[int, float]:
    """How well patch tokens find painted defects: mean pixel average precision, by block, in [0, 1].

    The left half of a picture is the normal bank; a defect is painted on the right half, whose patches are scored by
    cosine distance to their nearest neighbour in the bank. No defect of any real data set is involved.
    """
    precisions: dict[int, list[float]] = {block: [] for block in blocks}
    for number, picture in enumerate(pictures):
        half = picture.shape[1] // 2
        generator = np.random.default_rng([seed, number])
        flawed, mask = add_synthetic_defect(np.ascontiguousarray(picture[:, half : 2 * half]), generator)
        images = to_tensor([picture[:, :half], flawed], (28 * patch, 14 * patch), model)
        for block, tokens in zip(blocks, tokens_after(model, images, blocks), strict=True):
            normal, tested = F.normalize(tokens[:, 1:], dim=-1)
            scores = (1 - (tested @ normal.T).amax(1)).view(1, 1, 28, 14)
            scores = F.interpolate(scores, mask.shape, mode="bilinear")
            precisions[block].append(average_precision_score(mask.ravel(), scores.ravel()))
    return {block: float(np.mean(values)) for block, values in precisions.items()}
