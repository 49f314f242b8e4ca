"""What a notebook needs before it can import the project: packages that are missing, and in Colab a folder of Drive.

Imports only the standard library and `packaging`, which every Jupyter kernel has.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
TORCH = ("torch", "torchvision")  # fitted to the machine's GPU by who installed them: never replaced
FRONT_END = ("ipykernel", "ipywidgets", "jupyterlab", "nbconvert")  # belong to who shows the notebook
DRIVE = Path("/content/drive")


def prepare(*, drive: str = "") -> None:
    """Installs what is missing of requirements.txt; ``drive`` names a folder of Google Drive, see `use_drive`.

    An installed torch stays as it is. Raises RuntimeError if the kernel must be restarted before going on.
    """
    if drive:
        use_drive(drive)
    missing, too_old = requirements_to_install((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    if missing or too_old:
        install([*missing, *too_old])
        require_restart(too_old)


def use_drive(folder: str) -> None:
    """Models, logs and reports go into that folder of Drive; data are read from its folder ``data``, if it holds any.

    Raises RuntimeError outside Colab.
    """
    if "google.colab" not in sys.modules:
        raise RuntimeError(
            f"drive={folder!r} works in Colab only. Elsewhere name folders by LEATHER_OUTPUT and LEATHER_DATA "
            "(docs/configuration.md)."
        )
    importlib.import_module("google.colab.drive").mount(str(DRIVE))
    home = DRIVE / "MyDrive" / folder
    home.mkdir(parents=True, exist_ok=True)
    os.environ["LEATHER_OUTPUT"] = str(home)
    if any(part.is_dir() for part in (home / "data").glob("*")):
        os.environ["LEATHER_DATA"] = str(home / "data")


def requirements_to_install(lines: list[str]) -> tuple[list[str], list[str]]:
    """Those of a requirements file that are not installed, and those that are installed in too old a version."""
    missing, too_old = [], []
    for text in filter(None, (line.partition("#")[0].strip() for line in lines)):
        requirement = Requirement(text)
        version = installed_version(requirement.name)
        if requirement.name in FRONT_END:
            continue
        if version is None:
            missing.append(text)
        elif not requirement.specifier.contains(version, prereleases=True):
            if requirement.name in TORCH:
                print(f"{requirement.name} {version} stays as it is; the project was tested with {text}")
            else:
                too_old.append(text)
    return missing, too_old


def installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def install(requirements: list[str]) -> None:
    """By pip, which may not replace an installed torch."""
    print("installing", *requirements)
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "kept.txt"
        installed = {name: installed_version(name) for name in TORCH}
        kept.write_text("".join(f"{name}=={version}\n" for name, version in installed.items() if version))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(kept), *requirements]
        subprocess.run(command, check=True)
    importlib.invalidate_caches()


def require_restart(replaced: list[str]) -> None:
    """Raises RuntimeError if a replaced package was loaded already: its old version stays until a restart."""
    names = {Requirement(text).name.lower() for text in replaced}
    modules = metadata.packages_distributions().items()
    loaded = {name for module, owners in modules if module in sys.modules for name in map(str.lower, owners)}
    if stale := sorted(names & loaded):
        raise RuntimeError(
            f"{', '.join(stale)} was loaded before it was replaced. Restart the kernel (Colab: Runtime, Restart "
            "session) and run the notebook from the top."
        )
