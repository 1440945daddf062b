"""Words by their offsets, edits that touch nothing else, and the taggers behind one interface."""

from __future__ import annotations

import random
import string
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise

import pytest

from open_clip_ext.errors import InputError
from open_clip_ext.language import words
from open_clip_ext.language.inflection import inflected, lemma
from open_clip_ext.language.taggers import DEFAULT_MODEL, SpacyTagger, TextBlobTagger, tagger
from open_clip_ext.language.words import Token


@pytest.fixture(scope="module")
def blob():
    return tagger("textblob")


def tag(blob, caption) -> list[Token]:
    return next(iter(blob.tag([caption])))


def find(tokens, text, which=0) -> tuple[int, int]:
    at = [i for i, token in enumerate(tokens) if token.text == text][which]
    return at, at + 1


def test_offsets_are_those_of_the_caption(blob):
    rng = random.Random(0)
    letters = (
        string.ascii_letters
        + string.punctuation
        + string.digits
        + " \t\u00e9\u2603\u72d7\U0001f600"
        + "  a " * 10
    )
    for _ in range(300):
        caption = "".join(rng.choice(letters) for _ in range(rng.randrange(60)))
        tokens = tag(blob, caption)
        assert all(caption[t.start : t.end] == t.text and t.text for t in tokens)
        assert all(a.end <= b.start for a, b in pairwise(tokens))
        assert "".join(t.text for t in tokens) == "".join(caption.split())


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A black dog and a spotted dog are fighting", "DET ADJ NOUN CCONJ DET ADJ NOUN AUX VERB"),
        ("a man with stripes up a set of stairs", "DET NOUN ADP NOUN ADP DET NOUN ADP NOUN"),
        ("The man 's hat is red", "DET NOUN PART NOUN AUX ADJ"),
        ("two dogs, \u72d7 and his cat.", "NUM NOUN PUNCT X CCONJ PRON NOUN PUNCT"),
    ],
)
def test_classes_of_caption_words(blob, caption, expected):
    assert " ".join(token.pos for token in tag(blob, caption)) == expected


@pytest.mark.parametrize(
    ("word", "pos", "base"),
    [
        ("dogs", "NOUN", "dog"),
        ("men", "NOUN", "man"),
        ("children", "NOUN", "child"),
        ("grass", "NOUN", "grass"),
        ("running", "VERB", "run"),
        ("sitting", "VERB", "sit"),
        ("sat", "VERB", "sit"),
        ("riding", "VERB", "ride"),
        ("uses", "VERB", "use"),
        ("watches", "VERB", "watch"),
        ("carries", "VERB", "carry"),
        ("lying", "VERB", "lie"),
        ("bigger", "ADJ", "big"),
        ("smallest", "ADJ", "small"),
        ("happier", "ADJ", "happy"),
        ("is", "AUX", "be"),
    ],
)
def test_dictionary_forms(word, pos, base):
    assert lemma(word, pos) == base


@pytest.mark.parametrize("word", ["tennis", "police", "gas", "slice"])
def test_a_singular_is_its_own_dictionary_form(blob, word):
    assert tag(blob, f"a photo of {word}")[-1].lemma == word


@pytest.mark.parametrize(
    ("base", "tag", "form"),
    [
        ("dog", "NNS", "dogs"),
        ("child", "NNS", "children"),
        ("ride", "VBG", "riding"),
        ("run", "VBG", "running"),
        ("lie", "VBG", "lying"),
        ("carry", "VBZ", "carries"),
        ("watch", "VBZ", "watches"),
        ("play", "VBZ", "plays"),
        ("look", "VBG", "looking"),
        ("see", "VBG", "seeing"),
        ("red", "JJ", "red"),
        ("go", "VBD", ""),
    ],
)
def test_forms_of_a_dictionary_word(base, tag, form):
    assert inflected(base, tag) == form


