"""Checkpoints: written whole or not at all; what does not fit is refused by name."""

import errno
import traceback
import zipfile

import numpy as np
import pytest
import torch

from src.classifier.checkpoints import load_checkpoint, save_checkpoint
from src.classifier.model import ViTMultiClassClassifier
from src.config import CLASS_NAMES
from src.data.tables import Classes
from src.files import CheckpointError, file_digest, load_tensors, save_tensors
from tests.conftest import Touch


@pytest.fixture
def kept(model, tmp_path):
    """A model with a bank, and its checkpoint."""
    model.store_normal_features(torch.randn(7, 64, generator=torch.Generator().manual_seed(3)))
    path = tmp_path / "tiny.pth"
    save_checkpoint(model, path, thresholds={"hybrid": 0.25})
    return model, path


def test_round_trip_into_a_fresh_object(kept):
    model, path = kept
    again, content = load_checkpoint(path)
    images = torch.randn(4, 3, 48, 48)
    before, after = model.detect_anomaly_hybrid(images), again.detect_anomaly_hybrid(images)
    assert again is not model and not again.training and len(again.normal_features) == 7
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(model.vit.tokens(images, blocks=(3,))[0], again.vit.tokens(images, blocks=(3,))[0])
    assert content["thresholds"] == {"hybrid": 0.25} and again.settings == model.settings
    assert again.weights_description == "random weights of test_vit"


def test_other_settings_survive(tmp_path):
    names = tuple(reversed(CLASS_NAMES))
    model = ViTMultiClassClassifier(
        6,
        False,
        backbone="test_vit",
        image_size=64,
        class_names=names,
        hidden_features=20,
        dropout=0.3,
        similarity_weight=0.4,
    )
    model.store_normal_features(torch.ones(1, 64))
    save_checkpoint(model, tmp_path / "other.pth")
    again, _ = load_checkpoint(tmp_path / "other.pth", class_names=None)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(
        model.detect_anomaly_hybrid(images)["anomaly_scores"], again.detect_anomaly_hybrid(images)["anomaly_scores"]
    )
    assert (again.image_size, again.classes.normal_index) == (64, 1)
    assert again.classifier[0].p == 0.3


def test_features_of_several_blocks_survive(tmp_path):
    model = ViTMultiClassClassifier(6, False, backbone="test_vit", image_size=48, feature_blocks=(0, 3))
    images = torch.randn(4, 3, 48, 48)
    model.set_feature_spread(model.extract_features(images, raw=True))
    save_checkpoint(model, tmp_path / "blocks.pth")
    again, _ = load_checkpoint(tmp_path / "blocks.pth")
    assert torch.equal(again.extract_features(images), model.extract_features(images))


def refuse(path, match=None):
    with pytest.raises(CheckpointError, match=path.name) as caught:
        load_checkpoint(path)
    assert match is None or match in str(caught.value)


