"""Check torchrun's rendezvous address before torchrun uses it, so that a wrong one shows within seconds."""

from __future__ import annotations

import selectors
import socket
import time

TIMEOUT = 60.0


def check_rendezvous(address: str, node: int, nodes: int, patience: float = TIMEOUT) -> str:
    """Node 0 listens on the port of `address`, and every node connects to it, node 0 too.

    Args:
        address: `HOST:PORT`; HOST must resolve to node 0 on every node.
        node: the index of this node, from 0.
        nodes: the number of nodes.
        patience: seconds to wait for the others.

    Returns:
        A description of what went wrong; empty if all nodes have connected.
    """
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return f"{address} is not HOST:PORT"
    end = time.monotonic() + patience
    if node:
        return _connect(host, int(port), end, alone=False)
    try:
        server = _listen(int(port))
    except OSError as error:
        return f"cannot listen on port {port} ({error.strerror}); another program may use it"
    with server:
        problem = _connect(host, int(port), end, alone=True)
        return problem or _wait_for_all(server, nodes, end, patience)


def _listen(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=1024)


def _connect(host: str, port: int, end: float, alone: bool) -> str:
    """Connect, and retry until it works. Node 0 does not retry: it is already listening itself."""
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return ""
        except socket.gaierror:
            return f"the name {host} is not known on this node; set RDZV_HOST to one that is"
        except OSError as error:
            waiting = isinstance(error, ConnectionRefusedError | TimeoutError) and not alone
            if not waiting or time.monotonic() > end:
                whose = "does not lead to this node" if alone else "cannot be reached"
                return (
                    f"{host} {whose} ({error.strerror or error}); set RDZV_HOST to a name of the first node"
                )
        time.sleep(0.1)


def _wait_for_all(server: socket.socket, nodes: int, end: float, patience: float) -> str:
    """Accept one connection from each node; the first is from this node itself."""
    with selectors.DefaultSelector() as ready:
        ready.register(server, selectors.EVENT_READ)
        for come in range(nodes):
            if not ready.select(max(0.0, end - time.monotonic())):
                return f"only {come} of {nodes} nodes came within {patience:g} s"
            server.accept()[0].close()
    return ""
