"""The host adapter: the only place that names upstream's trainer.

`seams` says what a wrapped function is, `adapter` what is done in them on any upstream, and `released`
which ones they are in open_clip_torch 2.28 to 3.3. `flags` adds ours to upstream's parser, `preflight`
looks whether a run could start, `initial_weights` loads what it starts from, `loaders` leads companion
texts through upstream's data loaders, `checkpoint` saves within an epoch, `benchmarks` scores in
upstream's evaluation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from open_clip_ext.host.adapter import Adapter

_installed = False


def choose() -> tuple[type[Adapter], list[str]]:
    """The adapter that fits the installed upstream best, and the seams of its that do not, in words."""
    from open_clip_ext.host.released import Released
    from open_clip_ext.host.seams import mismatches

    fits = [(adapter, mismatches(adapter.seams)) for adapter in (Released,)]
    return min(fits, key=lambda fit: len(fit[1]))


def install() -> None:
    """Wrap upstream's functions, before its main module binds their names.

    On an upstream that no adapter fits, its parser alone. Repeated calls, as on a patched upstream,
    change nothing.
    """
    global _installed
    if _installed:
        return
    _installed = True
    adapter, problems = choose()
    if problems:
        from open_clip_ext.host import flags

        flags.guard(problems, adapter.tested)
    else:
        adapter().install()
