"""Readers: a small data set in each official form, counts of the real files, every way to be wrong."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from open_clip_ext import plugins
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import catalogue
from open_clip_ext.evaluation.items import GROUP, Benchmark, Item
from open_clip_ext.evaluation.readers import aro_order, conme, sugarcrepe, valse, vl_checklist
from open_clip_ext.evaluation.readers.files import Fields
from open_clip_ext.evaluation.scoring import aggregate

# --- one small data set of each ---------------------------------------------------------------------


def put(path: Path, content: Any) -> None:
    """A JSON file, a JSONL file (a tuple) or a CSV file (a list of dicts under a `.csv`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(content[0]))
            writer.writeheader()
            writer.writerows(content)
    elif isinstance(content, tuple):
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        path.write_text(json.dumps(content))


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "white").save(path)


def make_sugarcrepe(root: Path) -> None:
    for subset in sugarcrepe.SUBSETS:
        row = {"filename": "1.jpg", "caption": "a cat", "negative_caption": "a dog"}
        put(root / f"{subset}.json", {"0": row, "2": row})  # the keys have gaps
    photo(root / "images/1.jpg")


def make_sugarcrepe_pp(root: Path) -> None:
    for subset in ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att"):
        row = {"id": 3, "filename": "1.jpg", "caption": "a cat", "caption2": "one cat"}
        put(root / f"{subset}.json", [row | {"negative_caption": "a dog"}])
    photo(root / "images/1.jpg")


def make_valse(root: Path) -> None:
    for instrument in valse.INSTRUMENTS:
        row = {"image_file": "v7w_1.jpg", "caption": "a", "foil": "b", "dataset": "visual7w"}
        votes = [{"mturk": {"caption": n, "foil": 0, "other": 3 - n}} for n in range(4)]
        put(root / f"{instrument}.json", {str(n): row | vote for n, vote in enumerate(votes)})
    photo(root / "images/visual7w/v7w_1.jpg")


def make_aro(file: str, **fields: Any) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        box = {"bbox_x": 5, "bbox_y": 6, "bbox_w": 20, "bbox_h": 10}
        row = {"image_path": "1.jpg", "true_caption": "t", "false_caption": "f", **box, **fields}
        put(root / file, [row])
        photo(root / "images/1.jpg")

    return make


