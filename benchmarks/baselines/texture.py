"""Texture in numbers, without a network: local binary patterns, co-occurrence of grey levels, spectrum of the grain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from tqdm import tqdm

from src.data.pictures import load_image
from src.data.tables import picture_identities
from src.files import identity_of, read_kept, write_kept

NUMBERS = 288
TEXTURE_VERSION = 1  # raise it when the same picture no longer gives the same numbers
SIDE = 227  # pixels; pictures of another size are brought to it, or their grain would be measured at another scale
SMOOTHINGS = (0, 1, 2, 4)  # pixels of the Gaussian before the patterns: fine grain and noise, then coarser forms
PATTERNS = ((8, 1), (16, 2), (24, 3))  # neighbours and radius in pixels
DISTANCES = (1, 2, 4, 8)  # pixels
ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
PROPERTIES = ("contrast", "homogeneity", "energy", "correlation")
LEVELS = 32
RINGS = np.geomspace(2, SIDE // 2, 13)  # edges of 12 rings of the spectrum, in waves a picture
ILLUMINATION = 15.0  # pixels; what varies more slowly counts as light, not as grain


def texture_table(table: pd.DataFrame, *, cache: Path | None = None) -> pd.DataFrame:
    """Numbers of `texture_numbers` for every image, one row each, index ``file``; kept in the folder ``cache``."""
    file = cache and Path(cache) / f"texture_{identity_of(TEXTURE_VERSION, picture_identities(table))[:24]}.pt"
    values = read_kept(file, lambda kept: kept["numbers"].numpy().reshape(len(table), NUMBERS))
    if values is None:
        numbers = Parallel(-1, return_as="generator")(delayed(texture_numbers)(path) for path in table["path"])
        values = np.stack(list(tqdm(numbers, desc="texture", unit="img", total=len(table))))
        write_kept({"numbers": torch.from_numpy(values)}, file)
    return pd.DataFrame(values, index=table["file"].to_list()).add_prefix("texture_")


def texture_numbers(path: str) -> np.ndarray:
    """288 numbers that know a picture's grain and not its colour: patterns, co-occurrence, spectrum; float, (288,).

    216 numbers are histograms (square roots) of uniform local binary patterns of grey at four smoothings; 48 are the
    mean, deviation and range over angles of co-occurrence properties of the grain, see `grain_of`; 24 are logarithms of
    the rings of its spectrum, absolute and as shares.

    Source: Ojala et al., IEEE TPAMI 2002 (patterns); Haralick et al., IEEE SMC 1973 (co-occurrence).
    """
    grey = _grey(path)
    grain = _grain(grey)
    return np.concatenate([_patterns(grey), _together(grain), _spectrum(grain)])


def grain_of(path: str) -> np.ndarray:
    """A picture as grey at 227 x 227 px, less and over its slow changes of light: float32, (227, 227), about 0."""
    return _grain(_grey(path))


def _grain(grey: np.ndarray) -> np.ndarray:
    light = gaussian_filter(grey, ILLUMINATION)
    return (grey - light) / (light + 8)  # 8 grey levels: black has no grain to divide by


def _grey(path: str) -> np.ndarray:
    grey = load_image(path).convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)


def _patterns(grey: np.ndarray) -> np.ndarray:
    histograms = []
    for smoothing in SMOOTHINGS:
        # Eighths of a grey level once smoothed; patterns of smaller steps would be those of rounding.
        values = np.int32(gaussian_filter(grey, smoothing) * 8 if smoothing else grey)
        for neighbours, radius in PATTERNS:
            codes = local_binary_pattern(values, neighbours, radius, "uniform").astype(int)
            histograms.append(np.sqrt(np.bincount(codes.ravel(), minlength=neighbours + 2) / codes.size))
    return np.concatenate(histograms)


def _together(grain: np.ndarray) -> np.ndarray:
    steps = np.clip(grain / max(float(grain.std()), 1e-6) * LEVELS / 4 + LEVELS / 2, 0, LEVELS - 1).astype(np.uint8)
    matrices = graycomatrix(steps, DISTANCES, ANGLES, LEVELS, symmetric=True, normed=True)
    numbers = []
    for name in PROPERTIES:
        values = graycoprops(matrices, name)  # (distances, angles)
        numbers += [values.mean(1), values.std(1), np.ptp(values, axis=1)]
    return np.concatenate(numbers)


def _spectrum(grain: np.ndarray) -> np.ndarray:
    window = np.hanning(SIDE)
    power = np.abs(np.fft.fftshift(np.fft.fft2(grain * window * window[:, None]))) ** 2
    rows, columns = np.indices(power.shape) - SIDE // 2
    ring = np.digitize(np.hypot(rows, columns), RINGS)
    means = np.array([power[ring == i].mean() for i in range(1, len(RINGS))])
    return np.log(np.concatenate([means, means / max(means.sum(), 1e-6)]) + 1e-6)
