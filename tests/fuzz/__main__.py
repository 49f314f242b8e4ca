"""Many odd inputs, in batches with a seed each: ``python -m tests.fuzz``. Stopped at any time, the next call goes on.

Findings are the logs of failed batches; their last lines say how to repeat the case.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path("work/fuzz")
EACH = 500  # cases of a test in a batch
HANG = 3600  # seconds


def run_batch(seed):
    """Cases that were tried, and the log if one of them failed, else ''."""
    command = [sys.executable, "-m", "pytest", "tests/fuzz", "-v", "-W", "ignore", f"--hypothesis-seed={seed}"]
    environment = os.environ | {"LEATHER_FUZZ_CASES": str(EACH)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG)
    except subprocess.TimeoutExpired as error:
        return EACH, f"seed {seed}: no end after {HANG} s\n{error.stdout}"
    tests = sum(int(number) for number in re.findall(r"(\d+) (?:passed|failed)", done.stdout.splitlines()[-1]))
    return tests * EACH, done.stdout if done.returncode else ""


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="in all, those of earlier calls included")
    wanted = parser.parse_args().cases
    FOLDER.mkdir(parents=True, exist_ok=True)
    log = FOLDER / "done.txt"  # a line a batch: its cases
    batches = [int(line) for line in log.read_text().split()] if log.is_file() else []
    while sum(batches) < wanted:
        cases, finding = run_batch(len(batches))
        if not cases:
            sys.exit(f"no test was run:\n{finding}")
        if finding:
            (FOLDER / f"finding-{len(batches)}.txt").write_text(finding)
        batches.append(cases)
        log.write_text("\n".join(map(str, batches)))
        found = len(list(FOLDER.glob("finding-*.txt")))
        print(f"{sum(batches):,} of {wanted:,} cases, {found} batches with findings in {FOLDER}", flush=True)
    sys.exit(any(FOLDER.glob("finding-*.txt")))


if __name__ == "__main__":
    main()