def make_order(file: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        captions = ["A red dog chases a small cat on the grass.", "Dog!", "Two men, one boat."]
        put(root / file, [{"image": "val2014/1.jpg", "caption": captions}])
        photo(root / "images/val2014/1.jpg")

    return make


def make_winoground(root: Path) -> None:
    row = {"id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "a b", "caption_1": "b a"}
    put(root / "examples.jsonl", (row | {"collapsed_tag": "Object"},))
    for i in (0, 1):
        photo(root / f"images/ex_0_img_{i}.png")


def make_colorswap(root: Path) -> None:
    row = {"caption_1": "a", "caption_2": "b", "image_1": "images/1.png", "image_2": "images/2.png"}
    put(root / "test.json", [row | {"id": 0, "image_source": "midjourney"}])
    for i in (1, 2):
        photo(root / f"images/images/{i}.png")


def make_vl_checklist(root: Path) -> None:
    for subset, file in vl_checklist.FILES.items():
        put(root / file, [["1.jpg", {"POS": ["a", "A"], "NEG": ["b"]}]] * 2)
        folder = subset.split("/")[-1].split("_")[0].replace("vaw", "vg")
        photo(root / f"images/{folder}/1.jpg")


def make_crepe(root: Path) -> None:
    for kind in ("atom", "swap", "negate"):
        for complexity in range(4, 13):
            box = {"x": 1, "y": 2, "width": 20, "height": 10}
            row = {"image_id": 7, "caption": "true", "hard_negs": "['f1', 'f2', 'f3']", **box}
            put(root / f"{kind}/prod_vg_hard_negs_{kind}_complexity_{complexity}.csv", [row])
    photo(root / "images/VG_100K_2/7.jpg")


def make_eqben(root: Path) -> None:
    def pair(name: str, caption: Any) -> dict[str, Any]:
        shown = {f"image{i}": f"eqben{name}/{i}.png" for i in (0, 1)}
        return shown | {f"caption{i}": caption(i) for i in (0, 1)}

    sets: dict[str, Any] = {
        name: {"video": [pair(name, str)]}
        for name in ("youcook2", "gebc", "sd", "kubric_loc", "kubric_cnt", "kubric_attr")
    }
    sets["ag"] = {"video": {"person": [pair("ag", lambda i: [f"{i} a", f"{i} b"])]}}
    put(root / "annotation.json", sets)
    for name in sets:
        for i in (0, 1):
            photo(root / f"images/eqben{name}/{i}.jpg")  # the light version


def make_svo(root: Path) -> None:
    rows = [
        {"sentence": "a dog runs", "pos_image_id": "1", "neg_image_id": "2"}
        | {kind: str(kind == true) for kind in ("subj_neg", "verb_neg", "obj_neg")}
        for true in ("subj_neg", "verb_neg", "obj_neg")
    ]
    put(root / "svo_probes.csv", rows)
    photo(root / "images/1.jpg")
    photo(root / "images/2.png")


def make_comvg(root: Path) -> None:
    row = {"id": 1, "sentence": "a man sits", "pos_image_id": 1, "neg_image_id": 2, "neg_value": "verb"}
    put(root / "ComVG.csv", [row])
    photo(root / "images/1.jpg")
    photo(root / "images/VG_100K/2.jpg")


def make_mmvp(root: Path) -> None:
    rows = [{"Question ID": n, "Type": "Texts", "Statement": f"statement {n}"} for n in (1, 2)]
    put(root / "Questions.csv", rows)
    for n in (1, 2):
        photo(root / f"images/Texts/{n}.jpg")


def make_spec(root: Path) -> None:
    for subset in (
        "absolute_size", "absolute_spatial", "count", "existence", "relative_size", "relative_spatial",
    ):  # fmt: skip
        put(root / f"{subset}/image2text.json", [{"query": "1.jpg", "keys": ["a", "b", "c"], "label": 2}])
        put(root / f"{subset}/text2image.json", [{"query": "a", "keys": ["1.jpg", "2.jpg"], "label": 1}])
        for n in (1, 2):
            photo(root / f"images/{subset}/{n}.jpg")


def make_imagecode(root: Path) -> None:
    put(
        root / "valid_data.json",
        {"open-images-1": {"3": "a deer ", "9": "grass"}, "MSR-VTT-1": {"0": "a girl"}},
    )
    for name in ("open-images-1", "MSR-VTT-1"):
        for n in range(10):
            photo(root / f"images/{name}/img{n}.jpg")


def make_whatsup(root: Path) -> None:
    for folder, file, sides in (
        ("controlled_images", "controlled_images_dataset.json", ("on", "under")),
        ("controlled_clevr", "controlled_clevr_dataset.json", ("in-front_of", "behind")),
    ):
        sides = ("left_of", "right_of", *sides)
        rows = []
        for side in sides:
            name = f"{folder}/mug_{side}_table.jpeg"
            others = [other for other in sides if other != side]
            captions = [f"A mug {s.replace('_', ' ')} a table" for s in (side, *others)]
            rows.append({"image_path": f"data/{name}", "caption_options": captions})
            photo(root / "images" / name)
        put(root / file, rows)
    for kind, folder, name in (("coco", "val2017", "000000000007"), ("vg", "vg_images", "7")):
        for number in ("one", "two"):
            put(root / f"{kind}_qa_{number}_obj.json", [[7, "a dog on the left", "a dog on the right"]])
        photo(root / f"images/{folder}/{name}.jpg")


def make_nlvr(root: Path) -> None:
    rows = [
        {"sentence": "There is a box.", "label": label, "identifier": f"12-{n}"}
        for n, label in enumerate(("true", "false", "true", "false"))
    ]
    put(root / "test.json", tuple(rows))
    for n in range(4):
        photo(root / f"images/3/test-12-{n}-0.png")


def make_hard_positives(root: Path) -> None:
    for folder, true in (("data", "black dog"), ("swapped_data", "dark dog")):
        row = {"image_path": "data/VG_100K/1.jpg", "true_caption": true, "false_caption": "white dog"}
        put(root / folder / "vl_checklist_attributes.json", [row])
        put(root / folder / "vl_checklist_relations.json", [row])
        box = {"bbox_x": 5, "bbox_y": 6, "bbox_w": 20, "bbox_h": 10}
        put(root / folder / "visual_genome_attribution.json", [row | box | {"image_path": "2.jpg"}])
    photo(root / "images/VG_100K/1.jpg")
    photo(root / "images/2.jpg")


def make_half_truths(root: Path) -> None:
    row = {
        "id": 1,
        "filename": "1.jpg",
        "caption": "a dog",
        "half_truth": "a dog on a sofa",
        "kind": "entity",
    }
    put(root / "half_truths.jsonl", (row,))
    photo(root / "images/1.jpg")


def make_cola(root: Path) -> None:
    link = "https://cs-people.bu.edu/array/data/vg_gqa_images/{}.jpg"
    row = [link.format(1), "tall giraffe by brown tree", link.format(2), "brown giraffe by tall tree"]
    put(root / "COLA_multiobjects_matching_benchmark.json", [row])
    photo(root / "images/1.jpg")
    photo(root / "images/VG_100K_2/2.jpg")


def make_conme(root: Path) -> None:
    row = {"": 0, "image": 7, "question": "What is it?", "correct_option": "a cat"}
    for partition in ("replace-att", "replace-obj", "replace-rel"):
        put(root / f"{partition}.csv", [row | {"incorrect_option": "a dog"}] * 2)
        put(root / f"{partition}_HUMAN_FILTER.csv", [row | {"incorrect_option": "No, a dog"}])
    photo(root / "images/000000000007.jpg")


def make_cc_neg(root: Path) -> None:
    pairs = [
        {"json": {"caption": f"a cat, number {n}"}, "sop_data": {"negative-prompt": f"no cat, number {n}"}}
        for n in range(3)
    ]
    paths = [f"/workspace/ccneg_images/cc3m_subset_images_extracted_final/{n}.jpg" for n in range(3)]
    torch.save({"image_paths": paths, "annotations": pairs}, root / "ccneg_preprocessed.pt")
    for n in range(3):
        photo(root / f"images/cc3m_subset_images_extracted_final/{n}.jpg")


BOX = (5.0, 6.0, 20.0, 10.0)
# Reader -> how its data set is made, how many items, and what one item must look like.
SETS: dict[str, tuple[Callable[[Path], None], int, Callable[[Item], object]]] = {
    "sugarcrepe": (make_sugarcrepe, 14, lambda i: i.captions == ("a cat", "a dog") and i.truth == (0,)),
    "sugarcrepe-pp": (make_sugarcrepe_pp, 10, lambda i: (i.kind, i.truth) == ("multi-pos", (0, 1))),
    "valse": (make_valse, 22, lambda i: i.pictures[0].path.endswith("images/visual7w/v7w_1.jpg")),
    "aro-vg-relation": (
        make_aro("visual_genome_relation.json", relation_name="eating"), 1,
        lambda i: (i.captions, i.truth, i.group, i.pictures[0].box) == (("f", "t"), (1,), "eating", BOX),
    ),
    "aro-vg-attribution": (
        make_aro("visual_genome_attribution.json", attributes=["red", "old"]), 1,
        lambda i: (i.group, i.pictures[0].box) == ("red_old", BOX),
    ),
    "aro-coco-order": (make_order("coco_karpathy_test.json"), 2, lambda i: len(i.captions) == 5),
    "aro-flickr-order": (make_order("flickr30k_test.json"), 2, lambda i: len(i.captions) == 5),
    "winoground": (make_winoground, 1, lambda i: (i.kind, i.group) == ("2x2", "Object")),
    "colorswap": (make_colorswap, 1, lambda i: i.kind == "2x2" and i.captions == ("a", "b")),
    "vl-checklist": (make_vl_checklist, 112, lambda i: i.captions == ("a", "b")),
    "crepe": (
        make_crepe, 27,
        lambda i: len(i.captions) == 4 and i.pictures[0].box == (1, 2, 20, 10)
        and "VG_100K_2" in i.pictures[0].path,
    ),
    "eqben": (make_eqben, 7, lambda i: i.kind == "2x2" and len(i.captions) == 2),
    "svo-probes": (make_svo, 3, lambda i: (i.kind, i.pictures[1].path[-5:]) == ("t2i", "2.png")),
    "comvg": (make_comvg, 1, lambda i: (i.kind, i.group, i.truth) == ("t2i", "verb", (0,))),
    "mmvp-vlm": (make_mmvp, 1, lambda i: i.captions[0] == "a photo of statement 1"),
    "spec": (make_spec, 12, lambda i: (i.group, i.truth) == ("absolute_size/i2t", (2,))),
    "imagecode": (make_imagecode, 3, lambda i: i.truth == (3,) and i.pictures[3].path.endswith("img3.jpg")),
    "whatsup": (make_whatsup, 18, lambda i: i.captions[0] == "A mug left of a table"),
    "nlvr": (make_nlvr, 4, lambda i: [p.path[-8:-6] for p in i.pictures] == ["-0", "-1"]),
    "hard-positives": (
        make_hard_positives, 3,
        lambda i: i.captions == ("black dog", "dark dog", "white dog") and i.pictures[0].box == BOX,
    ),
    "cola": (
        make_cola, 1,
        lambda i: (i.kind, i.captions[1]) == ("2x2", "brown giraffe by tall tree")
        and i.pictures[1].path.endswith("VG_100K_2/2.jpg"),
    ),
    "conme": (make_conme, 6, lambda i: (i.captions, i.group) == (("a cat", "a dog"), "replace-att")),
    "cc-neg": (make_cc_neg, 3, lambda i: i.captions == ("a cat, number 0", "no cat number 0")),
    "half-truths": (make_half_truths, 1, lambda i: i.captions == ("a dog", "a dog on a sofa")),
}  # fmt: skip


def read(name: str, root: Path, **options: Any) -> Benchmark:
    reader = plugins.load(plugins.entries(GROUP), name, "--benchmark", "benchmark")
    return reader(annotations=root, images=root / "images", **options)


@pytest.mark.parametrize("name", SETS)
def test_a_data_set_in_the_official_form_is_read(tmp_path, name):
    make, count, looks_right = SETS[name]
    make(tmp_path)
    found = read(name, tmp_path)
    assert (found.name, len(found.items)) == (name, count)
    assert looks_right(found.items[0]), found.items[0]
    assert all(p.exists() for item in found.items for p in item.pictures)
    assert found.files
    assert all(len(digest) == 64 for digest in found.files.values())


@pytest.mark.parametrize("name", SETS)
def test_every_average_of_a_benchmark_can_be_given(tmp_path, name):
    from fakes import FakeEncoder

    from open_clip_ext.evaluation.evaluate import evaluate

    SETS[name][0](tmp_path)
    found = read(name, tmp_path)
    # A single item is too few for a pair of attributes to count.
    few = {"aro-vg-attribution"}
    scores = evaluate(FakeEncoder(), [found], intervals=False)[name]["scores"]
    assert list(scores) == [a for a in found.aggregations if not (name in few and a == "aro_vga")]


def test_all_composition_readers_are_registered_and_say_what_they_read():
    known = plugins.entries(GROUP)
    assert set(SETS) <= set(known)
    for name in SETS:
        reader = known[name].load()
        assert "annotations:" in reader.__doc__
        assert "images:" in reader.__doc__


def test_whats_up_asks_for_pairs_and_sets_of_pictures_too(tmp_path):
    make_whatsup(tmp_path)
    items = {item.id: item for item in read("whatsup", tmp_path).items}
    together = items["A set/mug table"]
    assert (len(together.pictures), len(together.captions), together.truth) == (4, 4, (0, 1, 2, 3))
    assert sorted(key for key in items if "pair" in key) == [
        "A pair/mug table x", "A pair/mug table z", "B pair/mug table x", "B pair/mug table z",
    ]  # fmt: skip


def test_valse_takes_as_many_votes_as_are_asked_for(tmp_path):
    make_valse(tmp_path)
    assert [len(read("valse", tmp_path, votes=n).items) for n in (0, 2, 3)] == [44, 22, 11]


def test_conme_says_which_text_was_scored_and_reads_the_checked_part(tmp_path):
    make_conme(tmp_path)
    assert read("conme", tmp_path).notes[0] == "captions: text=option"
    asked = read("conme", tmp_path, text="question-option", human_filter=True)
    assert asked.name == "conme-human-filter"
    assert [item.captions for item in asked.items] == [("What is it? a cat", "What is it? No, a dog")] * 3
    assert asked.notes == (
        "captions: text=question-option",
        "made for models that generate text; no number for dual encoders has been published",
    )


@pytest.mark.parametrize("image", ["7", "000000000007", "000000000007.jpg"])
def test_conme_s_pictures_are_coco_s(tmp_path, image):
    make_conme(tmp_path)
    row = {"image": image, "question": "q", "correct_option": "a", "incorrect_option": "b"}
    put(tmp_path / "replace-att.csv", [row])
    assert read("conme", tmp_path).items[0].pictures[0].path == str(tmp_path / "images/000000000007.jpg")


@pytest.mark.parametrize(("last", "ids"), [(2, ["1", "2"]), (0, ["0", "1", "2"]), (9, ["0", "1", "2"])])
def test_cc_neg_takes_the_pairs_at_the_end(tmp_path, last, ids):
    make_cc_neg(tmp_path)
    found = read("cc-neg", tmp_path, last=last)
    assert [item.id for item in found.items] == ids
    assert found.notes[0] == f"pairs {ids[0]} to 2 of the file"


def test_cola_s_score_is_whether_both_captions_find_their_picture(tmp_path):
    make_cola(tmp_path)
    assert read("cola", tmp_path).aggregations[0] == "image micro"


# --- frozen negatives -------------------------------------------------------------------------------


def test_order_negatives_are_never_the_caption_and_never_twice_the_same(tmp_path):
    make_order("coco_karpathy_test.json")(tmp_path)
    found = read("aro-coco-order", tmp_path)
    for item in found.items:
        assert len(set(item.captions)) == len(item.captions)
        assert all(sorted(text.split()) == sorted(item.captions[0].split()) for text in item.captions)
    assert found.notes[1] == "1 of 3 captions have fewer than 4 negatives, 1 none"  # "dog"


def test_order_negatives_depend_on_seed_and_caption_alone(tmp_path):
    make_order("coco_karpathy_test.json")(tmp_path)
    first, again = read("aro-coco-order", tmp_path), read("aro-coco-order", tmp_path)
    assert first == again
    other = read("aro-coco-order", tmp_path, seed=1)
    assert other.items[0].captions[0] == first.items[0].captions[0]
    assert other.items[0].captions != first.items[0].captions
    (words,) = aro_order.tagged([first.items[0].captions[0]])
    assert tuple(aro_order.shuffles(first.items[0].captions[0], words, 0)) == first.items[0].captions[1:]


def test_frozen_negatives_are_written_once_and_read_back(tmp_path):
    make_order("coco_karpathy_test.json")(tmp_path)
    frozen = tmp_path / "deep" / "negatives.jsonl"
    made = read("aro-coco-order", tmp_path, frozen=frozen)
    kept = frozen.read_bytes()
    again = read("aro-coco-order", tmp_path, frozen=frozen, seed=5)  # the file counts
    assert [i.captions for i in again.items] == [i.captions for i in made.items]
    assert frozen.read_bytes() == kept
    assert made.files[str(frozen)] == again.files[str(frozen)]
    assert made.files[str(frozen)] == read("aro-coco-order", tmp_path).files["negatives (generated)"]


def test_frozen_negatives_of_other_captions_are_refused(tmp_path):
    make_order("coco_karpathy_test.json")(tmp_path)
    frozen = tmp_path / "negatives.jsonl"
    put(frozen, ({"caption": "another", "negatives": ["x"]},))
    with pytest.raises(InputError, match="contains the negatives of other captions"):
        read("aro-coco-order", tmp_path, frozen=frozen)


def test_frozen_negatives_that_are_one_string_are_not_taken_for_its_letters(tmp_path):
    make_order("coco_karpathy_test.json")(tmp_path)
    frozen = tmp_path / "negatives.jsonl"
    read("aro-coco-order", tmp_path, frozen=frozen)
    rows = [json.loads(line) for line in frozen.read_text().splitlines()]
    put(frozen, tuple({**row, "negatives": "a string"} for row in rows))
    with pytest.raises(InputError, match=r"line 1: negatives must be a list of texts, not 'a string'"):
        read("aro-coco-order", tmp_path, frozen=frozen)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A Dog... (small)!", "a dog small"),
        ("word " * 40, ("word " * 30).strip()),
        ("a red, old  car ", "a red, old car"),
    ],
)
def test_captions_of_the_order_benchmarks_are_compared_as_the_authors_do(caption, expected):
    assert aro_order.plain(caption) == expected


