"""The five notebooks: the house rules that can be checked by reading them, and one run of all in a tiny mode."""

import json
import re
import shutil
import subprocess

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from src.config import CLASS_NAMES, paths

NOTEBOOKS = sorted(paths.root.glob("*.ipynb"))
EDA = {
    "class_distribution",
    "class_examples",
    "image_sizes_and_formats",
    "colour_and_brightness",
    "copies",
    "hides",
    "classes_per_hide",
    "shortcut_test",
    "mvtec_leather_counts",
    "mvtec_leather_brightness",
    "mvtec_leather_examples",
    "mvtec_leather_defect_area",
    "mvtec_leather_defect_comparison",
    "mvtec_leather_defect_positions",
}
CLASSIFICATION = {
    "matriz_de_confusion_multiclase",
    "evaluacion_integral",
    "ejemplos_multiclase",
    "loss_train",
    "loss_val",
    "acc_train",
    "acc_val",
    "loss_and_accuracy",
    "lr",
}
LOCALISATION = {"validacion_visual_mvtec", "imagenes_ejemplo_mvtec"}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def path(request):
    return request.param


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


# -- rules ----------------------------------------------------------------------------------------------


def test_the_five_notebooks_are_there():
    assert [path.name.split("-")[0].split(".")[:2] for path in NOTEBOOKS] == [[str(i), "0"] for i in range(1, 6)]


def test_it_is_a_valid_notebook(path):
    nbformat.validate(json.loads(path.read_text(encoding="utf-8")))
    assert read(path).metadata.kernelspec.name == "python3"


def test_it_opens_and_closes_with_text(path):
    first, *_, last = read(path).cells
    assert first.cell_type == last.cell_type == "markdown"
    assert first.source.startswith("# ") and "imit" in last.source  # findings and limits


def test_cells_are_short(path):
    for cell in code_cells(path):
        assert sum(bool(line.strip()) for line in cell.source.splitlines()) <= 15, cell.source


def test_cells_define_nothing(path):
    for cell in code_cells(path):
        assert not re.search(r"^\s*(async\s+)?(def|class)\s", cell.source, re.MULTILINE), cell.source


def test_all_start_with_the_same_cell():
    cells = {code_cells(path)[0].source for path in NOTEBOOKS}
    assert len(cells) == 1 and "os.chdir(ROOT)" in cells.pop()


def test_outputs_are_none_or_of_one_complete_run(path):
    cells = code_cells(path)
    counts = [cell.execution_count for cell in cells]
    outputs = [output for cell in cells for output in cell.outputs]
    if not outputs:
        assert counts == [None] * len(cells)
        return
    assert counts == list(range(1, len(cells) + 1))
    assert not [output for output in outputs if output.output_type == "error"]
    assert path.stat().st_size <= 1_000_000


def printed_text(path):
    """What the outputs of a notebook say, without pictures."""
    outputs = [output for cell in code_cells(path) for output in cell.outputs]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def test_outputs_are_readable(path):
    text = printed_text(path)
    assert not re.search(r"[\r\x1b]|model_id|resumed after", text)
    assert not re.search(r"\d\.\d{7,}", text), "more digits than anybody can use"
    states = re.findall(r"^(.+?): +(\d+)%\|", text, re.MULTILINE)
    assert {state for name, state in states if name != "epochs"} <= {"100"}  # the last state of each bar


def test_numbers_of_the_findings_stand_in_the_outputs(path):
    if not (text := printed_text(path)):
        pytest.skip("no outputs")
    findings = read(path).cells[-1].source.partition("**Limits**")[0]
    findings = re.sub(r"`[^`]*`|notebook \d\.\d|^#.*", "", findings, flags=re.MULTILINE)  # names, no figures
    said, printed = (re.findall(r"\b\d+\.\d+\b", words) for words in (findings, text))
    assert [number for number in said if number not in printed] == []


# -- opened alone ---------------------------------------------------------------------------------------


def run_first_cell(folder, *, repository):
    """What a fresh kernel in that folder prints after the first cell, with ``repository`` as the project's address."""
    source = code_cells(NOTEBOOKS[0])[0].source
    assert source.count('REPOSITORY = ""') == 1
    cells = [source.replace('REPOSITORY = ""', f"REPOSITORY = {repository!r}"), SAY_WHERE]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    return "".join(output["text"] for output in notebook.cells[-1].outputs)


