"""Makes the small backbone that ships with the project: a ViT-Ti/16 distilled from a DINOv2 ViT-S/14.

``python -m tools.distill --teacher FILE --textures FOLDER [FOLDER ...]`` runs it, resumes it and exports it. The
student starts from the teacher's projected blocks (`student_init`) and learns the teacher's tokens after blocks 3, 5, 6
and 7, class token included, on crops of leather and other surfaces, half of them with a painted defect. Crops grow
from 112 to 224 to 448 px. None of the pictures that the project measures itself on is used.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import skimage.data
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from src.config import paths
from src.data.pictures import IMAGE_SUFFIXES, load_image
from src.synthetic.defects import add_synthetic_defect
from tools.student_init import initialise_student, last_student_block

log = logging.getLogger(__name__)

STUDENT = "vit_tiny_patch16_224"
TEACHER = "vit_small_patch14_dinov2"
PATCH = 16  # the student's; the teacher sees the same crop at 14 px a patch, so that the grids agree
TEACHER_PATCH = 14
START_CROPS = 800  # of 112 px, 49 patches each, for the closed-form start


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
    """Training and validation pictures, uint8 (h, w, 3): photographs, scikit-image's textures, generated leather.

    Raises:
        FileNotFoundError: If a folder has no image.
    """
    from src.synthetic.leather import render_leather  # here: the sample generator is only needed to train

    photographs = []
    for folder in folders:
        files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise FileNotFoundError(f"no images below {folder}; give --textures a folder of leather pictures")
        photographs += [np.asarray(load_image(p)) for p in tqdm(files, desc=f"reading {Path(folder).name}")]
    generator = np.random.default_rng(recipe.seed)
    order = generator.permutation(len(photographs))
    validation = [photographs[i] for i in order[: recipe.held_out]]
    train = [photographs[i] for i in order[recipe.held_out :]]
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
        crop, _ = add_synthetic_defect(crop, generator)
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
    found = model.forward_intermediates(
        images, indices=blocks, intermediates_only=True, return_prefix_tokens=True, output_fmt="NLC", stop_early=True
    )
    return [torch.cat([prefix, patches], dim=1) for patches, prefix in found]


def summarise(targets: list[Tensor]) -> Tensor:
    """What a class token should know of a picture: the teacher's class token after the last wanted block, mean and
    deviation over the patches after that block and after an earlier one. Shape (n, 5 * width).
    """
    early, late = targets[1][:, 1:], targets[-1][:, 1:]
    return torch.cat([targets[-1][:, 0], early.mean(1), early.std(1), late.mean(1), late.std(1)], dim=1)


class Distillation:
    """Teacher, student, targets and optimiser; one `run_round` at a time, so that it can stop and go on anywhere."""

    def __init__(self, teacher_file: Path, pictures: list[np.ndarray], recipe: Recipe) -> None:
        self.recipe, self.pictures = recipe, pictures
        self.teacher = (
            timm.create_model(
                TEACHER,
                pretrained=True,
                num_classes=0,
                dynamic_img_size=True,
                pretrained_cfg_overlay={"file": str(teacher_file), "num_classes": 0},
            )
            .eval()
            .requires_grad_(False)
        )
        torch.manual_seed(recipe.seed)
        self.student = timm.create_model(STUDENT, num_classes=0, dynamic_img_size=True)
        for block in self.student.blocks:
            block.attn.fused_attn = False  # on a CPU the fused kernel is the slower one to train
        self.blocks = [last_student_block(b) for b in recipe.teacher_blocks]
        self.summary_head = nn.Linear(self.student.embed_dim, 5 * self.student.embed_dim)
        parameters = [*self.student.parameters(), *self.summary_head.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.schedule = [size for size, rounds in recipe.rounds for _ in range(rounds)]
        self.done = 0
        self.projection = self.deviations = self.summary_mean = self.summary_deviation = torch.empty(0)

    def start(self) -> None:
        """The closed-form student, the projection of the teacher's tokens, and their spread by dimension."""
        generator = np.random.default_rng([self.recipe.seed, 2**31])
        crops = [draw_crop(self.pictures, 112, generator, self.recipe) for _ in range(START_CROPS)]
        teacher_images = to_tensor(crops, (7 * TEACHER_PATCH,) * 2, self.teacher)
        student_images = to_tensor(crops, (112, 112), self.student)
        self.projection = initialise_student(self.student, self.teacher, student_images, teacher_images)
        targets = self.project(teacher_images)
        variances = torch.stack([t.flatten(0, 1).var(0) for t in targets])  # (blocks, d)
        floor = self.recipe.variance_floor * variances.mean(1, keepdim=True)
        self.deviations = (variances + floor).sqrt()
        summaries = summarise(targets)
        self.summary_mean, self.summary_deviation = summaries.mean(0), summaries.std(0)

    @torch.inference_mode()
    def project(self, teacher_images: Tensor) -> list[Tensor]:
        """The teacher's tokens in the student's coordinates, by block: (n, 1 + patches, student width)."""
        found = tokens_after(self.teacher, teacher_images, list(self.recipe.teacher_blocks))
        return [tokens @ self.projection.T for tokens in found]

    def run_round(self) -> dict[str, float]:
        """Draws crops, asks the teacher once, learns them ``reuse`` times. Returns the mean loss and the rate."""
        recipe, size = self.recipe, self.schedule[self.done]
        generator = np.random.default_rng([recipe.seed, self.done])
        grid = size // PATCH
        batch = max(2, recipe.batch_patches // grid**2)
        count = max(batch, recipe.patches_per_round // grid**2)
        crops = np.stack([draw_crop(self.pictures, size, generator, recipe) for _ in range(count)])
        targets = [
            self.project(to_tensor(part, (grid * TEACHER_PATCH,) * 2, self.teacher))
            for part in np.array_split(crops, math.ceil(count / batch))
        ]
        targets = [torch.cat(parts).half() for parts in zip(*targets, strict=True)]
        losses = []
        for step in range(recipe.reuse):
            share = (self.done + step / recipe.reuse) / len(self.schedule)
            warm = min(1.0, (0.2 + self.done) / 2)
            rate = recipe.learning_rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            for rows in np.array_split(generator.permutation(count), math.ceil(count / batch)):
                images = to_tensor(crops[rows], (size, size), self.student)
                losses.append(self._step(images, [t[rows].float() for t in targets]))
        self.done += 1
        token_loss, summary_loss = np.mean(losses, axis=0)
        return {"token_loss": float(token_loss), "summary_loss": float(summary_loss), "learning_rate": rate}

    def _step(self, images: Tensor, targets: list[Tensor]) -> tuple[float, float]:
        self.student.train()
        found = tokens_after(self.student, images, self.blocks)
        summary = self.summary_head(self.student.norm(found[-1][:, 0]))
        found[-1], last = found[-1][:, 1:], targets[-1][:, 1:]  # the last class token is free to summarise
        token_loss = sum(
            F.smooth_l1_loss(tokens / deviation, target / deviation)
            for tokens, target, deviation in zip(found, [*targets[:-1], last], self.deviations, strict=True)
        ) / len(targets)
        wanted = (summarise(targets) - self.summary_mean) / self.summary_deviation
        summary_loss = F.smooth_l1_loss(summary, wanted)
        loss = token_loss + self.recipe.summary_weight * summary_loss
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} in round {self.done}; the last state is kept")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        return token_loss.item(), summary_loss.item()

    def save(self, path: Path) -> None:
        state = {
            "student": self.student.state_dict(),
            "summary_head": self.summary_head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "done": self.done,
            "recipe": json.dumps(asdict(self.recipe)),
            "projection": self.projection,
            "deviations": self.deviations,
            "summary_mean": self.summary_mean,
            "summary_deviation": self.summary_deviation,
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        known = json.loads(json.dumps(asdict(self.recipe)))
        if json.loads(state["recipe"]) != known:
            raise ValueError(f"{path} was made by another recipe; remove it to start anew, or use its settings")
        self.student.load_state_dict(state["student"])
        self.summary_head.load_state_dict(state["summary_head"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("done", "projection", "deviations", "summary_mean", "summary_deviation"):
            setattr(self, name, state[name])


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


def export(distillation: Distillation, path: Path, *, sources: str, scores: dict[int, float]) -> None:
    """The student as float16 safetensors with its recipe in the file's metadata, written atomically."""
    best = max(scores, key=scores.get)
    data = resolve_model_data_config(distillation.student)
    metadata = {
        "architecture": STUDENT,
        "format": "pt",
        "mean": json.dumps(data["mean"]),
        "std": json.dumps(data["std"]),
        "teacher": f"{TEACHER} (DINOv2, Apache-2.0)",
        "recipe": json.dumps(asdict(distillation.recipe)),
        "rounds_done": str(distillation.done),
        "data": sources,
        "date": datetime.date.today().isoformat(),
        "best_block": str(best),
        "synthetic_average_precision": json.dumps({str(k): round(v, 4) for k, v in scores.items()}),
    }
    weights = {k: v.half().contiguous() for k, v in distillation.student.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(weights, part, metadata=metadata)
    part.chmod(0o644)
    part.replace(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "SHA256SUMS").write_text(f"{digest}  {path.name}\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.distill", description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help=f"weights file of timm's {TEACHER}")
    parser.add_argument("--textures", type=Path, nargs="+", required=True, help="folders of leather pictures")
    parser.add_argument("--work", type=Path, default=paths.models / "distillation", help="state, to resume from")
    parser.add_argument("--output", type=Path, default=paths.shipped_backbone)
    parser.add_argument("--rounds", type=int, help="stop after so many rounds in all (default: the whole recipe)")
    parser.add_argument("--evaluate-every", type=int, default=10, help="rounds between two evaluations")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    recipe = Recipe()
    train, validation = collect_pictures(options.textures, recipe)
    distillation = Distillation(options.teacher, train, recipe)
    options.work.mkdir(parents=True, exist_ok=True)
    state = options.work / "state.pt"
    if state.is_file():
        distillation.load(state)
        log.info("resumed after round %d", distillation.done)
    else:
        distillation.start()
    sources = f"{len(train)} pictures: {', '.join(f.name for f in options.textures)}, scikit-image, generated leather"
    writer = SummaryWriter(paths.logs / "distillation")
    last = min(options.rounds or len(distillation.schedule), len(distillation.schedule))
    blocks = list(range(12))
    with tqdm(total=last, initial=distillation.done, desc="rounds") as bar:
        while distillation.done < last:
            if distillation.done % options.evaluate_every == 0:
                evaluate(distillation, validation, blocks, writer)
            result = distillation.run_round()
            for name, value in result.items():
                writer.add_scalar(name, value, distillation.done)
            distillation.save(state)
            bar.update()
            bar.set_postfix(result)
    scores = evaluate(distillation, validation, blocks, writer)
    export(distillation, options.output, sources=sources, scores=scores)
    log.info("wrote %s", options.output)


def evaluate(
    distillation: Distillation, pictures: list[np.ndarray], blocks: list[int], writer: SummaryWriter
) -> dict[int, float]:
    """Average precision on painted defects by student block; logged and written to TensorBoard."""
    distillation.student.eval()
    scores = synthetic_localisation(distillation.student, pictures, patch=PATCH, blocks=blocks)
    for block, value in scores.items():
        writer.add_scalar(f"synthetic_average_precision/block_{block}", value, distillation.done)
    log.info("round %d: %s", distillation.done, {b: round(v, 3) for b, v in scores.items()})
    return scores


if __name__ == "__main__":
    main()
