"""Figures of one GPU, in at most eight minutes: steps, TF32, fused AdamW, and the cost of a group of texts.

    make bench-gpu
    python tests/benchmarks/gpu.py --minutes 8 --out build/bench-gpu.json

ViT-B-32 with random weights, K = 4, bf16. Each measurement has a process of its own, the most wanted first.
What the time does not reach, or what fails, is named at the end, and the file has what was measured.
`--tiny` runs everything with a toy, on a CPU too: it shows that the script works, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import fresh
from run import table

PARTS = ("forward", "teacher", "loss", "backward", "optimizer", "ema")
REAL = {"pad": False, "plain": False}


def plan() -> list[dict[str, Any]]:
    """What is measured, in this order; the arguments of `gpu_step.steps` and `gpu_step.group_cost`."""
    degla, padded = {"loss": "degla", **REAL}, {"loss": "degla", "pad": True, "plain": False}
    straightforward = {"loss": "degla", "pad": True, "plain": True}
    clip, negclip = {"loss": "clip", **REAL}, {"loss": "negclip", **REAL}
    eager = [degla, straightforward, padded, negclip, clip]

    def steps(batch: int, variants: list[dict], **settings: Any) -> dict[str, Any]:
        return {"function": "steps", "batch": batch, "variants": variants, **settings}

    return [
        {"function": "group_cost", "rows": 1280},
        steps(256, eager),
        steps(1024, eager),
        steps(256, [degla], fused=True),
        steps(256, [degla], bf16=False, tf32=False),
        steps(256, [degla], bf16=False, tf32=True),
        steps(256, [degla], compiled=True),
        steps(256, [straightforward], compiled=True),
        steps(1024, [degla], compiled=True),
        steps(256, [clip], compiled=True),
        steps(1024, [straightforward], compiled=True),
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench-gpu.json"))
    parser.add_argument("--minutes", type=float, default=8.0, help="when to stop")
    parser.add_argument("--captions", nargs="+", default=[], metavar="FILE.json")
    parser.add_argument("--tiny", action="store_true", help="a toy: shows that it runs, measures nothing")
    parser.add_argument("--eager", action="store_true", help="leave out what is compiled")
    args = parser.parse_args(argv)
    fresh.SEPARATE = not args.tiny
    end = time.monotonic() + 60 * args.minutes
    files = [str(Path(path).resolve()) for path in args.captions]
    figures: dict[str, Any] = {"tiny": args.tiny, "machine": fresh.call("machine", "describe")}
    if figures["machine"]["gpu"] is None and not args.tiny:
        sys.exit("no GPU here; `make bench` measures a CPU, and --tiny shows that this script runs")
    print(" · ".join(f"{key} {value}" for key, value in figures["machine"].items()), flush=True)
    figures |= {"measured": [], "not_reached": [], "failed": []}
    for wanted in plan():
        if args.eager and wanted.get("compiled"):
            continue
        if args.tiny:
            wanted |= {"tiny": True} | ({"batch": 4} if "batch" in wanted else {"rows": 40})
        arguments = dict(wanted)
        function = arguments.pop("function")
        if function == "steps":
            arguments["files"] = files
        left = end - time.monotonic()
        try:
            if left < (0 if args.tiny else 10):
                raise TimeoutError
            found = fresh.call("gpu_step", function, timeout=left, **arguments)
        except (TimeoutError, subprocess.TimeoutExpired):
            figures["not_reached"].append(wanted)
            continue
        except subprocess.CalledProcessError as e:
            figures["failed"].append({**wanted, "exit_status": e.returncode})
            continue
        figures["measured"].append({**wanted, "found": found})
        show(wanted, found)
        write(args.out, figures)
    for what in ("not_reached", "failed"):
        for wanted in figures[what]:
            print(f"{what.replace('_', ' ')}: {wanted}")
    write(args.out, figures)
    print(args.out)


def show(wanted: dict[str, Any], found: Any) -> None:
    if wanted["function"] == "group_cost":
        table("one group of texts, forward and backward, bf16", list(found), [list(found.values())])
        if not wanted.get("tiny"):
            print(
                f"set GROUP_COST = {found['group_cost_tokens']:.0f} in open_clip_ext/model/text_trimming.py"
            )
        return
    rows = [
        [
            f"{row['loss']}{' straightforward' if row['plain'] else ''}",
            "77" if row["pad"] else "real",
            *(row["parts"][part] for part in ("total", *PARTS)),
            wanted["batch"] / row["parts"]["total"],
            row["peak_mb"],
        ]
        for row in found
    ]
    settings = [f"{key} {value}" for key, value in wanted.items() if key not in ("function", "variants")]
    head = ["loss", "tokens", "total", *PARTS, "samples per s", "peak"]
    table(f"{', '.join(settings)}: seconds and MB", head, rows)
    for name, tokens, total, *_ in rows[1:]:
        print(f"  {name}, {tokens} tokens: {total / rows[0][2]:.2f} times the time of the first row")


def write(out: Path, figures: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
