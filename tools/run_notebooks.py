"""``python -m tools.run_notebooks FILE ...``: runs notebooks and writes their outputs as they are committed."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

from src.config import paths
from src.files import whole_file

OVER_FILES = Config(KernelManager={"transport": "ipc"})  # kernels are spoken to without a network
CONTROLS = re.compile(r"(\r|\n|\x1b\[A)")  # carriage return, line feed, one line up
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    for path in parser.parse_args(arguments).notebooks:
        notebook = nbformat.read(path, as_version=4)
        options = {"timeout": None, "kernel_name": "python3", "resources": {"metadata": {"path": str(paths.root)}}}
        client = NotebookClient(notebook, store_widget_state=False, record_timing=False, config=OVER_FILES, **options)
        client.execute()
        tidy(notebook)
        with whole_file(path) as stream:
            stream.write(nbformat.writes(notebook).encode() + b"\n")


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Leaves of every progress bar its last state as one line, and no widgets, which a page does not show."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = _joined([output for output in cell.outputs if not _is_widget(output)])


def _is_widget(output: nbformat.NotebookNode) -> bool:
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Neighbouring pieces of one stream as one, as a terminal would show it in the end."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if kept and output.output_type == kept[-1].output_type == "stream" and output.name == kept[-1].name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = on_terminal(output.text)
    return [output for output in kept if output.output_type != "stream" or output.text.strip()]


def on_terminal(text: str) -> str:
    """What a terminal shows after this text; text without control characters stays as it is."""
    text = COLOURS.sub("", text)
    if not re.search(r"[\r\x1b]", text):
        return text
    rows, row, column = [""], 0, 0
    for piece in CONTROLS.split(text):
        if piece == "\n":
            row, column = row + 1, 0
            rows += [""] * (row == len(rows))
        elif piece == "\r":
            column = 0
        elif piece == "\x1b[A":
            row = max(row - 1, 0)
        else:
            rows[row] = rows[row][:column].ljust(column) + piece + rows[row][column + len(piece) :]
            column += len(piece)
    return "".join(f"{line.rstrip()}\n" for line in rows if line.strip())


if __name__ == "__main__":
    main()