# --- wrong files ------------------------------------------------------------------------------------


def wrong(root: Path, sentence: str, name: str = "sugarcrepe", **options: Any) -> None:
    with pytest.raises(InputError) as error:
        read(name, root, **options)
    message = str(error.value).replace(str(root), "ROOT")
    assert sentence in message
    assert "\n" not in message


def test_a_broken_json_file(tmp_path):
    make_sugarcrepe(tmp_path)
    (tmp_path / "swap_obj.json").write_text('{"0": {"filename"')
    wrong(tmp_path, "ROOT/swap_obj.json: broken JSON (Expecting ':' delimiter: line 1 column 18 (char 17))")


def test_a_file_that_is_no_text(tmp_path):
    make_sugarcrepe(tmp_path)
    (tmp_path / "swap_obj.json").write_bytes(b'{"0": "\xff"}')
    wrong(tmp_path, "ROOT/swap_obj.json: is not UTF-8 text (invalid start byte at byte 7)")


def test_a_missing_field(tmp_path):
    make_sugarcrepe(tmp_path)
    put(tmp_path / "add_obj.json", {"17": {"filename": "1.jpg", "caption": "a"}})
    wrong(
        tmp_path,
        "ROOT/add_obj.json, item 17: it has no field 'negative_caption' (its fields: filename, caption)",
    )


