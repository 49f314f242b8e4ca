"""``python -m tests.links`` (``make links``): do the external links of the pages answer?"""

import re
import sys

import requests

from tests.test_docs import PAGES

HINT = "https://github.com/"  # no package index: that may be a mirror


def main() -> int:
    links = sorted({link for page in PAGES for link in re.findall(r"https?://[^)\s>\]]+", page.read_text("utf-8"))})
    links = [link for link in links if "localhost" not in link]
    try:
        requests.head(HINT, timeout=10).raise_for_status()
    except requests.RequestException:
        print(f"no network: {HINT} does not answer; NOTHING WAS CHECKED of {len(links)} links")
        return 2
    broken = []
    for link in links:
        try:
            answer = requests.get(link, timeout=20, stream=True, headers={"User-Agent": "links"})
            reason = "" if answer.ok or answer.status_code in (401, 403, 429) else str(answer.status_code)
        except requests.RequestException as error:
            reason = type(error).__name__
        if reason:
            broken.append(link)
            print(f"{reason}: {link}")
    print(f"{len(links)} links, {len(broken)} broken")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
