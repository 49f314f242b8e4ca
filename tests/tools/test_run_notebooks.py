"""Notebooks as they are committed: every progress bar is one line, and no widget is left."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tools.run_notebooks import main, on_terminal, tidy

BAR = """from tqdm import tqdm
for _ in tqdm(range(3), "outer"):
    for _ in tqdm(range(50), "inner", leave=False):
        pass
"""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\n  text\n", "plain\n\n  text\n"),  # as it was printed
        ("\rbar: 0%\rbar: 100%\n", "bar: 100%\n"),
        ("\rlonger\rbar\n", "barger\n"),  # what a terminal does too
        ("outer: 0%\n\rinner: 0%\x1b[A\n\rinner: 9%\x1b[A\n\r         \r\x1b[A\router: 100%\n", "outer: 100%\n"),
        ("\x1b[31mred\x1b[0m\rblue\n", "blue\n"),
    ],
)
def test_a_stream_is_what_a_terminal_shows_in_the_end(text, shown):
    assert on_terminal(text) == shown


def test_pieces_of_a_stream_are_joined_and_widgets_left_out():
    widget = new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "bar: 0%"})
    pieces = [new_output("stream", name="stderr", text=text) for text in ("\rbar: 0%", "\rbar: 50%", "\rbar: 100%\n")]
    table = new_output("execute_result", {"text/plain": "a table"})
    notebook = new_notebook(cells=[new_code_cell("x", outputs=[widget, *pieces, table])], metadata={"widgets": {}})
    tidy(notebook)
    stream, kept = notebook.cells[0].outputs
    assert stream.text == "bar: 100%\n" and kept == table and "widgets" not in notebook.metadata


@pytest.mark.enable_socket  # kernels are spoken to over local ports
def test_a_run_is_written_in_place_with_one_line_a_bar(tmp_path):
    path = tmp_path / "x.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(new_notebook(cells=[new_code_cell(BAR), new_code_cell("print(1 + 1)")], metadata=kernel), path)
    main([str(path)])
    bar, answer = nbformat.read(path, as_version=4).cells
    (stream,) = bar.outputs
    assert stream.text.startswith("outer: 100%") and stream.text.count("\n") == 1
    assert answer.outputs[0].text == "2\n" and answer.execution_count == 2
