"""Bad input ends before training, in one sentence and with exit status 2."""

from __future__ import annotations

import json
import signal
import tarfile
from pathlib import Path

import pytest
import support
import torch
from support import add_file, photos, train, train_here, write_csv, write_shards

from open_clip_ext import _startup, cli, registry
from open_clip_ext.host.loaders import samples
from open_clip_ext.losses import CLIPLoss


@pytest.fixture
def stop(tmp_path, model, capsys):
    """Run a call that must stop; its sentence."""

    def run(*flags, status=2) -> str:
        with pytest.raises(SystemExit) as stopped:
            train_here(tmp_path, "--model", model, *flags)
        assert stopped.value.code == status
        sentence = capsys.readouterr().err.strip().splitlines()[-1]
        assert sentence.startswith("open_clip_ext: ")
        return sentence.removeprefix("open_clip_ext: ")

    return run


def test_a_launcher_is_told_not_to_try_again(stop, tmp_path, monkeypatch):
    monkeypatch.setenv("OPEN_CLIP_EXT_REFUSED", str(tmp_path / "logs" / "refused"))
    sentence = stop("--loss", "none")
    assert (tmp_path / "logs" / "refused").read_text() == f"{sentence}\n"


@pytest.mark.trainer
def test_a_launcher_is_told_of_what_upstream_ends_before_training(tmp_path, model, csv_data):
    refused = tmp_path / "refused"
    env = {"OPEN_CLIP_EXT_REFUSED": str(refused)}
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--loss", "clip"]
    assert train(tmp_path, *flags, env=env).status == 0
    assert not refused.exists()
    run = train(tmp_path, *flags, "--lr-scheduler", "none", name="again", env=env)
    assert run.status == 1
    assert (
        refused.read_text() == "it ended before training, for the reason printed above; correct the flags\n"
    )


@pytest.fixture
def flags(csv_data):
    return ["--train-data", csv_data, "--csv-separator", ","]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--loss", "none"],
            f"--loss none: no such loss; registered losses: {', '.join(registry.entries())}",
        ),
        (
            ["--loss", "degla", "--loss-cfg", "weight=1"],
            "--loss-cfg weight: --loss degla has no such option; its options: igc_weight, tgc_weight, "
            "distill_weight, tgc_scale, ema_decay, tgc, teacher_checkpoint, same, image_anchor, text_anchor, "
            "similarity_anchor, anchor_grid, anchor_texts",
        ),
        (["--loss", "degla", "--loss-cfg", "tgc"], "--loss-cfg tgc: expected KEY=VALUE"),
        (
            ["--loss", "degla", "--loss-cfg", "igc_weight=x"],
            "--loss-cfg igc_weight=x: igc_weight must be float, not 'x'",
        ),
        (
            ["--loss", "degla", "--loss-cfg", "tgc=tiled"],
            "--loss-cfg tgc=tiled: tgc must be 'paper' or 'released', not 'tiled'",
        ),
        (
            ["--loss", "ce-clip", "--loss-cfg", "threshold=low"],
            "--loss-cfg threshold=low: threshold must be 'mean' or 'max' or float, not 'low'",
        ),
        (
            ["--loss", "degla", "--loss-cfg", "tgc=paper", "tgc=paper"],
            "--loss-cfg tgc: given twice",
        ),
        (
            ["--loss", "negclip", "--num-negatives", 0],
            "--num-negatives 0: --loss negclip needs at least 1; without negatives train with --loss clip",
        ),
        (
            ["--loss", "clip", "--num-negatives", 2],
            "--num-negatives has no effect with --loss clip, which uses no negatives; leave it out",
        ),
        (
            ["--loss", "clip", "--negatives-key", "n"],
            "--negatives-key has no effect with --loss clip, which uses no negatives; leave it out",
        ),
        (["--negatives", "x"], "--negatives has no effect without --loss; add --loss NAME"),
        (["--num-negatives", 2], "--num-negatives has no effect without --loss; add --loss NAME"),
        (["--loss-cfg", "a=1"], "--loss-cfg has no effect without --loss; add --loss NAME"),
        (["--generations", "every=2"], "--generations has no effect without --loss; add --loss NAME"),
        (
            ["--loss", "degla", "--distill-model", "x"],
            "--distill-model cannot go with --loss: it brings a loss of its own; --loss degla has a "
            "teacher too",
        ),
        (
            ["--loss", "degla", "--use-bnb-linear", "x"],
            "--use-bnb-linear cannot go with --loss: its linear layers are not known to average",
        ),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_flags(stop, flags, arguments, sentence):
    assert stop(*flags, *arguments) == sentence


