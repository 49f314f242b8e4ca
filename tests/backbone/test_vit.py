"""Weights of a backbone: what fits is loaded, anything else is refused by name."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from src.backbone.vit import WeightsError
from src.classifier.model import ViTMultiClassClassifier
from src.config import paths
from tests.conftest import Touch


def load(weights, *, backbone="test_vit"):
    return ViTMultiClassClassifier(6, True, backbone=backbone, weights=str(weights), image_size=48)


def backbone_weights(name="test_vit", **options):
    torch.manual_seed(5)
    return timm.create_model(name, num_classes=0, img_size=48, **options).state_dict()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_a_file_are_loaded(tmp_path, suffix):
    weights, file = backbone_weights(), tmp_path / f"mine.{suffix}"
    save_file(weights, file) if suffix == "safetensors" else torch.save(weights, file)
    model = load(file)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.backbone.state_dict().items())
    assert model.weights_description == f"file: mine.{suffix}"
    assert model.vit.patch_block == 3  # nothing named: two thirds up


def test_a_file_may_name_the_block_that_localises(tmp_path):
    save_file(backbone_weights(), tmp_path / "mine.safetensors", metadata={"best_block": "1"})
    assert load(tmp_path / "mine.safetensors").vit.patch_block == 1
    model = ViTMultiClassClassifier(6, False, backbone="test_vit", weights=str(tmp_path / "mine.safetensors"))
    assert model.vit.patch_block == 3  # random weights have no use for it


def test_shipped_weights_are_of_one_architecture():
    with pytest.raises(WeightsError, match="vit_tiny_patch16_224, not of test_vit"):
        load("shipped")


def test_missing_shipped_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "shipped_backbone", tmp_path / "gone.safetensors")
    with pytest.raises(WeightsError, match="gone.safetensors"):
        load("shipped", backbone="vit_tiny_patch16_224")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("damage", ["missing", "text", "cut", "other depth", "other width"])
def test_weights_that_cannot_be_used_are_refused_by_name(tmp_path, suffix, damage):
    file = tmp_path / f"bad.{suffix}"
    options = {"other depth": {"depth": 5}, "other width": {"embed_dim": 96}}.get(damage, {})
    if damage == "text":
        file.write_text("<html>404</html>", encoding="utf-8")
    elif damage != "missing":
        weights = backbone_weights(**options)
        save_file(weights, file) if suffix == "safetensors" else torch.save(weights, file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(WeightsError, match=f"bad.{suffix}"):
        load(file)


def test_code_in_a_weights_file_is_not_run(tmp_path):
    torch.save({"norm.weight": Touch(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="evil.pth"):
        load(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_without_a_network_the_hub_fails_with_advice(monkeypatch):
    calls = []

    def offline(*_, **options):
        calls.append(options)
        raise OSError("Network is unreachable")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match="test_vit could not be fetched.*unreachable.*shipped") as caught:
        ViTMultiClassClassifier(backbone="test_vit")
    assert len(calls) == 1 and calls[0]["pretrained"]  # no second try with random weights
    assert isinstance(caught.value.__cause__, OSError)