@pytest.mark.parametrize(
    ("caption", "one", "other", "expected"),
    [
        ("a man and a woman with a dog", "man", "dog", "a dog and a woman with a man"),
        ("an apple on a table", "apple", "table", "a table on an apple"),
        ("Dogs chase cats.", "Dogs", "cats", "Cats chase dogs."),
        ("A dog , a \u00abcat\u00bb ,  and a bird", "cat", "bird", "A dog , a \u00abbird\u00bb ,  and a cat"),
        ("an hour on a uniform", "hour", "uniform", "a uniform on an hour"),
        ("a TV on a bed", "TV", "bed", "a bed on a TV"),
        ("A tongue . Another boy looks", "tongue", "boy", "A boy . Another tongue looks"),
    ],
)
def test_a_swap_fits_in(blob, caption, one, other, expected):
    tokens = tag(blob, caption)
    assert words.swap(caption, tokens, find(tokens, one), find(tokens, other)) == expected


def test_a_capital_belongs_to_the_place(blob):
    caption = "A tongue . Another boy looks ."
    tokens = tag(blob, caption)
    assert words.swap(caption, tokens, (0, 2), (3, 5)) == "Another boy . A tongue looks ."
    caption = "Two big dogs near a cat"
    tokens = tag(blob, caption)
    assert words.swap(caption, tokens, (0, 3), (4, 6)) == "A cat near two big dogs"


def test_an_edit_leaves_the_rest_to_the_character(blob):
    rng = random.Random(1)
    for _ in range(200):
        caption = "  ".join(
            rng.choice(["a", "an", "dog", "apple,", "RED", "(cat)", "\u2603", "it's"]) for _ in range(9)
        )
        tokens = tag(blob, caption)
        at = rng.randrange(len(tokens))
        edited = words.edit(caption, tokens, {(at, at + 1): "XYZ"})
        kept = caption[: tokens[at].start], caption[tokens[at].end :]
        assert edited.endswith("XYZ" + kept[1])
        before = edited.removesuffix("XYZ" + kept[1])
        article = at and tokens[at - 1].lemma in ("a", "an")
        assert before == kept[0] or (article and before.split()[:-1] == kept[0].split()[:-1])


def test_a_missing_spacy_model_names_the_command(capsys):
    with pytest.raises(InputError, match="spaCy has no such model; python -m spacy download en_core_web_xx"):
        tagger("en_core_web_xx")


def test_a_missing_spacy_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(InputError, match="spaCy is not installed; pip install spacy, or use tagger=textblob"):
        tagger("en_core_web_sm")


def test_the_fallback_is_said(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "spacy", None)
    assert tagger("auto").name == TextBlobTagger.name
    assert (
        "tagging with TextBlob's lexicon; spaCy's en_core_web_sm is not installed" in capsys.readouterr().err
    )


def test_a_missing_model_is_found_out_without_spacy_and_torch(tmp_path):
    if find_spec(DEFAULT_MODEL):
        pytest.skip(f"{DEFAULT_MODEL} is installed")
    (tmp_path / "c.csv").write_text("title\nA dog on a bench\n")
    script = """
import sys
from open_clip_ext import cli
assert cli.main(["negatives", "make", "c.csv", "--recipe", "swap", "--out", "s"]) == 0
print(*sorted({"spacy", "thinc", "torch"} & set(sys.modules)), file=sys.stderr)
"""
    made = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "tagging with TextBlob's lexicon" in made.stderr
    assert made.stderr.splitlines()[-1] == ""


def test_an_installed_model_is_taken(spacy_model, tmp_path, monkeypatch):
    """As `spacy download` installs one: a package with `load`."""
    package = tmp_path / DEFAULT_MODEL
    package.mkdir()
    (package / "__init__.py").write_text(
        f"import spacy\ndef load(**options):\n    return spacy.load({str(spacy_model)!r}, **options)\n"
    )
    info = tmp_path / f"{DEFAULT_MODEL}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DEFAULT_MODEL}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, DEFAULT_MODEL, None)  # so that it goes again at the end
    del sys.modules[DEFAULT_MODEL]
    assert tagger("auto").name == "spacy-2:words-0.0.0"


