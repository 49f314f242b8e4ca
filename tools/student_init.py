"""A half-width student Vision Transformer in closed form: the teacher's own blocks, projected, no gradient step.

The teacher's residual stream is projected on its principal axes. Every student block takes the heads and hidden
neurons that carry most of a teacher block, and each output layer is refitted by least squares so that the student's
stream follows the projected stream of the teacher. Distillation starts from here instead of from noise.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

HEAD_WIDTH = 64  # of every plain timm ViT of the sizes tiny, small and base


class BlockPlan(NamedTuple):
    """Which part of a teacher block a student block stands for."""

    teacher: int  # index of the teacher's block
    part: str  # "whole", or "first" and "second" for two student blocks that share one teacher block


# Twelve student blocks for the teacher's blocks 0 to 7: the later, more complex ones get two each.
PLAN = tuple(
    BlockPlan(block, part) for block in range(8) for part in (("whole",) if block < 4 else ("first", "second"))
)


def last_student_block(teacher_block: int) -> int:
    """Index of the student block after which its stream stands for the teacher's after ``teacher_block``."""
    return max(i for i, plan in enumerate(PLAN) if plan.teacher == teacher_block)


@torch.no_grad()
def initialise_student(
    student: nn.Module, teacher: nn.Module, student_images: Tensor, teacher_images: Tensor
) -> Tensor:
    """Fills the student's weights from the teacher's; returns the projection P (student width, teacher width).

    ``tokens @ P.T`` is where the student's tokens should be. The student is a plain timm ViT of 12 blocks, the teacher
    one of 8 or more with layer scale. Both see the same normalised pictures, (n, 3, 16 g, 16 g) and (n, 3, 14 g, 14 g)
    for a grid of g x g patches; n * g * g >= 10,000 tokens are wanted.

    Source:
        Slicing a transformer along the principal axes of its stream: SliceGPT (Ashkboos et al., ICLR 2024);
        here with heads and neurons selected as well, and every output refitted.
    """
    record = _record(teacher, teacher_images)
    projection = _principal_projection(record, student.embed_dim)
    _fill_embedding(student, teacher, projection)
    stream = student.norm_pre(student._pos_embed(student.patch_embed(student_images)))
    first_half = None
    for block, plan in zip(student.blocks, PLAN, strict=True):
        source, kept = teacher.blocks[plan.teacher], record[plan.teacher]
        stream, first_half = _fill_attention(block, source, kept, plan.part, stream, projection, first_half)
        stream = _fill_mlp(block, source, kept, plan.part, stream, projection)
    return projection


def _record(teacher: nn.Module, images: Tensor) -> list[dict[str, Tensor]]:
    """Per block: the stream before attention, before the MLP and after it, and both layers' hidden values."""
    record: list[dict[str, Tensor]] = [{} for _ in range(PLAN[-1].teacher + 1)]
    handles = []
    for block, kept in zip(teacher.blocks, record, strict=False):
        inputs_of = {
            "attention_in": block.norm1,
            "mlp_in": block.norm2,
            "heads": block.attn.proj,
            "hidden": block.mlp.fc2,
        }
        for name, module in inputs_of.items():
            hook = lambda _, args, kept=kept, name=name: kept.__setitem__(name, args[0])  # noqa: E731
            handles.append(module.register_forward_pre_hook(hook))
        handles.append(block.register_forward_hook(lambda _, __, out, kept=kept: kept.__setitem__("out", out)))
    try:
        teacher.forward_features(images)
    finally:
        for handle in handles:
            handle.remove()
    return record


def _principal_projection(record: list[dict[str, Tensor]], width: int) -> Tensor:
    """Axes of the unit-length centred tokens of all blocks, laid out so that the student's LayerNorm stays exact.

    LayerNorm subtracts the mean over the width. The student's stream therefore lives in the ``width - 1`` dimensions
    at right angles to the vector of ones, where that mean is zero and LayerNorm only divides by the length. The stream
    is scaled to values of about 1: DINOv2 keeps it small by its layer scale, and without one the first steps of Adam
    would be as large as the weights.
    """
    covariance, lengths = 0, []
    for kept in record:
        for name in ("attention_in", "mlp_in", "out"):
            tokens = kept[name].flatten(0, 1)
            tokens = tokens - tokens.mean(1, keepdim=True)
            lengths.append(tokens.norm(dim=1).mean())
            tokens = F.normalize(tokens, dim=1).double()
            covariance = covariance + tokens.T @ tokens
    axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, : width - 1].float()  # (D, d - 1)
    basis, _ = torch.linalg.qr(torch.cat([torch.ones(width, 1), torch.eye(width)[:, : width - 1]], dim=1))
    projection = basis[:, 1:] @ axes.T  # (d, D)
    projection = projection - projection.mean(1, keepdim=True)  # takes the teacher's mean over its width away
    return projection * width**0.5 / torch.stack(lengths).mean()


def _fill_embedding(student: nn.Module, teacher: nn.Module, projection: Tensor) -> None:
    patch = resample_patch_embed(teacher.patch_embed.proj.weight, list(student.patch_embed.patch_size))
    # The two want differently normalised pixels: teacher pixel = scale * student pixel + shift, by channel.
    data = [resolve_model_data_config(network) for network in (student, teacher)]
    (mean, teacher_mean), (std, teacher_std) = ([torch.tensor(each[key]) for each in data] for key in ("mean", "std"))
    scale, shift = std / teacher_std, (mean - teacher_mean) / teacher_std
    bias = teacher.patch_embed.proj.bias + torch.einsum("jchw,c->j", patch, shift)
    patch = patch * scale[:, None, None]
    _set(student.patch_embed.proj, torch.einsum("ij,jchw->ichw", projection, patch), projection @ bias)
    position = resample_abs_pos_embed(teacher.pos_embed, list(student.patch_embed.grid_size), num_prefix_tokens=1)
    student.pos_embed.copy_(position @ projection.T)
    student.cls_token.copy_(teacher.cls_token @ projection.T)
    _set(student.norm, 1.0, 0.0)


