"""Distillation at tiny settings: crops, targets, rounds that stop and go on, and the exported file."""

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open

from tests.tools.test_student_init import STUDENT, TEACHER, random_student, random_teacher, textures
from tools import crops, distill
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
from tools.distill import Distillation, export

RECIPE = Recipe(rounds=((112, 2), (224, 1)), patches_per_round=8 * 49, batch_patches=4 * 49, reuse=2)


@pytest.fixture
def small(monkeypatch):
    """Both networks narrow, the teacher at random weights, and fewer crops to start from."""
    monkeypatch.setattr(distill, "load_backbone", lambda name, _: SimpleNamespace(network=random_teacher()))
    monkeypatch.setattr(distill, "timm", SimpleNamespace(create_model=lambda name, **_: random_student()))
    monkeypatch.setattr(distill, "START_CROPS", 40)


def start(recipe=RECIPE):
    return Distillation.start("teacher.safetensors", textures(), recipe)


# -- pictures -------------------------------------------------------------------------------------------


def test_crops_are_of_the_size_asked_and_deterministic():
    pictures = textures()
    for size in (112, 224, 448):
        first, again, other = (draw_crop(pictures, size, np.random.default_rng(s), Recipe()) for s in (1, 1, 2))
        assert first.shape == (size, size, 3) and first.dtype == np.uint8
        assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert all(np.array_equal(a, b) for a, b in zip(pictures, textures(), strict=True))  # not painted on


def test_defects_are_painted_on_their_share_of_crops():
    pictures, plain, flawed = textures(), Recipe(defect_share=0.0), Recipe(defect_share=1.0)
    pairs = [[draw_crop(pictures, 112, np.random.default_rng(s), recipe) for recipe in (plain, flawed)] for s in (1, 2)]
    for clean, painted in pairs:
        share = (clean != painted).any(2).mean()
        assert 0 < share < 0.3


def test_pictures_are_shared_out_and_never_twice(tmp_path):
    for number in range(8):
        Image.new("RGB", (60, 60), (number, number, number)).save(tmp_path / f"{number}.png")
    recipe = Recipe(held_out=3, generated=2)
    train, validation = collect_pictures([tmp_path], recipe)
    shades = [int(picture[0, 0, 0]) for picture in (*validation, *train[:5])]
    assert len(validation) == 3 and sorted(shades) == list(range(8))
    assert len(train) == 5 + 3 * 5 + 2  # photographs, three textures of scikit-image five times, generated ones
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in train)
    again, _ = collect_pictures([tmp_path], recipe)
    assert all(np.array_equal(a, b) for a, b in zip(train, again, strict=True))


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="empty"):
        collect_pictures([tmp_path / "empty"], Recipe())


# -- tokens ---------------------------------------------------------------------------------------------


def test_to_tensor_by_hand():
    pictures = np.full((2, 28, 28, 3), (255, 0, 51), np.uint8)
    tensor = to_tensor(pictures, (32, 16), random_student())  # mean and deviation 0.5
    assert tensor.shape == (2, 3, 32, 16)
    wanted = torch.tensor([1.0, -1.0, -0.6]).view(3, 1, 1).expand(2, 3, 32, 16)
    torch.testing.assert_close(tensor, wanted)


