"""The rule file: how severe a defect is, which grade and letter a hide gets, and on which layers it is drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_RULES = Path(__file__).with_name("grades.yaml")
OPEN_TABLES = ("class_severity", "letters")  # any names are keys there
SLACK = 1e-6  # mm or %: a length that is a limit but for rounding is that limit


@dataclass(frozen=True)
class Grade:
    """Kept by a hide with at most so many defects of this length this far from the edge."""

    name: str
    most: int
    longer_than_mm: float
    from_edge_mm: float


@dataclass(frozen=True)
class Rules:
    """What `read_rules` read; ``grades.yaml`` explains every key."""

    margin_mm: float
    grades: tuple[Grade, ...]  # best first
    below: str
    always: tuple[str, ...]
    severity_mm: tuple[float, ...]
    class_severity: dict[str, int]
    outline_layer: str
    defect_layers: tuple[str, ...]  # by severity
    letters: dict[str, float]  # lowest usable share in %, best first

    def severity(self, longest_mm: float, label: str | None) -> int:
        """From 0; larger is worse."""
        return max(sum(longest_mm >= limit - SLACK for limit in self.severity_mm), self.class_severity.get(label, 0))

    def grade(self, defects: Sequence[tuple[float, float, str | None]]) -> tuple[str, str]:
        """Grade and reason of a hide; a defect's length, how far its farthest point is from the edge, mm, and class."""
        for grade in self.grades:
            long = [one for one in defects if one[0] > grade.longer_than_mm + SLACK or one[2] in self.always]
            count = sum(reach > grade.from_edge_mm + SLACK for _, reach, _ in long)
            which = " or ".join([f"longer than {grade.longer_than_mm:g} mm", *self.always])
            where = f"reaching farther than {grade.from_edge_mm:g} mm from the edge"
            reason = f"{count} of {len(defects)} defects count ({which}, {where}); {grade.name} allows {grade.most}"
            if count <= grade.most:
                return grade.name, reason
        return self.below, reason

    def letter(self, usable_share: float) -> str:
        """SATRA's letter of a share in [0, 1]: in %, to one decimal, as its bands are."""
        percent = round(100 * usable_share + SLACK, 1)
        kept = [name for name, lowest in self.letters.items() if percent >= lowest - SLACK]
        return kept[0] if kept else f"below {[*self.letters][-1]}"


def read_rules(path: Path | None = None) -> Rules:
    """The rules of a file, or the usual ones. Raises ValueError that names the file, the key and what to do."""
    import yaml  # here: only who measures hides needs it

    path = Path(path or DEFAULT_RULES)
    try:
        content, example = (yaml.safe_load(each.read_text(encoding="utf-8")) for each in (path, DEFAULT_RULES))
        _check_shape(content, example, "the file")
        _check_order(content)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"the rules {path}: line {line} or the one before is no YAML: {error.problem}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"the rules {path}: {error}. Compare with {DEFAULT_RULES}") from error
    content["grades"] = [Grade(**grade) for grade in content["grades"]]
    return Rules(**{key: tuple(value) if isinstance(value, list) else value for key, value in content.items()})


def _check_shape(value: Any, example: Any, key: str) -> None:
    """Raises ValueError unless a value has the keys and kinds of values of the usual file's."""
    if isinstance(example, int | float):
        is_number = isinstance(value, int | type(example)) and not isinstance(value, bool) and 0 <= value < float("inf")
        _require(is_number, key, value, f"a {'whole ' if isinstance(example, int) else ''}number, 0 or more")
        return
    _require(isinstance(value, type(example)), key, value, f"something like {example!r}")
    if isinstance(example, dict):
        missing, unknown = ([*map(str, one.keys() - two.keys())] for one, two in ((example, value), (value, example)))
        if key not in OPEN_TABLES and missing + unknown:
            wrong = f"lacks {', '.join(sorted(missing))}" if missing else f"has {', '.join(sorted(unknown))}"
            raise ValueError(f"{key} {wrong}; its keys are {', '.join(example)}, each once")
        for name, part in value.items():
            _check_shape(name, "", key)
            _check_shape(part, example.get(name, [*example.values()][0]), name if key == "the file" else key)
    elif isinstance(example, list):
        for part in value:
            _check_shape(part, example[0], key)


def _check_order(content: dict[str, Any]) -> None:
    limits, letters = content["severity_mm"], list(content["letters"].values())
    _require(content["grades"], "grades", [], "one grade or more")
    _require(letters, "letters", {}, "one letter or more")
    _require(limits == sorted(set(limits)), "severity_mm", limits, "rising lengths")
    _require(letters == sorted(set(letters), reverse=True), "letters", letters, "falling shares, the best letter first")
    layers, classes = [content["outline_layer"], *content["defect_layers"]], content["class_severity"]
    are_plain = all(re.fullmatch(r"[\w-]+", name, re.A) for name in layers)  # every CAD reads such names
    _require(are_plain, "outline_layer or defect_layers", layers, "names of letters, digits, _ and -")
    _require(len(layers) == len(limits) + 2, "defect_layers", layers[1:], f"{len(limits) + 1}, one for each severity")
    _require(max(classes.values(), default=0) <= len(limits), "class_severity", classes, f"0 to {len(limits)}")


def _require(valid: object, key: str, value: object, expected: str) -> None:
    if not valid:
        raise ValueError(f"{key} has {value!r}; write {expected}")
