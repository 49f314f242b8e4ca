"""OpenVINO without its usage statistics, and the forms that it takes a network in."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn


def import_openvino() -> Any:
    """The package without its usage statistics, which a child process would send; NNCF sends none then either."""
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


@cache
def only_core() -> Any:
    """One for the process: where two end in the order of their start, the thread's signals are left without a stack."""
    return import_openvino().Core()


def converted(network: nn.Module, patch: int) -> Any:
    """OpenVINO's form of a network of pictures (n, h, w, 3), uint8, for one picture of any size."""
    openvino = import_openvino()
    example = torch.zeros(1, 8 * patch, 6 * patch, 3, dtype=torch.uint8)  # not square: no side is taken for the other
    shape = openvino.PartialShape([1, -1, -1, 3])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: the branches are of shapes' kinds, which are the same for all
        model = openvino.convert_model(network, example_input=example, input=[(shape, openvino.Type.u8)])
    for resize in (each for each in model.get_ops() if each.get_type_name() == "Interpolate"):
        resize.set_attribute("cube_coeff", -0.5)  # of positions, as torch does it; the converter leaves -0.75
    return model


def quantised(model: Any, calibration: Sequence[np.ndarray]) -> Any:
    """Weights and activations in int8. SmoothQuant of matrix products spoils Vision Transformers."""
    import nncf

    smooth = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1))
    options = {"subset_size": len(calibration), "advanced_parameters": smooth}
    data = nncf.Dataset([image[None] for image in calibration])
    return nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, **options)


def serialised(model: Any) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        import_openvino().save_model(model, Path(folder) / "network.xml", compress_to_fp16=False)
        network, weights = (Path(folder, f"network.{end}") for end in ("xml", "bin"))
        return {"network": network.read_text(), "weights": torch.from_numpy(np.fromfile(weights, np.uint8))}