def test_missing_cut_or_foreign_files_are_refused_by_name(kept, tmp_path):
    _, path = kept
    refuse(tmp_path / "gone.pth", "no checkpoint")
    whole = path.read_bytes()
    for size in (0, len(whole) // 2, len(whole) - 1000):
        path.write_bytes(whole[:size])
        refuse(path, "damaged")
    path.write_text("a letter", encoding="utf-8")
    refuse(path)
    torch.save([1, 2], path)
    refuse(path, "list")
    torch.save({"format": 99, "settings": {}, "state": {}}, path)
    refuse(path, "99")
    torch.save({"format": torch.zeros(0), "settings": {}, "state": {}}, path)
    refuse(path, "format 2: it says tensor")
    torch.save({"some": "weights"}, path)
    refuse(path, "None")


def test_other_classes_are_refused(kept):
    model, path = kept
    model.classes = Classes(CLASS_NAMES[::-1], model.normal_class)
    save_checkpoint(model, path)
    with pytest.raises(CheckpointError, match="trained for the classes pinhole, non_defective"):
        load_checkpoint(path, class_names=CLASS_NAMES)
    assert load_checkpoint(path, class_names=None)[0].class_names[0] == "pinhole"


@pytest.mark.parametrize(
    "change", [{"backbone": "test_vit3"}, {"hidden_features": 20}, {"image_size": 160}, {"backbone": "no_such_vit"}]
)
def test_weights_of_another_network_are_refused(kept, change):
    model, path = kept
    model.settings.update(change)
    save_checkpoint(model, path)
    refuse(path, "does not fit")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"format": 1, "settings": {}, "state": Touch(tmp_path / "ran")}, tmp_path / "evil.pth")
    refuse(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


# -- writing --------------------------------------------------------------------------------------------


def test_a_write_that_fails_in_the_middle_keeps_the_earlier_file(kept, monkeypatch):
    model, path = kept
    whole = path.read_bytes()

    def fill_disk(_, stream):
        stream.write(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fill_disk)
    with pytest.raises(CheckpointError, match="tiny.pth.*No space left"):
        save_checkpoint(model, path)
    assert path.read_bytes() == whole and [p.name for p in path.parent.iterdir()] == ["tiny.pth"]


def test_a_disk_that_is_full_keeps_the_earlier_file(kept):
    resource = pytest.importorskip("resource")  # not on Windows
    model, path = kept
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # writing more fails as on a full disk
    try:
        with pytest.raises(CheckpointError, match="tiny.pth.*File too large"):
            save_checkpoint(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == whole and [p.name for p in path.parent.iterdir()] == ["tiny.pth"]


def test_save_makes_the_folder_and_load_gives_the_same_values(tmp_path):
    content = {"rows": [{"loss": 0.5}], "tensor": torch.arange(3)}
    save_tensors(content, tmp_path / "a" / "b.pt")
    loaded = load_tensors(tmp_path / "a" / "b.pt")
    assert loaded["rows"] == content["rows"] and torch.equal(loaded["tensor"], content["tensor"])
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.pt"]


def test_an_interrupted_write_leaves_nothing(monkeypatch, tmp_path):
    def interrupt(_, stream):
        stream.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_tensors({}, tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


# -- damaged, foreign and hostile -----------------------------------------------------------------------


def test_no_single_flipped_bit_changes_an_answer_in_silence(kept):
    model, path = kept
    whole, generator = path.read_bytes(), np.random.default_rng(7)
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    wanted, refused = model.detect_anomaly_hybrid(images)["anomaly_scores"], 0
    for position in generator.integers(0, 8 * len(whole), 60):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            again, _ = load_checkpoint(path)
        except CheckpointError as error:
            assert str(path) in str(error)
            refused += 1
        else:  # a bit between the parts of the file
            assert torch.equal(again.detect_anomaly_hybrid(images)["anomaly_scores"], wanted)
    assert refused > 40


@pytest.mark.parametrize("name", ["classifier.4.bias", "normal_features", "feature_mean", "backbone.norm.weight"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused(kept, name, value):
    model, path = kept
    with torch.no_grad():
        model.state_dict()[name].view(-1)[3] = value
    save_checkpoint(model, path)
    refuse(path, f"{name} has values that are not finite")


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": None},
        {"state": {}},
        {"state": {"normal_features": "no tensor"}},
        {"settings": [1]},
        {"settings": {"backbone": "test_vit", "weights": 3}},
        {"settings": {"backbone": "hf-hub:someone/model"}},
        {"class_names": 5},
        {"class_names": ["a"]},
    ],
)
def test_wrong_keys_and_values_are_an_error_with_a_remedy(kept, wrong):
    _, path = kept
    save_tensors(load_tensors(path) | wrong, path)
    refuse(path, "remove it and train again")


def test_torchs_advice_to_run_the_code_of_a_file_is_not_passed_on(tmp_path):
    torch.save({"format": 2, "state": Touch(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="evil.pth.*may run code") as caught:
        load_checkpoint(tmp_path / "evil.pth")
    assert "weights_only" not in "".join(traceback.format_exception(caught.value)) and not (tmp_path / "ran").exists()


def test_a_tensor_that_claims_more_than_it_holds_is_refused(tmp_path):
    torch.save({"state": torch.ones(1).expand(10**12)}, tmp_path / "bomb.pth")  # isfinite alone would need 1 TB
    refuse(tmp_path / "bomb.pth", "more than it has")


def test_a_packed_checkpoint_is_refused_before_it_is_unpacked(kept):
    _, path = kept
    with zipfile.ZipFile(path) as opened:
        parts = {name: opened.read(name) for name in opened.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in parts.items():
            opened.writestr(name, content)
        opened.writestr("archive/data/99", bytes(10**7))
    refuse(path, "packed")


def test_a_digest_that_sha256sums_lists_is_kept_to(kept):
    _, path = kept
    (path.parent / "SHA256SUMS").write_text(f"{'0' * 64}  other.pth\n{file_digest(path)}  {path.name}\n")
    load_checkpoint(path)
    for line in (f"{'0' * 64}  {path.name}\n", f"\nno sum\n{'0' * 64} *{path.name}\n{'0' * 64}  my notes.png\n"):
        (path.parent / "SHA256SUMS").write_text(line)
        refuse(path, "SHA-256")
