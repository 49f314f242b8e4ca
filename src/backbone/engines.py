"""Engines that run a backbone, 8-bit pictures in and patch tokens out: torch or OpenVINO, and which one pays where."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain, groupby, islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import paths
from ..files import identity_of, read_kept, write_kept
from .conversion import converted, import_openvino, only_core, quantised, serialised
from .device import autocast, choose_precision
from .vit import Backbone

log = logging.getLogger(__name__)

CONVERSION = 1  # raise it when the same weights are converted otherwise
IMAGES_AT_ONCE = 4  # of torch
SHAPES_AT_ONCE = 4  # compiled networks in memory; one more takes a third of a second
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-3, "int8": 0.05}  # mean of 1 - cosine to torch's tokens, of any block


TABLE = (  # needs, engine, precision, reason; the first row that fits counts. Factors: time of a processor, measured
    ("cuda", "torch", "half", "a CUDA GPU is faster at half precision"),
    ("mps", "torch", "float16", "Apple's GPU is faster at half precision"),
    ("apple", "torch", "float32", "on Apple's processors OpenVINO int8 is wrong and float32 by torch right"),
    ("openvino amx_bf16", "openvino", "bfloat16", "matrix tiles for bfloat16 (AMX): 3.4 x torch float32"),
    ("openvino avx512_bf16", "openvino", "bfloat16", "vector instructions for bfloat16: 2.3 x torch float32"),
    ("openvino", "openvino", "float32", "bfloat16 is slower without hardware for it; 1.1 x torch"),
    ("amx_bf16", "torch", "bfloat16", "matrix tiles (AMX); OpenVINO (pip install '.[runtime]') would be 1.3 x this"),
    ("", "torch", "float32", "OpenVINO is not installed: pip install '.[runtime]'"),
)


def machine_features(device: torch.device) -> set[str]:
    """What `TABLE` asks for: the GPU, or what the processor can do and whether OpenVINO is installed."""
    if device.type != "cpu":
        return {device.type}
    if sys.platform == "darwin":
        return {"apple"}
    instructions = {name for name, has in getattr(torch.cpu, "get_capabilities", dict)().items() if has is True}
    return instructions | ({"openvino"} if importlib.util.find_spec("openvino") else set())


def choose_engine(
    name: str, backbone: Backbone, blocks: tuple[int, ...], *, calibration: Sequence[np.ndarray] = ()
) -> Engine:
    """The engine of a name in `config.ENGINES`, or the best for this machine (``auto``); prints which, and why.

    ``calibration`` are inputs, uint8 (h, w, 3), that set the ranges of int8, which is never chosen by itself.

    Raises ValueError if the machine cannot run it, or int8 has no inputs to calibrate on.
    """
    features, wanted = machine_features(backbone.device), name.removesuffix("-int8")
    rows = (row for row in TABLE if set(row[0].split()) <= features and wanted in ("auto", row[1]))
    _, engine, precision, reason = next(rows, ("", "", "", ""))
    if not engine:
        raise ValueError(f"{name} runs on a processor that is not Apple's, with OpenVINO: pip install '.[runtime]'")
    if name.endswith("-int8"):
        if not features & {"avx512_vnni", "avx_vnni", "amx_int8"}:
            raise ValueError("this processor has no VNNI, without which int8 saturates; use the engine openvino")
        if not calibration:
            raise ValueError("openvino-int8 needs pictures to calibrate on; give some, or use the engine openvino")
        if not importlib.util.find_spec("nncf"):
            raise ValueError("openvino-int8 is made by NNCF, which is not installed: pip install nncf")
        precision, reason = "int8", f"calibrated on {len(calibration)} inputs"
    reason = reason if name == "auto" else f"asked for; {reason}"
    kind = TorchEngine if engine == "torch" else partial(OpenVinoEngine, calibration=calibration)
    chosen = kind(backbone, blocks, precision=precision, reason=reason)
    print("engine: {engine} {version}, {precision}: {reason}".format(**chosen.facts))
    return chosen


class _Network(nn.Module):
    """Images (n, h, w, 3), uint8, in, tokens (n, blocks, rows, columns, d) of unit length out."""

    def __init__(self, backbone: Backbone, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone, self.blocks, self.network = backbone, blocks, backbone.network

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (
            255 * torch.tensor(value, device=images.device) for value in (self.backbone.mean, self.backbone.std)
        )
        tokens = self.backbone.tokens(((images - mean) / std).permute(0, 3, 1, 2), blocks=self.blocks)
        return F.normalize(torch.stack(tokens, dim=1).permute(0, 1, 3, 4, 2), dim=-1)


class TorchEngine:
    """Runs where the backbone is. ``facts`` of an engine (what, precision, reason, version) go into reports."""

    def __init__(
        self, backbone: Backbone, blocks: tuple[int, ...], *, precision: str = "float32", reason: str = "the reference"
    ) -> None:
        self.backbone, self.network = backbone, _Network(backbone, tuple(blocks))
        self._lock = Lock()  # threads would restore each other's mode
        self.pictures_at_once = 1 if backbone.device.type == "cpu" else IMAGES_AT_ONCE
        self._precision = choose_precision(backbone.device, "auto" if precision == "half" else precision)
        name = str(self._precision).removeprefix("torch.")
        self.facts = {"engine": "torch", "precision": name, "reason": reason, "version": str(torch.__version__)}

    def tokens(self, images: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """Of each picture, uint8 (h, w, 3), in order: tokens (blocks, rows, columns, d) of unit length, float32, CPU.

        Sides are multiples of the patch. Pictures are taken as they are needed: what makes them can be slow, or many.
        """
        for _, alike in groupby(images, key=np.shape):
            while some := list(islice(alike, IMAGES_AT_ONCE)):
                yield from self._read(torch.from_numpy(np.stack(some)).to(self.backbone.device))

    @torch.inference_mode()
    def _read(self, images: Tensor) -> Tensor:
        with self._lock, autocast(images.device, self._precision):
            return self.network(images).float().cpu()


class OpenVinoEngine:
    """Runs on the processor, one picture a stream, each shape of pictures by a network compiled for it.

    The first picture passes torch too: if its tokens differ by more than `TOLERANCE`, torch takes over, with a message.
    The converted network is kept in ``cache`` by the weights' fingerprint.
    """

    pictures_at_once = 1  # that it gains by; streams work side by side

    def __init__(
        self,
        backbone: Backbone,
        blocks: tuple[int, ...],
        *,
        precision: str,
        reason: str = "asked for",
        calibration: Sequence[np.ndarray] = (),
        cache: Path | None = None,
    ) -> None:
        openvino, self._torch = import_openvino(), TorchEngine(backbone, blocks)
        self._core, self._compiled, self._trusted = only_core(), lru_cache(SHAPES_AT_ONCE)(self._compile), False
        version = openvino.__version__.split("-")[0]
        self.facts = {"engine": "openvino", "precision": precision, "reason": reason, "version": version}
        calibrated = [image.tobytes().hex() for image in calibration] if precision == "int8" else None
        key = identity_of(CONVERSION, version, backbone.identity, blocks, backbone.mean, backbone.std, calibrated)
        file = (cache or paths.models / "cache") / f"openvino_{key[:24]}.pt"
        kept = read_kept(file)
        if kept is None:
            model = converted(self._torch.network, backbone.patch)
            kept = serialised(quantised(model, calibration) if precision == "int8" else model)
            write_kept(kept, file)
        self._model = self._core.read_model(kept["network"].encode(), openvino.Tensor(kept["weights"].numpy()))
        if precision == "int8":
            print(f"int8 costs {self._loss(calibration):.4f}, mean of 1 - cosine to torch's tokens of these inputs")

    def tokens(self, images: Iterable[np.ndarray]) -> Iterator[Tensor]:
        images = iter(images)
        if not self._trusted and (first := next(images, None)) is not None:
            self._check(first)
            images = chain([first], images)
        return self._run(images) if self.facts["engine"] == "openvino" else self._torch.tokens(images)

    def _check(self, image: np.ndarray) -> None:
        loss, most, self._trusted = self._loss([image]), TOLERANCE[self.facts["precision"]], True
        if not loss <= most:  # NaN is no answer either
            reason = f"OpenVINO's tokens differ from torch's by {loss:.4f} (mean of 1 - cosine, {most} is allowed)"
            log.warning("%s: torch takes over", reason)
            self.facts.update(self._torch.facts, reason=reason)

    def _loss(self, images: Sequence[np.ndarray]) -> float:
        """Mean of 1 - cosine to torch's tokens, of the block where it is largest."""
        pairs = zip(self._run(images), self._torch.tokens(images), strict=True)
        return float(torch.stack([1 - (mine * other).sum(-1).mean((1, 2)) for mine, other in pairs]).mean(0).max())

    def _run(self, images: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """As many requests are under way as keep all streams busy."""
        under_way: deque[Any] = deque()
        for image in images:
            compiled, most = self._compiled(image.shape)
            if len(under_way) > most:
                yield _answer(under_way.popleft())
            under_way.append(compiled.create_infer_request())
            under_way[-1].start_async({0: image[None]})
        while under_way:
            yield _answer(under_way.popleft())

    def _compile(self, shape: tuple[int, ...]) -> tuple[Any, int]:
        """The network for one picture of a shape, and its number of streams. A batch was no faster than streams."""
        model, properties = self._model.clone(), self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        model.reshape({0: [1, *shape]})
        is_half = self.facts["precision"] != "float32" and "BF16" in properties  # int8 is so beside the products
        options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "bf16" if is_half else "f32"}
        options["INFERENCE_NUM_THREADS"] = int(os.environ.get("OMP_NUM_THREADS") or 0)  # 0: all
        compiled = self._core.compile_model(model, "CPU", options)
        return compiled, compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")


Engine = TorchEngine | OpenVinoEngine


def _answer(request: Any) -> Tensor:
    request.wait()
    return torch.from_numpy(request.get_output_tensor(0).data[0].copy())