def test_a_missing_textblob_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "textblob.en", None)
    with pytest.raises(InputError, match="TextBlob is not installed"):
        tagger("textblob")


@pytest.fixture(scope="module")
def spacy_model(tmp_path_factory):
    """A spaCy pipeline made here: a table of words in place of a trained tagger."""
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("attribute_ruler")
    for pos, tag, group in (
        ("DET", "DT", "a the"),
        ("NOUN", "NN", "man dog bench"),
        ("NOUN", "NNS", "dogs"),
        ("ADJ", "JJ", "black old"),
        ("VERB", "VBG", "sitting"),
        ("ADP", "IN", "on with"),
    ):
        for word in group.split():
            attributes = {"POS": pos, "TAG": tag, "LEMMA": {"dogs": "dog", "sitting": "sit"}.get(word, word)}
            ruler.add([[{"LOWER": word}]], attributes)
    folder = tmp_path_factory.mktemp("spacy") / "model"
    pipeline.meta["name"] = "words"
    pipeline.to_disk(folder)
    return folder


def test_a_spacy_model_is_a_tagger_like_any_other(spacy_model):
    made = tagger(str(spacy_model))
    assert made.name == "spacy-2:words-0.0.0"
    caption = "An old man  sitting on the Dogs."
    (tokens,) = made.tag([caption])
    assert [caption[t.start : t.end] for t in tokens] == [
        "An",
        "old",
        "man",
        "sitting",
        "on",
        "the",
        "Dogs",
        ".",
    ]
    assert tokens[6] == Token(27, 31, "Dogs", "NOUN", "NNS", "dog")
    assert tokens[6].plural


def test_spacy_leaves_a_word_with_hyphens_whole(spacy_model):
    """Its own tokenizer makes "close", "-" and "up" of it, and "up" could be exchanged."""
    (tokens,) = tagger(str(spacy_model)).tag(["a close-up of a red-and-white dog's bench - old"])
    words = ["a", "close-up", "of", "a", "red-and-white", "dog", "'s", "bench", "-", "old"]
    assert [token.text for token in tokens] == words


def test_a_spacy_model_without_a_tagger(tmp_path):
    spacy = pytest.importorskip("spacy")
    spacy.blank("en").to_disk(tmp_path / "m")
    with pytest.raises(InputError, match="this spaCy model gives no parts of speech"):
        SpacyTagger(str(tmp_path / "m"))


def test_the_swap_recipe_runs_on_spacy(spacy_model):
    from open_clip_ext.negatives.recipes.swap import Swap

    made = Swap(tagger=str(spacy_model), seed=0)
    ((_, candidates),) = made.generate(["a black dog on the old man"])
    assert {c.type for c in candidates} == {"swap_noun", "swap_phrase", "swap_adj"}
    assert made.identity()["tagger"] == "spacy-2:words-0.0.0"


def test_tags_are_remembered():
    made = tagger("textblob")
    calls = []
    inner = made._tagger
    made._tagger = type(
        "T", (), {"tag": lambda self, captions: calls.append(list(captions)) or inner.tag(captions)}
    )()
    first = list(made.tag(["a dog", "a cat", "a dog"]))
    again = list(made.tag(["a cat", "a bird"]))
    assert calls == [["a dog", "a cat"], ["a bird"]]
    assert first[1] == again[0]
    assert [t.text for t in first[2]] == ["a", "dog"]


def test_textblob_s_tag_of_a_word_depends_on_the_word_alone():
    """What the tagger rests on when it asks for each word once."""
    from textblob.en import parser

    words = ["a", "man", "rides", "2", "spotted", "horses", "quickly", "near", "Paris", "blorfing", "."]
    alone = [parser.find_tags([word], map=None)[0] for word in words]
    assert parser.find_tags(words, map=None) == alone
