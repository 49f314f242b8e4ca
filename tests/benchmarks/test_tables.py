"""Tables of results."""

from benchmarks.tables import markdown_rows


def test_a_markdown_table_by_hand():
    rows = markdown_rows(["name", "share"], [["pinhole", "0.5"], ["all", ""]])
    assert rows == ["| name | share |", "|---|---|", "| pinhole | 0.5 |", "| all |  |"]
