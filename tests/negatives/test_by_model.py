"""The recipes by a language model beside `degla`: what their answers hold, and what the gate makes of it."""

from __future__ import annotations

import json
import re

import pytest
from endpoint import Reply, caption_of, serve

from open_clip_ext import cli
from open_clip_ext.errors import InputError
from open_clip_ext.language.entailment import EntailmentChecker
from open_clip_ext.language.lexicon import Lexicon
from open_clip_ext.language.taggers import tagger
from open_clip_ext.negatives.gate import Gate
from open_clip_ext.negatives.recipes.by_model import (
    DeGLA,
    NegationByModel,
    PhrasesByModel,
    PositivesByModel,
)
from open_clip_ext.negatives.records import Candidate
from open_clip_ext.negatives.store import Store

RECIPES = {made.name: made for made in (DeGLA, NegationByModel, PhrasesByModel, PositivesByModel)}
CAPTION = "a black dog runs on a mat"


def answers(made, *given: dict[str, str], retries: int = 1, caption: str = CAPTION):
    """The candidates of a caption for these answers, one after the other, and the requests."""
    full = [dict.fromkeys(made.parts) | answer for answer in given]
    with serve(lambda _, number: Reply(json.dumps(full[number]))) as endpoint:
        recipe = made(base_url=endpoint.url, retries=retries, patience=1, structured="none")
        try:
            ((_, candidates),) = recipe.generate([caption])
        finally:
            recipe.close()
    return candidates, endpoint.requests


def test_types_and_kinds_are_those_of_the_rules():
    from open_clip_ext.negatives.recipes.negation import Negation
    from open_clip_ext.negatives.recipes.phrases import Phrases
    from open_clip_ext.negatives.recipes.positives import Positives

    for by_model, by_rules in (
        (NegationByModel, Negation), (PhrasesByModel, Phrases), (PositivesByModel, Positives),
    ):  # fmt: skip
        assert (by_model.types, by_model.kinds) == (by_rules.types, by_rules.kinds)


def test_each_key_has_its_kind():
    found, _ = answers(
        NegationByModel,
        {"not_verb": "a black dog does not run on a mat", "absent": f"{CAPTION}, but there is no cat"},
    )
    assert [(c.type, c.kind) for c in found] == [("not_verb", "neg"), ("absent", "absence")]
    found, _ = answers(PositivesByModel, {"replace_noun": "a black hound runs on a mat"})
    assert [(c.type, c.kind) for c in found] == [("replace_noun", "pos")]


def test_a_foil_belongs_to_the_phrase_of_its_answer():
    found, _ = answers(PhrasesByModel, {"entity": "a black dog", "entity_foil": "a white dog"})
    assert found == [
        Candidate("entity", "a black dog", "phrase"),
        Candidate("entity", "a white dog", "foil", of="a black dog"),
    ]


@pytest.mark.parametrize("entity", [None, " "])
def test_a_foil_without_a_phrase_is_nothing(entity):
    found, _ = answers(
        PhrasesByModel,
        {"entity": entity, "entity_foil": "a white dog", "relation": "a black dog runs on a mat"},
        retries=0,
    )
    assert [c.text.strip() for c in found if c.text.strip()] == [CAPTION]
    assert all(c.kind == "phrase" for c in found)


def test_a_foil_that_is_wrong_is_asked_for_again_with_its_phrase():
    """Phrase and foil of different answers never come together; what was good stays."""
    found, requests = answers(
        PhrasesByModel,
        {"entity": "a black dog", "entity_foil": "a black dog",
         "relation": "a dog runs on a mat", "relation_foil": "a dog sits on a mat"},
        {"entity": "a mat", "entity_foil": "a rug",
         "relation": "a black dog runs", "relation_foil": "a black dog sits"},
    )  # fmt: skip
    assert [(c.text, c.of) for c in found] == [
        ("a mat", ""), ("a rug", "a mat"),
        ("a dog runs on a mat", ""), ("a dog sits on a mat", "a dog runs on a mat"),
    ]  # fmt: skip
    assert requests[1]["messages"][-1]["content"] == (
        "This cannot be used: entity_foil: the text that it belongs to, but for case and signs. "
        "Give the whole object again."
    )