def test_a_field_of_another_type(tmp_path):
    make_sugarcrepe(tmp_path)
    put(tmp_path / "add_obj.json", {"17": {"filename": "1.jpg", "caption": ["a"], "negative_caption": "b"}})
    wrong(tmp_path, "ROOT/add_obj.json, item 17: caption must be a text, not ['a']")
    put(tmp_path / "add_obj.json", {"17": "a caption"})
    wrong(tmp_path, "ROOT/add_obj.json, item 17: expected fields, not 'a caption'")
    put(tmp_path / "add_obj.json", 3)
    wrong(tmp_path, "ROOT/add_obj.json: expected a list or dict of items, not 3")


def test_a_caption_of_another_type_never_becomes_its_text(tmp_path):
    make_whatsup(tmp_path)
    put(tmp_path / "vg_qa_one_obj.json", [[7, ["a dog", "a cat"], "a dog on the right"]])
    wrong(tmp_path, "ROOT/vg_qa_one_obj.json, item 0: true must be a text, not ['a dog', 'a cat']", "whatsup")


def test_printed_lists_of_negatives_stay_lists(tmp_path):
    make_crepe(tmp_path)
    file = tmp_path / "atom/prod_vg_hard_negs_atom_complexity_4.csv"
    whole = file.read_text()
    file.write_text(whole.replace("['f1', 'f2', 'f3']", "['f1' 'f2' 'f3']"))
    assert read("crepe", tmp_path).items[0].captions == ("true", "f1", "f2", "f3")
    file.write_text(whole.replace("['f1', 'f2', 'f3']", "['f1', 2, 'f3']"))
    wrong(tmp_path, "row 1: hard_negs: expected a list of strings, got \"['f1', 2, 'f3']\"", "crepe")


