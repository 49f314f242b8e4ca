"""Backbones: any plain Vision Transformer of timm, with the hub's weights, the shipped ones or those of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.transforms import v2

from ..config import paths
from .weights import WeightsError, check_fit, read_state

SHIPPED_ARCHITECTURE = "vit_tiny_patch16_224"


class NotATransformerError(ValueError):
    """A backbone that is no plain Vision Transformer of timm."""


class Backbone:
    """A Vision Transformer of timm: normalised images in, patch tokens and attention out. `load_backbone` makes one.

    ``network`` is timm's module without a classifier, ``weights`` says in words where its weights came from,
    ``image_size`` and ``patch`` are sides in pixels (inputs of other multiples of the patch work too), ``mean`` and
    ``std`` normalise images.
    """

    def __init__(self, network: nn.Module, *, name: str, weights: str) -> None:
        self.network, self.name, self.weights = network, name, weights
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

    @property
    def identity(self) -> str:
        """Name and fingerprint of the weights."""
        return f"{self.name} {weights_digest(self.network)[:16]}"

    def digest_up_to(self, block: int) -> str:
        """SHA-256, as hexadecimal text, in float16, of what the tokens after a block come from, without positions.

        Files of one network at another precision or for another input size, or with other last blocks, share it.
        """
        return weights_digest(self.network.patch_embed, *self.network.blocks[: block + 1], dtype=torch.float16)

    @torch.inference_mode()
    def tokens(self, images: Tensor, *, blocks: tuple[int, ...]) -> list[Tensor]:
        """Patch tokens (n, d, h, w), float32, after each of some blocks, of images (n, 3, height, width) of any size.

        ``blocks`` ascend from 0. Higher blocks are not computed.
        """
        with evaluating(self.network):
            tokens = self.network.forward_intermediates(
                images, indices=list(blocks), intermediates_only=True, stop_early=True
            )
        return [block.float() for block in tokens]

    @torch.inference_mode()
    def attention_maps(self, images: Tensor) -> dict[str, Tensor]:
        """The network's own attention from the class token to the patches of images (n, 3, height, width).

        ``heads`` (n, blocks, heads, h, w): of every block; with the attention to the prefix tokens it sums to 1.
        ``cls`` (n, h, w): the last block's, mean over heads.
        ``rollout`` (n, h, w): followed through all blocks, identity added for the residual path.

        Raises ValueError if the backbone has no class token.
        Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020 (rollout).
        """
        if getattr(self.network, "cls_token", None) is None:
            raise ValueError(f"{self.name} has no class token, whose attention these maps show")
        attention = self._attention(images)
        prefix, grid = self.network.num_prefix_tokens, [side // self.patch for side in images.shape[-2:]]
        heads = attention[:, :, :, 0, prefix:].unflatten(-1, grid)
        flow = identity = torch.eye(attention.shape[-1], device=attention.device)
        for block in attention.mean(2).unbind(1):  # (n, tokens, tokens)
            flow = (block + identity) / 2 @ flow
        return {"heads": heads, "cls": heads[:, -1].mean(1), "rollout": flow[:, 0, prefix:].unflatten(-1, grid)}

    def _attention(self, images: Tensor) -> Tensor:
        """Of all tokens to all tokens, (n, blocks, heads, tokens, tokens)."""
        caught: list[Tensor] = []
        layers = [block.attn for block in self.network.blocks]
        fused = [layer.fused_attn for layer in layers]
        handles = [layer.attn_drop.register_forward_hook(lambda *call: caught.append(call[2])) for layer in layers]
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
) -> Backbone:
    """A timm Vision Transformer with its weights.

    Args:
        name: timm's name of it.
        weights: ``"timm"`` (the hub's), ``"shipped"`` (the project's small backbone) or the path of a weights file.
        image_size: Side of the square input in pixels; None takes the backbone's own.
        pretrained: False leaves random weights.
        keep_blocks: Keep only the lowest so many blocks, and the final norm; None keeps all.

    Raises WeightsError, NotATransformerError, or ValueError if ``keep_blocks`` does not fit.
    """
    file = _weights_file(name, weights) if pretrained and weights != "timm" else None
    network = _create(name, file, pretrained=pretrained, image_size=image_size)
    depth = len(network.blocks)
    if not pretrained:
        description = f"random weights of {name}"
    elif file is None:
        description = f"timm: {name}.{network.pretrained_cfg.get('tag', '')}"
    else:
        description = f"{'shipped' if weights == 'shipped' else 'file'}: {file.name}"
    if keep_blocks is not None:
        if not 1 <= keep_blocks <= depth:
            raise ValueError(f"keep_blocks is {keep_blocks}; {name} has {depth} blocks")
        network.prune_intermediate_layers([keep_blocks - 1], prune_head=False)  # it pools the tokens
        description += f", the lowest {keep_blocks} of {depth} blocks"
    return Backbone(network, name=name, weights=description)


def _weights_file(name: str, weights: str) -> Path:
    if weights == "shipped" and name != SHIPPED_ARCHITECTURE:
        raise WeightsError(f'weights="shipped" are those of {SHIPPED_ARCHITECTURE}, not of {name}; change the backbone')
    file = paths.shipped_backbone if weights == "shipped" else Path(weights)
    if not file.is_file():
        raise WeightsError(f"no weights file {file}; expected a .safetensors or .pth file with timm's names")
    return file


def _create(name: str, file: Path | None, *, pretrained: bool, image_size: int | None) -> nn.Module:
    """timm's network for inputs of any size, without a classifier, with the weights of a file or of the hub."""
    options = {"pretrained": pretrained, "num_classes": 0, "dynamic_img_size": True}
    if image_size is not None:
        options["img_size"] = image_size
    advice = f"{name} is no plain Vision Transformer of timm; try vit_base_patch16_224"
    if not timm.is_model(name.split(".")[0]):  # a checkpoint may name hf-hub:..., which timm would contact
        raise NotATransformerError(advice)
    if file is not None:  # timm gets tensors, not the file: some of its versions run code that a file holds
        state = read_state(name, file)
        options["pretrained_cfg_overlay"] = {"state_dict": state, "num_classes": 0, "custom_load": False}
    try:
        network = timm.create_model(name, **options)
    except Exception as error:  # hub, safetensors, pickle and shape errors have no common kind
        if isinstance(error, TypeError) and "dynamic_img_size" in str(error):  # an option that only transformers know
            raise NotATransformerError(advice) from error
        if not pretrained:
            raise
        if file is not None:
            raise WeightsError(f"{file} does not fit {name}: {error}") from error
        raise WeightsError(
            f"the weights of {name} could not be fetched from timm's hub: {error}. Either check the network, or use "
            'weights="shipped" with backbone="vit_tiny_patch16_224", or give the path of a weights file.'
        ) from error
    if not all(hasattr(network, part) for part in ("blocks", "patch_embed", "num_prefix_tokens")):
        raise NotATransformerError(advice)
    if file is not None:
        network.pretrained_cfg.pop("state_dict")
        check_fit(network, name, file, state)
    return network


def weights_digest(*modules: nn.Module, dtype: torch.dtype | None = None) -> str:
    """SHA-256 of all names and values of the states of modules, as they are or at another precision, as hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in (item for module in modules for item in module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().to(dtype or tensor.dtype).contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, then the mode that was."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def image_transform(size: int | None, *, mean: tuple[float, ...], std: tuple[float, ...]) -> v2.Compose:
    """The whole picture at ``size`` x ``size``, or as large as it is, normalised: RGB image -> float (3, h, w).

    timm's own evaluation transform cuts the borders off; a defect at the border would be lost, so it is not used.
    """
    resize = v2.Resize((size, size), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    normalise = v2.Normalize(mean=list(mean), std=list(std), inplace=True)
    steps = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), normalise]
    return v2.Compose(steps if size is None else [resize, *steps])
