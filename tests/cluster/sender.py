"""A rank on one of two nodes: bytes that its node sends over the cable, beside those computed.

Called with its rank and the number of ranks; prints JSON: case -> [sent, computed]. In a ring each node's
last rank sends to the next node, so that the cable carries what one rank sends. gloo brings gradients of
features back all-to-all, which is the same only with one rank on each node.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from open_clip_ext import registry
from open_clip_ext.cluster.traffic import Traffic

B, K, D, P = 64, 4, 512, 1 << 20
TRIES = 4
LOSSES = ["clip", "negclip", "ce-clip", "degla"]  # the formulas are those of negatives as columns
MODES = {
    "local-with-grad": {"local_loss": True, "gather_with_grad": True},
    "local": {"local_loss": True},
}


def sent() -> int:
    """Bytes that have left through eth0; ours alone, as this network is the node's own."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if "eth0:" in line)
    return int(line.split(":")[1].split()[8])


def measure(step: Callable[[], None]) -> float:
    """Bytes sent for one call of `step`: the least of several, as TCP repeats what is answered late."""
    step()
    return min(_once(step) for _ in range(TRIES))


def _once(step: Callable[[], None]) -> float:
    dist.barrier()
    before = sent()
    dist.barrier()  # another rank of the node may be ahead
    step()
    dist.barrier()
    return sent() - before


def loss_step(name: str, mode: dict[str, bool]) -> tuple[Callable[[], None], Traffic]:
    world = dist.get_world_size()
    loss = registry.load(name)(rank=dist.get_rank(), world_size=world, **mode)
    k = loss.companions.get("neg", 0)
    learned = {"image_features": (B, D), "text_features": (B, D)} | (
        {"neg_text_features": (B, k, D)} if k else {}
    )
    inputs = {key: torch.randn(shape, requires_grad=True) for key, shape in learned.items()}
    if loss.teacher:
        inputs |= {f"teacher_{key}": x.detach() for key, x in inputs.items()}
    scale = torch.tensor(20.0, requires_grad=True)
    if hasattr(loss, "configure"):
        loss.configure({"neg": k})

    def step() -> None:
        loss(**inputs, logit_scale=scale).backward()

    return step, Traffic(B, k, D, world)


def main() -> None:
    rank, world = map(int, sys.argv[1:])
    where = f"tcp://node1:{23500 + world}"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=world)
    torch.manual_seed(rank)
    found = {}
    for name in LOSSES:
        for mode in MODES if world == 2 else ["local"]:
            flags = MODES[mode]
            step, traffic = loss_step(name, flags)
            computed = traffic.features + (traffic.feature_gradients if "grad" in mode else 0)
            found[f"{name}, {mode}"] = [measure(step), computed]
    model = DistributedDataParallel(torch.nn.Linear(P, 1, bias=False))
    x = torch.ones(1, P)
    found["gradients"] = [
        measure(lambda: model(x).sum().backward()),
        Traffic(1, 0, ranks=world, parameters=P).gradients,
    ]
    print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