def test_duplicate_ids(tmp_path):
    make_sugarcrepe(tmp_path)
    row = '{"filename": "1.jpg", "caption": "a", "negative_caption": "b"}'
    (tmp_path / "swap_att.json").write_text(f'{{"5": {row}, "5": {row}}}')
    wrong(tmp_path, "ROOT/swap_att.json: broken JSON (the key '5' occurs twice)")
    make_sugarcrepe_pp(tmp_path)
    rows = json.loads((tmp_path / "swap_obj.json").read_text())
    put(tmp_path / "swap_obj.json", rows * 2)
    wrong(tmp_path, "sugarcrepe-pp: two items have the id 'swap_obj/3'", "sugarcrepe-pp")


def test_an_empty_split(tmp_path):
    make_sugarcrepe(tmp_path)
    for subset in sugarcrepe.SUBSETS:
        put(tmp_path / f"{subset}.json", {})
    wrong(tmp_path, "sugarcrepe: no item in ROOT/replace_obj.json, ROOT/replace_att.json")


def test_a_file_that_is_not_there(tmp_path):
    make_sugarcrepe(tmp_path)
    (tmp_path / "swap_obj.json").unlink()
    wrong(tmp_path, "annotations=ROOT: no swap_obj.json there")
    wrong(tmp_path / "nowhere", "annotations=ROOT: no such file or folder")


