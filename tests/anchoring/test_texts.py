"""Reference texts: the lines of a file, or words that the tokenizer knows."""

from __future__ import annotations

from types import SimpleNamespace

import open_clip
import pytest

from open_clip_ext.anchoring import texts
from open_clip_ext.data import by_word
from open_clip_ext.errors import InputError


def test_a_file_has_a_text_per_line(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("a fox \n\n  \nmeadow, dusk\n")
    assert texts.from_file(str(file)) == ["a fox", "meadow, dusk"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot be read \(.*No such file.*\); give a text file in UTF-8$"),
        (b"\xff", r"cannot be read \(.*decode.*\); give a text file in UTF-8$"),
        (b" \n\n", r"has no text; give a file with one text per line$"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, content, message):
    file = tmp_path / "texts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=rf"^anchor_texts={file}: {message}"):
        texts.from_file(str(file))


def test_without_a_file_texts_are_words_of_the_tokenizer():
    tokenizer = by_word(open_clip.get_tokenizer("ViT-B-32"))
    found = texts.of_words(tokenizer)
    assert len(found) == texts.TEXTS
    assert {len(text.split()) for text in found} == set(range(1, texts.MOST_WORDS + 1))
    words = {word for text in found for word in text.split()}
    assert len(words) > 10_000
    assert all(len(tokenizer.encode(word)) == 1 for word in list(words)[:2000])
    assert texts.of_words(tokenizer) == found


@pytest.mark.parametrize(
    "tokens",
    [
        ["[CLS]", "fox", "dusk", "##ing", "7", "a"],
        ["<s>", "▁fox", "▁dusk", "ing", "▁7", "▁", "▁a"],
        ["<s>", "Ġfox", "Ġdusk", "ing", "Ġ7", "Ġa"],
        ["<s>", "fox</w>", "dusk</w>", "ing", "7</w>", "a</w>"],
    ],
    ids=["WordPiece", "SentencePiece", "byte-level", "CLIP"],
)
def test_the_words_of_a_hugging_face_tokenizer_are_known_by_their_marks(tokens):
    inner = SimpleNamespace(get_vocab=lambda: {token: i for i, token in enumerate(tokens)})
    assert texts.vocabulary(SimpleNamespace(tokenizer=inner)) == ["dusk", "fox"]


def test_a_tokenizer_whose_words_are_not_known_is_refused():
    with pytest.raises(
        InputError,
        match=r"^text_anchor: the words of the tokenizer function are not known; give texts, with --loss-cfg "
        r"anchor_texts=FILE$",
    ):
        texts.of_words(lambda texts: texts)