@pytest.mark.skipif(support.TASKS, reason="upstream's main branch has no such options")
@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--torchscript", "a scripted model cannot take companion texts"),
        ("--trace", "a traced model cannot take companion texts"),
        ("--horovod", "features are gathered through torch.distributed"),
    ],
)
def test_options_of_the_releases_alone(stop, flags, option, reason):
    assert stop(*flags, "--loss", "degla", option) == f"{option} cannot go with --loss: {reason}"


def test_a_model_with_a_logit_bias_and_a_loss_that_takes_none(tmp_path, stop, flags, monkeypatch):
    monkeypatch.setattr(registry.load("negclip"), "takes_bias", False)
    model = support.write_model(tmp_path / "siglip", init_logit_bias=-10)
    assert stop(*flags, "--model", model, "--loss", "negclip") == (
        "this model has a logit bias (SigLIP), and --loss negclip takes none; choose a CLIP --model, or "
        "another --loss"
    )


def test_a_tower_without_dense_tokens(tmp_path, stop, flags):
    tower = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 8, "patch_size": None}
    flags += ["--model", support.write_model(tmp_path / "resnet", vision_cfg=tower), "--loss", "fsc-clip"]
    assert stop(*flags) == (
        "--loss fsc-clip: this model gives no dense tokens: its image tower ModifiedResNet has none, or not "
        "in the space of its features; choose a --model with upstream's own two transformers, or set "
        "the weights of the terms that compare tokens to 0"
    )
    run = train_here(tmp_path, *flags, "--loss-cfg", "local_weight=0", name="without")
    assert len(run.values("scr_loss")) == 4


def test_an_option_that_another_one_switches_off(stop, flags):
    sentence = stop(*flags, "--loss", "degla", "--loss-cfg", "tgc_weight=0", "tgc=released")
    assert sentence == "--loss-cfg tgc: it has no effect because tgc_weight is 0; leave it out"


def test_a_teacher_checkpoint_that_is_not_there(stop, flags):
    sentence = stop(*flags, "--loss", "degla", "--loss-cfg", "teacher_checkpoint=nowhere.pt")
    assert sentence == "teacher_checkpoint=nowhere.pt: no such file"


@pytest.mark.parametrize(
    ("loss", "option"),
    [("clip", "anchor_texts"), ("anchored", "anchor_texts"), ("degla", "teacher_checkpoint")],
)
def test_a_file_of_an_option_is_looked_at_before_anything_is_written(stop, tmp_path, flags, loss, option):
    """So that the same call, with the right file, finds no run of its name."""
    cfg = [f"{option}={tmp_path / 'nowhere'}", *(["text_anchor=1"] if loss == "clip" else [])]
    assert stop(*flags, "--loss", loss, "--loss-cfg", *cfg).startswith(f"{cfg[0]}: ")
    assert not (tmp_path / "logs").exists()


def test_doctor_looks_at_the_file_of_an_option(tmp_path, model, flags, capsys):
    words = [*flags, "--model", model, "--loss", "anchored", "--loss-cfg", f"anchor_texts={tmp_path}"]
    _startup.arm()
    assert cli.main(["doctor", "--quiet", "--", *map(str, words)]) == 1
    assert f"anchor_texts={tmp_path}: cannot be read" in capsys.readouterr().err


def test_a_csv_without_the_column(stop, csv_data, flags):
    assert stop(*flags, "--loss", "degla", "--negatives-key", "wrong") == (
        f"{csv_data} has no column 'wrong'; its columns: filepath, title, negatives; name one with "
        "--negatives-key"
    )


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        (
            lambda texts: "",
            "column 'negatives': there is no negative in any row; make some, or train with --loss clip",
        ),
        (
            lambda texts: json.dumps(texts[:2]),
            "column 'negatives': --num-negatives 4 is more than any row has (2 at most); "
            "give --num-negatives 2",
        ),
        (lambda texts: "a b", "column 'negatives', data row 1: expected a list of strings, got 'a b'"),
        (lambda texts: "[1]", "column 'negatives', data row 1: expected a list of strings, got [1]"),
    ],
    ids=["empty", "too few", "no list", "no strings"],
)
def test_a_csv_s_negatives(tmp_path, stop, form, sentence):
    path = write_csv(tmp_path, photos(8), form)
    where, what = stop("--train-data", path, "--csv-separator", ",", "--loss", "degla").split(", ", 1)
    assert (where, what) == (str(path), sentence)