def test_a_folder_where_the_file_should_be(tmp_path):
    make_sugarcrepe(tmp_path)
    (tmp_path / "swap_obj.json").unlink()
    (tmp_path / "swap_obj.json").mkdir()
    wrong(tmp_path, "ROOT/swap_obj.json: is a folder, but should be a file")


def test_a_file_where_the_folder_should_be(tmp_path):
    make_sugarcrepe(tmp_path)
    wrong(
        tmp_path / "swap_obj.json",
        "annotations=ROOT: is one file of several; give the folder with all of them",
    )


def test_a_csv_row_that_is_cut_off(tmp_path):
    make_comvg(tmp_path)
    with (tmp_path / "ComVG.csv").open("a") as file:
        file.write("2,a man\n")
    wrong(tmp_path, "ROOT/ComVG.csv, row 2: does not have as many columns as the header", "comvg")


def test_a_quote_that_is_never_closed_does_not_swallow_the_rows_after_it(tmp_path):
    """In the last column the row would be whole, and the rows after it would be missing from the score."""
    header, row = "image,question,correct_option,incorrect_option\n", "7,What is it?,a dog,a cat\n"
    for name in conme.PARTITIONS:
        (tmp_path / f"{name}.csv").write_text(header + 3 * row)
    (tmp_path / "replace-obj.csv").write_text(header + row + row.replace("a cat", '"a cat') + row)
    wrong(tmp_path, "ROOT/replace-obj.csv, line 3: the quote that begins a field there is never", "conme")


@pytest.mark.parametrize("value", ["nan", "inf", "wide", ""])
def test_a_number_that_is_none(value):
    with pytest.raises(InputError, match=f"row 1: width must be a number, not '{value}'"):
        Fields({"width": value}, "row 1").number("width")


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_that_would_run_code_is_refused_unread(tmp_path, legacy):
    make_cc_neg(tmp_path)
    bad = {"image_paths": ["1.jpg"], "annotations": [Runs(tmp_path / "ran")]}
    torch.save(bad, tmp_path / "ccneg_preprocessed.pt", _use_new_zipfile_serialization=not legacy)
    wrong(tmp_path, "reading more than these could run code, so it was not read", "cc-neg")
    assert not (tmp_path / "ran").exists()


def test_a_torch_file_that_is_none(tmp_path):
    make_cc_neg(tmp_path)
    (tmp_path / "ccneg_preprocessed.pt").write_text("no torch file")
    wrong(tmp_path, "ROOT/ccneg_preprocessed.pt: is not a file of torch.save with lists, dicts", "cc-neg")


PAIR = {"json": {"caption": "a"}, "sop_data": {"negative-prompt": "b"}}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([PAIR], "ROOT/ccneg_preprocessed.pt: expected fields, not [{"),
        ({"image_paths": ["1.jpg"]}, "it has no field 'annotations' (its fields: image_paths)"),
        ({"image_paths": [1], "annotations": [PAIR]}, "image_paths must be a list of texts, not [1]"),
        ({"image_paths": ["1.jpg"], "annotations": [PAIR] * 2}, "1 image_paths for 2 annotations"),
        (
            {"image_paths": ["1.jpg"], "annotations": [{"json": {"caption": "a"}}]},
            "annotation 0: it has no field 'sop_data' (its fields: json)",
        ),
        (
            {"image_paths": ["1.jpg"], "annotations": [PAIR | {"json": {}}]},
            "annotation 0, json: it has no field 'caption' (its fields: none)",
        ),
    ],
)
def test_what_can_be_wrong_with_cc_neg(tmp_path, content, sentence):
    torch.save(content, tmp_path / "ccneg_preprocessed.pt")
    wrong(tmp_path, sentence, "cc-neg")


def test_cc_neg_of_less_than_no_pair(tmp_path):
    make_cc_neg(tmp_path)
    wrong(tmp_path, "cc-neg last=-1: give a number of pairs, or 0 for all", "cc-neg", last=-1)


