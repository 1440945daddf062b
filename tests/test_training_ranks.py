"""Ranks compare notes before the first step."""

from __future__ import annotations

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from support import train

from open_clip_ext.errors import TrainingError
from open_clip_ext.training import ranks


def rank(number: int, folder: str, lines: list[str], results) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    try:
        ranks.require_same(lines[number])
        results.put((number, "agreed"))
    except TrainingError as error:
        results.put((number, str(error)))
    dist.barrier()


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        (["loss=degla", "loss=degla"], {0: "agreed", 1: "agreed"}),
        (
            ["loss=degla", "loss=clip"],
            {
                0: "rank 1 runs 'loss=clip', rank 0 runs 'loss=degla'",
                1: "rank 0 runs 'loss=degla', rank 1 runs 'loss=clip'",
            },
        ),
    ],
    ids=["same", "different"],
)
def test_ranks_that_differ_stop(tmp_path, lines, outcome):
    results = mp.get_context("spawn").SimpleQueue()
    mp.spawn(rank, (str(tmp_path), lines, results), nprocs=2)
    assert dict(results.get() for _ in range(2)) == outcome


def test_a_single_process_has_no_peers():
    ranks.require_same("anything")


@pytest.mark.slow
def test_a_rank_that_did_not_arm_is_named(tmp_path, model, csv_data):
    run = train(
        tmp_path,
        "--model",
        model,
        "--train-data",
        csv_data,
        "--csv-separator",
        ",",
        "--loss",
        "degla",
        processes=2,
        env={"UNARMED_RANK": "1", "OPEN_CLIP_EXT_PEER_TIMEOUT": "5"},
    )
    assert run.status != 0
    assert "rank 1 did not announce itself within 5 s" in run.output
    assert not run.values("loss")
