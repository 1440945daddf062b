"""`open-clip-ext doctor` as the launcher calls it: would this run start on this node?"""

from __future__ import annotations

import platform
import socket
import threading

import pytest
import torch
from support import photos, train_here, write_csv, write_shards

from open_clip_ext import _startup, cli
from open_clip_ext.cluster import rendezvous
from open_clip_ext.host import seams


@pytest.fixture
def doctor(capsys, model, tmp_path):
    """What `doctor --quiet` prints for a run with these flags: the first problem, or nothing."""

    def doctor(*flags, options=()):
        _startup.arm()  # once more, after a run in this process
        capsys.readouterr()
        common = ["--model", model, "--device", "cpu", "--logs", tmp_path / "logs", "--name", "run"]
        command = ["doctor", "--quiet", *options, "--", *common, "--loss", "degla", *flags]
        status = cli.main(list(map(str, command)))
        lines = capsys.readouterr().err.splitlines()
        assert status == bool(lines)
        node = f"open_clip_ext: {platform.node()}: "
        assert all(line.startswith(node) for line in lines)
        return [line.removeprefix(node) for line in lines]

    return doctor


@pytest.fixture
def data(csv_data):
    return ["--train-data", csv_data, "--csv-separator", ","]


def test_a_run_that_would_start_prints_nothing(doctor, data):
    assert doctor(*data) == []


def test_a_node_without_start_up_file_unless_none_is_needed(doctor, data, monkeypatch):
    monkeypatch.setattr(_startup, "armed", lambda: False)
    assert doctor(*data)[0].startswith("armed in this interpreter: no start-up file was read here")
    assert doctor(*data, options=["--no-start-up"]) == []


def test_wrong_flags_of_upstream_and_of_ours(doctor, data):
    assert doctor(*data, "--epoch-count", 3) == ["flags: unrecognized arguments: --epoch-count 3"]
    sentence = doctor(*data, "--loss-cfg", "weight=3")[0]
    assert sentence.startswith("flags: --loss-cfg weight: --loss degla has no such option")


def test_data_that_are_not_on_this_node(doctor, tmp_path):
    path = tmp_path / "captions.csv"
    assert doctor("--train-data", path) == [f"run: --train-data {path}: there is no such file on this node"]


def test_an_output_folder_that_cannot_be_written_to(doctor, data):
    assert doctor(*data, "--logs", "/proc/sys")[0].startswith(
        "run: --logs /proc/sys: /proc/sys cannot be written to"
    )


def test_fewer_shards_than_workers_of_all_nodes(doctor, shards):
    flags = [
        "--train-data",
        shards,
        "--dataset-type",
        "webdataset",
        "--train-num-samples",
        32,
        "--workers",
        1,
    ]
    assert doctor(*flags) == []
    few = doctor(*flags, options=["--nodes", 2, "--processes", 2])
    assert few[0].startswith(f"run: --train-data {shards}: 2 shards are too few for 4 processes of 1 workers")


def test_companions_of_a_table_that_cannot_be_trained_on(doctor, data, tmp_path):
    assert doctor(*data, "--num-negatives", 9) == [
        f"run: {data[1]}, column 'negatives': --num-negatives 9 is more than any row has (4 at most); give "
        "--num-negatives 4"
    ]
    path = write_csv(tmp_path, photos(8), form=lambda texts: texts[0])
    assert doctor("--train-data", path, "--csv-separator", ",")[0].startswith(
        f"run: {path}, column 'negatives', data row 1: expected a list of strings, got "
    )


def test_shards_whose_first_samples_cannot_be_trained_on(doctor, tmp_path):
    url = write_shards(tmp_path, photos(8), shards=1)
    flags = ["--train-data", url, "--dataset-type", "webdataset", "--train-num-samples", 8, "--workers", 1]
    assert doctor(*flags) == []
    assert doctor(*flags, "--negatives-key", "others")[0].startswith(
        f"run: {tmp_path / '0.tar'}: none of its first 8 samples has a field others.json"
    )
    (tmp_path / "0.tar").write_bytes(b"")
    assert doctor(*flags) == [
        f"run: --train-data {url}: in {tmp_path / '0.tar'} there is no sample that can be read; the first "
        f"problem: {tmp_path / '0.tar'}: empty file; repair these files or leave them out"
    ]


def test_an_epoch_of_shards_without_a_size(doctor, tmp_path):
    url = write_shards(tmp_path, photos(8), shards=1)
    flags = ["--train-data", url, "--dataset-type", "webdataset", "--workers", 1]
    asked = f"run: --train-data {url}: give --train-num-samples, the size of an epoch; "
    assert doctor(*flags) == [f"{asked}there is no sizes.json with the shards that says it"]
    assert doctor(*flags, "--train-num-samples", 0) == [
        "run: --train-num-samples 0: an epoch has at least 1 sample"
    ]
    (tmp_path / "sizes.json").write_text('{"1.tar": 8}')
    assert doctor(*flags) == [
        f"{asked}sizes.json or __len__ with the shards cannot be read (KeyError('0.tar'))"
    ]
    (tmp_path / "sizes.json").write_text('{"0.tar": 8}')
    assert doctor(*flags) == []
    assert doctor("--dataset-type", "synthetic") == [
        "run: --dataset-type synthetic: give --train-num-samples, the size of an epoch"
    ]


