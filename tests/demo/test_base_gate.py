"""The conditions that a base must meet before it is fine-tuned."""

from __future__ import annotations

import pytest

from open_clip_ext.demo import gate, models, recipe, vocabulary, world

KINDS = ("swap_obj", "swap_att", "swap_order", "replace_rel")


def checks(swaps, kept) -> dict[str, gate.Check]:
    percent = dict.fromkeys(world.KINDS, swaps) | dict.fromkeys(world.CLASSES, kept)
    return {c.name: c for c in gate.checks(gate.Base(20.0, percent), share=0.5, ceiling=97, band=10)}


def test_limits():
    found = checks(50, 70)
    assert all(check.passed for check in found.values())
    assert set(found) == {*world.CLASSES, *KINDS}
    assert (found["texture"].low, found["texture"].high) == (62.5, 97)  # half of the way from 25 to 100
    assert (found["swap_obj"].low, found["swap_obj"].high) == (40, 60)


@pytest.mark.parametrize(
    ("swaps", "kept", "failed"),
    [
        (50, 60, {"texture", "style", "count"}),  # of four classes each; the others have six
        (50, 98, set(world.CLASSES)),
        (61, 70, set(KINDS)),
        (39, 70, set(KINDS)),
    ],
)
def test_what_does_not_pass(swaps, kept, failed):
    found = checks(swaps, kept)
    assert {name for name, check in found.items() if not check.passed} == failed
    text = gate.text([[*found.values()], [*checks(50, 70).values()]])
    assert text.count("NOT MET") == len(failed)
    assert text.splitlines()[0].split() == ["wanted", "base", "0", "base", "1"]


def test_a_base_is_measured_by_the_evaluation(tmp_path, monkeypatch):
    (tmp_path / vocabulary.FILE).write_bytes(vocabulary.content())
    models.untrained(tmp_path / "model", recipe.MODEL, 0)
    monkeypatch.chdir(tmp_path)
    found = gate.measured("local-dir:model", seed=1, size=20)
    assert found.scale == pytest.approx(1 / 0.07)
    assert set(found.percent) == {*world.KINDS, *world.CLASSES}
    right = [value / 5 for value in found.percent.values()]  # of 20
    assert right == pytest.approx([round(count) for count in right])