@pytest.mark.parametrize(
    ("made", "key", "text", "better", "fault"),
    [
        (PhrasesByModel, "entity", "a brown dog", "a mat",
         "a phrase or an absence with words that the caption has not"),
        (NegationByModel, "absent", "there is no cat", f"{CAPTION}, but there is no cat",
         "an absence without all words of the caption"),
        (PositivesByModel, "swap_noun", "a mat", "on a mat a black dog runs",
         "more than twice or less than half as many words"),
    ],
)  # fmt: skip
def test_what_the_words_alone_tell_goes_back_to_the_model(made, key, text, better, fault):
    found, requests = answers(made, {key: text}, {key: better})
    assert requests[1]["messages"][-1]["content"].startswith(f"This cannot be used: {key}: {fault}. ")
    assert [candidate.text for candidate in found] == [better]


def test_a_model_of_no_use_leaves_one_place_for_each_text_of_a_caption():
    other = {"entity": "a cat", "entity_foil": "a dog"}

    def reply(request, number):
        texts = dict.fromkeys(PhrasesByModel.parts) | other
        return Reply(json.dumps(texts) if "cat" in caption_of(request) else "no")

    with serve(reply) as endpoint:
        recipe = PhrasesByModel(base_url=endpoint.url, retries=0, patience=1, structured="none")
        found = dict(recipe.generate(["a bird", "a cat"]))
        recipe.close()
    assert found[0] == [Candidate(type, "", "phrase", reason="no_answer") for type in ("entity", "relation")]


def test_from_captions_to_a_store(tmp_path, capsys):
    """An absence that another caption of the picture speaks against is rejected, a good one stored."""
    rows = "filepath,title\n1,a black dog runs on a mat\n1,a kitten and a dog\n2,a bird\n"
    (tmp_path / "c.csv").write_text(rows)

    def reply(request, number):
        absent = f"{caption_of(request)}, but there is no cat"
        return Reply(json.dumps(dict.fromkeys(NegationByModel.parts) | {"absent": absent}))

    with serve(reply) as endpoint:
        words = ["negatives", "make", tmp_path / "c.csv", "--recipe", "negation-llm", "--out", tmp_path / "s"]
        assert cli.main([*map(str, words), "--cfg", f"base_url={endpoint.url}"]) == 0
    assert "said_elsewhere 1" in capsys.readouterr().out
    store = Store.open(tmp_path / "s")
    assert [t.text for t in store.texts("a bird", "absence")] == ["a bird, but there is no cat"]
    assert store.texts(CAPTION, "absence") == []


# --- prompts


@pytest.mark.parametrize("name", RECIPES)
def test_the_examples_pass_the_gate(name):
    """What the prompts ask for is what is stored."""
    made, gate = RECIPES[name], Gate(EntailmentChecker(Lexicon(wordnet=False)), tagger("textblob"))
    lines = made.instructions().splitlines()
    found = dict.fromkeys(made.parts, 0)
    for at, line in enumerate(lines):
        if not line.startswith("caption: "):
            continue
        caption = line.removeprefix("caption: ")
        texts = {}
        for answer in lines[at + 1 :]:
            if not (match := re.fullmatch(rf"({'|'.join(made.parts)}): (.*)", answer)):
                break
            texts[match[1]] = match[2]
        assert texts, caption
        (tokens,) = gate.tagger.tag([caption])
        edits = [
            Candidate(part.type, texts[key], part.kind, of=texts[part.of] if part.of else "")
            for key, part in made.parts.items()
            if texts.get(key, "null") != "null"
        ]
        assert gate.check(caption, tokens, edits) == edits
        for key in texts:
            found[key] += texts[key] != "null"
    assert min(found.values()) >= 2


@pytest.mark.parametrize("name", RECIPES)
def test_a_folder_of_edited_prompts_must_be_whole(tmp_path, name):
    (tmp_path / "task.md").write_text("Do it.")
    first = RECIPES[name].types[0]
    with pytest.raises(InputError) as raised:
        RECIPES[name](base_url="http://localhost:1/v1", model="m", prompts=str(tmp_path))
    sentence = str(raised.value)
    assert sentence.startswith(f"--cfg prompts={tmp_path}: {first}.md cannot be read there (")
    assert sentence.endswith(f"prompts/{name.removesuffix('-llm')} and edit the copy")


@pytest.mark.parametrize("name", RECIPES)
def test_without_an_endpoint_it_says_which_recipe_needs_one(name):
    with pytest.raises(InputError, match=f"^the recipe {name} needs an endpoint: --cfg base_url="):
        RECIPES[name]()
