"""Communication volume of a step: the bytes that ranks send each other, and the time that takes on a link.

All of it is computed, nothing is measured. tests/cluster/test_wire.py compares the bytes with the counters of
a network interface.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GPUS_OF_A_NODE = 8
RANKS = (8, 16, 32, 64, 128, 256, 512)
# Bytes per second: out of a node over all its ports for LINKS, out of a GPU inside a node for NVLINK.
NVLINK = 450e9
LINKS = {
    "100 Gb/s Ethernet": 12.5e9,
    "200 Gb/s InfiniBand": 25e9,
    "8 x 400 Gb/s InfiniBand": 400e9,
}
# open_clip's ViT-B-32.
PARAMETERS = 151_277_313
WIDTH = 512


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends in one step with ring algorithms, which pass every block on W-1 times.

    The collectives are those of `--local-loss --gather-with-grad` and DDP. `docs/performance.md` has the
    other modes of gathering. Scalars (8 bytes for `degla`) are left out.

    Attributes:
        batch: b, samples per rank.
        negatives: K, negatives per caption; 0 for a loss without negatives.
        width: D, the embedding dimension.
        ranks: W, the number of ranks.
        parameters: P, the number of trained parameters, with fp32 gradients.
    """

    batch: int
    negatives: int
    width: int = WIDTH
    ranks: int = 2
    parameters: int = PARAMETERS

    @property
    def features(self) -> int:
        """Forward: all-gather of image, caption and negatives, and one mask byte per negative.

        (W-1) b (4 D (2+K) + K)
        """
        row = 4 * self.width * (2 + self.negatives) + self.negatives
        return (self.ranks - 1) * self.batch * row

    @property
    def feature_gradients(self) -> int:
        """Backward: gradients of the gathered features return to their rank, (W-1) b 4 D (2+K)."""
        return (self.ranks - 1) * self.batch * 4 * self.width * (2 + self.negatives)

    @property
    def gradients(self) -> float:
        """Backward: DDP's all-reduce, 2 (W-1)/W 4 P."""
        return 2 * (self.ranks - 1) / self.ranks * 4 * self.parameters

    @property
    def total(self) -> float:
        """The sum of the three."""
        return self.features + self.feature_gradients + self.gradients

    def seconds(self, link: float) -> float:
        """Seconds that `total` takes if no transfers overlap and there is no latency.

        A ring enters and leaves each node once, so the bytes that one rank sends are those on the node's
        `link` (bytes per second).
        """
        return self.total / (link if self.ranks > GPUS_OF_A_NODE else NVLINK)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `open-clip-ext traffic`."""
    parser.add_argument("--batch", metavar="B", type=int, default=32, help="Samples per GPU (default 32).")
    parser.add_argument(
        "--negatives",
        metavar="K",
        type=int,
        nargs="+",
        default=[0, 4],
        help="Negatives per caption (default 0 4).",
    )
    parser.add_argument(
        "--width", metavar="D", type=int, default=WIDTH, help="Embedding dimension (default 512)."
    )
    parser.add_argument(
        "--parameters",
        metavar="P",
        type=int,
        default=PARAMETERS,
        help="Number of parameters (default: of ViT-B-32).",
    )
    parser.add_argument("--plot", metavar="FILE", type=Path, help="Also write a plot to FILE.")


def main(args: argparse.Namespace) -> int:
    """Print the table, and plot it if asked to."""
    curves = {
        k: [Traffic(args.batch, k, args.width, ranks, args.parameters) for ranks in RANKS]
        for k in args.negatives
    }
    print(f"Computed, not measured: {args.batch} samples per GPU, D = {args.width}, P = {args.parameters:,}")
    for k, curve in curves.items():
        print(f"\nK = {k}\n{table(curve)}")
    if args.plot:
        plot(curves, args.plot)
    return 0


def table(curve: Sequence[Traffic]) -> str:
    """MB that a rank sends in a step, and milliseconds on each link, for each number of GPUs."""
    head = ["GPUs", "global batch", "features", "their grads", "DDP grads", "MB", *LINKS]
    rows = [head]
    for t in curve:
        sizes = (t.features, t.feature_gradients, t.gradients, t.total)
        times = [f"{1e3 * t.seconds(link):.1f} ms" for link in LINKS.values()]
        rows.append([str(t.ranks), str(t.ranks * t.batch), *(f"{size / 1e6:.1f}" for size in sizes), *times])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(lines)


def plot(curves: dict[int, list[Traffic]], path: Path) -> None:
    """Write a plot with two panels to `path`: MB sent by a rank, and the time that takes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (sizes, times) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    anyone = next(iter(curves.values()))
    sizes.plot(RANKS, [t.gradients / 1e6 for t in anyone], "k:", label="gradients of parameters (DDP)")
    styles = ("--", "-", "-.")
    for style, (k, curve) in zip(styles, curves.items(), strict=False):
        both = [(t.features + t.feature_gradients) / 1e6 for t in curve]
        sizes.plot(RANKS, both, f"k{style}", label=f"features and their gradients, K = {k}")
        for colour, (name, link) in enumerate(LINKS.items()):
            line = [1e3 * t.seconds(link) for t in curve]
            times.plot(RANKS, line, f"C{colour}{style}", label=f"{name}, K = {k}")
    sizes.set_ylabel("MB that a GPU sends in a step")
    times.set_ylabel("ms of a step, if nothing overlaps")
    for axes in (sizes, times):
        axes.set(xscale="log", yscale="log", xlabel=f"GPUs, {GPUS_OF_A_NODE} in a node", xticks=RANKS)
        axes.set_xticks(RANKS, map(str, RANKS))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    b = anyone[0].batch
    figure.suptitle(f"Computed, not measured: ViT-B/32, {b} samples per GPU, NVLink inside a node")
    figure.savefig(path, dpi=110)
    plt.close(figure)
