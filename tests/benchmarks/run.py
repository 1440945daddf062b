"""What a step costs and what is gained: tables on the terminal, figures in build/bench.json.

    make bench
    python tests/benchmarks/run.py --captions add_att.json swap_obj.json
    python tests/benchmarks/run.py --quick --out build/bench.json

Every speed is a ratio to the straightforward way to do the same (`straightforward.py`), both timed in
turns in one process: CPU time of one thread, or CUDA events. Every peak of memory is that of a fresh
process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import fresh
from tqdm import tqdm

PARTS = ("forward", "teacher", "loss", "backward", "optimizer", "ema")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), help="where the figures go")
    parser.add_argument(
        "--captions", nargs="+", default=[], metavar="FILE.json",
        help="captions and negatives in SugarCrepe's format, in place of made ones",
    )  # fmt: skip
    parser.add_argument(
        "--sugarcrepe", nargs=2, default=["", ""], metavar=("ANNOTATIONS", "PHOTOS"),
        help="its files and those of its photographs that are here, in place of drawn pictures",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, default=8, help="samples of a step on the CPU")
    parser.add_argument("--rounds", type=int, default=2, help="steps of each variant on the CPU")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a tiny model and tiny sizes: shows that it runs, measures nothing",
    )
    args = parser.parse_args()
    args.captions = [str(Path(path).resolve()) for path in args.captions]
    fresh.SEPARATE = not args.quick
    begin = time.perf_counter()

    figures = {"quick": args.quick, "machine": fresh.call("machine", "describe")}
    print(" · ".join(f"{key} {value}" for key, value in figures["machine"].items()), flush=True)

    figures["loss"] = loss(args.quick)
    figures["ema"] = ema(args.quick)
    figures["tokenizer"] = tokenizer(args.quick, args.captions)
    figures["loader"] = loader(args)
    figures["encoding"] = encoding(args)
    figures["startup"] = startup(args.quick)
    figures["every_loss"] = every_loss(args)
    figures["step"] = step(args)

    largest = figures["loss"][-1]
    headline = {
        "degla_step_speedup": figures["step"]["speedup"],
        "degla_step_memory_ratio": figures["step"]["memory_ratio"],
        "ema_speedup": figures["ema"]["speedup"],
        "loss_4096_speedup": largest["speedup"],
        "loss_4096_memory_ratio": largest["memory_ratio"],
        "encoding_speedup": figures["encoding"]["speedup"],
    }
    figures = headline | figures | {"seconds": time.perf_counter() - begin}
    table("against the straightforward way", ["figure", "value"], list(headline.items()))
    if args.quick:
        print("(--quick: these are figures of a toy)")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\n{args.out}, after {figures['seconds']:.0f} s")


def loss(quick: bool) -> list[dict]:
    rows = []
    sizes = (32, 64) if quick else (256, 512, 1024, 2048, 4096)
    for size in tqdm(sizes, desc="loss", leave=False):
        row = {"batch": size, **fresh.call("loss", "compare", size=size, pairs=5 if size < 1024 else 2)}
        plain, ours = (fresh.call("loss", "peak", size=size, ours=ours) for ours in (False, True))
        # A toy takes no memory that a process would notice.
        rows.append(
            row | {"straightforward_mb": plain, "ours_mb": ours, "memory_ratio": max(ours, 1) / max(plain, 1)}
        )
    shown = (
        *("batch", "straightforward_s", "ours_s", "speedup"),
        *("straightforward_mb", "ours_mb", "memory_ratio", "relative_difference"),
    )
    table("degla's loss alone, K = 4, D = 512", shown, [[row[key] for key in shown] for row in rows])
    return rows


def ema(quick: bool) -> dict:
    found = fresh.call("ema", "compare", tiny=quick, pairs=7)
    shown = (
        "tensors",
        "parameters",
        "straightforward_s",
        "ours_s",
        "speedup",
        "speedup_least",
        "speedup_greatest",
    )
    table("one move of the teacher", shown, [[found[key] for key in shown]])
    return found


def tokenizer(quick: bool, captions: list[str]) -> dict:
    found = fresh.call("tokenizer", "compare", files=captions, count=20 if quick else 1000, pairs=3)
    table("tokenizer, microseconds per caption", list(found), [list(found.values())])
    return found


def loader(args: argparse.Namespace) -> dict:
    count, rounds = (4, 1) if args.quick else (100, 5)
    found = fresh.call(
        "loader", "rates", photos=args.sugarcrepe[1], files=args.captions, count=count, rounds=rounds
    )
    table("one core of the data loader", list(found), [list(found.values())])
    return found


def encoding(args: argparse.Namespace) -> dict:
    found = fresh.call(
        "encoding", "compare", annotations=args.sugarcrepe[0], photos=args.sugarcrepe[1], pictures=6, pairs=2,
        tiny=args.quick,
    )  # fmt: skip
    table("scoring SugarCrepe", list(found), [list(found.values())])
    return found


def every_loss(args: argparse.Namespace) -> list[dict]:
    pairs = 1 if args.quick else 3
    rows = fresh.call("every_loss", "compare", tiny=args.quick, batch=args.batch, pairs=pairs)
    title = f"a step of every loss against one of clip, ViT-S-32, B = {args.batch}"
    table(title, list(rows[0]), [list(row.values()) for row in rows])
    return rows


def startup(quick: bool) -> dict:
    """Microseconds that the plugin adds to each start of an interpreter."""
    command = [
        sys.executable,
        Path(__file__).with_name("startup.py"),
        "--runs",
        "3" if quick else "40",
        "--json",
    ]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    rows = [
        [name, *(row[key] for key in ("min", "median", "extra_min", "extra_median"))]
        for name, row in found.items()
        if isinstance(row, dict)
    ]
    table(
        "start of Python, microseconds",
        ["environment", "min", "median", "extra_min", "extra_median"],
        rows,
    )
    return found


def step(args: argparse.Namespace) -> dict:
    """On a CPU: variants in turns in one process, then the memory of each in a process of its own."""
    common = {"tiny": args.quick, "batch": args.batch, "files": args.captions}
    rows = fresh.call("step", "times", rounds=args.rounds, **common)
    for row in tqdm(rows, desc="memory of steps", leave=False):
        variant = {key: row[key] for key in ("loss", "pad", "plain")}
        row["peak_mb"] = fresh.call("step", "peak", variant=variant, **common)
    return {"batch": args.batch, "variants": rows, **summarize(rows, f"step, B = {args.batch}, K = 4")}


def summarize(rows: list[dict], title: str) -> dict:
    """Print the steps; DeGLA as it runs by default against DeGLA written straightforwardly."""
    shown = []
    for row in rows:
        best = min(row["rounds"], key=lambda parts: parts["total"])
        tokens = "77" if row["pad"] else "real"
        name = f"{row['loss']}{' straightforward' if row['plain'] else ''}"
        shown.append([name, tokens, best["total"], *(best[part] for part in PARTS), row["peak_mb"]])
    if all(row["pad"] for row in rows):
        shown.append(["all", "real", *["not available"] + [""] * (len(PARTS) + 1)])
    table(f"{title}, seconds and MB", ["loss", "tokens", "total", *PARTS, "peak"], shown)

    (plain,) = (row for row in rows if row["plain"])
    ours = [row for row in rows if row["loss"] == "degla" and not row["plain"]]
    ours = next((row for row in ours if not row["pad"]), ours[0])
    ratios = [a["total"] / b["total"] for a, b in zip(plain["rounds"], ours["rounds"], strict=True)]
    found = {
        "speedup": statistics.median(ratios),
        "speedup_least": min(ratios),
        "speedup_greatest": max(ratios),
        "memory_ratio": ours["peak_mb"] / plain["peak_mb"],
        "at_real_tokens": not ours["pad"],
    }
    for same in (row for row in rows if not row["pad"]):
        padded = next(r for r in rows if r["loss"] == same["loss"] and r["pad"] and not r["plain"])
        ratio = statistics.median(
            a["total"] / b["total"] for a, b in zip(padded["rounds"], same["rounds"], strict=True)
        )
        memory = same["peak_mb"] / padded["peak_mb"]
        found[f"{same['loss']}_real_against_77"] = {"speedup": ratio, "memory_ratio": memory}
        print(f"{same['loss']}: real tokens against 77: {ratio:.2f} times faster, {memory:.2f} of the memory")
    return found


def table(title: str, head: list[str] | tuple[str, ...], rows: list) -> None:
    cells = [[name.replace("_", " ") for name in head], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    print(f"\n{title}")
    for row in cells:
        print(
            "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)), flush=True
        )


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value).replace("_", " ")
    if value and abs(value) < 1e-3:
        return f"{value:.0e}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


if __name__ == "__main__":
    main()
