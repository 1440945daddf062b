"""Bad input ends before training, in one sentence and with exit status 2."""

from __future__ import annotations

import json
import tarfile

import pytest
import support
import torch
from support import add_file, photos, train, train_here, write_csv, write_shards

from open_clip_ext import registry
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


@pytest.fixture
def flags(csv_data):
    return ["--train-data", csv_data, "--csv-separator", ","]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--loss", "none"],
            "--loss none: no such loss; registered losses: ce-clip, clip, degla, negclip",
        ),
        (
            ["--loss", "degla", "--loss-cfg", "weight=1"],
            "--loss-cfg weight: --loss degla has no such option; its options: igc_weight, tgc_weight, "
            "distill_weight, tgc_scale, ema_decay, tgc, teacher_checkpoint",
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
        (
            ["--loss", "degla", "--siglip"],
            "--siglip cannot go with --loss: its sigmoid loss takes the place of --loss",
        ),
        (
            ["--loss", "degla", "--distill-model", "x"],
            "--distill-model cannot go with --loss: it brings a loss of its own; --loss degla has a "
            "teacher too",
        ),
        (
            ["--loss", "degla", "--torchscript"],
            "--torchscript cannot go with --loss: a scripted model cannot take companion texts",
        ),
        (
            ["--loss", "degla", "--trace"],
            "--trace cannot go with --loss: a traced model cannot take companion texts",
        ),
        (
            ["--loss", "degla", "--horovod"],
            "--horovod cannot go with --loss: features are gathered through torch.distributed",
        ),
        (
            ["--loss", "degla", "--use-bnb-linear", "x"],
            "--use-bnb-linear cannot go with --loss: its linear layers are not known to average",
        ),
        (
            ["--loss", "degla", "--model", "coca_ViT-B-32"],
            "--model coca_ViT-B-32 cannot go with --loss: CoCa has a loss of its own",
        ),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_flags(stop, flags, arguments, sentence):
    assert stop(*flags, *arguments) == sentence


def test_a_model_with_a_logit_bias(tmp_path, stop, flags):
    model = support.write_model(tmp_path / "siglip", init_logit_bias=-10)
    assert "has a logit bias (SigLIP)" in stop(*flags, "--model", model, "--loss", "negclip")


def test_an_option_that_another_one_switches_off(stop, flags):
    sentence = stop(*flags, "--loss", "degla", "--loss-cfg", "tgc_weight=0", "tgc=released")
    assert sentence == "--loss-cfg tgc: it has no effect because tgc_weight is 0; leave it out"


def test_a_teacher_checkpoint_that_is_not_there(stop, flags):
    sentence = stop(*flags, "--loss", "degla", "--loss-cfg", "teacher_checkpoint=nowhere.pt")
    assert sentence == "teacher_checkpoint=nowhere.pt: no such file"


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
        (lambda texts: "a b", "data row 1: expected a list of strings, got 'a b'"),
        (lambda texts: "[1]", "data row 1: expected a list of strings, got [1]"),
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
            "none of 8 samples can be used; the first problem: {shard}, sample 00000: expected a list of "
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


class WantsPhrases(CLIPLoss):
    companions = {"phrase": 2}

    def forward(
        self,
        image_features,
        text_features,
        logit_scale,
        phrase_text_features,
        phrase_valid,
        output_dict=False,
    ):
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


def test_a_kind_of_companion_that_no_data_bring(stop, flags, third_party):
    third_party("WantsPhrases")
    assert "it wants companion texts of kind phrase; this version reads only neg" in stop(
        *flags, "--loss", "theirs"
    )


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
