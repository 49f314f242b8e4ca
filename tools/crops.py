"""What the shipped backbone learns: crops of surfaces, half with a painted defect, and the teacher's tokens of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import average_precision_score
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from tqdm import tqdm

from src.data.pictures import is_picture, load_image
from src.synthetic.leather import render_leather
from src.synthetic.painter import add_defect


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the shipped weights."""

    teacher_blocks: tuple[int, ...] = (3, 5, 6, 7)  # 5 to 7 localise; 3 keeps the way there short
    rounds: tuple[tuple[int, int], ...] = ((112, 17), (224, 9), (448, 2))  # (crop in pixels, rounds)
    patches_per_round: int = 2048 * 49  # tokens: a round of larger crops has fewer of them
    reuse: int = 4  # times a round's crops are learned; the teacher looks once
    batch_patches: int = 64 * 49
    learning_rate: float = 6e-4
    summary_weight: float = 0.1  # of the class token's summary loss
    weight_decay: float = 0.02
    defect_share: float = 0.5
    crop_share: tuple[float, float] = (0.2, 1.0)  # side of a crop, of the picture's shorter side
    variance_floor: float = 0.1  # of the mean variance: dimensions with less are not blown up to it
    held_out: int = 48  # pictures kept for validation
    generated: int = 300  # procedural leather pictures beside the photographs
    seed: int = 0


def collect_pictures(folders: list[Path], recipe: Recipe) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Training and validation pictures, uint8 (h, w, 3): photographs, scikit-image's textures, generated leather."""
    photographs = []
    for folder in folders:
        files = sorted(filter(is_picture, Path(folder).rglob("*")))
        if not files:
            raise FileNotFoundError(f"no images below {folder}; give --textures a folder of leather pictures")
        photographs += [np.asarray(load_image(p)) for p in tqdm(files, desc=f"reading {Path(folder).name}")]
    generator = np.random.default_rng(recipe.seed)
    shuffled = [photographs[i] for i in generator.permutation(len(photographs))]
    validation, train = shuffled[: recipe.held_out], shuffled[recipe.held_out :]
    for texture in (skimage.data.brick(), skimage.data.grass(), skimage.data.gravel()):
        train += [np.repeat(texture[..., None], 3, axis=2)] * 5
    seeds = np.random.SeedSequence(recipe.seed).spawn(recipe.generated)
    train += [render_leather(np.random.default_rng(s), 256) for s in tqdm(seeds, desc="generating leather")]
    return train, validation


def draw_crop(pictures: list[np.ndarray], size: int, generator: np.random.Generator, recipe: Recipe) -> np.ndarray:
    """A random crop, uint8 (size, size, 3): zoomed, turned, re-coloured, and half of the time with a defect."""
    picture = pictures[generator.integers(len(pictures))]
    shorter = min(picture.shape[:2])
    low, high = np.log(recipe.crop_share)
    if size > 224:
        low = high / 2  # a large crop of few pixels would be blur
    side = max(48, round(shorter * math.exp(generator.uniform(low, high))))
    top, left = (int(generator.integers(0, extent - side + 1)) for extent in picture.shape[:2])
    crop = Image.fromarray(picture[top : top + side, left : left + side]).resize((size, size), Image.BICUBIC)
    crop = np.rot90(np.asarray(crop), generator.integers(4))
    crop = crop[:, ::-1] if generator.random() < 0.5 else crop
    crop = _recolour(crop, generator)
    if generator.random() < recipe.defect_share:
        crop, _ = add_defect(crop, generator)
    return crop


def _recolour(crop: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Random tint, contrast and brightness: leather of any colour, grey photographs included."""
    grey = crop.mean(axis=2, keepdims=True)
    saturation = generator.uniform(0, 1.3)
    tint = 1 + generator.normal(0, 0.25, 3) * (generator.random() < 0.6)
    values = grey + saturation * (crop - grey)
    values = (values - values.mean()) * generator.uniform(0.6, 1.4) + values.mean() * generator.uniform(0.6, 1.3)
    return np.ascontiguousarray(np.clip(np.rint(values * tint), 0, 255).astype(np.uint8))


def to_tensor(crops: list[np.ndarray] | np.ndarray, size: tuple[int, int], model: nn.Module) -> Tensor:
    """Pictures resized to (height, width) and normalised as the model wants them: float (n, 3, height, width)."""
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    if images.shape[-2:] != size:
        images = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
    data = resolve_model_data_config(model)
    mean, std = (torch.tensor(data[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (images - mean) / std


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
        flawed, mask = add_defect(np.ascontiguousarray(picture[:, half : 2 * half]), generator)
        images = to_tensor([picture[:, :half], flawed], (28 * patch, 14 * patch), model)
        for block, tokens in zip(blocks, tokens_after(model, images, blocks), strict=True):
            normal, tested = F.normalize(tokens[:, 1:], dim=-1)
            scores = (1 - (tested @ normal.T).amax(1)).view(1, 1, 28, 14)
            scores = F.interpolate(scores, mask.shape, mode="bilinear")
            precisions[block].append(average_precision_score(mask.ravel(), scores.ravel()))
    return {block: float(np.mean(values)) for block, values in precisions.items()}
