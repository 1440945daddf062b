"""Settings of the demo."""

from __future__ import annotations

import math

import pytest

from open_clip_ext.demo import recipe
from open_clip_ext.errors import InputError


def test_round_trip():
    changed = recipe.Recipe(lr={"degla": 1e-3}, test_seeds=(21, 22, 23), weights=(0.5,), siglip=True)
    assert recipe.from_json(recipe.to_json(changed), "here") == changed


@pytest.mark.parametrize("text", ["", "[]", '{"no_such": 1}', '{"fine_tuning": {"steps": 3}}'])
def test_a_broken_one_is_named(text):
    with pytest.raises(InputError, match="here: "):
        recipe.from_json(text, "here")


def test_a_siglip_starts_at_the_share_of_right_pairs():
    assert "init_logit_bias" not in recipe.Recipe().model["model_cfg"]
    start = recipe.Recipe(siglip=True).model["model_cfg"]
    assert 1 / (1 + math.exp(-start["init_logit_bias"])) == pytest.approx(1 / 64, rel=0.01)
    assert math.exp(start["init_logit_scale"]) == pytest.approx(10)


def test_bases_worlds_and_evaluation_seeds_do_not_meet():
    worlds = [recipe.Recipe(world_seed=seed) for seed in range(3)]
    seeds = [
        w.evaluation_seed(base, s) for w in worlds for base in range(4) for s in (w.dev_seed, *w.test_seeds)
    ]
    assert len(set(seeds)) == len(seeds)
