"""Backbones: any plain Vision Transformer of timm, with the hub's weights, the shipped ones or those of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.transforms import v2

from ..config import paths

SHIPPED_ARCHITECTURE = "vit_tiny_patch16_224"


class WeightsError(RuntimeError):
    """Backbone weights that cannot be had or do not fit; the message says which and what to do."""


class NotATransformerError(ValueError):
    """A backbone that is no plain Vision Transformer of timm."""


class Backbone:
    """A Vision Transformer of timm as a reader of pictures: normalised images in, patch tokens and attention out.

    Attributes:
        network: timm's module, without a classifier of its own.
        name: timm's name of it.
        weights: Where its weights came from, in words.
        image_size: Side of its usual input in pixels; other multiples of ``patch`` (pixels) work too.
        mean, std: That images are normalised by.
        patch_block: The block, from 0, whose patch tokens localise unless others are asked for.
    """

    def __init__(self, network: nn.Module, *, name: str, weights: str, patch_block: int) -> None:
        self.network, self.name, self.weights, self.patch_block = network, name, weights, patch_block
        data = resolve_model_data_config(network)
        self.mean, self.std = data["mean"], data["std"]
        self.image_size = network.patch_embed.img_size[0]
        self.patch = network.patch_embed.patch_size[0]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.network.blocks)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: torch.device) -> Backbone:
        self.network.to(device)
        return self

    @property
    def identity(self) -> str:
        """Name and fingerprint of the weights."""
        return f"{self.name} {weights_digest(self.network)[:16]}"

    @torch.inference_mode()
    def tokens(self, images: Tensor, *, blocks: tuple[int, ...] | None = None) -> list[Tensor]:
        """Patch tokens on their grid after each of some blocks, each of shape (n, d, h, w), float32.

        Args:
            images: Normalised images, shape (n, 3, height, width), multiples of the patch; any size.
            blocks: Indices from 0, ascending; None takes ``patch_block``. Higher blocks are not computed.
        """
        blocks = (self.patch_block,) if blocks is None else blocks
        with evaluating(self.network):
            tokens = self.network.forward_intermediates(
                images, indices=list(blocks), intermediates_only=True, stop_early=True
            )
        return [block.float() for block in tokens]

    @torch.inference_mode()
    def attention_maps(self, images: Tensor) -> dict[str, Tensor]:
        """The network's own attention from the class token to the patches; nothing is computed from the picture.

        Args:
            images: Normalised images, shape (n, 3, height, width).

        Returns:
            ``heads`` (n, blocks, heads, h, w): attention of the class token, rows before dropping the prefix sum to 1;
            ``cls`` (n, h, w): the last block's, mean over heads;
            ``rollout`` (n, h, w): attention followed through all blocks, identity added for the residual path.

        Raises:
            ValueError: If the backbone has no class token.

        Source:
            Rollout: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020.
        """
        if getattr(self.network, "cls_token", None) is None:
            raise ValueError(f"{self.name} has no class token, whose attention these maps show")
        attention = self._attention(images)  # (n, blocks, heads, tokens, tokens)
        prefix = self.network.num_prefix_tokens
        grid = [side // self.patch for side in images.shape[-2:]]
        heads = attention[:, :, :, 0, prefix:].unflatten(-1, grid)
        flow = torch.eye(attention.shape[-1], device=attention.device).expand(len(images), -1, -1)
        for block in attention.mean(2).unbind(1):  # (n, tokens, tokens)
            mixed = (block + torch.eye(block.shape[-1], device=block.device)) / 2
            flow = mixed @ flow
        return {
            "heads": heads,
            "cls": heads[:, -1].mean(1),
            "rollout": flow[:, 0, prefix:].unflatten(-1, grid),
        }

    def _attention(self, images: Tensor) -> Tensor:
        caught: list[Tensor] = []
        layers = [block.attn for block in self.network.blocks]
        fused = [layer.fused_attn for layer in layers]
        handles = [
            layer.attn_drop.register_forward_hook(lambda _, __, output: caught.append(output)) for layer in layers
        ]
        try:
            for layer in layers:
                layer.fused_attn = False  # the fused kernel never forms the attention matrix
            with evaluating(self.network):
                self.network(images)
        finally:
            for layer, was, handle in zip(layers, fused, handles, strict=True):
                layer.fused_attn = was
                handle.remove()
        return torch.stack(caught, dim=1).float()


def load_backbone(
    name: str,
    weights: str,
    *,
    image_size: int | None = None,
    pretrained: bool = True,
    keep_blocks: int | None = None,
    patch_block: int | None = None,
) -> Backbone:
    """A backbone ready for use.

    Args:
        name: Of any timm Vision Transformer.
        weights: ``"timm"`` (the hub's), ``"shipped"`` (the project's small backbone) or the path of a weights file.
        image_size: Side of the square input in pixels; None takes the backbone's own.
        pretrained: False leaves random weights.
        keep_blocks: Keep only the lowest so many blocks; the final norm stays. None keeps all.
        patch_block: Block whose patch tokens localise, from 0; None takes the one that the weights file names (the
            shipped one does, chosen on painted defects), else the block two thirds up.

    Raises:
        WeightsError: If the weights cannot be loaded.
        NotATransformerError: If the backbone is another kind of network.
        ValueError: If ``keep_blocks`` does not fit.
    """
    network, description = create_backbone(name, weights, pretrained, image_size)
    depth = len(network.blocks)
    if keep_blocks is not None:
        if not 1 <= keep_blocks <= depth:
            raise ValueError(f"keep_blocks is {keep_blocks}; {name} has {depth} blocks")
        network.prune_intermediate_layers([keep_blocks - 1])
        description += f", the lowest {keep_blocks} of {depth} blocks"
    if patch_block is None:
        named = best_block(weights) if pretrained else None
        patch_block = max(0, round(depth * 2 / 3) - 1) if named is None else named
        patch_block = min(patch_block, len(network.blocks) - 1)
    return Backbone(network, name=name, weights=description, patch_block=patch_block)


def create_backbone(name: str, weights: str, pretrained: bool, image_size: int | None) -> tuple[nn.Module, str]:
    options: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True}  # larger inputs for finer maps
    if image_size is not None:
        options["img_size"] = image_size
    if not pretrained:
        return _create_vit(name, **options), f"random weights of {name}"
    if weights == "timm":
        try:
            model = _create_vit(name, pretrained=True, **options)
        except NotATransformerError:
            raise
        except Exception as error:  # the hub's client raises many kinds, for no network, no file, no space
            raise WeightsError(
                f"the weights of {name} could not be fetched from timm's hub: {error}. Either check the network, or "
                'use weights="shipped" with backbone="vit_tiny_patch16_224", or give the path of a weights file.'
            ) from error
        return model, f"timm: {name}.{model.pretrained_cfg.get('tag', '')}"
    file = paths.shipped_backbone if weights == "shipped" else Path(weights)
    if weights == "shipped" and name != SHIPPED_ARCHITECTURE:
        raise WeightsError(f'weights="shipped" are those of {SHIPPED_ARCHITECTURE}, not of {name}; change the backbone')
    if not file.is_file():
        raise WeightsError(f"no weights file {file}; expected a .safetensors or .pth file with timm's names")
    try:
        overlay = {"file": str(file), "num_classes": 0}
        model = _create_vit(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except NotATransformerError:
        raise
    except Exception as error:  # safetensors, pickle and shape errors have no common kind
        raise WeightsError(f"{file} does not fit {name}: {error}") from error
    return model, f"{weights if weights == 'shipped' else 'file'}: {file.name}"


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of all names and values of a network's state, as hexadecimal text."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def best_block(weights: str) -> int | None:
    """The block that localises best by the metadata of a safetensors file, if it says so."""
    file = paths.shipped_backbone if weights == "shipped" else Path(weights)
    if file.suffix != ".safetensors":
        return None
    with safe_open(file, framework="pt") as content:
        block = (content.metadata() or {}).get("best_block")
    return None if block is None else int(block)


def _create_vit(name: str, **options: Any) -> nn.Module:
    advice = f"{name} is no plain Vision Transformer of timm; try vit_base_patch16_224"
    try:
        model = timm.create_model(name, **options)
    except TypeError as error:
        if "dynamic_img_size" not in str(error):  # the option that other networks do not know
            raise
        raise NotATransformerError(advice) from error
    if not (hasattr(model, "blocks") and hasattr(model, "patch_embed") and hasattr(model, "num_prefix_tokens")):
        raise NotATransformerError(advice)
    return model


class evaluating:
    """Evaluation mode for a while, then the mode that was."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.was = module, module.training

    def __enter__(self) -> None:
        self.module.eval()

    def __exit__(self, *_: object) -> None:
        self.module.train(self.was)


def image_transform(size: int | None, *, mean: tuple[float, ...], std: tuple[float, ...]) -> v2.Compose:
    """The whole picture at ``size`` x ``size``, or as large as it is, normalised: RGB image -> float (3, h, w).

    timm's own evaluation transform cuts the borders off; a defect at the border would be lost, so it is not used.
    """
    resize = v2.Resize((size, size), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    return v2.Compose(
        [
            *([] if size is None else [resize]),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=list(mean), std=list(std)),
        ]
    )
