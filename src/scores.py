"""Anomaly scores from features. Higher is always more anomalous."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_anomaly_scores(features: Tensor, bank: Tensor, *, block: int = 4096) -> Tensor:
    """1 - the highest cosine (n,), in [0, 2], of each image's features (n, d) to the normal ones (m >= 1, d).

    Higher is more anomalous, an image of the bank scores 0, lengths do not matter. So many images as ``block`` are
    compared at a time, in about 4 * block * m bytes; half precision is computed in float32. Raises ValueError, with
    both shapes, if the widths differ or the bank is empty.
    """
    if bank.ndim != 2 or len(bank) == 0 or features.ndim != 2 or features.shape[1] != bank.shape[1]:
        raise ValueError(
            f"features of shape {tuple(features.shape)} do not fit a bank of shape {tuple(bank.shape)}: "
            "expected (n, d) and (m, d) with m >= 1"
        )
    precision = torch.promote_types(features.dtype, torch.float32)
    images, normals = (F.normalize(each.to(precision), dim=1) for each in (features, bank))
    highest = [_products(part, normals).amax(1) for part in images.split(block)]
    # Rounding leaves an exact copy about 1e-6 away from 1; a copy scores 0.
    distance = (1 - torch.cat(highest)).clamp(0, 2)
    return torch.where(distance < 4e-6, torch.zeros_like(distance), distance).to(features.dtype)


def _products(features: Tensor, bank: Tensor) -> Tensor:
    """Cosines (n, m) of unit rows. Their last bits depend on the processor and on the shapes."""
    return features @ bank.T


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
