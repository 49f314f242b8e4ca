"""Backbones: any plain Vision Transformer of timm, with the hub's weights, the shipped ones or those of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import timm
from safetensors import safe_open
from torch import nn

from src import paths

SHIPPED_ARCHITECTURE = "vit_tiny_patch16_224"


class WeightsError(RuntimeError):
    """Backbone weights that cannot be had or do not fit; the message says which and what to do."""


class NotATransformerError(ValueError):
    """A backbone that is no plain Vision Transformer of timm."""


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
    file = paths.SHIPPED_BACKBONE if weights == "shipped" else Path(weights)
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
    file = paths.SHIPPED_BACKBONE if weights == "shipped" else Path(weights)
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
