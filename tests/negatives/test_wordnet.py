"""WordNet's own files, read through nltk; Debian has them in `wordnet-base` and `wordnet-sense-index`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEBIAN = Path("/usr/share/wordnet")
ASK = """
import json, sys
from open_clip_ext.errors import InputError
from open_clip_ext.language.lexicon import Lexicon
try:
    lexicon = Lexicon()
except InputError as error:
    sys.exit(str(error))
pairs = json.loads(sys.argv[1])
print(json.dumps([lexicon.name, *(lexicon.relation(*pair) for pair in pairs)]))
"""
RELATIONS = {
    ("lectern", "furniture", "NOUN"): "implied",
    ("mammal", "wombat", "NOUN"): "narrower",
    ("wombat", "quoll", "NOUN"): "unknown",
    ("gigantic", "mammoth", "ADJ"): "same",
    ("munch", "chew", "VERB"): "implied",
    ("dog", "cat", "NOUN"): "excluded",  # by the word list, which comes first
}


@pytest.fixture
def nltk_data(tmp_path):
    """WordNet where nltk looks for it, with a file of names that Debian leaves out."""
    pytest.importorskip("nltk")
    if not (DEBIAN / "data.noun").exists() or not (DEBIAN / "index.sense").exists():
        pytest.skip("apt-get install wordnet-base wordnet-sense-index")
    there = tmp_path / "nltk_data" / "corpora" / "wordnet"
    shutil.copytree(DEBIAN, there)
    (there / "lexnames").write_text("".join(f"{number:02}\tfile.{number:02}\t1\n" for number in range(45)))
    return there


def ask(there: Path):
    data = str(there.parents[1])
    words = [sys.executable, "-c", ASK, json.dumps([*RELATIONS])]
    return subprocess.run(words, env={**os.environ, "NLTK_DATA": data}, capture_output=True, text=True)


def test_what_wordnet_adds_to_the_word_list(nltk_data):
    done = ask(nltk_data)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["captions-2+wordnet-3.0", *RELATIONS.values()]


def test_a_wordnet_that_lacks_a_file_is_named(nltk_data):
    (nltk_data / "index.sense").unlink()
    done = ask(nltk_data)
    assert done.returncode == 1
    assert done.stderr.startswith("nltk's WordNet cannot be read (No such file or directory: ")
    assert done.stderr.rstrip().endswith(
        "; put all of its files into a folder nltk_data/corpora/wordnet, or give --cfg wordnet=false"
    )