def test_validation_shards_that_are_not_on_this_node(doctor, shards, tmp_path):
    flags = ["--train-data", shards, "--dataset-type", "webdataset", "--train-num-samples", 8, "--workers", 1]
    assert doctor(*flags, "--val-data", tmp_path / "{0..1}.tar") == [
        f"run: --val-data {tmp_path}/{{0..1}}.tar: there is no file {tmp_path}/0.tar on this node"
    ]


def test_flags_that_ask_for_help_are_no_run(doctor, data):
    assert doctor(*data, "--help") == ["flags: they ask for help, not for a run"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_that_torch_does_not_see(doctor, data):
    assert doctor(*data, "--device", "cuda", options=["--processes", 2]) == [
        "GPUs: torch sees 0 GPU(s), and 2 process(es) would start; look at the driver"
    ]


def test_the_checkpoint_of_another_run(doctor, data, tmp_path, model):
    latest = ["--save-most-recent", "--resume", "latest"]
    train_here(tmp_path, "--model", model, *data, "--loss", "negclip", "--save-most-recent")
    path = tmp_path / "logs" / "run" / "checkpoints" / "epoch_latest.pt"
    assert doctor(*data, *latest)[0].startswith(f"run: {path}: a checkpoint of --loss negclip, resumed with")
    assert doctor(*data, *latest, options=["--nodes", 2, "--node", 1]) == []  # node 0 looks
    path.write_bytes(b"torn")
    assert doctor(*data, *latest)[0].startswith(f"run: {path} cannot be read")


def test_a_full_disk(doctor, data, tmp_path, monkeypatch):
    path = tmp_path / "logs" / "run" / "checkpoints" / "epoch_latest.pt"
    path.parent.mkdir(parents=True)
    torch.save({"optimizer": {}}, path)
    latest = ["--save-most-recent", "--resume", "latest"]
    assert doctor(*data, *latest) == []
    full = type("Usage", (), {"free": path.stat().st_size - 1})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: full)
    assert doctor(*data, *latest) == [
        f"run: --logs {tmp_path / 'logs'}: no room for a second {path}, "
        "which is written before it is replaced"
    ]


# --- the nodes meet ---


@pytest.fixture
def port():
    with socket.create_server(("", 0)) as free:
        return free.getsockname()[1]


def meet(address, node, nodes, found):
    found[node] = rendezvous.check_rendezvous(address, node, nodes, patience=20)


def test_all_nodes_meet_whoever_is_first(port):
    found = {}
    nodes = [threading.Thread(target=meet, args=(f"localhost:{port}", i, 3, found)) for i in (2, 1, 0)]
    for node in nodes:
        node.start()
        node.join(0.2)
    for node in nodes:
        node.join()
    assert found == {0: "", 1: "", 2: ""}


def test_a_node_that_does_not_come(port):
    assert (
        rendezvous.check_rendezvous(f"localhost:{port}", 0, 2, patience=0.3)
        == "only 1 of 2 nodes came within 0.3 s"
    )


def test_an_address_that_answers_nothing(port):
    found = rendezvous.check_rendezvous(f"localhost:{port}", 1, 2, patience=0.3)
    assert found == (
        "localhost cannot be reached (Connection refused); set RDZV_HOST to a name of the first node"
    )


def test_the_first_node_says_that_an_address_is_not_its_own(port):
    found = rendezvous.check_rendezvous(f"240.0.0.1:{port}", 0, 2)  # a reserved address, that nobody has
    assert found.startswith("240.0.0.1 does not lead to this node (")
    assert found.endswith("; set RDZV_HOST to a name of the first node")


def test_an_unknown_name_ends_at_once():
    found = rendezvous.check_rendezvous("no.such.host.invalid:23456", 1, 2)
    assert found == "the name no.such.host.invalid is not known on this node; set RDZV_HOST to one that is"


def test_a_port_in_use(port):
    with socket.create_server(("", port), reuse_port=False):
        found = rendezvous.check_rendezvous(f"localhost:{port}", 0, 1)
    assert found.startswith(f"cannot listen on port {port} (Address already in use")


def test_an_address_without_a_port():
    assert rendezvous.check_rendezvous("localhost", 0, 1) == "localhost is not HOST:PORT"


def test_a_package_that_upstream_requires_and_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(
        seams, "requires", lambda name: ["torch>=2", "no-such-package", "wandb; extra == 'x'"]
    )
    assert seams.missing_packages() == ["no-such-package"]
