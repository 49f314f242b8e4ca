"""Makes the small backbone that ships with the project: a ViT-Ti/16 distilled from a DINOv2 ViT-S/14.

``python -m tools.distill --teacher FILE --textures FOLDER [FOLDER ...]`` runs it, resumes it and exports it. The
student starts from the teacher's projected blocks (`student_init`) and learns the teacher's tokens after blocks 3, 5, 6
and 7, class token included, on crops of leather and other surfaces, half of them with a painted defect. Crops grow
from 112 to 224 to 448 px. None of the pictures that the project measures itself on is used.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from tqdm import tqdm

from src.backbone.vit import load_backbone
from src.config import paths
from src.files import file_digest, load_tensors, save_tensors, whole_file
from tools.crops import (
    Recipe,
    collect_pictures,
    draw_crop,
    project,
    summarise,
    synthetic_localisation,
    to_tensor,
    tokens_after,
)
from tools.student_init import initialise_student, last_student_block

log = logging.getLogger(__name__)

STUDENT = "vit_tiny_patch16_224"
TEACHER = "vit_small_patch14_dinov2"
PATCH = 16  # the student's; the teacher sees the same crop at 14 px a patch, so that the grids agree
TEACHER_PATCH = 14
PARTS = ("student", "summary_head", "optimizer")  # of a state
START_CROPS = 800  # of 112 px, 49 patches each, for the closed-form start


def load_teacher(file: Path) -> nn.Module:
    return load_backbone(TEACHER, str(file)).network.eval().requires_grad_(False)


def new_student(seed: int) -> tuple[nn.Module, nn.Linear]:
    """The student and its summary head with random weights."""
    torch.manual_seed(seed)
    student = timm.create_model(STUDENT, num_classes=0, dynamic_img_size=True)
    for block in student.blocks:
        block.attn.fused_attn = False  # on a CPU the fused kernel is the slower one to train
    return student, nn.Linear(student.embed_dim, 5 * student.embed_dim)


@dataclass(frozen=True)
class Scale:
    """The teacher's tokens in the student's coordinates, and their spread."""

    projection: Tensor  # (student width, teacher width)
    deviations: Tensor  # (blocks, student width)
    summary_mean: Tensor  # (5 * student width,)
    summary_deviation: Tensor


class Distillation:
    """Teacher, student, targets and optimiser; one `run_round` at a time, so that it can stop and go on anywhere."""

    def __init__(
        self, teacher: nn.Module, student: nn.Module, head: nn.Linear, scale: Scale, pictures: list, recipe: Recipe
    ) -> None:
        self.teacher, self.student, self.summary_head, self.scale = teacher, student, head, scale
        self.recipe, self.pictures, self.done = recipe, pictures, 0
        self.blocks = [last_student_block(b) for b in recipe.teacher_blocks]
        parameters = [*student.parameters(), *head.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.schedule = [size for size, rounds in recipe.rounds for _ in range(rounds)]

    @classmethod
    def start(cls, teacher_file: Path, pictures: list[np.ndarray], recipe: Recipe) -> Distillation:
        """From the closed-form student, with the projection of the teacher's tokens and their spread by dimension."""
        teacher, (student, head) = load_teacher(teacher_file), new_student(recipe.seed)
        generator = np.random.default_rng([recipe.seed, 2**31])
        crops = [draw_crop(pictures, 112, generator, recipe) for _ in range(START_CROPS)]
        teacher_images = to_tensor(crops, (7 * TEACHER_PATCH,) * 2, teacher)
        projection = initialise_student(student, teacher, to_tensor(crops, (112, 112), student), teacher_images)
        targets = project(teacher, teacher_images, projection, recipe.teacher_blocks)
        variances = torch.stack([t.flatten(0, 1).var(0) for t in targets])  # (blocks, d)
        floor, summaries = recipe.variance_floor * variances.mean(1, keepdim=True), summarise(targets)
        scale = Scale(projection, (variances + floor).sqrt(), summaries.mean(0), summaries.std(0))
        return cls(teacher, student, head, scale, pictures, recipe)

    @classmethod
    def resume(cls, state: Path, teacher_file: Path, pictures: list[np.ndarray], recipe: Recipe) -> Distillation:
        """From the state that `save` wrote; ValueError if it was made by another recipe."""
        content = load_tensors(state)
        if json.loads(content["recipe"]) != json.loads(json.dumps(asdict(recipe))):
            raise ValueError(f"{state} was made by another recipe; remove it to start anew, or use its settings")
        networks = load_teacher(teacher_file), *new_student(recipe.seed)
        distillation = cls(*networks, Scale(**content["scale"]), pictures, recipe)
        for name in PARTS:
            getattr(distillation, name).load_state_dict(content[name])
        distillation.done = content["done"]
        return distillation

    def run_round(self) -> dict[str, float]:
        """Draws crops, asks the teacher once, learns them ``reuse`` times. Returns the mean loss and the rate."""
        recipe, size = self.recipe, self.schedule[self.done]
        generator = np.random.default_rng([recipe.seed, self.done])
        grid = size // PATCH
        batch = max(2, recipe.batch_patches // grid**2)
        count = max(batch, recipe.patches_per_round // grid**2)
        crops = np.stack([draw_crop(self.pictures, size, generator, recipe) for _ in range(count)])
        parts = np.array_split(crops, math.ceil(count / batch))
        images = (to_tensor(part, (grid * TEACHER_PATCH,) * 2, self.teacher) for part in parts)
        targets = [project(self.teacher, each, self.scale.projection, recipe.teacher_blocks) for each in images]
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
                losses.append(self.step(images, [t[rows].float() for t in targets]))
        self.done += 1
        token_loss, summary_loss = np.mean(losses, axis=0)
        return {"token_loss": float(token_loss), "summary_loss": float(summary_loss), "learning_rate": rate}

    def step(self, images: Tensor, targets: list[Tensor]) -> tuple[float, float]:
        """One step of the optimiser; the losses of tokens and of the summary."""
        self.student.train()
        outputs = tokens_after(self.student, images, self.blocks)
        summary = self.summary_head(self.student.norm(outputs[-1][:, 0]))
        outputs[-1], last = outputs[-1][:, 1:], targets[-1][:, 1:]  # the last class token is free to summarise
        token_loss = sum(
            F.smooth_l1_loss(tokens / deviation, target / deviation)
            for tokens, target, deviation in zip(outputs, [*targets[:-1], last], self.scale.deviations, strict=True)
        ) / len(targets)
        wanted = (summarise(targets) - self.scale.summary_mean) / self.scale.summary_deviation
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
        content = {name: getattr(self, name).state_dict() for name in PARTS}
        about = {"done": self.done, "recipe": json.dumps(asdict(self.recipe)), "scale": vars(self.scale)}
        save_tensors(content | about, path)


def export(distillation: Distillation, path: Path, *, sources: str, scores: dict[int, float]) -> None:
    """The student as float16 safetensors with its recipe in the file's metadata, written whole or not at all."""
    best = max(scores, key=scores.get)
    data = resolve_model_data_config(distillation.student)
    metadata = {"architecture": STUDENT, "format": "pt", "teacher": f"{TEACHER} (DINOv2, Apache-2.0)", "data": sources}
    metadata |= {"mean": json.dumps(data["mean"]), "std": json.dumps(data["std"]), "best_block": str(best)}
    metadata |= {"date": datetime.date.today().isoformat(), "rounds_done": str(distillation.done)}
    metadata["recipe"] = json.dumps(asdict(distillation.recipe))
    metadata["synthetic_average_precision"] = json.dumps({str(k): round(v, 4) for k, v in scores.items()})
    weights = {k: v.half().contiguous() for k, v in distillation.student.state_dict().items()}
    with whole_file(path) as stream:
        stream.write(save(weights, metadata=metadata))
    (path.parent / "SHA256SUMS").write_text(f"{file_digest(path)}  {path.name}\n", encoding="utf-8")


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
    state = options.work / "state.pt"
    if state.is_file():
        distillation = Distillation.resume(state, options.teacher, train, recipe)
    else:
        distillation = Distillation.start(options.teacher, train, recipe)
    sources = f"{len(train)} pictures: {', '.join(f.name for f in options.textures)}, scikit-image, generated leather"
    last = min(options.rounds or len(distillation.schedule), len(distillation.schedule))
    with tqdm(total=last, initial=distillation.done, desc="rounds") as bar:
        while distillation.done < last:
            if distillation.done % options.evaluate_every == 0:
                evaluate(distillation, validation)
            log.info("round %d: %s", distillation.done, result := distillation.run_round())
            distillation.save(state)
            bar.update()
            bar.set_postfix(result)
    scores = evaluate(distillation, validation)
    export(distillation, options.output, sources=sources, scores=scores)
    log.info("wrote %s", options.output)


def evaluate(distillation: Distillation, pictures: list[np.ndarray]) -> dict[int, float]:
    """Average precision on painted defects by student block, also logged."""
    distillation.student.eval()
    scores = synthetic_localisation(distillation.student, pictures, patch=PATCH, blocks=list(range(12)))
    log.info("round %d: %s", distillation.done, {b: round(v, 3) for b, v in scores.items()})
    return scores


if __name__ == "__main__":
    main()
