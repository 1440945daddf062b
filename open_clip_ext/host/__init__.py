"""The host adapter: the only place that names upstream's trainer.

`seams` lists what is wrapped and checks that it fits, `released` wraps it for open_clip_torch 2.28
to 3.3, `initial_weights` loads the weights that a run starts from, `loaders` leads companion texts through
upstream's data loaders, `shard_order` makes an epoch of shards repeatable.
"""

from __future__ import annotations


def install() -> None:
    """Wrap upstream's functions, once per process, before its main module binds their names."""
    from open_clip_ext.host import released

    released.install()
