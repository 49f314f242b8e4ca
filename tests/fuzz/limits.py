"""How many odd inputs are tried, and how damaged ones are made of good ones.

`make test` tries about 2,000 in all files of this folder together; `make fuzz` 100,000 others, see `__main__`.
"""

import os
import struct
import zlib
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

CASES = os.environ.get("LEATHER_FUZZ_CASES")  # of each test
EXTREMES = (b"\0", b"\xff", b"\0\0", b"\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff" * 4)


def limits(usual):
    """Settings of a test that usually tries so many cases, the same each time; over 5 s for one counts as hanging."""
    return settings(
        max_examples=int(CASES or usual),
        deadline=timedelta(seconds=5),
        derandomize=not CASES,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def damages():
    """Some changes, for `damaged`: where, as a share of the content, what is done, and with which bytes."""
    kinds = st.sampled_from(("set", "insert", "remove", "repeat", "cut"))
    value = st.one_of(st.sampled_from(EXTREMES), st.binary(min_size=1, max_size=8))
    return st.lists(st.tuples(st.floats(0, 1, exclude_max=True), kinds, value), min_size=1, max_size=6)


def damaged(content, changes):
    for place, kind, value in changes:
        start = int(place * len(content))
        end = start + (len(value) if kind in ("set", "remove") else 0)
        if kind == "repeat":
            value = content[start : start + 8 * len(value)] * 2
        elif kind == "remove":
            value = b""
        content = content[:start] if kind == "cut" else content[:start] + value + content[end:]
    return content


def with_checksums(content):
    """A PNG whose chunks have right checksums again, so that a decoder reads on."""
    place, parts = 8, [content[:8]]
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        body = content[place + 4 : place + 8 + length]
        parts += [content[place : place + 4], body, struct.pack(">I", zlib.crc32(body))]
        place += 12 + length
    return b"".join(parts)
