"""Checkpoints, weights, heads and archives with random damage: an error that names the file, or the right content.

``LEATHER_FUZZ_CASES`` is the number of cases a test; what Hypothesis finds it keeps in ``.hypothesis`` and tries first.
"""

import io
import os
import shutil
import tarfile
import zipfile
from copy import deepcopy
from datetime import timedelta

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from src.backbone.vit import WeightsError, load_backbone
from src.classifier.checkpoints import load_checkpoint, save_checkpoint
from src.classifier.model import ViTMultiClassClassifier
from src.data.archives import files_below, install
from src.data.manifest import CLASSES, MVTEC, PARTS, DataError
from src.files import CheckpointError, load_tensors
from src.localisation.head import load_head
from tests.data.test_archives import tar_folder, zip_folder
from tests.data.test_manifest import make_both
from tools.train_head import save_head

CASES = int(os.environ.get("LEATHER_FUZZ_CASES") or 60)
fuzzed = settings(
    max_examples=CASES,
    derandomize="LEATHER_FUZZ_CASES" not in os.environ,  # the usual run is the same everywhere
    deadline=timedelta(seconds=5),  # a hang is a finding
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

# One to four changes of bytes: where, as a share of the file, and what.
PLACES = st.floats(0, 1, exclude_max=True)
CHANGES = st.one_of(
    st.tuples(st.just("flip"), PLACES, st.integers(0, 7)),
    st.tuples(st.just("set"), PLACES, st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("insert"), PLACES, st.binary(min_size=1, max_size=64)),
    st.tuples(st.just("remove"), PLACES, st.integers(1, 5000)),
    st.tuples(st.just("cut"), PLACES, st.none()),
)
DAMAGE = st.lists(CHANGES, min_size=1, max_size=4)


def damaged(whole, changes):
    content = bytearray(whole)
    for kind, place, what in changes:
        at = int(place * len(content))
        if kind == "cut":
            del content[at:]
        elif kind == "remove":
            del content[at : at + what]
        elif kind == "insert":
            content[at:at] = what
        elif content and kind == "flip":
            content[at] ^= 1 << what
        elif kind == "set":
            content[at : at + len(what)] = what
    return bytes(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    return one == other


# -- tensors --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tensors():
    generator = torch.Generator().manual_seed(0)
    return {f"blocks.{i}.weight": torch.randn(20, 7, generator=generator) for i in range(5)} | {"n": torch.arange(9)}


@fuzzed
@given(changes=DAMAGE)
def test_a_damaged_file_of_torch_is_refused_or_whole(folder, tensors, changes):
    file, whole = folder / "torch.pt", io.BytesIO()
    torch.save({"state": tensors, "note": "a"}, whole)
    file.write_bytes(damaged(whole.getvalue(), changes))
    try:
        found = load_tensors(file)
    except CheckpointError as error:
        assert str(file) in str(error) and "weights_only" not in str(error)
    else:
        assert equal(found, {"state": tensors, "note": "a"})


@fuzzed
@given(changes=DAMAGE)
def test_a_damaged_file_of_safetensors_ends_in_nothing_but_its_error(folder, tensors, changes):
    """Safetensors has no checksum; a head has a digest, below."""
    file = folder / "a.safetensors"
    file.write_bytes(damaged(save(tensors), changes))
    try:
        found = load_tensors(file)
    except CheckpointError as error:
        assert str(file) in str(error)
    else:
        assert all(tensor.isfinite().all() for tensor in found.values())


@pytest.fixture
def saved_head(folder, backbone, head):
    """Bytes of a head's file, and the weights that are read from it."""
    file = save_head(head, folder / "whole.safetensors")
    return file.read_bytes(), load_head(file, backbone).network.state_dict()


@fuzzed
@given(changes=DAMAGE)
def test_a_damaged_head_is_refused_or_whole(folder, backbone, head, saved_head, changes):
    file, (content, whole) = folder / "head.safetensors", saved_head
    file.write_bytes(damaged(content, changes))
    try:
        found = load_head(file, backbone)
    except CheckpointError as error:
        assert str(file) in str(error)
    else:
        assert found is None or (equal(found.network.state_dict(), whole) and found.facts == head.facts)


@fuzzed
@given(changes=DAMAGE, suffix=st.sampled_from(["pth", "safetensors"]))
def test_damaged_weights_end_in_nothing_but_their_error(folder, model, changes, suffix):
    file, whole = folder / f"weights.{suffix}", io.BytesIO()
    state = model.backbone.state_dict()
    torch.save(state, whole)
    file.write_bytes(damaged(whole.getvalue() if suffix == "pth" else save(state), changes))
    try:
        found = load_backbone("test_vit", str(file), image_size=48)
    except WeightsError as error:
        assert str(file) in str(error)
    else:
        assert suffix == "safetensors" or equal(found.network.state_dict(), state)


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-(10**6), 10**6), st.floats(), st.text(max_size=8))
TENSORS = st.sampled_from([torch.zeros(0), torch.ones(3), torch.full((2, 2), torch.nan), torch.arange(4)])
VALUES = st.recursive(
    PLAIN | TENSORS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)


