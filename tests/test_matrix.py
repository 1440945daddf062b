"""`make matrix`: which pairs of open_clip_torch and torch it runs, and the table that it writes."""

from __future__ import annotations

import re
from pathlib import Path

import corners
import pytest
from corners import STEPS, Corner, Outcome

from open_clip_ext.host.released import TESTED

OURS = ["open_clip_torch>=2.28", "torch>=2.6"]
PLAIN = ["torch>=1.9", "torchvision", 'torch>=9; extra == "training"']
TORCHES = ["2.15.0", "2.9.1", "2.10.0", "2.6.0", "2.5.1"]
PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"


def test_both_ends_come_first_and_pairs_of_one_torch_together():
    releases = dict.fromkeys(["3.3.0", "2.28.0", "2.30.0", "2.27.1"], PLAIN)
    chosen = corners.choose(OURS, releases, TORCHES)
    assert [c.release for c in chosen] == 2 * ["2.28.0", "3.3.0", "2.30.0"]
    assert [c.torch for c in chosen] == 3 * ["2.6.0"] + 3 * [None]


def test_the_oldest_torch_is_one_that_the_release_allows():
    releases = {"2.28.0": PLAIN, "3.0.0": ["torch>=2.9"], "3.1.0": ["torch>=2.15"], "3.2.0": ["torch>=3"]}
    chosen = corners.choose(OURS, releases, TORCHES)
    oldest, newest = (([c for c in chosen if (c.torch is None) == end]) for end in (False, True))
    assert oldest == [Corner("2.28.0", "2.6.0"), Corner("3.0.0", "2.9.1")]
    # Where only one fits, it is the newest; where none does, there is no pair.
    assert newest == [Corner("2.28.0", None), Corner("3.0.0", None), Corner("3.1.0", None)]


@pytest.fixture
def outcomes():
    versions = {"torch": "2.15.0", "torchvision": "0.29.2", "timm": "1.0.31"}
    return {
        Corner("2.28.0", "2.6.0"): Outcome(),
        Corner("2.28.0", None): Outcome(list(STEPS), "", versions, "2026-01-02 with Python 3.11"),
        Corner("2.30.0", None): Outcome(["install", "doctor"], "training: it broke.", versions, "here"),
        Corner("2.30.0", "2.6.0"): Outcome([], "install: no such version."),
    }


def test_the_table_says_only_what_was_run(outcomes):
    lines = corners.table(outcomes).splitlines()
    rows = [line for line in lines if line.startswith("| 2")]
    assert rows == [
        "| 2.28.0 | 2.6.0 |  |  | not run | not run | not run |",
        "| 2.28.0 | 2.15.0 | 0.29.2 | 1.0.31 | passed | passed | passed |",
        "| 2.30.0 | 2.6.0 |  |  | not run | not run | not run |",
        "| 2.30.0 | 2.15.0 | 0.29.2 | 1.0.31 | passed | failed | not run |",
    ]
    assert lines[lines.index(rows[-1]) + 2 :] == [
        "- 2.30.0 with torch 2.6.0: install: no such version.",
        "- 2.30.0 with torch 2.15.0: training: it broke.",
        "",
        "Run on 2026-01-02 with Python 3.11; here.",
    ]


def test_an_outcome_is_read_back(outcomes, tmp_path):
    path = tmp_path / "outcome.json"
    assert corners.load(path) == Outcome()
    for outcome in outcomes.values():
        outcome.save(path)
        assert corners.load(path) == outcome
        assert outcome.whole == (outcome.why == "" and bool(outcome.passed))


def test_the_reason_is_the_line_that_says_it():
    """torch has more to say after an exception."""
    assert (
        corners.reason("Traceback:\n  File\ntorch.CudaError: no\nI1129 cache_misses: 0\n")
        == "torch.CudaError: no"
    )
    assert corners.reason("ok    all\nopen_clip_ext: no such loss\n\n") == "open_clip_ext: no such loss"
    assert corners.reason("FAIL  run: no data\n1 problem(s)\n") == "FAIL  run: no data"
    assert corners.reason("ERROR: No matching distribution\n") == "ERROR: No matching distribution"
    assert corners.reason("first\nKilled\n") == "Killed"
    assert corners.reason("") == "it printed nothing"


def test_the_rest_of_the_page_is_kept(tmp_path):
    page = tmp_path / "page.md"
    corners.rewrite(page, "first")
    assert page.read_text() == "# Compatibility\n\n<!-- matrix -->\nfirst\n<!-- /matrix -->\n"
    page.write_text(f"above\n{page.read_text()}\nbelow\n")
    corners.rewrite(page, r"second \1")
    assert page.read_text() == (
        "above\n# Compatibility\n\n<!-- matrix -->\nsecond \\1\n<!-- /matrix -->\n\nbelow\n"
    )


def test_the_docs_claim_the_releases_of_the_table():
    rows = re.findall(r"^\| (\d+\.\d+)\.\d+ \| .* passed \|$", PAGE.read_text(), re.MULTILINE)
    assert f"{rows[0]} to {rows[-1]}" == TESTED
    assert f"open_clip_torch {TESTED} and" in (PAGE.parents[1] / "README.md").read_text()
