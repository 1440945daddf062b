"""Our flags in upstream's one parser, and what a `--loss` run refuses among upstream's own."""

from __future__ import annotations

import argparse
import functools
import importlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

from open_clip_ext.errors import InputError, exit_on_error
from open_clip_ext.host import seams
from open_clip_ext.host.seams import Upstream
from open_clip_ext.training.config import BenchmarkRequest, Settings, resolve_benchmarks, resolve_flags
from open_clip_ext.training.flags import add_flags


def parse(
    upstream: Upstream, args: Any, refused: Mapping[str, str]
) -> tuple[argparse.Namespace, Settings | None, BenchmarkRequest | None]:
    """Upstream's flags and ours, and what ours come to; exits with a sentence if they are wrong.

    Args:
        upstream: its `parse_args`.
        args: the flags.
        refused: options of upstream's that cannot go with `--loss`, and why; OPTION=VALUE for one value.

    Returns:
        Upstream's namespace, the settings of a `--loss` run and the benchmarks of one that scores any.
    """
    namespace: argparse.Namespace = _with_flags(upstream)(args)
    with exit_on_error():
        request = resolve_benchmarks(namespace)
        settings = resolve_flags(namespace)
        if settings is not None:
            _refuse(namespace, refused)
        return namespace, settings, request


def guard(problems: Sequence[str], tested: str) -> None:
    """On an upstream that does not fit, wrap its parser alone.

    `--loss` then stops instead of being taken for `--loss-dist-impl`; plain runs stay untouched.
    (`--eval-benchmarks` stops there too: upstream's parser does not know it.)

    Args:
        problems: the seams that do not fit, in words.
        tested: the releases that do.
    """
    params = importlib.import_module("open_clip_train.params")
    upstream = params.parse_args

    @functools.wraps(upstream)
    def parse_args(args: Any) -> argparse.Namespace:
        with exit_on_error():
            if any(arg.split("=")[0] == "--loss" for arg in args):
                raise InputError(
                    f"--loss needs another open_clip_torch: {problems[0]} "
                    f"({seams.upstream()} is installed; {tested} fit)"
                )
        return upstream(args)  # type: ignore[no-any-return]

    params.parse_args = parse_args  # type: ignore[attr-defined]


def _with_flags(upstream: Upstream) -> Upstream:
    """Upstream's `parse_args`, whose one parser gets our argument group as well.

    The function makes its parser itself, from the `argparse` that its module imported: for the
    time of the call that name stands for a module whose parser adds our flags before it parses.
    """

    class Parser(argparse.ArgumentParser):
        def parse_args(self, *args: Any, **kwargs: Any) -> Any:
            with exit_on_error():
                try:
                    add_flags(self)
                except argparse.ArgumentError as error:
                    raise InputError(f"{seams.upstream()} has a flag of the same name: {error}") from error
            return super().parse_args(*args, **kwargs)

    def parse_args(args: Any) -> Any:
        params: Any = importlib.import_module("open_clip_train.params")
        original = params.argparse
        params.argparse = types.ModuleType("argparse")
        params.argparse.__dict__.update(original.__dict__, ArgumentParser=Parser)
        try:
            return upstream(args)
        finally:
            params.argparse = original

    return parse_args


def _refuse(args: argparse.Namespace, refused: Mapping[str, str]) -> None:
    """Stop on options whose meaning a `--loss` run cannot keep."""
    for refusal, reason in refused.items():
        option, _, value = refusal.partition("=")
        given = getattr(args, option, None)
        if given == value if value else given:
            flag = f"--{option.replace('_', '-')} {value}".strip()
            raise InputError(f"{flag} cannot go with --loss: {reason}")
    if args.save_every_steps and args.logs.lower() == "none":
        raise InputError(f"--save-every-steps {args.save_every_steps} has no effect under --logs none")