@pytest.mark.parametrize(
    ("name", "file", "content", "sentence"),
    [
        (
            "cola", "COLA_multiobjects_matching_benchmark.json", [["1.jpg", "a", "2.jpg"]],
            "matching_benchmark.json, item 0: expected [link, caption, link, caption], four texts",
        ),
        (
            "cola", "COLA_multiobjects_matching_benchmark.json", {"data": []},
            "matching_benchmark.json: expected a list of [link, caption, link, caption]",
        ),
        (
            "conme", "replace-rel.csv", [{"image": 7, "question": "q", "correct_option": "a"}],
            "ROOT/replace-rel.csv, row 1: it has no field 'incorrect_option' (its fields: image, question, ",
        ),
        (
            "conme", "replace-rel.csv",
            [{"image": 7, "question": "q", "correct_option": "", "incorrect_option": "b"}],
            "ROOT/replace-rel.csv, row 1: correct_option must be a text, not ''",
        ),
        (
            "spec", "count/image2text.json", [{"query": "1.jpg", "keys": ["a"], "label": 1}],
            "ROOT/count/image2text.json, item 0: label must be an index into keys, not 1",
        ),
        (
            "mmvp-vlm", "Questions.csv", [{"Question ID": 1, "Type": "Texts", "Statement": "s"}],
            "ROOT/Questions.csv: 1 rows do not pair up",
        ),
        (
            "svo-probes", "svo_probes.csv",
            [{"sentence": "s", "pos_image_id": 1, "neg_image_id": 2, "subj_neg": "", "verb_neg": "",
              "obj_neg": ""}],
            "ROOT/svo_probes.csv, row 1: none of subj_neg, verb_neg, obj_neg is true",
        ),
        (
            "crepe", "atom/prod_vg_hard_negs_atom_complexity_4.csv",
            [{"image_id": 1, "caption": "c", "hard_negs": "f1; f2", "x": 1, "y": 1, "width": 1, "height": 1}],
            "complexity_4.csv, row 1: hard_negs: expected a list of strings, got ",
        ),
        (
            "vl-checklist", "Relation/vg/spatial.json", [["1.jpg"]],
            "ROOT/Relation/vg/spatial.json, item 0: expected [path, texts]",
        ),
        (
            "vl-checklist", "Relation/vg/spatial.json", [["1.jpg", {"POS": "a", "NEG": ["b"]}]],
            "ROOT/Relation/vg/spatial.json, item 0: POS must be a list of texts, not 'a'",
        ),
        (
            "whatsup", "coco_qa_one_obj.json", [[7, "a"]],
            "ROOT/coco_qa_one_obj.json, item 0: expected [picture, true, false]",
        ),
        (
            "whatsup", "controlled_images_dataset.json",
            [{"image_path": "data/controlled_images/mug_near_table.jpeg", "caption_options": ["a", "b"]}],
            "its name has none of the sides left, right, on, under, in-front, behind",
        ),
        (
            "hard-positives", "data/vl_checklist_relations.json", [],
            "data/vl_checklist_relations.json has 0 items, swapped_data/ 1",
        ),
        (
            "aro-vg-relation", "visual_genome_relation.json", [{"bbox_x": "left"}],
            "ROOT/visual_genome_relation.json, item 0: bbox_x must be a number, not 'left'",
        ),
        ("eqben", "annotation.json", {"ag": 3}, "ROOT/annotation.json, item ag: expected fields, not 3"),
        (
            "eqben", "annotation.json", [{"image0": "a/b.png", "caption0": "a", "caption1": "b"}],
            "ROOT/annotation.json, item 0: it has no field 'image1'",
        ),
    ],
)  # fmt: skip
def test_what_only_one_benchmark_can_have_wrong(tmp_path, name, file, content, sentence):
    SETS[name][0](tmp_path)
    put(tmp_path / file, content)
    wrong(tmp_path, sentence, name)


# --- which benchmarks, read from where ----------------------------------------------------------------


def test_a_benchmark_with_a_typo_gets_the_nearest_names():
    with pytest.raises(InputError, match=r"--benchmark sugarcrep: no such benchmark \(nearest: sugarcrepe, "):
        catalogue.sources([["sugarcrep"]])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "--benchmark: missing; give at least one, or --data FILE"),
        ([["valse"]], "--benchmark valse: needs annotations=ANNOTATIONS images=IMAGES"),
        (
            [["valse", "annotations=a", "images=b", "vote=1"]],
            "--benchmark valse vote: benchmark valse has no such option; "
            "its options: annotations, images, votes",
        ),
        (
            [["valse", "annotations=a", "images=b", "votes=two"]],
            "--benchmark valse votes=two: votes must be int, not 'two'",
        ),
        ([["valse", "a"]], "--benchmark valse a: expected KEY=VALUE"),
    ],
)
def test_a_benchmark_that_is_not_given_rightly(given, sentence):
    with pytest.raises(InputError) as error:
        catalogue.sources(given)
    assert str(error.value) == sentence


def test_a_benchmark_given_twice(tmp_path):
    make_sugarcrepe(tmp_path)
    one = ["sugarcrepe", f"annotations={tmp_path}", f"images={tmp_path}/images"]
    with pytest.raises(InputError, match="sugarcrepe is given twice; evaluate one at a time"):
        catalogue.read(catalogue.sources([one, one]))


def test_a_file_names_all_benchmarks_once_and_flags_pick_and_change(tmp_path):
    make_sugarcrepe(tmp_path / "sc")
    make_valse(tmp_path / "valse")
    data = tmp_path / "data.json"
    put(data, {
        "sugarcrepe": {"annotations": "sc", "images": "sc/images"},
        "valse": {"annotations": "valse", "images": "valse/images", "votes": 3},
    })  # fmt: skip
    assert list(catalogue.read(catalogue.sources([], data))) == ["sugarcrepe", "valse"]
    (valse_,) = catalogue.sources([["valse"]], data)
    assert valse_.options == {
        "annotations": tmp_path / "valse", "images": tmp_path / "valse/images", "votes": 3,
    }  # fmt: skip
    (changed,) = catalogue.sources([["valse", "votes=2"]], data)
    assert changed.options == valse_.options | {"votes": 2}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "broken JSON (Expecting property name"),
        ("[]", 'must hold {"name": {"key": value, ...}, ...}'),
        ('{"valse": "here"}', 'must hold {"name": {"key": value, ...}, ...}'),
    ],
)
def test_a_file_of_benchmarks_that_is_wrong(tmp_path, text, sentence):
    data = tmp_path / "data.json"
    data.write_text(text)
    with pytest.raises(InputError) as error:
        catalogue.sources([], data)
    assert sentence in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        catalogue.sources([], tmp_path / "none.json")


