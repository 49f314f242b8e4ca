"""A small picture set that is easy to learn, and a model small enough to train in a test."""

import os
import zlib

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("LEATHER_ENGINE", "torch")  # what engines share is tested with torch, in less time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from src import scores
from src.classifier.model import create_model
from src.config import CLASS_NAMES, Config, paths
from src.data.splits import split_index
from src.data.tables import Classes, index_images, index_mvtec
from src.localisation import encoder, evaluation, thresholds
from src.localisation.head import DefectHead, Head, HeadFacts
from src.localisation.localise import Localisation
from src.localisation.regions import Thresholds, judge_map

NORMAL_CLASS = "non_defective"
CLASSES = Classes(CLASS_NAMES, NORMAL_CLASS)
SAVED_SPLITS = paths.root / "reports" / "baselines" / "splits"  # of the published set
IMAGES_PER_CLASS, HIDES = 10, 5
COLOURS = np.array([(200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 60), (128, 128, 128), (200, 60, 200)])


def pytest_configure(config):
    """Markers, threads and, where ``LEATHER_TEST_NOISE`` names a seed, rounding as on another processor."""
    config.addinivalue_line("markers", "slow: runs for minutes (the notebooks)")
    torch.set_num_threads(1)  # the models here are too small to share; results do not depend on the machine
    if os.environ.get("LEATHER_TEST_NOISE"):
        seed = int(os.environ["LEATHER_TEST_NOISE"])
        functional.linear = with_noise(functional.linear, seed)
        scores._products = with_noise(scores._products, seed)


def with_noise(product, seed):
    """The product with every value moved by up to 2 units in the last place.

    The noise follows from the shapes: a product of other shapes rounds otherwise, the same call gives the same values.
    """

    def noisy(first, second, *others):
        exact = product(first, second, *others)
        if torch.jit.is_tracing():  # the network is being converted for another engine
            return exact
        shapes = zlib.crc32(repr((seed, tuple(first.shape), tuple(second.shape))).encode())
        steps = torch.randint(-2, 3, exact.shape, generator=torch.Generator().manual_seed(shapes))
        return exact * (1 + steps.to(exact) * torch.finfo(exact.dtype).eps / 2)

    return noisy


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Folder of six classes, told apart by their colour, ten 48 px images each on five hides, with hides.csv."""
    root, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    lines = ["path,label,hide"]
    for label, colour in zip(CLASS_NAMES, COLOURS, strict=True):
        (root / label).mkdir()
        for number in range(IMAGES_PER_CLASS):
            pixels = np.clip(colour + generator.normal(0, 25, (48, 48, 3)), 0, 255).astype(np.uint8)
            file = f"{label}/{label}_{number:02d}.png"
            Image.fromarray(pixels).save(root / file)
            lines.append(f"{file},{label},hide_{number % HIDES}")
    (root / "hides.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def table(pictures):
    """Split by hide: 36 images to train on, 12 for validation, 12 for test."""
    images = index_images(pictures)
    return split_index(images.assign(copy_of=images["file"]), "hide-60-20-20")


@pytest.fixture
def config():
    return Config(
        run="tiny",
        backbone="test_vit",
        image_size=48,
        protocol="hide-60-20-20",
        epochs=3,
        batch_size=8,
        learning_rate=1e-3,
        head_learning_rate=1e-2,
        precision="float32",
        workers=0,
    )


@pytest.fixture
def model(config):
    """Random weights that follow from the seed."""
    return create_model(config, CLASSES, pretrained=False)


@pytest.fixture
def backbone(model):
    """The network of ``model``, as localisation takes it."""
    return model.vit


MVTEC_COUNTS = {"train/good": 4, "test/good": 3, "test/cut": 3, "test/glue": 2}


@pytest.fixture(scope="session")
def mvtec(tmp_path_factory):
    """Grey 96 px leather in MVTec's layout; a defect is a bright square at a known place."""
    root, generator = tmp_path_factory.mktemp("mvtec"), np.random.default_rng(3)
    for folder, count in MVTEC_COUNTS.items():
        part, defect = folder.split("/")
        for number in range(count):
            pixels = generator.normal(110, 12, (96, 96, 3))
            mask = np.zeros((96, 96), np.uint8)
            if defect != "good":
                top, left = generator.integers(8, 60, 2)
                mask[top : top + 24, left : left + 24] = 255
                pixels[mask > 0] += 90
                truth = root / "leather" / "ground_truth" / defect / f"{number:03d}_mask.png"
                truth.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(truth)
            path = root / "leather" / part / defect / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return index_mvtec(root)


