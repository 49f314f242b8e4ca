"""The rule file: limits to the last bit, grades worked by hand, and errors that name file, key and remedy."""

import numpy as np
import pytest
import yaml

from src.inspection.grade import DEFAULT_RULES, read_rules

INCH = 25.4


@pytest.fixture(scope="module")
def rules():
    return read_rules()


def write(path, **changes):
    content = yaml.safe_load(DEFAULT_RULES.read_text(encoding="utf-8")) | changes
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    "longest, label, expected",
    [(0, None, 0), (4.9, None, 0), (5, None, 1), (INCH, None, 3), (199, None, 5), (200, None, 6), (1e4, None, 6)]
    + [(1, "hole", 3), (60, "hole", 4), (1, "pinhole", 0)],
)
def test_severity_by_length_and_class(rules, longest, label, expected):
    assert rules.severity(longest, label) == expected


def test_a_length_at_a_limit_is_that_limit_to_the_last_bit(rules):
    for limit, expected in ((5, 1), (INCH, 3), (200, 6)):
        assert (
            rules.severity(np.nextafter(limit, 0), None) == rules.severity(np.nextafter(limit, 1e9), None) == expected
        )
    inside = (np.nextafter(INCH, 1e9), 1e3, None)
    assert rules.grade([inside])[0] == "No. 1"
    assert rules.grade([(100.0, np.nextafter(3 * INCH, 1e9), None)])[0] == "No. 1"
    for share, letter in ((0.951, "A"), (0.70, "F")):
        assert rules.letter(np.nextafter(share, 0)) == rules.letter(np.nextafter(share, 1)) == letter


SHORT, LONG, NEAR, HOLE = (INCH, 500.0, None), (26.0, 500.0, None), (300.0, 76.2, None), (2.0, 77.0, "hole")


@pytest.mark.parametrize(
    "defects, expected",
    [
        ([], "No. 1"),
        ([SHORT] * 9 + [NEAR] * 9, "No. 1"),
        ([(2.0, 60.0, "hole")], "No. 1"),
        ([LONG], "No. 2"),
        ([HOLE], "No. 2"),
        ([LONG, HOLE], "No. 3"),
        ([LONG] * 5, "No. 3"),
        ([LONG] * 6, "below No. 3"),
    ],
)
def test_grades_of_packers(rules, defects, expected):
    grade, reason = rules.grade(defects)
    assert grade == expected and f"of {len(defects)} defects count" in reason
    assert rules.grade(defects[::-1]) == (grade, reason)


def test_the_reason_says_what_counts_and_what_is_allowed(rules):
    assert rules.grade([LONG, LONG, SHORT])[1] == (
        "2 of 3 defects count (longer than 25.4 mm or hole or cut, reaching farther than 76.2 mm from the edge); "
        "No. 3 allows 5"
    )
    assert rules.grade([LONG] * 6)[1].endswith("No. 3 allows 5")


@pytest.mark.parametrize(
    "percent, letter",
    [(100, "A"), (95.1, "A"), (95.0, "B"), (90.1, "B"), (90.04, "C"), (85.1, "C"), (85.0, "D"), (80.1, "D")]
    + [(80.0, "E"), (75.1, "E"), (75.0, "F"), (70.0, "F"), (69.9, "below F"), (0, "below F")],
)
def test_letters_of_satra(rules, percent, letter):
    assert rules.letter(percent / 100) == letter


def test_worse_defects_never_make_a_better_grade(rules):
    random, order = np.random.default_rng(0), ["No. 1", "No. 2", "No. 3", "below No. 3"]
    for _ in range(50):
        defects = [(random.uniform(1, 60), random.uniform(1, 300), None) for _ in range(random.integers(1, 9))]
        worse = [(longest + 10, reach + 50, label) for longest, reach, label in defects]
        assert order.index(rules.grade(worse)[0]) >= order.index(rules.grade(defects)[0])
        assert order.index(rules.grade([*defects, LONG])[0]) >= order.index(rules.grade(defects)[0])


def test_own_rules_are_read(tmp_path):
    grades = [{"name": "first", "most": 2, "longer_than_mm": 3, "from_edge_mm": 0}]
    own = {"severity_mm": [20], "defect_layers": ["small", "LARGE"], "class_severity": {}, "always": []}
    rules = read_rules(write(tmp_path / "own.yaml", grades=grades, margin_mm=2, letters={"top": 50}, **own))
    assert rules.margin_mm == 2 and rules.defect_layers == ("small", "LARGE") and rules.severity(20, "hole") == 1
    assert rules.grade([LONG] * 3)[0] == "below No. 3" and rules.grade([LONG] * 2)[0] == "first"
    assert rules.letter(0.5) == "top" and rules.letter(0.4) == "below top"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"margin_mm": -1}, "margin_mm has -1"),
        ({"margin_mm": True}, "margin_mm has True"),
        ({"margin_mm": "5 mm"}, "margin_mm has '5 mm'"),
        ({"margin_mm": float("nan")}, "margin_mm has nan"),
        ({"margin": 5}, "the file has margin; its keys are margin_mm"),
        ({"below": None}, "below"),
        ({"grades": []}, "grades"),
        ({"letters": {}}, "letters"),
        ({"grades": [{"name": "1"}]}, "lacks from_edge_mm, longer_than_mm, most"),
        ({"grades": [{"name": "1", "most": 1.5, "longer_than_mm": 1, "from_edge_mm": 1}]}, "1.5"),
        ({"severity_mm": [10, 5]}, "severity_mm"),
        ({"severity_mm": [5, 10]}, "defect_layers"),
        ({"letters": {"A": 50, "B": 60}}, "letters"),
        ({"class_severity": {"hole": 7}}, "class_severity"),
        ({"defect_layers": [50, 51, 52, 53, 54, 55, 56]}, "defect_layers has 50"),
        ({"outline_layer": "a/b"}, "outline_layer"),
    ],
)
def test_errors_name_the_file_the_key_and_what_to_do(tmp_path, changes, words):
    with pytest.raises(ValueError, match=r"own\.yaml.*(write|Compare)") as error:
        read_rules(write(tmp_path / "own.yaml", **changes))
    assert words in str(error.value) and "grades.yaml" in str(error.value)


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "a: \x00", "!!python/object/apply:os.getcwd []"])
def test_what_is_no_rule_file_is_refused(tmp_path, text):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ValueError, match="own.yaml"):
        read_rules(tmp_path / "own.yaml")
    with pytest.raises(ValueError, match="none.yaml"):
        read_rules(tmp_path / "none.yaml")


def test_what_is_no_yaml_is_said_with_its_line(tmp_path):
    (tmp_path / "own.yaml").write_text("margin_mm 5\nbelow: none\n")
    with pytest.raises(ValueError, match=r"own\.yaml: line 2 or the one before is no YAML"):
        read_rules(tmp_path / "own.yaml")