def test_tokens_stand_class_token_first():
    student, images = random_student(), torch.randn(2, 3, 32, 48)
    outputs = tokens_after(student, images, [0, 2])
    with torch.no_grad():
        stream = student._pos_embed(student.patch_embed(images))
        for number, block in enumerate(student.blocks[:3]):
            stream = block(stream)
            if number != 1:
                torch.testing.assert_close(outputs[number // 2], stream)
    assert outputs[0].shape == (2, 1 + 2 * 3, 64)


def test_summary_by_hand():
    generator = torch.Generator().manual_seed(0)
    targets = [torch.randn(3, 5, 2, generator=generator) for _ in range(4)]
    summary = summarise(targets)
    assert summary.shape == (3, 10)
    torch.testing.assert_close(summary[1, :2], targets[3][1, 0])
    torch.testing.assert_close(summary[1, 2:4], targets[1][1, 1:].mean(0))
    torch.testing.assert_close(summary[1, 8:], targets[3][1, 1:].std(0))


# -- rounds ---------------------------------------------------------------------------------------------


def test_steps_lower_both_losses(small):
    distillation = start(dataclasses.replace(RECIPE, learning_rate=1e-3))
    distillation.student.load_state_dict(random_student().state_dict())  # from noise there is much to learn
    crops = [draw_crop(textures(), 112, np.random.default_rng(seed), RECIPE) for seed in range(8)]
    teacher_images = to_tensor(crops, (98, 98), distillation.teacher)
    targets = project(distillation.teacher, teacher_images, distillation.scale.projection, RECIPE.teacher_blocks)
    images = to_tensor(crops, (112, 112), distillation.student)
    losses = np.array([distillation.step(images, targets) for _ in range(8)])
    assert (losses[-1] < 0.9 * losses[0]).all(), losses


def test_the_rate_warms_up_and_falls(small):
    distillation = start(dataclasses.replace(RECIPE, rounds=((112, 4),), reuse=1))
    rates = [distillation.run_round()["learning_rate"] for _ in range(4)]
    assert 0 < rates[0] < rates[1] <= Recipe().learning_rate and rates[1] > rates[2] > rates[3] > 0
    assert distillation.done == 4


def test_stopped_and_resumed_is_as_uninterrupted(small, tmp_path):
    straight = start()
    wanted = [straight.run_round() for _ in range(3)]
    stopped = start()
    first = stopped.run_round()
    stopped.save(tmp_path / "state.pt")
    resumed = Distillation.resume(tmp_path / "state.pt", "teacher.safetensors", textures(), RECIPE)
    assert [first, resumed.run_round(), resumed.run_round()] == wanted
    for name, tensor in straight.student.state_dict().items():
        assert torch.equal(resumed.student.state_dict()[name], tensor), name
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_another_recipe_is_refused(small, tmp_path):
    start().save(tmp_path / "state.pt")
    other = dataclasses.replace(RECIPE, seed=1)
    with pytest.raises(ValueError, match=r"state\.pt was made by another recipe"):
        Distillation.resume(tmp_path / "state.pt", "teacher.safetensors", textures(), other)


def test_a_loss_that_is_not_finite_stops(small):
    distillation = start()
    with torch.no_grad():
        distillation.student.blocks[0].mlp.fc1.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="round 0"):
        distillation.run_round()


# -- result ---------------------------------------------------------------------------------------------


def test_localisation_is_a_share(small):
    precision = synthetic_localisation(random_student(), textures()[:2], patch=16, blocks=[0, 3])
    assert list(precision) == [0, 3] and all(0 <= value <= 1 for value in precision.values())
    again = synthetic_localisation(random_student(), textures()[:2], patch=16, blocks=[0, 3])
    assert set(again) == set(precision)


def test_localisation_rewards_tokens_that_see_the_defect(monkeypatch):
    """Tokens that are the patches' colours find painted defects better than tokens of noise."""
    pictures = [np.full((128, 128, 3), shade, np.uint8) for shade in (90, 120, 150, 180)]

    def colours(_, images, blocks):
        patches = F.avg_pool2d(images, 16).flatten(2).transpose(1, 2)  # (2, 28 * 14, 3)
        padded = F.pad(patches, (0, 1, 1, 0), value=1)  # a class token first; a constant, so that shade turns them
        return [padded] * len(blocks)

    def noise(_, images, blocks):
        return [torch.randn(2, 1 + 28 * 14, 3, generator=torch.Generator().manual_seed(0))] * len(blocks)

    precision = {}
    for name, stand_in in (("colours", colours), ("noise", noise)):
        monkeypatch.setattr(crops, "tokens_after", stand_in)
        precision[name] = synthetic_localisation(random_student(), pictures, patch=16, blocks=[7])[7]
    assert precision["colours"] > 0.3 > precision["noise"] >= 0


def test_the_exported_file_says_what_it_is(small, tmp_path):
    distillation = start()
    distillation.done = 3
    path = tmp_path / "deep" / "student.safetensors"
    export(distillation, path, sources="3 pictures", scores={5: 0.25, 7: 0.5, 9: 0.123456})
    assert sorted(file.name for file in path.parent.iterdir()) == ["SHA256SUMS", "student.safetensors"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (path.parent / "SHA256SUMS").read_text() == f"{digest}  student.safetensors\n"
    with safe_open(path, framework="pt") as content:
        metadata, tensor = content.metadata(), content.get_tensor("blocks.0.attn.qkv.weight")
    assert metadata["best_block"] == "7" and metadata["rounds_done"] == "3" and metadata["data"] == "3 pictures"
    assert json.loads(metadata["mean"]) == json.loads(metadata["std"]) == [0.5, 0.5, 0.5]
    assert json.loads(metadata["recipe"])["patches_per_round"] == 8 * 49
    assert json.loads(metadata["synthetic_average_precision"]) == {"5": 0.25, "7": 0.5, "9": 0.1235}
    assert metadata["architecture"] == STUDENT and TEACHER in metadata["teacher"] and len(metadata["date"]) == 10
    assert tensor.dtype == torch.float16
    torch.testing.assert_close(tensor, distillation.student.blocks[0].attn.qkv.weight.detach().half())
