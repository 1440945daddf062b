"""The recipe ce-clip, with a tiny masked language model that the test makes itself."""

from __future__ import annotations

import pytest
import torch
from support import python
from support_negatives import content
from test_make import captions, make, write

from open_clip_ext.errors import InputError
from open_clip_ext.negatives.recipes.fill_mask import CECLIP
from open_clip_ext.negatives.store import Store

transformers = pytest.importorskip("transformers")

# The words that the model finds likely everywhere, likeliest first.
LIKED = [
    "hound",
    "dog",
    "puppy",
    "##ing",
    "5",
    "red",
    "cat",
    "running",
    "blue",
    "horse",
    "woman",
    "sitting",
    "dogs",
]

OTHERS = ["a", "an", "the", "on", "and", "with", "old", "bench", ".", ",", "man"]


def word_pieces(folder):
    """A BERT that prefers `LIKED` wherever it is asked, with a vocabulary of whole words and pieces."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *LIKED,
        *OTHERS,
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64,
    )  # fmt: skip
    model = BertForMaskedLM(config)
    with torch.no_grad():
        model.cls.predictions.bias.fill_(-100)
        for rank, word in enumerate(LIKED):
            model.cls.predictions.bias[words.index(word)] = 100 - rank
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_level(folder):
    """A RoBERTa with random weights over a byte-level BPE that marks the beginnings of words."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaForMaskedLM, RobertaTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([f" {text}" for text in captions(400)], vocab_size=500, special_tokens=special)
    bpe.save_model(str(folder))
    tokenizer = RobertaTokenizerFast(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    RobertaForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def liking(tmp_path_factory):
    return str(word_pieces(tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    return str(byte_level(tmp_path_factory.mktemp("roberta")))


def made(model, caption, **options):
    generator = CECLIP(model=model, tagger="textblob", wordnet=False, **options)
    ((_, candidates),) = generator.generate([caption])
    found = {}
    for candidate in candidates:
        found.setdefault(candidate.type, []).append(candidate.text)
    return found


def test_fills_are_whole_words_of_the_class_that_differ(liking):
    """Neither the word itself, nor its synonym or sort, nor a piece, a number or another class."""
    generators = (made(liking, "a dog sitting with an old bench", rank=1, seed=seed) for seed in range(20))
    found = next(found for found in generators if "a dog" not in found["replace_noun"][0])
    nouns = {
        "a cat sitting with an old bench",
        "a horse sitting with an old bench",
        "a woman sitting with an old bench",
    }
    assert set(found["replace_noun"]) in (nouns, {t.replace("dog", "dog") for t in found["replace_noun"]})
    for text in found["replace_noun"]:
        assert "hound" not in text
        assert "puppy" not in text
        assert "dogs" not in text
    assert found["replace_verb"] == ["a dog running with an old bench"]
    assert found["replace_adj"] == [
        f"a dog sitting with a {adjective} bench" for adjective in ("red", "running", "blue")
    ]
    assert found["swap_noun"] == ["a bench sitting with an old dog"]


def test_the_rank_goes_down_the_list_and_then_up(liking):
    assert made(liking, "the old", rank=2)["replace_adj"] == ["the blue", "the red"]
    assert made(liking, "the old", rank=9)["replace_adj"] == ["the blue", "the red"]


def test_a_class_that_the_caption_lacks_has_no_text(liking):
    """CE-CLIP's script fills a bare mask there and calls it valid."""
    assert made(liking, "the and") == {}
    assert set(made(liking, "a man")) == {"replace_noun"}


def test_each_caption_s_fills_are_its_own(liking):
    generator = CECLIP(model=liking, tagger="textblob", model_batch=2)
    texts = ["a man", "an old man on a bench", "the and", "a man running", "a dog"]
    together = {texts[i]: found for i, found in generator.generate(texts)}
    for text in texts:
        ((_, alone),) = generator.generate([text])
        assert together[text] == alone


def test_a_byte_level_model_gives_words_with_their_beginnings(random_model):
    generator = CECLIP(model=random_model, tagger="textblob", rank=1)
    texts = captions(20)
    vocabulary = {word.strip(",") for text in captions(400) for word in text.lower().split()}
    replaced = 0
    for index, candidates in generator.generate(texts):
        for candidate in candidates:
            if candidate.type != "swap_noun":
                (old, new), *more = [
                    pair
                    for pair in zip(texts[index].split(), candidate.text.split(), strict=True)
                    if pair[0] != pair[1]
                ]
                assert not more or {old.lower(), new.lower()} <= {"a", "an"}
                # Whole pieces with a beginning, which need not be whole words of the captions.
                assert any(word.startswith(new.strip(",").lower()) for word in vocabulary)
                replaced += 1
    assert replaced > 10


def test_the_command_makes_a_store_twice_the_same(tmp_path, capsys, liking):
    source = write(tmp_path / "c.csv", captions(30))
    options = ("--cfg", f"model={liking}", "rank=1")
    make(capsys, source, tmp_path / "one", *options, recipe="ce-clip")
    words = ("make", source, "--recipe", "ce-clip", "--out", tmp_path / "two", *options, "tagger=textblob")
    again = python("-m", "open_clip_ext.cli", "negatives", *words)
    assert again.returncode == 0, again.stderr
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert Store.open(tmp_path / "one").types() == CECLIP.types
    with pytest.raises(SystemExit):
        make(capsys, source, tmp_path / "one", *options[:-1], recipe="ce-clip")
    assert "rank: 1 there, 3 now" in capsys.readouterr().err


def test_a_text_that_is_too_long_for_the_model_gets_no_fills(liking):
    assert set(made(liking, "an old man on a bench " * 20)) == {"swap_noun"}


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no fill-mask model can be loaded from there"):
        CECLIP(model=str(tmp_path / "absent"), tagger="textblob")


def test_a_rank_below_one(liking):
    with pytest.raises(ValueError, match="rank must be at least 1, not 0"):
        CECLIP(model=liking, rank=0, tagger="textblob")
