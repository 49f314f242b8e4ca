"""Anomaly scores from features, and anomaly maps from patch tokens. Higher is always more anomalous."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur


def cosine_anomaly_scores(features: Tensor, bank: Tensor) -> Tensor:
    """Distance of each image to the nearest normal image, by cosine.

    Args:
        features: Embeddings to score, shape (n, d). Need not be unit length.
        bank: Embeddings of normal images, shape (m, d), m >= 1.

    Returns:
        Scores, shape (n,), in [0, 2], no unit. Higher is more anomalous; an image of the bank scores 0.

    Raises:
        ValueError: If the widths differ or the bank is empty; the message gives both shapes.
    """
    return nearest_cosine_distance(features, bank)


def confidence_anomaly_scores(probabilities: Tensor, normal_index: int) -> Tensor:
    """How little the classifier believes in the normal class.

    Args:
        probabilities: Class probabilities, shape (n, classes), rows summing to 1.
        normal_index: Column of the normal class.

    Returns:
        Scores 1 - p(normal), shape (n,), in [0, 1]. Higher is more anomalous.
    """
    return 1 - probabilities[:, normal_index]


def hybrid_anomaly_scores(similarity: Tensor, classification: Tensor, *, similarity_weight: float = 0.7) -> Tensor:
    """The published mix of both scores.

    Args:
        similarity: Cosine scores, shape (n,), in [0, 2].
        classification: Confidence scores, shape (n,), in [0, 1].
        similarity_weight: Share of the cosine score, in [0, 1]; the rest is the confidence score's.

    Returns:
        Scores, shape (n,), in [0, 2]. Higher is more anomalous.

    Raises:
        ValueError: If the weight lies outside [0, 1] or the shapes differ.
    """
    if not 0 <= similarity_weight <= 1:
        raise ValueError(f"similarity_weight is {similarity_weight}; expected 0 to 1")
    if similarity.shape != classification.shape:
        raise ValueError(f"scores of shape {tuple(similarity.shape)} and {tuple(classification.shape)} differ")
    return similarity_weight * similarity + (1 - similarity_weight) * classification


def nearest_cosine_distance(queries: Tensor, bank: Tensor, *, block: int = 4096) -> Tensor:
    """1 - the highest cosine between each query and any row of the bank, by blocked matrix products.

    Args:
        queries: Shape (n, d). Need not be unit length.
        bank: Shape (m, d), m >= 1.
        block: Queries compared at a time; memory is about 4 * block * m bytes.

    Returns:
        Distances, shape (n,), in [0, 2], of the queries' type; half precision is computed in float32.

    Raises:
        ValueError: If the widths differ or the bank is empty; the message gives both shapes.
    """
    if bank.ndim != 2 or len(bank) == 0 or queries.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise ValueError(
            f"queries of shape {tuple(queries.shape)} do not fit a bank of shape {tuple(bank.shape)}: "
            "expected (n, d) and (m, d) with m >= 1"
        )
    precision = torch.promote_types(queries.dtype, torch.float32)
    bank = F.normalize(bank.to(precision), dim=1)
    best = [(F.normalize(part.to(precision), dim=1) @ bank.T).amax(1) for part in queries.split(block)]
    # Rounding leaves an exact copy about 1e-6 away from 1; a copy scores 0.
    distance = (1 - torch.cat(best)).clamp(0, 2)
    return torch.where(distance < 4e-6, torch.zeros_like(distance), distance).to(queries.dtype)


def patch_anomaly_maps(tokens: Tensor, bank: Tensor) -> Tensor:
    """Distance of every patch to its nearest normal patch.

    Args:
        tokens: Patch tokens on their grid, shape (n, d, h, w), e.g. from `ViTMultiClassClassifier.patch_tokens`.
        bank: Patch tokens of normal images, shape (m, d).

    Returns:
        Maps, shape (n, h, w), in [0, 2]. Higher is more anomalous; a patch of the bank scores 0.

    Source:
        Memory bank of patch features: PatchCore (Roth et al., CVPR 2022); ViT tokens and cosine as in AnomalyDINO
        (Damm et al., WACV 2025). No coreset and no neighbourhood weights here.
    """
    n, d, h, w = tokens.shape
    flat = tokens.permute(0, 2, 3, 1).reshape(-1, d)  # (n h w, d)
    return nearest_cosine_distance(flat, bank).view(n, h, w)


def patch_bank(tokens: Tensor, *, limit: int = 20_000, seed: int = 0) -> Tensor:
    """Patch tokens of normal images as rows, at most ``limit`` of them, drawn at random.

    Args:
        tokens: Shape (n, d, h, w), of normal images only.
        limit: Most rows kept; bounds memory and time.
        seed: Of the draw.

    Returns:
        Shape (min(n h w, limit), d).
    """
    rows = tokens.permute(0, 2, 3, 1).reshape(-1, tokens.shape[1])
    if len(rows) <= limit:
        return rows
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:limit]
    return rows[chosen.sort().values]


def image_scores_from_maps(maps: Tensor, *, share: float = 0.01) -> Tensor:
    """Mean of the most anomalous patches of each map.

    Args:
        maps: Shape (n, h, w).
        share: Share of patches averaged, in (0, 1]; at least one.

    Returns:
        Scores, shape (n,). Higher is more anomalous.

    Raises:
        ValueError: If the share lies outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; expected above 0, at most 1")
    flat = maps.flatten(1)
    count = max(1, round(share * flat.shape[1]))
    return flat.topk(count, dim=1).values.mean(1)


def upsample_maps(maps: Tensor, size: tuple[int, int], *, sigma: float = 0.0) -> Tensor:
    """Maps at picture size, bilinear, optionally smoothed.

    Args:
        maps: Shape (n, h, w).
        size: (height, width) in pixels.
        sigma: Standard deviation of a Gaussian, in pixels of ``size``; 0 for none.

    Returns:
        Shape (n, height, width), in the range of the input.
    """
    large = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)
    if sigma > 0:
        large = gaussian_blur(large, 2 * round(3 * sigma) + 1, sigma)
    return large[:, 0]