@pytest.fixture
def normals(mvtec):
    return list(mvtec.loc[mvtec["part"] == "train", "path"])


@pytest.fixture
def test_rows(mvtec):
    return mvtec[mvtec["part"] == "test"].reset_index(drop=True)


@pytest.fixture
def small_and_quick(monkeypatch):
    """Small tiles, few painted defects and few draws: the same steps in less time."""
    monkeypatch.setattr(encoder, "TILE", 192)
    monkeypatch.setattr(encoder, "WHOLE", 288)
    monkeypatch.setattr(thresholds, "PAINTED", 8)
    monkeypatch.setattr(evaluation, "REPEATS", 20)


@pytest.fixture
def head(backbone):
    """A head for ``backbone`` with random weights: its map comes from the mean log distance that is added to them."""
    torch.manual_seed(2)
    point = {"n": 10, "originals": 5, "0.05": {"threshold": 0.7, "interval": [0.6, 0.8]}}
    facts = HeadFacts(
        tokens=backbone.digest_up_to(3),
        blocks=(1, 3),
        slope=8.0,
        offset=24.0,  # a logit is about -3 where nothing is wrong
        outline=0.6,
        verdict={references: point for references in ("own", "normals", "folder")},
        made={"backbone": "test_vit", "date": "2026-01-01"},
    )
    return Head(DefectHead(2).eval(), facts)


@pytest.fixture
def crafted():
    """Four 2 x 2 maps: two good images, of which one alarms, a found and a missed defect."""
    maps = np.array([[[0.1, 0.2], [0.1, 0.1]], [[0.1, 0.6], [0.1, 0.1]], [[0.1, 0.1], [0.8, 0.7]], [[0.3, 0.1]] * 2])
    masks = np.array([np.zeros((2, 2)), np.zeros((2, 2)), [[0, 0], [1, 1]], [[1, 0], [1, 0]]], dtype=bool)
    test = pd.DataFrame({"defect": ["good", "good", "cut", "poke"]})
    limits = Thresholds(0.5, 0.55, "painted")
    judgements = [judge_map(values, limits) for values in maps]
    return Localisation("4-shot", test, judgements, maps, masks, limits, True, {"seed": 0, "blocks": (3,)})


class Touch:
    """A pickle that, run, writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class NoFloat64(TorchDispatchMode):
    """Stands in for Apple's MPS, which knows no float64: fails when torch makes such a tensor."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float64:
            raise TypeError(f"{function} made a float64 tensor, which an MPS device cannot hold")
        return made


@pytest.fixture
def no_float64():
    return NoFloat64()


@pytest.fixture(params=range(4))
def audited(request):
    """Six classes on 24 hides, most of one class, with copies on the same and on other hides."""
    generator = np.random.default_rng(request.param)
    rows = []
    for hide in range(24):
        classes = generator.choice(CLASS_NAMES, 1 + 2 * (hide % 3 == 0), replace=False)
        if hide < 6:
            classes[0] = CLASS_NAMES[hide]  # every class somewhere
        for label in dict.fromkeys(classes):
            for number in range(generator.integers(22, 45)):
                file = f"{label}/tile ({1000 * hide + number}).jpg"
                earlier = [row[3] for row in rows if row[1] == label]
                copied = number > 21 and earlier and generator.random() < 0.4
                rows.append((file, label, str(hide), generator.choice(earlier) if copied else file))
    return pd.DataFrame(rows, columns=["file", "label", "group", "copy_of"])


@pytest.fixture(scope="module")
def real():
    """The published set, as the splits in the project name it."""
    whole, pictures = (pd.read_csv(SAVED_SPLITS / f"random-{shares}.csv.gz") for shares in ("80-20", "60-20-20"))
    table = whole.rename(columns={"path": "file"}).drop(columns="part")
    return table.assign(copy_of=table["file"].where(table["file"].isin(pictures["path"]), "another file"))
