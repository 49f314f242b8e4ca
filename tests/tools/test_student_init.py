"""The closed-form student against a random teacher: projection, plan, and how much of the teacher it explains."""

import numpy as np
import pytest
import timm
import torch
from scipy.ndimage import gaussian_filter

from tools.crops import Recipe, draw_crop, to_tensor, tokens_after
from tools.student_init import PLAN, _behind_norm, initialise_student, last_student_block

TEACHER, STUDENT = "vit_small_patch14_dinov2", "vit_tiny_patch16_224"
WIDTH = 64


def random_teacher():
    """DINOv2's architecture, narrow; its weights are random, but large enough for every block to matter."""
    torch.manual_seed(0)
    teacher = timm.create_model(TEACHER, embed_dim=128, num_heads=2, depth=8, num_classes=0, dynamic_img_size=True)
    with torch.no_grad():
        for block in teacher.blocks:
            block.ls1.gamma.fill_(1)
            block.ls2.gamma.fill_(1)
            for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                layer.weight.mul_(3)
                layer.bias.normal_(0, 0.1)
            for norm in (block.norm1, block.norm2):
                norm.weight.uniform_(0.7, 1.3)
                norm.bias.normal_(0, 0.1)
    return teacher.eval().requires_grad_(False)


def random_student():
    return timm.create_model(STUDENT, embed_dim=WIDTH, num_heads=1, num_classes=0, dynamic_img_size=True).eval()


def textures():
    generator = np.random.default_rng(0)
    blurs = (1, 2, 4)
    noise = [2 * s * gaussian_filter(generator.normal(size=(128, 128, 3)), (s, s, 0)) for s in blurs]
    return [np.clip(128 + 60 * picture, 0, 255).astype(np.uint8) for picture in noise]


def images_of(count, seed, student, teacher):
    generator = np.random.default_rng(seed)
    crops = [draw_crop(textures(), 112, generator, Recipe()) for _ in range(count)]
    return to_tensor(crops, (112, 112), student), to_tensor(crops, (98, 98), teacher)


@pytest.fixture(scope="module")
def made():
    teacher, student = random_teacher(), random_student()
    projection = initialise_student(student, teacher, *images_of(40, 1, student, teacher))
    return teacher, student, projection


def explained(student, teacher, projection):
    """R2 of the teacher's projected patch tokens after each of its blocks, on pictures that were not fitted."""
    student_images, teacher_images = images_of(16, 2, student, teacher)
    with torch.no_grad():
        wanted = tokens_after(teacher, teacher_images, list(range(8)))
        outputs = tokens_after(student, student_images, [last_student_block(block) for block in range(8)])
    values = []
    for target, tokens in zip(wanted, outputs, strict=True):
        target, tokens = (target @ projection.T)[:, 1:], tokens[:, 1:]
        spread = (target - target.mean((0, 1))).square().sum()  # R2 = 0 is what the mean explains
        values.append(1 - ((target - tokens).square().sum() / spread).item())
    return values


def test_twelve_blocks_stand_for_eight():
    assert [last_student_block(block) for block in range(8)] == [0, 1, 2, 3, 5, 7, 9, 11]
    assert [plan.part for plan in PLAN[:6]] == ["whole"] * 4 + ["first", "second"]
    assert len(PLAN) == 12


def test_the_projection_keeps_angles_and_leaves_out_ones(made):
    _, _, projection = made
    assert projection.shape == (WIDTH, 128)
    gram = projection @ projection.T
    gram = gram * (WIDTH - 1) / gram.trace()  # of rows of one length
    # Its image is all that is at right angles to ones: there, and only there, all directions are treated alike.
    torch.testing.assert_close(gram, torch.eye(WIDTH) - torch.ones(WIDTH, WIDTH) / WIDTH, atol=1e-5, rtol=0)
    longest = projection.norm(dim=1).max()
    assert projection.sum(0).abs().max() < 1e-5 * longest  # every projected token has mean 0
    assert projection.sum(1).abs().max() < 1e-5 * longest  # a teacher token's mean does not matter


def test_projected_tokens_are_about_1(made):
    teacher, student, projection = made
    _, images = images_of(8, 3, student, teacher)
    with torch.no_grad():
        tokens = [tokens @ projection.T for tokens in tokens_after(teacher, images, list(range(8)))]
    assert 0.5 < torch.stack(tokens).square().mean().sqrt() < 2


def test_a_layer_behind_a_norm_sees_the_same_tokens(made):
    """For teacher tokens of which the projection loses nothing, the student's layer gives the same answer."""
    teacher, student, projection = made
    block, generator = teacher.blocks[3], torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 50, WIDTH, generator=generator) @ projection
    weight, bias = _behind_norm(block.norm1, block.attn.qkv, tokens, projection)
    with torch.no_grad():
        normed = student.blocks[0].norm1(tokens @ projection.T)  # a plain LayerNorm
        torch.testing.assert_close(normed @ weight.T + bias, block.attn.qkv(block.norm1(tokens)), atol=1e-3, rtol=1e-3)


def test_the_student_explains_a_random_teacher(made):
    teacher, student, projection = made
    assert min(explained(student, teacher, projection)) > 0.85  # measured: 0.93 to 0.97
    torch.manual_seed(1)
    assert max(explained(random_student(), teacher, projection)) < 0  # random weights: worse than the mean


def test_every_weight_is_finite_and_norms_are_plain(made):
    _, student, _ = made
    assert all(torch.isfinite(tensor).all() for tensor in student.state_dict().values())
    for block in student.blocks:
        assert (block.norm1.weight == 1).all() and (block.norm2.bias == 0).all()


def test_it_is_deterministic_and_leaves_the_teacher_alone(made):
    teacher, student, projection = made
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    again = random_student()
    second = initialise_student(again, teacher, *images_of(40, 1, again, teacher))
    torch.testing.assert_close(second, projection)
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    hooks = [module for module in teacher.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert hooks == []


def test_the_embedding_accounts_for_another_normalisation(made):
    teacher, student, projection = made
    grey = np.full((2, 112, 112, 3), 90, np.uint8)  # of one colour: patch size does not matter, only the pixel values
    grey[1] = (200, 30, 120)
    with torch.no_grad():
        wanted = teacher.patch_embed(to_tensor(grey, (98, 98), teacher)) @ projection.T
        embedded = student.patch_embed(to_tensor(grey, (112, 112), student))
    torch.testing.assert_close(embedded, wanted.reshape(embedded.shape), atol=2e-3, rtol=0)
    assert wanted.std() > 0.02
