"""Settings of a run as one frozen value, the presets that the notebooks offer, and where things are."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

# The published classes; the order is a contract: a class's position is its index in their confusion matrices.
CLASS_NAMES = ("folding_marks", "grain_off", "growth_marks", "loose_grain", "non_defective", "pinhole")
KAGGLE_FOLDER, MVTEC_FOLDER = "leather_defect_classification", "mvtec"

TRAIN_MODES = ("all", "head")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
PROTOCOLS = ("random-80-20", "random-60-20-20", "hide-60-20-20")  # of one split, see data.splits
FOLD_PROTOCOLS = ("hide-5fold", "leave-one-defect-out", "within-hide")
VARIABLES = (
    "LEATHER_DATA",
    "LEATHER_SAMPLE",
    "LEATHER_OUTPUT",
    "LEATHER_SOURCE",
    "LEATHER_PRESET",
    "LEATHER_PROTOCOL",
    "LEATHER_WEIGHTS",
    "LEATHER_EPOCHS",
    "LEATHER_NORMAL_CLASS",
    "LEATHER_TINY",
    "LEATHER_TEST_NOISE",
)


def setting(name: str, default: str = "", *, allowed: Sequence[str] = ()) -> str:
    """The environment variable of that name; the default where it is unset or empty.

    Raises:
        ValueError: If the value is none of those allowed, or another ``LEATHER_`` variable is set that nobody reads.
    """
    if unknown := sorted(key for key in os.environ if key.startswith("LEATHER_") and key not in VARIABLES):
        raise ValueError(f"the variable {unknown[0]} is unknown; expected one of {', '.join(VARIABLES)}")
    value = os.environ.get(name) or default
    if allowed and value not in allowed:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(allowed)}")
    return value


TINY = setting("LEATHER_TINY", "0", allowed=("0", "1")) == "1"  # a sample of few, small images, for testing notebooks


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
        if not re.fullmatch(r"\w[\w.-]*", self.run):
            raise ValueError(f"run is {self.run!r}; expected letters, digits, _, - and dots, as it names files")
        for name, allowed in (
            ("train_mode", TRAIN_MODES),
            ("precision", PRECISIONS),
            ("protocol", (*PROTOCOLS, *FOLD_PROTOCOLS)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        for name in ("epochs", "batch_size", "accumulate_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        for name in ("frozen_blocks", "head_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if not 0 <= self.similarity_weight <= 1:
            raise ValueError(f"similarity_weight is {self.similarity_weight}; expected 0 to 1")

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


def run_config(run: str) -> Config:
    """The settings of a run of notebook 4.0, as the ``LEATHER_`` variables ask for them.

    The sample takes the preset ``sample``, all other data ``paper``. ``LEATHER_PRESET``, ``LEATHER_PROTOCOL``,
    ``LEATHER_WEIGHTS`` and ``LEATHER_EPOCHS`` change that.
    """
    preset = setting("LEATHER_PRESET", "sample" if run == SAMPLE.run else "paper", allowed=tuple(PRESETS))
    usual = SAMPLE.protocol if run == SAMPLE.run else PAPER.protocol
    config = PRESETS[preset].but(run=run, protocol=setting("LEATHER_PROTOCOL", usual, allowed=PROTOCOLS))
    epochs = setting("LEATHER_EPOCHS", str(config.epochs))
    if not epochs.isdecimal() or int(epochs) < 1:
        raise ValueError(f"LEATHER_EPOCHS is {epochs!r}; expected a whole number from 1")
    return config.but(epochs=int(epochs), weights=setting("LEATHER_WEIGHTS", config.weights))


class Paths:
    """Where things are; making one creates nothing on disk.

    Three variables move the parts that people like to keep elsewhere: ``LEATHER_DATA`` (a folder that holds
    ``leather_defect_classification/``, or class folders, and ``mvtec/``), ``LEATHER_SAMPLE`` (the built-in sample) and
    ``LEATHER_OUTPUT`` (receives ``models/``, ``logs/``, ``reports/`` and the manifest of the data). The rest lies in
    the checkout; an installed package takes the current folder instead.
    """

    def __init__(self) -> None:
        package = Path(__file__).resolve().parent
        checkout = (package.parent / "pyproject.toml").is_file()
        self.root = package.parent if checkout else Path.cwd()
        self.data = _folder("LEATHER_DATA", self.root / "data")
        self.output = _folder("LEATHER_OUTPUT", self.root)
        self.sample = _folder("LEATHER_SAMPLE", self.root / "data" / "sample")
        self.manifest = self.output / "data" / "manifest.json"
        self.models, self.logs, self.reports = (self.output / name for name in ("models", "logs", "reports"))
        shipped = package.parent / "models" / "backbones" if checkout else package / "weights"
        self.shipped_backbone = shipped / "leather_vit_tiny_patch16_224.safetensors"

    def eda_of(self, run: str) -> Path:
        """Folder of what notebook 2.0 writes about a run's data; a sample's never lies beside that of the real set."""
        return self.reports / "eda" if run == PAPER.run else self.reports / run / "eda"

    def relative(self, path: Path) -> str:
        """The path as reports print it: below the project's root or output from there, below the data from that
        folder's name on, else its last three parts. Reports never carry the folders of a machine.
        """
        path = Path(path).resolve()
        for base, name in ((self.root, ""), (self.output, ""), (self.data, self.data.name)):
            if path.is_relative_to(base):
                return (name / path.relative_to(base)).as_posix()
        return Path(*path.relative_to(path.anchor).parts[-3:]).as_posix()


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default).expanduser().resolve()


paths = Paths()