@pytest.mark.parametrize(
    ("negatives", "arguments", "sentence"),
    [
        (
            ["a"],
            ["--negatives-key", "x"],
            "none of its first 8 samples has a field x.json or a key x in its json; "
            "their fields: negatives.json, png, txt; name one with --negatives-key",
        ),
        (
            [],
            [],
            "field 'negatives': there is no negative in any of its first 8 samples; "
            "make some, or train with --loss clip",
        ),
        (
            ["a"],
            [],
            "field 'negatives': --num-negatives 4 is more than any of its first 8 samples has "
            "(1 at most); give --num-negatives 1",
        ),
        (
            "text",
            [],
            "none of 8 samples can be used; the first problem: {shard}, sample 00000, field 'negatives': "
            "expected a list of "
            "strings, got 'text'; repair them or leave them out",
        ),
    ],
    ids=["no field", "empty", "too few", "no list"],
)
def test_a_webdataset_s_negatives(tmp_path, stop, negatives, arguments, sentence):
    made = photos(8)
    for photo in made:
        photo.negatives = negatives
    shards = write_shards(tmp_path, made, shards=1)
    flags = ["--train-data", shards, "--dataset-type", "webdataset", "--train-num-samples", 8]
    sentence = sentence.format(shard=tmp_path / "0.tar")
    assert stop(*flags, "--loss", "degla", *arguments).endswith(sentence)


def test_a_webdataset_whose_captions_are_lists(tmp_path, stop):
    made = photos(8)
    for photo in made:
        photo.caption = "['a dog' 'a cat']"
    shards = write_shards(tmp_path, made, shards=1)
    flags = ["--train-data", shards, "--dataset-type", "webdataset", "--train-num-samples", 8]
    assert stop(*flags, "--loss", "negclip") == (
        f"{tmp_path}/0.tar: 8 of 8 captions looked at are lists, such as \"['a dog' 'a cat']\"; training "
        "reads one caption in a txt: write one into each"
    )


def shards_like(folder, change, shards=2, only=None) -> list:
    """Flags of a run on shards of 8 samples, in which `change` gives the files of each file."""
    url = write_shards(folder, photos(8 * shards), shards=shards)
    for shard in range(shards) if only is None else only:
        path = folder / f"{shard}.tar"
        with tarfile.open(path) as tar:
            files = [(member.name, tar.extractfile(member).read()) for member in tar]
        with tarfile.open(path, "w") as tar:
            for name, content in files:
                key, _, field = name.partition(".")
                for file in change(field, content).items():
                    add_file(tar, f"{key}.{file[0]}", file[1])
    return ["--train-data", url, "--dataset-type", "webdataset", "--train-num-samples", 8 * shards]


def without_captions(field, content):
    return {} if field == "txt" else {field: content}


# How files can be broken, and what is said of the first one.
BROKEN = {
    "json": (
        lambda field, content: {"json": b"{"} if field == "negatives.json" else {field: content},
        "{shard}, sample 00000: its json cannot be read (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1))",
    ),
    "no list": (
        lambda field, content: {field: b'"a"' if field == "negatives.json" else content},
        "{shard}, sample 00000, field 'negatives': expected a list of strings, got 'a'",
    ),
    "no strings": (
        lambda field, content: {field: b"[1]" if field == "negatives.json" else content},
        "{shard}, sample 00000, field 'negatives': expected a list of strings, got [1]",
    ),
    "picture": (
        lambda field, content: {field: b"none" if field == "png" else content},
        "{shard}, sample 00000: cannot identify image file",
    ),
}

if not support.TASKS:  # whose trainer itself passes over such captions, as over empty ones
    BROKEN["caption"] = (
        lambda field, content: {field: b"caf\xe9" if field == "txt" else content},
        "{shard}, sample 00000: its txt is not UTF-8 ('utf-8' codec can't decode byte 0xe9 in position 3: "
        "unexpected end of data)",
    )


