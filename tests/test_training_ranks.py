"""Ranks compare notes before the first step."""

from __future__ import annotations

import os
import sys

import pytest
import torch.distributed as dist
from support import together, train

from open_clip_ext.errors import TrainingError
from open_clip_ext.training import ranks


def rank(*lines: str) -> None:
    """What each of two ranks does."""
    dist.init_process_group("gloo")
    number = dist.get_rank()
    try:
        ranks.require_same(lines[number])
        outcome = "agreed"
    except TrainingError as error:
        outcome = str(error)
    os.write(1, f"{number}: {outcome}\n".encode())  # at once, as both write to one file
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        (["loss=degla", "loss=degla"], ["0: agreed", "1: agreed"]),
        (
            ["loss=degla", "loss=clip"],
            [
                "0: rank 1 runs 'loss=clip', rank 0 runs 'loss=degla'",
                "1: rank 0 runs 'loss=degla', rank 1 runs 'loss=clip'",
            ],
        ),
    ],
    ids=["same", "different"],
)
def test_ranks_that_differ_stop(lines, outcome):
    status, output = together(__file__, *lines, processes=2)
    assert status == 0, output
    assert sorted(output.splitlines()) == outcome


def test_a_single_process_has_no_peers():
    ranks.require_same("anything")


@pytest.mark.trainer
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


if __name__ == "__main__":
    rank(*sys.argv[1:])
