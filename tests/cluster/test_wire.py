"""The formulas of `open-clip-ext traffic` against what crosses the cable between two nodes."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from slurm import FORK

from open_clip_ext import cli
from open_clip_ext.cluster.traffic import RANKS, Traffic

SENDER = Path(__file__).with_name("sender.py")


@pytest.mark.parametrize("ranks", [2, 4])
def test_what_crosses_the_wire_is_what_the_formulas_say(cluster, ranks):
    def rank(i):
        command = ["env", f"FORKS={cluster.forks}", "timeout", "300", sys.executable, FORK, SENDER, i, ranks]
        return json.loads(cluster.run(*command, node=1 + 2 * i // ranks).splitlines()[-1])

    cluster.serve()
    with ThreadPoolExecutor() as pool:
        every = list(pool.map(rank, range(ranks)))
    assert len(every[0]) == {2: 2, 4: 1}[ranks] * 4 + 1  # losses, and the model
    for found in every[:: ranks // 2]:  # one of each node
        for case, (sent, computed) in found.items():
            print(f"{case}: {sent:,.0f} of {computed:,.0f} bytes: {sent / computed:.3f}")
            # Above it: headers, acknowledgements and the barrier.
            assert computed < sent < 1.03 * computed, case


def test_two_ranks_send_what_each_has():
    t = Traffic(batch=3, negatives=4, width=7, ranks=2, parameters=100)
    assert t.features == 3 * (4 * 7 * 6 + 4)
    assert t.feature_gradients == 3 * 4 * 7 * 6
    assert t.gradients == 400
    assert Traffic(batch=3, negatives=0, width=7, ranks=5).features == 4 * 3 * 4 * 7 * 2


def test_the_command_prints_and_draws(tmp_path, capsys):
    assert cli.main(["traffic", "--plot", str(tmp_path / "plot.png")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Computed, not measured")
    assert shown.count("\n") >= 2 * (len(RANKS) + 2)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