def test_whatever_a_reader_raises_is_one_sentence(tmp_path):
    source = catalogue.Source("theirs", lambda: 1 / 0, {})  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError) as error:
        source.read()
    assert str(error.value) == (
        "--benchmark theirs: its files cannot be read (ZeroDivisionError: division by zero)"
    )


def test_the_benchmark_of_the_docs_is_found_and_read(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    site = tmp_path / "site"
    (site / "my_benchmarks").mkdir(parents=True)
    (site / "my_benchmarks" / "mirrors.py").write_text(code)
    info = site / "my_benchmarks-1.0.dist-info"  # what pip would make of the example's pyproject.toml
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_benchmarks\nVersion: 1.0\n")
    (entry,) = re.findall(r'mirrors = ".*"', text)
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(site)
    row = {"file": "1.jpg", "caption": "a", "wrong": "b"}
    kinds = enumerate(("easy", "hard", "hard", "easy"))
    put(tmp_path / "mirrors.json", [row | {"id": n, "kind": kind} for n, kind in kinds])
    given = ["mirrors", f"annotations={tmp_path}", f"images={tmp_path}"]
    (found,) = catalogue.read(catalogue.sources([[*given, "hard=true"]])).values()
    assert [item.id for item in found[1].items] == ["1", "2"]
    put(tmp_path / "mirrors.json", [{"id": 7}])
    with pytest.raises(InputError, match=r"mirrors\.json, item 0: it has no field 'file'"):
        catalogue.read(catalogue.sources([given]))


# --- the real files -----------------------------------------------------------------------------------

ANNOTATIONS = os.environ.get("OPEN_CLIP_EXT_ANNOTATIONS")
real = pytest.mark.skipif(
    not ANNOTATIONS, reason="OPEN_CLIP_EXT_ANNOTATIONS names no folder with the official files"
)


@real
@pytest.mark.parametrize(
    ("name", "folder", "kind", "counts"),
    [
        (
            "sugarcrepe", "sugarcrepe", "i2t",
            {"replace_obj": 1652, "replace_att": 788, "replace_rel": 1406, "swap_obj": 245, "swap_att": 666,
             "add_obj": 2062, "add_att": 692},
        ),
        (
            "sugarcrepe-pp", "sugarcrepe_pp", "multi-pos",
            {"replace_obj": 1652, "replace_att": 788, "replace_rel": 1406, "swap_obj": 245, "swap_att": 666},
        ),
        (
            "valse", "valse", "i2t",
            {"existence": 505, "plurals": 851, "counting-hard": 868, "counting-small-quant": 900,
             "counting-adversarial": 691, "relations": 535, "action-replacement": 648, "actant-swap": 949,
             "coreference-standard": 708, "coreference-hard": 104, "foil-it": 943},
        ),
        ("comvg", "comvg", "t2i", {"object": 2584, "subject": 1536, "verb": 1280}),
    ],
)  # fmt: skip
def test_official_files_have_as_many_items_as_they_should(name, folder, kind, counts):
    found = read(name, Path(ANNOTATIONS or "") / folder)
    assert Counter(item.group for item in found.items if item.kind == kind) == counts


@real
def test_real_totals_and_degenerate_items():
    root = Path(ANNOTATIONS or "")
    assert len(read("sugarcrepe", root / "sugarcrepe").items) == 7511
    assert len(read("valse", root / "valse").items) == 7702
    assert len(read("valse", root / "valse", votes=0).items) == 8782
    pp = read("sugarcrepe-pp", root / "sugarcrepe_pp")
    same = [i for i in pp.items if i.kind == "multi-pos" and i.captions[2] in i.captions[:2]]
    assert [item.group for item in same] == ["swap_obj", "swap_obj"]
    assert pp.notes == ("2 items have a negative that equals a caption; they cannot be won",)


@real
def test_cola_has_210_pairs():
    root = Path(ANNOTATIONS or "") / "cola"
    if not root.is_dir():
        pytest.skip("no folder cola with its file there")
    found = read("cola", root)
    assert len(found.items) == 210
    assert len({picture.path for item in found.items for picture in item.pictures}) == 218


@real
def test_the_negatives_of_coco_order_stand_still():
    found = read("aro-coco-order", Path(ANNOTATIONS or "") / "aro_coco_order")
    assert found.files["negatives (generated)"].startswith("745d209cb886741c")
    assert all(item.captions[0] not in item.captions[1:] for item in found.items)
    assert len(found.items) == 25010
    assert Counter(len(item.captions) for item in found.items) == {5: 24847, 4: 163}


def test_vl_checklist_is_averaged_over_its_tree(tmp_path):
    make_vl_checklist(tmp_path)
    sizes = Counter(item.group for item in read("vl-checklist", tmp_path).items)
    tree = aggregate.plan("vlchecklist3", sizes)
    assert isinstance(tree, aggregate.Mean)
    assert len(tree.parts) == 3
