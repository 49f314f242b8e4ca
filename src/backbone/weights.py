"""Weights files of backbones: their tensors by timm's names, and whether they are for a network."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from timm.data import resolve_model_data_config
from timm.models import clean_state_dict, get_pretrained_cfg
from torch import Tensor, nn

from ..files import CheckpointError, load_tensors

log = logging.getLogger(__name__)

STATE_KEYS = ("state_dict_ema", "state_dict", "model")  # where trainings keep the network


class WeightsError(RuntimeError):
    """Backbone weights that cannot be had or do not fit; the message says which and what to do."""


def read_state(name: str, file: Path) -> dict[str, Tensor]:
    """Tensors of a file by timm's names: of a training's checkpoint its network, of a classifier all but its head."""
    try:
        content = load_tensors(file, remedy="expected a .safetensors or .pth file with timm's names")
    except CheckpointError as error:
        raise WeightsError(str(error)) from error.__cause__
    inner = (content[key] for key in STATE_KEYS if isinstance(content.get(key), dict))
    state = clean_state_dict(next(inner, content))
    heads = get_pretrained_cfg(name).classifier
    left = [key for key in state if key.rpartition(".")[0] in ((heads,) if isinstance(heads, str) else heads)]
    if left:
        log.warning("%s: its classifier (%s) is left out", file.name, ", ".join(left))
    if len(state) == len(left):  # timm would take the hub's
        raise WeightsError(f"{file} holds no weights of a backbone; expected those of {name} by timm's names")
    return {key: tensor for key, tensor in state.items() if key not in left}


def check_fit(network: nn.Module, name: str, file: Path, state: dict[str, Tensor]) -> None:
    """Raises WeightsError if the patches of a file have another size, or it is for another mean or deviation."""
    sizes = {tuple(tensor.shape[2:]) for key, tensor in state.items() if key.endswith("patch_embed.proj.weight")}
    if other := sizes - {(), network.patch_embed.patch_size}:  # timm would resample them in silence
        raise WeightsError(f"{file} has patches of {other.pop()} px, {name} of {network.patch_embed.patch_size}")
    data = resolve_model_data_config(network)
    try:
        said = {key: value for key, value in _said_of(file).items() if key in ("mean", "std")}
        fits = all(np.allclose(value, data[key], atol=1e-3) for key, value in said.items())
    except Exception as error:  # whatever another project's JSON holds
        raise WeightsError(f"the mean or std in {file} or in config.json beside it cannot be read: {error}") from error
    if not fits:
        advice = "name the backbone with the tag of these weights, as in vit_base_patch16_224.mae"
        raise WeightsError(f"{file} is for pictures of {said}, {name} for {data['mean']} and {data['std']}; {advice}")


def _said_of(file: Path) -> dict[str, Any]:
    """What the metadata of a safetensors file, and the hub's config.json beside a file, say of its pictures."""
    said, config = {}, file.with_name("config.json")
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as content:
            said = {key: json.loads(text) for key, text in (content.metadata() or {}).items() if key in ("mean", "std")}
    return said | (json.loads(config.read_bytes()).get("pretrained_cfg", {}) if config.is_file() else {})
