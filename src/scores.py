"""Anomaly scores from features, and anomaly maps from patch tokens. Higher is always more anomalous."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_anomaly_scores(features: Tensor, bank: Tensor) -> Tensor:
    """Distance (n,) in [0, 2] of each image (n, d) to the nearest of the normal ones (m, d); higher is more anomalous.

    Lengths do not matter; an image of the bank scores 0. Raises ValueError as `nearest_cosine_distance`.
    """
    return nearest_cosine_distance(features, bank)


def confidence_anomaly_scores(probabilities: Tensor, normal_index: int) -> Tensor:
    """1 - p(normal) (n,) in [0, 1] of class probabilities (n, classes); higher is more anomalous."""
    return 1 - probabilities[:, normal_index]


def hybrid_anomaly_scores(similarity: Tensor, classification: Tensor, *, similarity_weight: float = 0.7) -> Tensor:
    """The published mix (n,), in [0, 2], of cosine scores (n,) and confidence scores (n,).

    Raises ValueError if the weight of the cosine scores lies outside [0, 1] or the shapes differ.
    """
    if not 0 <= similarity_weight <= 1:
        raise ValueError(f"similarity_weight is {similarity_weight}; expected 0 to 1")
    if similarity.shape != classification.shape:
        raise ValueError(f"scores of shape {tuple(similarity.shape)} and {tuple(classification.shape)} differ")
    return similarity_weight * similarity + (1 - similarity_weight) * classification


def nearest_cosine_distance(
    queries: Tensor, bank: Tensor, *, neighbours: int = 1, block: int = 4096, normalise: bool = True
) -> Tensor:
    """1 - the mean of the highest cosines between each query and rows of the bank, by blocked matrix products.

    Args:
        queries: Shape (n, d). Need not be unit length.
        bank: Shape (m, d), m >= 1.
        neighbours: Highest cosines that are averaged; all if the bank has fewer rows.
        block: Queries compared at a time; memory is about 4 * block * m bytes.
        normalise: False if the rows of both are of unit length already.

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
    queries, bank, given = queries.to(precision), bank.to(precision), queries.dtype
    if normalise:
        queries, bank = F.normalize(queries, dim=1), F.normalize(bank, dim=1)
    count = min(neighbours, len(bank))
    cosines = (_products(part, bank) for part in queries.split(block))
    best = [part.amax(1) if count == 1 else part.topk(count, dim=1).values.mean(1) for part in cosines]
    # Rounding leaves an exact copy about 1e-6 away from 1; a copy scores 0.
    distance = (1 - torch.cat(best)).clamp(0, 2)
    return torch.where(distance < 4e-6, torch.zeros_like(distance), distance).to(given)


def _products(queries: Tensor, bank: Tensor) -> Tensor:
    """Cosines (n, m) of unit rows. Their last bits depend on the processor and on the shapes."""
    return queries @ bank.T
