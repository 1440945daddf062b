"""Mixed pictures: each block is that of another picture of the batch."""

from __future__ import annotations

import pytest
import torch

from open_clip_ext.anchoring import mixing


@pytest.mark.parametrize(("height", "width", "grid"), [(4, 4, 2), (5, 7, 2), (7, 5, 3), (3, 3, 1)])
def test_every_pixel_is_that_of_the_picture_its_block_is_taken_from(height, width, grid):
    images = torch.arange(3 * 3 * height * width).reshape(3, 3, height, width).float()
    sources = mixing.draw(3, grid)
    mixed = mixing.mix(images, sources)
    edges = [[round(part * size / grid) for part in range(grid + 1)] for size in (height, width)]
    for b in range(3):
        for y in range(height):
            for x in range(width):
                r, c = (
                    next(i for i in range(grid) if ends[i] <= at < ends[i + 1])
                    for ends, at in zip(edges, (y, x), strict=True)
                )
                assert torch.equal(mixed[b, :, y, x], images[sources[r, c, b], :, y, x])


def test_the_draw_is_that_of_the_generator_of_the_cpu():
    torch.manual_seed(5)
    once = mixing.draw(4, 2)
    torch.manual_seed(5)
    assert torch.equal(mixing.draw(4, 2), once)
    assert once.shape == (2, 2, 4)
    assert {*mixing.draw(400, 2).flatten().tolist()} >= {0, 399}


def test_pictures_smaller_than_the_grid_stay_pictures():
    images = torch.rand(2, 3, 2, 2)
    assert mixing.mix(images, mixing.draw(2, 5)).shape == images.shape