@pytest.mark.parametrize(("change", "first"), BROKEN.values(), ids=BROKEN)
def test_a_first_shard_that_is_broken_is_passed_over_as_any_other(tmp_path, model, change, first):
    flags = shards_like(tmp_path, change, only=[0])
    run = train_here(tmp_path, "--model", model, *flags, "--loss", "degla")
    assert len(run.values("loss")) == 2
    first = first.format(shard=tmp_path / "0.tar")
    assert f"the first problem among 16 samples looked at: {first}\n" in run.output
    assert "16 broken samples or files were skipped" in run.output  # each time that the shards were read


@pytest.mark.parametrize(("change", "first"), BROKEN.values(), ids=BROKEN)
def test_shards_in_which_everything_is_broken(tmp_path, stop, change, first):
    flags = shards_like(tmp_path, change)
    first = first.format(shard=tmp_path / "0.tar")
    assert stop(*flags, "--loss", "degla") == (
        f"--train-data {flags[1]}: in 2 shards none of 16 samples can be used; the first problem: {first}; "
        "repair them or leave them out"
    )


CUT = {
    "empty": (lambda content: b"", "empty file"),
    "no tar": (lambda content: b"none" * 1000, "invalid header"),
    "cut": (lambda content: content[:600], "unexpected end of data"),
    "cut in a header": (lambda content: content[:400], "truncated header"),
}


@pytest.mark.parametrize(("change", "first"), CUT.values(), ids=CUT)
@pytest.mark.parametrize("loss", ["clip", "degla"])
def test_a_first_shard_that_cannot_be_read(tmp_path, model, stop, change, first, loss):
    shards = write_shards(tmp_path, photos(16))
    flags = ["--train-data", shards, "--dataset-type", "webdataset", "--train-num-samples", 16]
    path = tmp_path / "0.tar"
    path.write_bytes(change(path.read_bytes()))
    run = train_here(tmp_path, "--model", model, *flags, "--loss", loss)
    assert len(run.values("loss")) == 2
    assert f"the first problem among 8 samples looked at: {path}: {first}\n" in run.output
    (tmp_path / "1.tar").write_bytes(path.read_bytes())
    assert stop(*flags, "--loss", loss, "--name", "again") == (
        f"--train-data {shards}: in 2 shards there is no sample that can be read; the first problem: {path}: "
        f"{first}; repair these files or leave them out"
    )


def test_the_look_goes_on_until_it_has_seen_enough(tmp_path, model, stop):
    """The negatives begin in the fourth shard; those before it have too few samples to tell."""
    change = lambda field, content: {} if field == "negatives.json" else {field: content}  # noqa: E731
    flags = shards_like(tmp_path, change, shards=4, only=range(3))
    assert len(train_here(tmp_path, "--model", model, *flags, "--loss", "degla").values("loss")) == 4


# What samples without a caption lack, and what to do: upstream's main branch reads other names too.
LACKING = (
    "both a caption (txt) and an image (jpg or png or jpeg or webp); their fields: negatives.json, png; name "
    "others with --text-key, --json-text-key or --image-key"
    if support.TASKS
    else "both a caption (txt) and an image (png, jpg, jpeg or webp); their fields: negatives.json, png; "
    "open_clip reads no other names"
)


@pytest.mark.parametrize("loss", ["clip", "degla"])
def test_shards_without_captions_name_their_fields(tmp_path, stop, loss):
    flags = shards_like(tmp_path, without_captions)
    assert stop(*flags, "--loss", loss) == (
        f"--train-data {flags[1]}: in 2 shards none of 16 samples has {LACKING}"
    )


@pytest.fixture
def soon():
    """Fails a test that hangs."""

    was = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(100)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, was)


@pytest.mark.parametrize("loss", ["clip", "degla"])
def test_a_worker_whose_shard_brings_nothing_ends_the_run(tmp_path, stop, soon, loss):
    """Upstream would begin it anew for ever."""
    flags = shards_like(tmp_path, without_captions, only=[1])
    assert stop(*flags, "--loss", loss, "--workers", 2, "--batch-size", 4) == (
        f"--train-data {flags[1]}: a loader worker found that in {tmp_path / '1.tar'} none of 8 samples has "
        f"{LACKING}"
    )


