"""The host adapter: the only place that names upstream's trainer.

`seams` says what a wrapped function is, and `signatures` which parameters one has. `adapter` is what is
done in them on any upstream, `released` which ones they are in open_clip_torch 2.28 to 3.3 and `task_api`
in what will be 4.x. `flags` adds ours to upstream's parser, `preflight` looks whether a run could start,
`initial_weights` loads what it starts from, `regroup` the state of the other upstream's optimizer, `loaders`
leads companion texts through upstream's data loaders, `checkpoint` saves within an epoch, `benchmarks` scores
in upstream's evaluation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from open_clip_ext.host.adapter import Adapter
    from open_clip_ext.host.seams import Parameters, Seam

_installed = False


def adapters() -> tuple[type[Adapter], ...]:
    """One for each shape of upstream's trainer."""
    from open_clip_ext.host.released import Released
    from open_clip_ext.host.task_api import TaskAPI

    return Released, TaskAPI


def choose(parameters: Parameters | None = None) -> tuple[type[Adapter], dict[Seam, str]]:
    """The adapter that fits the installed upstream best, and what is wrong with those seams that do not fit.

    `parameters` gives those of a function, as `signatures.imported` (the default) or `read` do.
    """
    from open_clip_ext.host.seams import mismatches
    from open_clip_ext.host.signatures import imported

    fits = []
    for adapter in adapters():
        fits.append((adapter, mismatches(adapter.seams, parameters or imported)))
        if not fits[-1][1]:
            break  # to look for functions that are not there, upstream has to be imported
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

        tested = " and ".join(fitting.tested for fitting in adapters())
        flags.guard(list(problems.values()), tested)
    else:
        adapter().install()
