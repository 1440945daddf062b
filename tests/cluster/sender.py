"""One of two ranks, each on a node of its own: bytes it sends over its cable, beside those computed.

Prints JSON: case -> [sent, computed].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from open_clip_ext import registry
from open_clip_ext.traffic import Traffic

B, K, D, P = 64, 4, 512, 1 << 20
REPEATS = 3
MODES = {
    "local-with-grad": {"local_loss": True, "gather_with_grad": True},
    "local": {"local_loss": True},
}


def sent() -> int:
    """Bytes that have left through eth0; ours alone, as this network is the node's own."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if "eth0:" in line)
    return int(line.split(":")[1].split()[8])


def measure(step) -> float:
    """Bytes sent for one call of `step`, mean of several."""
    step()
    dist.barrier()
    before = sent()
    for _ in range(REPEATS):
        step()
    dist.barrier()
    return (sent() - before) / REPEATS


def loss_step(name: str, mode: dict[str, bool]):
    loss = registry.load(name)(rank=dist.get_rank(), world_size=2, **mode)
    k = loss.companions.get("neg", 0)
    learned = {"image_features": (B, D), "text_features": (B, D)} | (
        {"neg_text_features": (B, k, D)} if k else {}
    )
    inputs = {key: torch.randn(shape, requires_grad=True) for key, shape in learned.items()}
    if name == "degla":
        inputs |= {f"teacher_{key}": x.detach() for key, x in inputs.items()}
    scale = torch.tensor(20.0, requires_grad=True)
    if hasattr(loss, "configure"):
        loss.configure({"neg": k})

    def step():
        loss(**inputs, logit_scale=scale).backward()

    return step, Traffic(B, k, D)


def main() -> None:
    rank = int(sys.argv[1])
    dist.init_process_group("gloo", init_method="tcp://node1:23500", rank=rank, world_size=2)
    torch.manual_seed(rank)
    found = {}
    for name in registry.entries():
        for mode, flags in MODES.items():
            step, traffic = loss_step(name, flags)
            computed = traffic.features + (traffic.feature_gradients if "grad" in mode else 0)
            found[f"{name}, {mode}"] = [measure(step), computed]
    model = DistributedDataParallel(torch.nn.Linear(P, 1, bias=False))
    x = torch.ones(1, P)
    found["gradients"] = [measure(lambda: model(x).sum().backward()), Traffic(1, 0, parameters=P).gradients]
    print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
