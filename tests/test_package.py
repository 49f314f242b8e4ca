"""The wheel: the same folder under another name, with the shipped backbone, at home wherever it is run."""

import re
import subprocess
import sys
import zipfile

import pytest
from hatchling.builders.wheel import WheelBuilder

from src.config import paths

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((paths.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WITHOUT_TORCH = "import sys, leather_defects, leather_defects.data.download; assert 'torch' not in sys.modules"
BACKBONE = """
from leather_defects.backbone.vit import load_backbone
from leather_defects.config import paths
print(load_backbone("vit_tiny_patch16_224", "shipped").weights)
print(paths.output, paths.models)
"""


def requirements(lines):
    return {re.sub(r"\s*#.*", "", line).strip() for line in lines} - {""}


def test_requirements_txt_is_the_list_of_the_package():
    listed = requirements((paths.root / "requirements.txt").read_text(encoding="utf-8").splitlines())
    assert listed == {*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["full"]}
    assert not [name for name in PROJECT["dependencies"] if name.startswith(("torch", "timm"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder in which the wheel is unpacked, far from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = next(WheelBuilder(str(paths.root)).build(directory=str(folder)))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(code, site, folder):
    environment = {"PYTHONPATH": str(site), "PATH": "", "HOME": str(folder)}
    answer = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_it_imports_without_torch(site, tmp_path):
    run(WITHOUT_TORCH, site, tmp_path)


@pytest.mark.slow
def test_the_shipped_backbone_travels_along_and_output_goes_into_the_current_folder(site, tmp_path):
    weights, folders = run(BACKBONE, site, tmp_path).splitlines()[-2:]
    assert weights.startswith("shipped") and folders == f"{tmp_path} {tmp_path / 'models'}"
    assert list(tmp_path.iterdir()) == []


def test_no_file_of_weights_is_read_but_by_the_one_loader():
    """timm and torch run code of a pickle unless each call says otherwise."""
    places = [path for folder in ("src", "tools", "benchmarks") for path in (paths.root / folder).rglob("*.py")]
    for call in (
        "torch.load(",
        "models.load_checkpoint(",
        "helpers import load_checkpoint",
        "pickle.",
        "joblib.load(",
        '"file": str(',
        "allow_pickle=True",
    ):
        users = [path.name for path in places if call in path.read_text(encoding="utf-8")]
        assert set(users) <= {"files.py" if call == "torch.load(" else "checkpoints.py"}, call