SAY_WHERE = "import os, src.config, tools.notebook; print(os.getcwd(), src.config.paths.root, tools.notebook.ROOT)"


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty folder, and no way to a package index."""
    for name in ("PYTHONPATH", "LEATHER_OUTPUT", "LEATHER_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    folder = tmp_path / "alone"
    folder.mkdir()
    return folder


@pytest.fixture
def address(tmp_path):
    """``file://`` address of a git repository with the project's code."""
    place = tmp_path / "stand-in"
    for name in ("src", "tools"):
        shutil.copytree(paths.root / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(paths.root / name, place / name)
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *command], cwd=place, check=True)
    return place.as_uri()


@pytest.mark.enable_socket
def test_a_notebook_that_is_opened_alone_clones_the_project_once(alone, address):
    expected = f"{alone / 'leather'} {alone / 'leather'} {alone / 'leather'}\n"
    assert run_first_cell(alone, repository=address) == expected
    assert run_first_cell(alone, repository="file:///nowhere") == expected  # it is there already


@pytest.mark.enable_socket
def test_a_notebook_inside_the_project_uses_it(alone):
    printed = run_first_cell(paths.root / "docs", repository="file:///nowhere")
    assert printed == f"{paths.root} {paths.root} {paths.root}\n"


@pytest.mark.enable_socket
def test_without_an_address_it_says_what_to_do(alone):
    with pytest.raises(CellExecutionError, match="The project is not here: .* fill in REPOSITORY"):
        run_first_cell(alone, repository="")
    assert not list(alone.iterdir())


# -- run ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.enable_socket  # kernels are spoken to over local ports
def test_all_five_run_in_order(tmp_path, monkeypatch):
    output = tmp_path / "output"
    for name, value in {
        "LEATHER_SOURCE": "sample",
        "LEATHER_SAMPLE": str(tmp_path / "sample"),
        "LEATHER_OUTPUT": str(output),
        "LEATHER_TINY": "1",
        "LEATHER_EPOCHS": "2",
        "MPLBACKEND": "Agg",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("LEATHER_PRESET", "LEATHER_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    trained = paths.shipped_backbone.is_file()
    for path in NOTEBOOKS if trained else NOTEBOOKS[:3]:
        run(path)

    eda = output / "reports" / "sample" / "eda"
    assert {p.stem for p in eda.glob("*.png")} == EDA
    assert json.loads((eda / "audit.json").read_text(encoding="utf-8"))["hide_groups"]["source"] == "hides.csv"
    if not trained:
        pytest.skip(f"4.0 was not run: {paths.shipped_backbone.name} has not been distilled yet")
    check_training(output)
    report = output / "reports" / "inspection" / "hides"
    table = pd.read_csv(report / "inspection.csv")
    assert len(table) == 3 and not table["error"].notna().any() and (report / "index.html").stat().st_size > 10_000


def run(path):
    notebook = read(path)
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(paths.root)}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        pytest.fail(f"{path.name}: {error}", pytrace=False)


def check_training(output):
    reports, found = output / "reports" / "sample", {}
    for folder, names, content in (
        ("resultados_multiclase", CLASSIFICATION, "results_summary.json"),
        ("resultados_mvtec_visual", LOCALISATION, "mvtec_metrics.json"),
    ):
        assert {p.stem for p in (reports / folder).glob("*.png")} == names
        for picture in (reports / folder).glob("*.png"):
            with Image.open(picture) as image:
                image.verify()
        found[folder] = json.loads((reports / folder / content).read_text(encoding="utf-8"))
    summary, mvtec = found["resultados_multiclase"], found["resultados_mvtec_visual"]
    assert summary["class_names"] == list(CLASS_NAMES) and summary["run"]["epochs"] == 2
    assert summary["run"]["dataset"] == "sample" and summary["run"]["weights"].startswith("shipped")
    assert list(mvtec["protocols"]) == ["six-class-transfer", "zero-shot", "4-shot"]
    assert (reports / "resultados_mvtec_visual" / "visual_validation_summary.txt").stat().st_size > 200
    assert (output / "models" / "sample.pth").is_file()
    assert list((output / "logs" / "sample").glob("events.out.tfevents.*"))