@pytest.mark.parametrize("order", [(), ("--dataset-resampled",)], ids=["in order", "resampled"])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_in_which_everything_is_broken_ends_the_run(
    tmp_path, stop, soon, monkeypatch, order, workers
):
    monkeypatch.setattr(samples, "DECODED", 0)  # so that it passes the look before
    flags = shards_like(tmp_path, BROKEN["picture"][0])
    sentence = stop(*flags, *order, "--loss", "degla", "--workers", workers)
    assert "samples can be used; the first problem: " in sentence
    assert "cannot identify image file; repair them or leave them out" in sentence


def test_shards_that_go_away_end_a_run_that_draws_them(tmp_path, stop, soon, monkeypatch, shards):
    look = samples.FirstSamples.__init__

    def looked(self, *arguments):
        look(self, *arguments)
        for shard in tmp_path.glob("*.tar"):
            shard.unlink()

    monkeypatch.setattr(samples.FirstSamples, "__init__", looked)
    shards = write_shards(tmp_path, photos(16))
    flags = ["--train-data", shards, "--dataset-type", "webdataset", "--train-num-samples", 16]
    assert "in 40 shards there is no sample that can be read" in stop(
        *flags, "--loss", "clip", "--dataset-resampled"
    )


@pytest.mark.parametrize("order", [(), ("--dataset-resampled",)], ids=["in order", "resampled"])
def test_a_small_set_is_repeated_as_upstream_does(tmp_path, model, order):
    shards = write_shards(tmp_path, photos(8), shards=1)
    flags = ["--train-data", shards, "--dataset-type", "webdataset", "--train-num-samples", 64]
    run = train_here(tmp_path, "--model", model, *flags, *order, "--loss", "degla")
    assert len(run.values("loss")) == 8


def test_a_worker_with_fewer_samples_than_a_batch_ends_the_run(tmp_path, stop, soon, shards):
    flags = ["--train-data", shards, "--dataset-type", "webdataset", "--train-num-samples", 32]
    sentence = stop(*flags, "--loss", "degla", "--workers", 2, "--batch-size", 17)
    folder = Path(shards).parent
    assert sentence in [
        f"--train-data {shards}: a loader worker found that in {folder / shard} only 16 samples can be used, "
        "fewer than a batch of 17; give fewer --workers, a smaller --batch-size or --dataset-resampled"
        for shard in ("0.tar", "1.tar")
    ]


def test_an_epoch_without_a_step(tmp_path, stop, shards):
    """Upstream would save, after an epoch of nothing, what it was given."""
    path = write_csv(tmp_path, photos(5))
    flags = ["--train-data", path, "--csv-separator", ",", "--loss", "negclip"]
    assert stop(*flags) == (
        f"--train-data {path}: an epoch of 5 samples has no step of --batch-size 8 x --accum-freq 1 x 1 "
        "processes; give a smaller --batch-size"
    )
    flags = ["--train-data", shards, "--dataset-type", "webdataset", "--train-num-samples", 8]
    assert "8 samples has no step of --batch-size 8 x --accum-freq 2 x 1 processes" in stop(
        *flags, "--loss", "negclip", "--accum-freq", 2, "--name", "shards"
    )
    flags = ["--dataset-type", "synthetic", "--train-num-samples", 5, "--loss", "clip", "--name", "synthetic"]
    assert stop(*flags).startswith("--dataset-type synthetic: an epoch of 5 samples has no step")


class NotAModule:
    companions = {"neg": 4}


class NoCompanions(torch.nn.Module):
    pass


class NotDistributed(torch.nn.Module):
    companions = {}

    def __init__(self, rank=0):
        super().__init__()


class NoNegatives(CLIPLoss):
    companions = {"neg": 4}

    def forward(self, image_features, text_features, logit_scale, output_dict=False):
        return {}


class Explodes(CLIPLoss):
    def forward(self, image_features, text_features, logit_scale, output_dict=False):
        terms = super().forward(image_features, text_features, logit_scale, output_dict=True)
        return {**terms, "exploding_loss": image_features.sum() * float("nan")}


class Nameless(CLIPLoss):
    def forward(self, image_features, text_features, logit_scale, output_dict=False):
        return {"accuracy": image_features.sum()}


