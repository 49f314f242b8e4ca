"""Settings of a run as one frozen value, the presets that the notebooks offer, and where things are."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

# The published classes; the order is a contract: the position in every confusion matrix and checkpoint.
CLASS_NAMES = ("folding_marks", "grain_off", "growth_marks", "loose_grain", "non_defective", "pinhole")
KAGGLE_FOLDER, MVTEC_FOLDER = "leather_defect_classification", "mvtec"
PROTOCOLS = ("random-80-20", "random-60-20-20", "hide-60-20-20")  # of one split
FOLD_PROTOCOLS = ("hide-5fold", "leave-one-defect-out", "within-hide")  # of several
TRAIN_MODES = ("all", "head")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
ENGINES = ("auto", "torch", "openvino", "openvino-int8")  # see backbone.engines
# All that start with LEATHER_.
VARIABLES = "DATA SAMPLE OUTPUT SOURCE NORMAL_CLASS PRESET PROTOCOL WEIGHTS EPOCHS LOCALISATION ENGINE TINY"
OF_TESTS = "TEST_NOISE FUZZ_CASES CASES"


def setting(name: str, default: str | int, *, allowed: tuple[str, ...] = ()) -> str | int:
    """The value of an environment variable, a number if the default is one; the default if it is unset or empty.

    Raises ValueError for a value that is not allowed, and for any ``LEATHER_`` variable that is not known.
    """
    known = [f"LEATHER_{word}" for word in f"{VARIABLES} {OF_TESTS}".split()]
    for variable in sorted(key for key in os.environ if key.startswith("LEATHER_")):
        _require(variable in known, "the environment variable", variable, f"one of {', '.join(known)}")
    if not (value := os.environ.get(name)):
        return default
    if isinstance(default, int):
        _require(value.isdecimal(), name, value, "a whole number")
        return int(value)
    _require(not allowed or value in allowed, name, value, f"one of {', '.join(allowed)}")
    return value


def _require(valid: object, name: str, value: object, expected: str) -> None:
    if not valid:
        raise ValueError(f"{name} is {value!r}; expected {expected}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a run's result; saved in its checkpoint and its report."""

    run: str  # names models/<run>.pth, logs/<run>/ and reports/<run>/
    backbone: str = "vit_base_patch16_224"  # any timm Vision Transformer
    weights: str = "timm"  # "timm" (hub), "shipped" (models/backbones) or the path of a weights file
    image_size: int | None = None  # pixels; None asks the backbone
    keep_blocks: int | None = None  # only the lowest so many blocks of the backbone; None keeps all
    feature_blocks: tuple[int, ...] | None = None  # blocks whose tokens make the features; None: the last's output
    protocol: str = "random-80-20"  # how the images are split, see data.splits
    train_mode: str = "all"  # "all" trains every weight, "head" only the head on features computed once
    frozen_blocks: int = 0  # lowest blocks that keep their weights: faster, and less to overfit
    head_epochs: int = 0  # epochs of the head alone before all weights: a head of noise would spoil the backbone
    epochs: int = 15  # published
    batch_size: int = 16  # published
    learning_rate: float = 2e-5  # published, for AdamW on all weights
    head_learning_rate: float | None = None  # of the head, which starts from nothing; None takes learning_rate
    weight_decay: float = 1e-4  # published
    dropout: float = 0.1  # published
    hidden_features: int = 512  # published width of the head's hidden layer
    similarity_weight: float = 0.7  # published share of the cosine score in the hybrid; the rest is classification
    accumulate_batches: int = 1  # optimiser step every so many batches: large batches on small GPUs
    checkpoint_gradients: bool = False  # recompute activations: less memory, about a third more time
    precision: str = "auto"  # mixed precision where the device gains by it
    workers: int | None = None  # image-loading processes; None chooses from the machine
    seed: int = 42  # published

    def __post_init__(self) -> None:
        if self.feature_blocks is not None:  # a list, as JSON has it, is welcome
            object.__setattr__(self, "feature_blocks", tuple(self.feature_blocks))
        choices = {"protocol": PROTOCOLS + FOLD_PROTOCOLS, "train_mode": TRAIN_MODES, "precision": PRECISIONS}
        lowest = {"epochs": 1, "batch_size": 1, "accumulate_batches": 1, "frozen_blocks": 0, "head_epochs": 0}
        for name, value in vars(self).items():
            if name in choices:
                _require(value in choices[name], name, value, f"one of {', '.join(choices[name])}")
            elif name in lowest:
                _require(isinstance(value, int) and value >= lowest[name], name, value, f"{lowest[name]} or more")
            elif name in ("run", "backbone", "weights"):
                _require(isinstance(value, str) and value.strip(), name, value, "a name")
        _require(re.fullmatch(r"(?!\.+$)[^/\\:]+", self.run), "run", self.run, "the plain name of a folder")
        _require(0 <= self.similarity_weight <= 1, "similarity_weight", self.similarity_weight, "0 to 1")

    def but(self, **changes: object) -> Config:
        """A copy with some values changed; an unknown name raises TypeError."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


# The values of the published pipeline: ViT-B/16, all weights, random split.
PAPER = Config(run="best_modelo_kaggle_dataset")

# The same protocol on a processor without a GPU, about five minutes an epoch on two cores.
SMALL = PAPER.but(
    backbone="vit_small_patch14_dinov2",
    image_size=224,  # published size; the backbone's own is 518
    keep_blocks=8,  # a third less work; the middle blocks know textures, the last ones objects
    feature_blocks=(1, 3, 5, 7),  # colour and grain are in the low blocks: the class token alone learns slowly
    frozen_blocks=4,
    head_epochs=15,
    epochs=4,
    learning_rate=1e-5,  # the head starts trained; at 3e-5 the first epoch undid much of that
    head_learning_rate=3e-5,
)

# Small and offline: the shipped backbone, only the head is trained, hides are kept apart.
SAMPLE = Config(
    run="sample",
    backbone="vit_tiny_patch16_224",
    weights="shipped",
    protocol="hide-60-20-20",
    train_mode="head",
    head_learning_rate=3e-4,
)

# For hides that training has not seen: features of several frozen blocks; `baselines.table` adds numbers of texture.
HONEST = SAMPLE.but(run="honest", protocol="hide-5fold", feature_blocks=(2, 5, 8, 11))

PRESETS = {"paper": PAPER, "small": SMALL, "sample": SAMPLE, "honest": HONEST}


def run_config(run: str, preset: str | None = None) -> Config:
    """The settings of a run of notebook 4.0, as the ``LEATHER_`` variables ask for them; see README."""
    usual = SAMPLE if run == SAMPLE.run else PAPER
    preset = preset or setting("LEATHER_PRESET", "sample" if usual is SAMPLE else "paper", allowed=tuple(PRESETS))
    config = PRESETS[preset].but(run=run, protocol=setting("LEATHER_PROTOCOL", usual.protocol, allowed=PROTOCOLS))
    weights, epochs = setting("LEATHER_WEIGHTS", config.weights), setting("LEATHER_EPOCHS", config.epochs)
    return config.but(weights=weights, epochs=epochs)


class Paths:
    """Where things are; the root is the checkout's, or the current folder for an installed package."""

    def __init__(self) -> None:
        package = Path(__file__).resolve().parent
        is_checkout = (package.parent / "pyproject.toml").is_file()
        self.root = package.parent if is_checkout else Path.cwd().resolve()
        self.data = _folder("LEATHER_DATA", self.root / "data")  # only read where the variable names it
        self.output = _folder("LEATHER_OUTPUT", self.root)
        self.sample = _folder("LEATHER_SAMPLE", self.root / "data" / "sample")
        self.manifest = self.output / "data" / "manifest.json"
        self.models, self.logs, self.reports = (self.output / name for name in ("models", "logs", "reports"))
        backbones = self.root / "models" / "backbones" if is_checkout else package / "weights"
        self.shipped_backbone = backbones / "leather_vit_tiny_patch16_224.safetensors"
        self.heads = self.root / "models" / "heads" if is_checkout else package / "weights" / "heads"

    def eda_of(self, run: str) -> Path:
        """Folder of what notebook 2.0 writes: figures, images.csv, hides.csv, audit.json."""
        return self.reports / "eda" if run == PAPER.run else self.reports / run / "eda"

    def relative(self, path: Path) -> str:
        """The path as reports print it, without this machine's folders: below the root, output or data, or 3 parts."""
        path = Path(path).resolve()
        for base, name in ((self.root, ""), (self.output, ""), (self.data, self.data.name)):
            if path.is_relative_to(base):
                return (name / path.relative_to(base)).as_posix()
        return Path(*path.relative_to(path.anchor).parts[-3:]).as_posix()


def _folder(variable: str, default: Path) -> Path:
    return Path(setting(variable, str(default))).expanduser().resolve()


TINY = setting("LEATHER_TINY", "0", allowed=("0", "1")) == "1"  # few, small images, for testing the notebooks
paths = Paths()
