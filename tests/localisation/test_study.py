"""The study of MVTec AD: both protocols with their controls, one pass for each picture, and what is said without it."""

from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from src.backbone.vit import load_backbone
from src.localisation.evaluation import brightness_control, localisation_metrics
from src.localisation.pixel_metrics import pixel_metrics
from src.localisation.study import study_mvtec

pytestmark = pytest.mark.usefixtures("small_and_quick")


@contextmanager
def passes_of(backbone):
    """Counts how often each picture, told by its pixels and size, passes the network."""
    passes = Counter()
    count = lambda _, images: passes.update(image.numpy().tobytes() for image in images[0])  # noqa: E731
    handle = backbone.network.patch_embed.register_forward_pre_hook(count)
    try:
        yield passes
    finally:
        handle.remove()


@pytest.fixture
def root(mvtec):
    return Path(mvtec["path"][0]).parents[3]


@pytest.fixture
def known(pictures):
    return [str(path) for path in sorted((pictures / "non_defective").glob("*.png"))[:4]]


@pytest.fixture
def trained():
    torch.manual_seed(1)
    return load_backbone("test_vit", "timm", image_size=48, pretrained=False)


def test_the_study_holds_both_protocols_and_their_controls(backbone, trained, root, known, test_rows):
    study = study_mvtec(root, untrained=backbone, trained=trained, trained_on=known, seed=3)
    assert list(study.metrics["protocols"]) == ["six-class-transfer", "4-shot"]
    transfer, k_shot = study.metrics["protocols"].values()
    assert k_shot == localisation_metrics(study.own, seed=3) and len(study.own.test) == len(test_rows)
    assert transfer["backbone"] == trained.identity != backbone.identity == k_shot["backbone"]
    assert transfer["normal_images"] == k_shot["normal_images"] == 4
    assert "candidates on defects painted" in k_shot["settings_source"]
    assert transfer["settings_source"] == "blocks chosen by 4-shot" and transfer["blocks"] == k_shot["blocks"]
    assert study.metrics["brightness_control_image_auroc"] == brightness_control(test_rows)
    for name, maps in study.attention.items():
        assert maps.shape == study.own.maps.shape
        assert study.metrics["attention"][name] == pixel_metrics(maps, study.own.masks)


def test_each_picture_passes_the_network_once_for_each_size_and_weights(backbone, trained, root, known):
    with passes_of(backbone) as untrained, passes_of(trained) as after_training:
        study_mvtec(root, untrained=backbone, trained=trained, trained_on=known, seed=0)
    judged_and_tested = 4 + 8 + 4 * 8 + 8  # normals, painted, in other light, test images
    assert set(untrained.values()) == set(after_training.values()) == {1}
    assert len(untrained) == judged_and_tested + 8  # attention reads the test images at the network's own size
    assert len(after_training) == judged_and_tested


def test_transfer_takes_the_last_block_where_training_has_not_kept_the_chosen_one(backbone, root, known):
    shallow = load_backbone("test_vit", "timm", image_size=48, pretrained=False, keep_blocks=1)
    study = study_mvtec(root, untrained=backbone, trained=shallow, trained_on=known, seed=0)
    transfer = study.metrics["protocols"]["six-class-transfer"]
    assert transfer["blocks"] == (0,) and transfer["settings_source"].startswith("last block; blocks chosen by 4-shot")
    assert transfer["settings_source"].endswith("are not in the trained model")


def test_without_the_images_the_study_says_what_is_missing(backbone, tmp_path, capsys):
    with passes_of(backbone) as passes:
        assert study_mvtec(tmp_path / "mvtec", untrained=backbone, trained=backbone, trained_on=[], seed=0) is None
    text = capsys.readouterr().out
    assert "left out" in text and "mvtec" in text and "1.0.download-datasets.ipynb" in text and not passes
