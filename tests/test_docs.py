"""The pages: a first screen that fits, numbers that stand in committed results, links that lead somewhere."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from src.config import paths

ROOT = paths.root
README, SPANISH = ROOT / "README.md", ROOT / "README.es.md"
PAGES = [README, SPANISH, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "references").glob("*.md"))]
RESULTS = [
    *(ROOT / "reports").glob("baselines/*.json"),
    *(ROOT / "reports").glob("best_modelo_kaggle_dataset/*/*.json"),
    *(ROOT / "reports").glob("eda/audit.json"),
    *(ROOT / "benchmarks" / "results").glob("*.json"),
]


def numbers_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return {text for part in value for text in numbers_in(part)}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {f"{value:.2f}", f"{value:.3f}"} if is_number else set()


def anchors(page):
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [README, SPANISH], ids=lambda page: page.name)
def test_the_first_screen_fits_and_its_numbers_were_measured(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("\n") <= 130
    measured = set().union(*(numbers_in(json.loads(file.read_text(encoding="utf-8"))) for file in RESULTS))
    said = {number.replace(",", ".") for number in re.findall(r"\b[01][.,]\d{2,3}\b", text)}
    assert len(said) > 8 and said <= measured, sorted(said - measured)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_is_broken(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(<?([^)\s>]+)>?\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists() and target.is_relative_to(ROOT), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(Path(target)), f"{page.name} links to {link}"


@pytest.mark.slow
def test_the_api_pages_are_built_without_warnings(tmp_path):
    recipe = re.search(r"python -m (pdoc .*?) --output-directory", (ROOT / "Makefile").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", *shlex.split(recipe[1]), "--output-directory", str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    warned = [line for line in answer.stderr.splitlines() if line.startswith("Warn")]
    need_ray = re.findall(r"'!([\w.]+)'", recipe[1])  # may be missing
    known = ["archives.Member", "'lscpu'", *need_ray]  # a NamedTuple's imports; what a library runs when it is imported
    assert [line for line in warned if not any(name in line for name in known)] == []
    modules = {path.relative_to(ROOT).with_suffix("") for path in (ROOT / "src").rglob("*.py")} - {
        Path(name.replace(".", "/")) for name in need_ray
    }
    pages = {path.relative_to(tmp_path).with_suffix("") for path in tmp_path.rglob("*.html")}
    assert {module for module in modules if not module.name.startswith("__")} <= pages