@pytest.fixture
def saved_checkpoint(folder, model):
    save_checkpoint(model, folder / "whole.pth")
    return load_tensors(folder / "whole.pth")


@fuzzed
@given(data=st.data())
def test_a_checkpoint_with_other_values_ends_in_nothing_but_its_error(folder, saved_checkpoint, data):
    file, content = folder / "values.pth", deepcopy(saved_checkpoint)
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from([content, content["settings"], content["state"]]))
        if isinstance(part, dict) and part:
            key = data.draw(st.sampled_from(sorted(part)))
            part[key] = data.draw(VALUES)
            if data.draw(st.booleans()):
                del part[key]
        if not all(isinstance(content.get(key), dict) for key in ("settings", "state")):
            break
    torch.save(content, file)
    try:
        found, _ = load_checkpoint(file)
    except CheckpointError as error:
        assert str(file) in str(error)
    else:
        assert isinstance(found, ViTMultiClassClassifier)


# -- archives -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(folder):
    source = make_both(folder / "set")
    files = [zip_folder(source, folder / "a.zip"), tar_folder(source, folder / "a.tar")]
    files += [tar_folder(source, folder / "a.tar.gz"), tar_folder(source, folder / "a.tar.xz")]
    return [(file, file.read_bytes()) for file in files], files_below(source)


def unpack(given, data):
    """The error of unpacking, or None; the data folder holds whole sets alone and nothing is written elsewhere."""
    shutil.rmtree(data.parent, ignore_errors=True)
    data.parent.mkdir()
    error = None
    try:
        install(given, data, wanted=PARTS)
    except (DataError, OSError) as caught:
        error = caught
        assert given.name in str(error)
    assert [path.name for path in data.parent.iterdir()] in ([], ["data"])
    here = {path.name for path in data.iterdir()} if data.is_dir() else set()
    assert here <= {CLASSES, MVTEC} and (error is None) == bool(here)
    return error


@fuzzed
@given(changes=DAMAGE, number=st.integers(0, 3))
def test_a_damaged_archive_is_refused_or_whole(folder, packed, changes, number):
    archives, files = packed
    file, whole = archives[number]
    file.write_bytes(damaged(whole, changes))
    data = folder / "place" / "data"
    if unpack(file, data) is None and file.suffix != ".tar":  # a plain tar has no checksum of what it holds
        same = {name: path.read_bytes() for name, path in files.items() if (data / name).is_file()}
        assert all((data / name).read_bytes() == content for name, content in same.items())


HOSTILE = ["..", ".", "", "pinhole", "C:", "mvtec", "train", "good", "a.png", "/etc", "~", "\\..", "ä\\..\\..", "nul\0"]
HOSTILE += ["x" * 300]
NAMES = st.lists(
    st.sampled_from(HOSTILE) | st.text(max_size=5),
    min_size=1,
    max_size=5,
).map("/".join)


@fuzzed
@given(names=st.lists(NAMES, min_size=1, max_size=4), kind=st.sampled_from(["zip", "tar", "link", "device"]))
def test_no_name_in_an_archive_writes_outside(folder, packed, names, kind):
    file = folder / ("names.zip" if kind == "zip" else "names.tar")
    source = packed[1]
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as opened:
            for name, path in source.items():
                opened.write(path, name)
            for name in names:
                info = zipfile.ZipInfo("a")
                info.filename = name
                opened.writestr(info, b"hostile")
    else:
        kinds = {"tar": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "device": tarfile.CHRTYPE}
        with tarfile.open(file, "w") as opened:
            for name, path in source.items():
                opened.add(path, name)
            for name in names:
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kinds[kind], "/etc/passwd" if kind == "link" else ""
                opened.addfile(info)
    unpack(file, folder / "place" / "data")