@pytest.fixture
def third_party(monkeypatch):
    def register(loss):
        entry = registry.EntryPoint("theirs", f"{__name__}:{loss}", registry.GROUP)
        known = registry.entries()
        monkeypatch.setattr(registry, "entries", lambda: {**known, "theirs": entry})

    return register


@pytest.mark.parametrize(
    ("loss", "lacks"),
    [
        ("NotAModule", "it must be a subclass of torch.nn.Module"),
        (
            "NoCompanions",
            "it needs a class attribute `companions`, a mapping such as {'neg': 4} or {}",
        ),
        (
            "NotDistributed",
            "__init__ must take local_loss, gather_with_grad, cache_labels, world_size",
        ),
        ("NoNegatives", "forward must take neg_text_features, neg_valid"),
    ],
)
def test_a_third_party_s_loss_that_lacks_the_contract(stop, flags, third_party, loss, lacks):
    third_party(loss)
    expected = f"--loss theirs: {__name__}:{loss} lacks the contract of a loss: {lacks}"
    assert stop(*flags, "--loss", "theirs") == expected


def test_a_third_party_s_loss_that_cannot_be_loaded(stop, flags, third_party):
    third_party("Absent")
    assert "cannot be loaded (AttributeError" in stop(*flags, "--loss", "theirs")


def test_a_loss_that_is_not_finite_stops_the_run(stop, flags, third_party):
    third_party("Explodes")
    sentence = stop(*flags, "--loss", "theirs", status=1)
    assert sentence.startswith("exploding_loss is nan at step 0; the run stops here.")


def test_a_term_with_a_name_that_is_no_loss_stops_the_run(stop, flags, third_party):
    third_party("Nameless")
    assert "returned the term accuracy" in stop(*flags, "--loss", "theirs", status=1)


def test_no_negative_in_a_batch_is_no_error(tmp_path, model):
    made = photos(16)
    for photo in made[1:]:
        photo.negatives = []
    path = write_csv(tmp_path, made)
    for loss in ("negclip", "ce-clip", "degla"):
        run = train_here(
            tmp_path,
            "--model",
            model,
            "--train-data",
            path,
            "--csv-separator",
            ",",
            "--loss",
            loss,
            "--batch-size",
            4,
            name=loss,
        )
        assert len(run.values("loss")) == 4


def test_broken_samples_are_skipped_as_upstream_does_and_counted(tmp_path, model):
    shards = write_shards(tmp_path, photos(32), shards=2)
    with tarfile.open(tmp_path / "1.tar", "a") as tar:
        add_file(tar, "broken-image.png", b"no picture")
        add_file(tar, "broken-image.txt", b"a caption")
        add_file(tar, "broken-image.negatives.json", b'["a"]')
        good = next(iter(photos(1)))
        good.image.save(tmp_path / "good.png")
        add_file(tar, "broken-negatives.png", (tmp_path / "good.png").read_bytes())
        add_file(tar, "broken-negatives.txt", b"a caption")
        add_file(tar, "broken-negatives.negatives.json", b'{"not": "a list"}')
    run = train(
        tmp_path,
        "--model",
        model,
        "--train-data",
        shards,
        "--dataset-type",
        "webdataset",
        "--train-num-samples",
        32,
        "--workers",
        1,
        "--loss",
        "degla",
    )
    assert run.status == 0, run.output
    assert len(run.values("loss")) == 4
    assert "epoch 0: 2 broken samples or files were skipped" in run.output


@pytest.mark.parametrize("inside_json", [False, True], ids=["field", "json key"])
def test_webdataset_carries_negatives_either_way(tmp_path, model, inside_json):
    shards = write_shards(tmp_path, photos(16), inside_json=inside_json)
    run = train_here(
        tmp_path,
        "--model",
        model,
        "--train-data",
        shards,
        "--dataset-type",
        "webdataset",
        "--train-num-samples",
        16,
        "--loss",
        "negclip",
    )
    assert run.values("contrastive_loss")[0] > 2.5  # ln 8 without negatives, ln 40 halfway with


def test_python_literals_are_read_as_negclip_s_files_have_them(tmp_path, model):
    path = write_csv(tmp_path, photos(16), form=repr)
    run = train_here(
        tmp_path,
        "--model",
        model,
        "--train-data",
        path,
        "--csv-separator",
        ",",
        "--loss",
        "negclip",
    )
    assert "16 of 16 captions have some, 4.00 of 4 on average" in run.output