def _fill_attention(
    block: nn.Module, source: nn.Module, kept: dict, part: str, stream: Tensor, projection: Tensor, half: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    whole = (kept["mlp_in"] - kept["attention_in"]) @ projection.T  # what all heads of the teacher add
    heads = _choose_heads(source, kept["heads"], whole, part, block.attn.num_heads, projection)
    columns = torch.cat([torch.arange(h * HEAD_WIDTH, (h + 1) * HEAD_WIDTH) for h in heads])
    rows = torch.cat([columns + third * source.attn.qkv.in_features for third in range(3)])
    weight, bias = _behind_norm(source.norm1, source.attn.qkv, kept["attention_in"], projection)
    _set(block.attn.qkv, weight[rows], bias[rows])
    _set(block.norm1, 1.0, 0.0)
    hidden = _input_of(block.attn.proj, lambda: block.attn(block.norm1(stream)))
    if part == "first":
        output = source.attn.proj.weight[:, columns] * source.ls1.gamma[:, None]
        target = (kept["heads"][..., columns] @ output.T + source.attn.proj.bias * source.ls1.gamma / 2) @ projection.T
    elif part == "second":
        target = whole - half
    else:
        target = kept["mlp_in"] @ projection.T - stream
    added = _refit(block.attn.proj, hidden, target)
    return stream + added, added if part == "first" else None


def _choose_heads(
    source: nn.Module, outputs: Tensor, whole: Tensor, part: str, count: int, projection: Tensor
) -> tuple[int, ...]:
    """The heads whose outputs explain most; for two student blocks they are dealt out in order of energy."""
    blocks = outputs.flatten(0, 1).split(HEAD_WIDTH, dim=1)
    if part == "whole":
        blocks, target = [each[::7] for each in blocks], whole.flatten(0, 1)[::7]  # a seventh is enough to compare

        def error(heads: tuple[int, ...]) -> float:
            inputs = torch.cat([blocks[h] for h in heads], dim=1)
            weight, bias = _least_squares(inputs, target)
            return (inputs @ weight.T + bias - target).square().mean().item()

        return min(itertools.combinations(range(len(blocks)), count), key=error)
    columns = (projection @ (source.attn.proj.weight * source.ls1.gamma[:, None])).split(HEAD_WIDTH, dim=1)
    energy = [((b - b.mean(0)) @ c.T).square().mean().item() for b, c in zip(blocks, columns, strict=True)]
    order = sorted(range(len(blocks)), key=lambda h: -energy[h])
    return tuple(sorted(order[0::2] if part == "first" else order[1::2]))


def _fill_mlp(block: nn.Module, source: nn.Module, kept: dict, part: str, stream: Tensor, projection: Tensor) -> Tensor:
    output = source.mlp.fc2.weight * source.ls2.gamma[:, None]  # (D, neurons)
    weight_of = kept["hidden"].flatten(0, 1).std(0) * (projection @ output).norm(dim=0)
    order = weight_of.argsort(descending=True)
    keep = {"whole": order[: block.mlp.fc1.out_features], "first": order[0::2], "second": order[1::2]}[part]
    weight, bias = _behind_norm(source.norm2, source.mlp.fc1, kept["mlp_in"], projection)
    _set(block.mlp.fc1, weight[keep], bias[keep])
    _set(block.norm2, 1.0, 0.0)
    hidden = _input_of(block.mlp.fc2, lambda: block.mlp(block.norm2(stream)))
    if part == "first":
        target = kept["hidden"][..., keep] @ output[:, keep].T + source.mlp.fc2.bias * source.ls2.gamma / 2
        target = target @ projection.T
    else:
        target = kept["out"] @ projection.T - stream
    return stream + _refit(block.mlp.fc2, hidden, target)


def _behind_norm(norm: nn.Module, linear: nn.Linear, inputs: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer behind a LayerNorm, for the projected and then normalised stream."""
    centred = inputs.flatten(0, 1)
    centred = centred - centred.mean(1, keepdim=True)
    kept = ((centred @ projection.T).norm(dim=1) / centred.norm(dim=1)).mean()  # of a token's length
    widths = (projection.shape[1] / projection.shape[0]) ** 0.5  # LayerNorm scales to the square root of the width
    inverse = projection.T * (len(projection) - 1) / projection.square().sum()  # its rows are orthogonal, equally long
    weight = (linear.weight * norm.weight) @ inverse * kept * widths
    return weight, linear.bias + linear.weight @ norm.bias


def _input_of(layer: nn.Module, run) -> Tensor:
    caught = []
    handle = layer.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    try:
        run()
    finally:
        handle.remove()
    return caught[0]


def _refit(layer: nn.Linear, inputs: Tensor, target: Tensor) -> Tensor:
    weight, bias = _least_squares(inputs.flatten(0, 1), target.flatten(0, 1))
    _set(layer, weight, bias)
    return layer(inputs)


def _least_squares(inputs: Tensor, target: Tensor, *, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    inputs, target = inputs.double(), target.double()
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=inputs.dtype)], dim=1)
    gram = inputs.T @ inputs
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram, inputs.T @ target)
    return solution[:-1].T.float(), solution[-1].float()


def _set(layer: nn.Module, weight: Tensor | float, bias: Tensor | float) -> None:
    layer.weight.copy_(torch.as_tensor(weight))
    layer.bias.copy_(torch.as_tensor(bias))
