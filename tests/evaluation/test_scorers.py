"""Scorers: reference values of ComCLIP, loops, what is masked, what is refused, one of somebody else's."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import open_clip
import pytest
import support
import torch
from drawn import write_folders
from fakes import FakeEncoder, pair
from PIL import Image
from test_readers import make_comvg, make_mmvp, make_svo, make_winoground, put

from open_clip_ext import cli
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import scorer
from open_clip_ext.evaluation.encode import Encoder
from open_clip_ext.evaluation.evaluate import evaluate
from open_clip_ext.evaluation.items import Benchmark, Item, Picture
from open_clip_ext.evaluation.scorer import Chosen, Scorer
from open_clip_ext.evaluation.scorers import comclip, sources
from open_clip_ext.evaluation.scorers.comclip import ComCLIP
from open_clip_ext.evaluation.scorers.grid import PhraseGrid, grid
from open_clip_ext.evaluation.scorers.parts import Part, masked
from open_clip_ext.evaluation.scoring import composition, retrieval
from open_clip_ext.evaluation.stored import Member

DOCS = Path(__file__).parents[2] / "docs"


# --- ComCLIP against values that its formula has on a fixed input ---------------------------------------


def drawn(n: int, phase: float) -> torch.Tensor:
    """Unit rows `[n, 5]` in fp64: sin(0.7 (r+1)(d+1) + phase), divided by their length."""
    rows, columns = torch.arange(n).double()[:, None], torch.arange(5).double()
    made = torch.sin(0.7 * (rows + 1) * (columns + 1) + phase)
    return made / made.norm(dim=-1, keepdim=True)


V, T = drawn(4, 0.0), drawn(4, 0.5)


class Given:
    """Features of pictures by path and box, of texts by themselves, at the lengths they are given with."""

    def __init__(self, **features: torch.Tensor) -> None:
        self.features = features

    def pictures(self, pictures, *, unit=True):
        return self._all([p.path + "".join(f"_{box[0]:.0f}" for box in p.visible) for p in pictures], unit)

    def texts(self, texts, *, unit=True):
        return self._all(texts, unit)

    def _all(self, names, unit):
        found = torch.stack([self.features[name] for name in names])
        return found / found.norm(dim=-1, keepdim=True) if unit else found


def box(x: int) -> list[int]:
    return [x, 0, 1, 1]


def parts_file(path: Path, rows) -> Path:
    """`(picture, caption, {phrase: x of its box})`."""
    put(path, tuple({"picture": picture, "caption": caption,
                     "parts": [{"text": text, "boxes": [box(x)]} for text, x in parts.items()]}
                    for picture, caption, parts in rows))  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("features", "expected"), [("unit", 0.8532496757), ("raw", 0.6998164548), ("none", 0.8784728980)]
)
def test_one_pair_has_the_value_of_the_formula(tmp_path, features, expected):
    lengths = {"image": 2, "image_1": 1, "image_2": 2, "image_3": 3}
    pictures = {name: V[n] * length for n, (name, length) in enumerate(lengths.items())}
    encoder = Given(**pictures, **{f"t{n}": 3 * T[n] for n in range(4)})
    parts = {} if features == "none" else {"t1": 1, "t2": 2, "t3": 3}
    scorer = ComCLIP(
        parts=parts_file(tmp_path / "p.jsonl", [("image", "t0", parts)]),
        features="unit" if features == "none" else features,
    )
    (value,) = scorer.similarities(encoder, [(Picture("image"), "t0")])
    assert float(value) == pytest.approx(expected, abs=1e-10)


def test_the_weights_are_those_of_the_formula():
    expected = [0.3306139847, 0.3347678589, 0.3346181564]
    assert comclip.weights(V[1:], T[1:]).tolist() == pytest.approx(expected, abs=1e-10)
    lengths = torch.tensor([1.0, 2, 3])[:, None]
    expected = [0.1649766948, 0.3340989641, 0.5009243411]
    assert comclip.weights(lengths * V[1:], 3 * T[1:]).tolist() == pytest.approx(expected, abs=1e-10)


def test_two_pictures_and_two_captions_have_the_values_of_the_formula(tmp_path):
    encoder = Given(
        **{name: V[n] for n, name in enumerate(("i0", "i1"))},
        **{f"{image}_{n}": V[n] for image in ("i0", "i1") for n in (2, 3)},
        **{f"t{n}": T[n] for n in range(4)},
    )
    rows = [(image, text, {"t2": 2, "t3": 3}) for image in ("i0", "i1") for text in ("t0", "t1")]
    chosen = Chosen("comclip", ComCLIP(parts=parts_file(tmp_path / "p.jsonl", rows)))
    pairs = [(Picture(image), text) for text in ("t0", "t1") for image in ("i0", "i1")]
    expected = [0.7697091741, 0.1386969962, -0.1759101975, 0.8564558905]
    assert chosen.similarities(encoder, pairs).tolist() == pytest.approx(expected, abs=1e-10)
    item = Item("1", (Picture("i0"), Picture("i1")), ("t0", "t1"), "2x2")
    (row,) = composition.rows(encoder, [item], scorer=chosen)
    assert row["correct"] == {"group": 1, "text": 1, "image": 1}
    assert row["margin"] == pytest.approx(0.7697091741 - 0.1386969962, abs=1e-9)


@pytest.mark.parametrize(
    ("fits", "used"),
    [
        ([0.3, 0.2], [0.6, 0.4]),
        ([1e-9, 3e-9], [0.25, 0.75]),  # small, but they agree
        ([0.5, -0.4], None),  # 5 and -4, if it were not for the limit: 9 is below 10
        ([0.5, -0.49], None),
        ([0.0, 0.0], None),
        ([-0.1, -0.2], None),
        ([], []),
    ],
)
def test_weights_that_cancel_are_not_used(fits, used):
    found = comclip.weights(torch.tensor(fits).double()[:, None], torch.ones(len(fits), 1).double())
    if fits == [0.5, -0.4]:
        assert found.tolist() == pytest.approx([5, -4])
    else:
        assert (found if found is None else found.tolist()) == (used if used is None else pytest.approx(used))


def test_a_pair_whose_weights_cancel_is_scored_by_the_cosine_and_counted(tmp_path):
    encoder = Given(image=V[0], image_1=V[1], image_2=V[2], t0=T[0], good=V[1], bad=-V[2])
    scorer = ComCLIP(parts=parts_file(tmp_path / "p.jsonl", [("image", "t0", {"good": 1, "bad": 2})]))
    (value,) = scorer.similarities(encoder, [(Picture("image"), "t0")])
    assert float(value) == pytest.approx(0.8784728980, abs=1e-10)
    assert scorer.counts()["pairs whose weights cancel"] == 1
    assert scorer.counts() == {}  # they begin anew


# --- pictures masked to boxes ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    name = support.write_model(tmp_path_factory.mktemp("scored"))
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    return model, open_clip.image_transform(32, is_train=False), open_clip.get_tokenizer(name)


def by_hand(path: str, boxes, crop=None) -> Image.Image:
    image = Image.open(path).convert("RGB")
    for x in range(image.width):
        for y in range(image.height):
            if not any(
                math.floor(left) <= x < math.ceil(left + w) and math.floor(top) <= y < math.ceil(top + h)
                for left, top, w, h in boxes
            ):
                image.putpixel((x, y), (0, 0, 0))
    return image.crop((crop[0], crop[1], crop[0] + crop[2], crop[1] + crop[3])) if crop else image


@pytest.mark.parametrize("crop", [None, (4, 4, 20, 16)])
def test_all_outside_of_the_boxes_is_black(tiny, pictures, tmp_path, crop):
    boxes = [(5.5, 6, 8, 9.2), (10, 10, 30, 4)]  # they overlap, and one reaches beyond the picture
    by_hand(pictures[0], boxes, crop).save(tmp_path / "masked.png")
    shown = masked(Picture(pictures[0], crop), boxes)
    made = Encoder(*tiny).pictures([shown, Picture(str(tmp_path / "masked.png"))])
    torch.testing.assert_close(made[0], made[1])
    assert (made[0] - Encoder(*tiny).pictures([Picture(pictures[0], crop)])[0]).abs().max() > 1e-3


def test_no_box_or_one_outside_of_the_crop_is_the_whole_picture(pictures):
    picture = Picture(pictures[0], (4, 4, 10, 10))
    assert masked(picture, []) == picture
    assert masked(picture, [(20, 20, 5, 5)]) == picture
    assert masked(picture, [(5, 5, 2, 2), (20, 20, 5, 5)]).visible == ((5, 5, 2, 2),)


def test_a_picture_that_is_no_file_stays_what_it_is():
    member = Member("a.tar/1.jpg", tar="a.tar", offset=512, size=9)
    assert masked(member, [(0, 0, 2, 2)]) == Member(
        "a.tar/1.jpg", visible=((0, 0, 2, 2),), tar="a.tar", offset=512, size=9
    )


def test_a_part_is_encoded_once_whatever_the_order_of_its_boxes(tiny, pictures, tmp_path):
    one, other = (1.0, 1.0, 4.0, 4.0), (8.0, 8.0, 4.0, 4.0)
    encoder = Encoder(*tiny, cache=tmp_path)
    encoder.pictures([masked(Picture(pictures[0]), boxes) for boxes in ([one, other], [other, one], [one])])
    assert encoder.encoded["pictures"] == 2
    again = Encoder(*tiny, cache=tmp_path)
    again.pictures([masked(Picture(pictures[0]), [one]), masked(Picture(pictures[1]), [one])])
    assert again.encoded["pictures"] == 1


def test_features_come_at_their_own_length_too(tiny, pictures, tmp_path):
    model, preprocess, tokenizer = tiny
    for _ in range(2):  # encoded, then from the cache
        encoder = Encoder(*tiny, cache=tmp_path)
        with torch.inference_mode():
            image = model.encode_image(preprocess(Image.open(pictures[0]).convert("RGB"))[None])
            text = model.encode_text(tokenizer(["a dog"]))
        torch.testing.assert_close(encoder.pictures([Picture(pictures[0])], unit=False), image)
        torch.testing.assert_close(encoder.texts(["a dog"], unit=False), text)
        assert float(encoder.texts(["a dog"]).norm()) == pytest.approx(1)


# --- the grid --------------------------------------------------------------------------------------------


def test_the_grid_has_the_whole_and_thirteen_boxes(pictures):
    parts = grid(Picture(pictures[0]))  # 32 x 32
    assert [len(part.visible) for part in parts] == [0] + [1] * 13
    assert [part.visible[0] for part in parts[1:3]] == [(0, 0, 16, 16), (16, 0, 16, 16)]
    assert parts[-1].visible[0] == pytest.approx((64 / 3, 64 / 3, 32 / 3, 32 / 3))
    cropped = grid(Picture(pictures[0], (4, 8, 20, 10)))
    assert cropped[4].visible == ((14, 13, 10, 5),)


def test_the_best_box_of_each_phrase_is_a_part(pictures):
    encoder = FakeEncoder()
    caption = "a black dog on a white sofa"
    scorer = PhraseGrid()
    (value,) = scorer.similarities(encoder, [(Picture(pictures[0]), caption)])
    boxes = encoder.pictures(grid(Picture(pictures[0]))).double()
    phrases = encoder.texts(["a black dog", "a white sofa"]).double()
    best = torch.stack([boxes[int((boxes @ phrase).argmax())] for phrase in phrases])
    fits = (best * phrases).sum(-1)
    whole = boxes[0] + (fits / fits.sum()) @ best
    expected = whole @ encoder.texts([caption])[0].double() / whole.norm()
    assert float(value) == pytest.approx(float(expected), abs=1e-7)
    counts = scorer.counts()
    assert (counts["pairs"], counts["parts"], counts["pairs whose weights cancel"]) == (1, 2, 0)


# --- where parts come from -------------------------------------------------------------------------------


def benchmark(*paths: str, captions=("a man rides a horse", "a horse rides a man")) -> Benchmark:
    return Benchmark(
        "b", [pair(str(n), picture=p, captions=captions) for n, p in enumerate(paths)], ("micro",)
    )


INSTANCES = {
    "images": [{"id": 7, "file_name": "000000000001.jpg"}, {"id": 8, "file_name": "000000000002.jpg"}],
    "categories": [
        {"id": 1, "name": "person"}, {"id": 2, "name": "horse"}, {"id": 3, "name": "hot dog"},
        {"id": 4, "name": "dining table"},
    ],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [1, 1, 5, 5]},
        {"image_id": 7, "category_id": 1, "bbox": [20, 1, 5, 5]},
        {"image_id": 7, "category_id": 2, "bbox": [2.5, 4, 9, 9]},
        {"image_id": 8, "category_id": 3, "bbox": [2, 2, 3, 3]},
        {"image_id": 8, "category_id": 4, "bbox": [0, 9, 30, 9]},
    ],
}  # fmt: skip
PEOPLE = ((1.0, 1.0, 5.0, 5.0), (20.0, 1.0, 5.0, 5.0))
HORSE = ((2.5, 4.0, 9.0, 9.0),)


def found(path: Path, picture: str, caption: str) -> list[Part] | None:
    return sources.read(path, "textblob").of([(Picture(picture), caption)])[0]


def test_the_nouns_of_a_caption_get_coco_s_boxes(tmp_path):
    put(tmp_path / "i.json", INSTANCES)
    picture = "val2014/COCO_val2014_000000000001.jpg"
    assert found(tmp_path / "i.json", picture, "A man is riding a brown horse next to a tree") == [
        Part("a man", PEOPLE), Part("a brown horse", HORSE), Part("a tree"),
        Part("riding", PEOPLE + HORSE),
    ]  # fmt: skip
    second = "000000000002.jpg"
    table = ((0.0, 9.0, 30.0, 9.0),)
    assert found(tmp_path / "i.json", second, "a dog on a table") == [Part("a dog"), Part("a table", table)]
    assert found(tmp_path / "i.json", second, "a hot dog")[0].boxes == ((2.0, 2.0, 3.0, 3.0),)
    assert found(tmp_path / "i.json", "000000000003.jpg", "a dog") is None


def test_the_nouns_of_a_caption_get_visual_genome_s_boxes(tmp_path):
    objects = [
        {"names": ["trees"], "x": 3, "y": 0, "w": 9, "h": 20},
        {"names": ["man"], "x": 1, "y": 2, "w": 3, "h": 4},
    ]
    put(tmp_path / "objects.json", [{"image_id": 2345, "objects": objects}])
    assert found(tmp_path / "objects.json", "VG_100K/2345.jpg", "the tree behind the man") == [
        Part("the tree", ((3.0, 0.0, 9.0, 20.0),)), Part("the man", ((1.0, 2.0, 3.0, 4.0),)),
    ]  # fmt: skip


def test_boxes_of_annotators_that_are_outside_are_left_out_and_counted(tmp_path, pictures):
    broken = json.loads(json.dumps(INSTANCES))
    broken["images"][0]["file_name"] = "0.png"
    broken["annotations"][0]["bbox"] = [40, 1, 5, 5]  # the picture has 32 x 32
    broken["annotations"][1]["bbox"] = [4, 1, 0, 5]
    put(tmp_path / "i.json", broken)
    scorer = ComCLIP(parts=tmp_path / "i.json")
    scorer.check(benchmark(pictures[0]))
    scorer.similarities(FakeEncoder(), [(Picture(pictures[0]), "a man on a horse")])
    counts = scorer.counts()
    assert (counts["boxes outside of their picture"], counts["parts without a box"]) == (2, 1)


def test_a_row_is_for_the_picture_whose_path_ends_so(tmp_path):
    rows = [("a/1.jpg", "c", {"first": 0}), ("b/1.jpg", "c", {"second": 0}), ("2.jpg", "c", {"third": 0})]
    path = parts_file(tmp_path / "p.jsonl", rows)
    for picture, text in (("/data/a/1.jpg", "first"), ("b/1.jpg", "second"), ("/x/y/2.jpg", "third")):
        assert found(path, picture, "c") == [Part(text, (tuple(map(float, box(0))),))]
    assert found(path, "1.jpg", "c") is None
    assert found(path, "/data/a/1.jpg", "other") is None


def test_a_pair_without_a_row_is_scored_by_the_cosine_and_counted(tmp_path, pictures):
    path = parts_file(tmp_path / "p.jsonl", [("0.png", "true", {"dog": 3})])
    chosen = Chosen("comclip", ComCLIP(parts=path))
    items = [pair(str(n), picture=p) for n, p in enumerate(pictures[:4])]
    result = evaluate(FakeEncoder(), [Benchmark("b", items, ("micro",))], scorer=chosen)["b"]
    assert result["n"] == result["scores"]["micro"]["n"] == 4  # the denominator is all items
    del result["counts"]["pairs whose weights cancel"]  # as the features happen to be drawn
    assert result["counts"] == {
        "pairs": 8, "pairs that the file lacks": 7, "parts": 1, "parts without a box": 0,
        "boxes outside of their picture": 0,
    }  # fmt: skip
    assert result["cost"] == {"pictures": 5, "texts": 3, "plain": {"pictures": 4, "texts": 2}}
    plain = evaluate(FakeEncoder(), [Benchmark("b", items, ("micro",))])["b"]
    assert [row["margin"] for row in result["rows"][1:]] == pytest.approx(
        [row["margin"] for row in plain["rows"][1:]]
    )


# --- retrieval --------------------------------------------------------------------------------------------


class Drawn(Scorer):
    """A similarity drawn from a hash of the pair."""

    rerank = 4

    def similarities(self, encoder, pairs):
        return torch.tensor([self.of(*pair) for pair in pairs])

    def of(self, picture, caption):
        return float(FakeEncoder(1)._one((picture.path, caption)))


def test_the_first_candidates_are_ranked_again_as_in_a_loop():
    pictures = [Picture(f"{n}.png") for n in range(12)]
    captioned = {p: [f"caption {n} {k}" for k in range(2)] for n, p in enumerate(pictures)}
    made = retrieval.benchmark("r", captioned, {})
    rows = retrieval.retrieve(FakeEncoder(), made.items, Chosen("drawn", Drawn()))
    captions = [caption for those in captioned.values() for caption in those]
    seen, read = FakeEncoder().pictures(pictures), FakeEncoder().texts(captions)
    drawn = Drawn()

    def place(similar, again, true) -> int:
        order = sorted(range(len(similar)), key=lambda n: -similar[n])
        order = sorted(order[:4], key=lambda n: -again(n)) + order[4:]
        return min(order.index(n) for n in true)

    expected = [
        place(
            (read @ seen[p]).tolist(), lambda c, p=p: drawn.of(pictures[p], captions[c]), (2 * p, 2 * p + 1)
        )
        for p in range(len(pictures))
    ] + [
        place((seen @ read[c]).tolist(), lambda p, c=c: drawn.of(pictures[p], captions[c]), (c // 2,))
        for c in range(len(captions))
    ]
    for k in (1, 5, 10):
        assert [row["correct"][f"R@{k}"] for row in rows] == [int(at < k) for at in expected]
    plain = retrieval.retrieve(FakeEncoder(), made.items)
    assert [row["correct"]["R@1"] for row in plain] != [row["correct"]["R@1"] for row in rows]


def test_candidates_that_all_tie_are_not_ranked_again(pictures):
    from fakes import ConstantEncoder

    made = retrieval.benchmark("r", {Picture(f"{n}.png"): [f"caption {n}"] for n in range(41)}, {})
    with pytest.raises(InputError, match="41 candidates are equally similar to one query"):
        retrieval.retrieve(ConstantEncoder(), made.items, Chosen("drawn", Drawn()))


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"picture": "1.jpg"\n', "p.jsonl, line 1: broken JSON"),
        ('{"picture": "1.jpg", "caption": "c", "parts": []}\n{]\n', "p.jsonl, line 2: broken JSON"),
        ('["1.jpg"]\n', "p.jsonl, line 1: expected fields, not ['1.jpg']"),
        (
            '{"picture": "1.jpg", "parts": []}',
            "line 1: it has no field 'caption' (its fields: picture, parts)",
        ),
        ('{"picture": "1.jpg", "caption": "c", "parts": {}}', "line 1: parts must be a list, not {}"),
        ('{"picture": "1.jpg", "caption": "c", "parts": [{"boxes": []}]}', "line 1, part 0: it has no field"),
        (
            '{"picture": "1.jpg", "caption": "c", "parts": [{"text": "t", "boxes": [[1, 2, 3]]}]}',
            "line 1, part 0: a box must be [x, y, width, height] in pixels, not [1, 2, 3]",
        ),
        (
            '{"picture": "1.jpg", "caption": "c", "parts": [{"text": "t", "boxes": [[1, NaN, 3, 4]]}]}',
            "line 1, part 0: a box must be [x, y, width, height] in pixels, not [1, nan, 3, 4]",
        ),
        (
            '{"picture": "1.jpg", "caption": "c", "parts": [{"text": "t", "boxes": [[1, 2, 0, 4]]}]}',
            "line 1, part 0: the width and height of a box must be above 0, not [1, 2, 0, 4]",
        ),
        (
            '{"picture": "1.jpg", "caption": "c", "parts": []}\n' * 2,
            "line 2: its picture and caption are those of line 1; give all parts of a caption in one row",
        ),
        ("", "p.jsonl: names no picture"),
    ],
)
def test_rows_that_are_wrong(tmp_path, content, sentence):
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(InputError, match=re.escape(sentence)):
        sources.read(tmp_path / "p.jsonl", "textblob")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1], "p.json: must be a .jsonl with parts, or the JSON of COCO's instances"),
        (INSTANCES | {"images": []}, "annotation 0: there is no image 7"),
        (INSTANCES | {"categories": []}, "annotation 0: there is no category 1"),
        ([{"objects": []}], "item 0: it has no field 'image_id'"),
        ([{"image_id": 1, "objects": [{"x": 1}]}], "item 0, object 0: it has no field 'names'"),
    ],
)
def test_labelled_boxes_that_are_wrong(tmp_path, content, sentence):
    put(tmp_path / "p.json", content)
    with pytest.raises(InputError, match=re.escape(sentence)):
        sources.read(tmp_path / "p.json", "textblob")


def test_parts_that_do_not_fit_the_benchmark(tmp_path, pictures):
    path = tmp_path / "p.jsonl"

    def sentence(rows, made) -> str:
        with pytest.raises(InputError) as error:
            sources.read(parts_file(path, rows), "textblob").check(made)
        return str(error.value)

    made = benchmark(pictures[0])
    assert sentence([("9.png", "c", {})], made) == (
        f"{path}: names no picture of b (the file's first: 9.png; the benchmark's: {pictures[0]})"
    )
    assert sentence([("0.png", "c", {})], made) == (
        f"{path}: has pictures of b, but none with a caption of it (the file's first: 'c'; the benchmark's: "
        "'a man rides a horse')"
    )
    outside = [("0.png", "a man rides a horse", {"a man": 32})]
    assert sentence(outside, made) == (
        f"{path}, line 1: the box [32.0, 0.0, 1.0, 1.0] is outside of {pictures[0]} (32 x 32 pixels)"
    )
    two = benchmark(pictures[0], "other/0.png")
    assert sentence([("0.png", "c", {})], two) == (
        f"{path}: 0.png is {pictures[0]} and other/0.png of b; put their folders before the name"
    )
    put(tmp_path / "i.json", INSTANCES)
    with pytest.raises(InputError, match=r"i.json: names no picture of b \(the file's first: 000000000001;"):
        sources.read(tmp_path / "i.json", "textblob").check(made)


class Third(Scorer):
    def __init__(self, made) -> None:
        self.made = made

    def similarities(self, encoder, pairs):
        return self.made(pairs)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (
            lambda pairs: torch.full((len(pairs),), math.nan),
            "similarities are not finite (first: a.png with 'true')",
        ),
        (
            lambda pairs: torch.ones(len(pairs), 1),
            "it returned the shape [2, 1] for 2 pairs of a picture and a caption; it must return [2]",
        ),
        (lambda pairs: torch.ones(len(pairs)) / {}, "it failed (TypeError: unsupported operand"),
        (lambda pairs: None, "it failed ("),
    ],
)
def test_what_a_scorer_of_somebody_else_returns_is_looked_at(made, sentence):
    with pytest.raises(InputError, match=re.escape(f"--scorer theirs: {sentence}")):
        composition.rows(FakeEncoder(), [pair("1")], scorer=Chosen("theirs", Third(made)))


def test_a_check_or_counts_of_somebody_else_may_fail():
    class Broken(Drawn):
        def check(self, benchmark):
            raise KeyError("pictures")

        def counts(self):
            return {"pairs": "many"}

    chosen = Chosen("theirs", Broken())
    with pytest.raises(InputError, match=r"--scorer theirs: it failed \(KeyError: 'pictures'\)"):
        chosen.accept(benchmark("a.png"))
    with pytest.raises(InputError, match=r"--scorer theirs: it failed \(ValueError"):
        chosen.counts()


def test_a_benchmark_of_another_form_is_refused(pictures):
    def score(encoder, items):
        return []

    made = Benchmark("cifar", [pair("1", picture=pictures[0])], ("micro",), family="zero-shot", score=score)
    with pytest.raises(InputError) as error:
        evaluate(FakeEncoder(), [made], scorer=Chosen("drawn", Drawn()))
    assert str(error.value) == (
        "--scorer drawn: cifar (zero-shot) is scored in its own way, not by pairs of a picture and a "
        "caption; evaluate it without --scorer, into another folder"
    )
    assert not scorer.takes(score)
    assert scorer.takes(retrieval.retrieve)
    assert scorer.takes(None)


# --- the command ------------------------------------------------------------------------------------------


def test_a_result_without_a_scorer_is_one_of_the_cosine():
    assert scorer.described({}) == scorer.described({"scorer": scorer.COSINE.record()}) == "cosine"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("scored")
    name = support.write_model(folder)
    torch.manual_seed(0)
    torch.save({"state_dict": open_clip.create_model(name).state_dict()}, folder / "weights.pt")
    return ["--model", name, "--pretrained", str(folder / "weights.pt"), "--cache", "none"]


def make_captions(root: Path) -> None:
    entries = [{"id": n, "file_name": f"{n}.png"} for n in range(8)]
    texts = [{"image_id": n, "caption": f"caption {n}"} for n in range(8)]
    put(root / "captions_val2017.json", {"images": entries, "annotations": texts})
    (root / "images").mkdir()
    for n, made in enumerate(support.photos(8)):
        made.image.save(root / "images" / f"{n}.png")


MADE = {
    "mmvp-vlm": make_mmvp, "winoground": make_winoground, "comvg": make_comvg, "svo-probes": make_svo,
    "coco-captions": make_captions,
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_benchmarks_take_comclip_from_the_command_line(tmp_path, checkpoint, capsys, name):
    MADE[name](tmp_path / "b")
    annotations = tmp_path / "b" / ("captions_val2017.json" if name == "coco-captions" else "")
    command = ["eval", "run", *checkpoint, "--benchmark", name, f"annotations={annotations}",
               f"images={tmp_path}/b/images", "--out"]  # fmt: skip
    run = [*command, tmp_path / "plain"]
    assert cli.main(list(map(str, run))) == 0
    with open(tmp_path / "plain" / "items" / f"{plain_name(tmp_path)}.jsonl") as lines:
        rows = [json.loads(line) for line in lines]
    every = dict.fromkeys((p, c) for row in rows for p in row["pictures"] for c in row["captions"])
    path = parts_file(tmp_path / "parts.jsonl", [(p, c, {"a dog": 3, "a cat": 9}) for p, c in every])
    capsys.readouterr()
    run = [*command, tmp_path / "com", "--scorer", "comclip", f"parts={path}", "features=raw", "rerank=3"]
    assert cli.main(list(map(str, run))) == 0
    printed = capsys.readouterr().out
    assert "scored by comclip parts=parts.jsonl features=raw rerank=3 tagger=textblob" in printed
    assert re.search(r"\d+ pictures and \d+ texts to encode, \d+ pictures and \d+ texts without", printed)
    result = json.loads((tmp_path / "com/result.json").read_text())["benchmarks"][plain_name(tmp_path)]
    assert result["scorer"] == {
        "name": "comclip",
        "options": {"parts": "parts.jsonl", "features": "raw", "rerank": "3", "tagger": "textblob"},
    }
    assert len(result["files"][str(path)]) == 64
    assert result["cost"]["pictures"] > result["cost"]["plain"]["pictures"]
    if name != "coco-captions":  # where the ten pairs of a query depend on the model
        assert result["counts"]["pairs that the file lacks"] == 0
    with pytest.raises(SystemExit):
        cli.main(["eval", "compare", *(str(tmp_path / folder) for folder in ("plain", "com"))])
    assert (
        "plain was scored by cosine and com by comclip parts=parts.jsonl features=raw rerank=3 "
        "tagger=textblob; evaluate both with the same --scorer"
    ) in capsys.readouterr().err


def plain_name(folder: Path) -> str:
    (name,) = os.listdir(folder / "plain" / "items")
    return name.removesuffix(".jsonl")


def test_calls_that_stop(tmp_path, checkpoint, capsys):
    make_winoground(tmp_path / "w")
    write_folders(tmp_path / "z", {"a": "red", "b": "blue"})
    put(tmp_path / "names.json", ["red", "blue"])
    wino = ["--benchmark", "winoground", f"annotations={tmp_path}/w", f"images={tmp_path}/w/images"]
    path = parts_file(tmp_path / "p.jsonl", [("ex_0_img_0.png", "a b", {})])

    def stops(*flags) -> str:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["eval", "run", *checkpoint, "--out", str(tmp_path / "out"), *map(str, flags)])
        assert stopped.value.code == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("open_clip_ext: ")

    assert stops(*wino, "--scorer", "com-clip").startswith(
        "--scorer com-clip: no such scorer (nearest: comclip); registered scorers: comclip, cosine, phrase"
    )
    assert stops(*wino, "--scorer", "comclip") == "--scorer comclip: needs parts=PARTS"
    assert stops(*wino, "--scorer", "comclip", "parts=none.jsonl") == (
        "--scorer comclip: none.jsonl: no such file"
    )
    assert stops(*wino, "--scorer", "comclip", f"parts={path}", "boxes=3") == (
        "--scorer comclip boxes: scorer comclip has no such option; "
        "its options: parts, features, rerank, tagger"
    )
    assert stops(*wino, "--scorer", "comclip", f"parts={path}", "features=both") == (
        "--scorer comclip features=both: features must be 'unit' or 'raw', not 'both'"
    )
    assert stops(*wino, "--scorer", "phrase-grid", "rerank=0") == "--scorer rerank=0: give at least 1"
    assert "zero-shot) is scored in its own way" in stops(
        "--benchmark", "image-folder", f"images={tmp_path}/z", "--scorer", "phrase-grid"
    )


def test_a_scorer_of_somebody_else_is_found_and_used(tmp_path, monkeypatch, checkpoint, capsys):
    """The example of docs/scorers.md, as pip would install it."""
    text = (DOCS / "scorers.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    site = tmp_path / "site"
    (site / "my_scorers").mkdir(parents=True)
    (site / "my_scorers" / "centre.py").write_text(code)
    info = site / "my_scorers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_scorers\nVersion: 1.0\n")
    (entry,) = re.findall(r'centre = ".*"', text)
    (info / "entry_points.txt").write_text(f"[{scorer.GROUP}]\n{entry.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(site)
    make_winoground(tmp_path / "w")
    wino = ["--benchmark", "winoground", f"annotations={tmp_path}/w", f"images={tmp_path}/w/images"]
    run = [*wino, "--scorer", "centre", "share=0.3", "--out", str(tmp_path / "out")]
    assert cli.main(["eval", "run", *checkpoint, *run]) == 0
    assert "scored by centre share=0.3" in capsys.readouterr().out
    result = json.loads((tmp_path / "out/result.json").read_text())["benchmarks"]["winoground"]
    assert result["scorer"] == {"name": "centre", "options": {"share": "0.3"}}
    assert result["cost"] == {"pictures": 4, "texts": 2, "plain": {"pictures": 2, "texts": 2}}
    assert cli.main(["eval", "list", "centre"]) == 0
    assert "options: share=0.5" in capsys.readouterr().out
