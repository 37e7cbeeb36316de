"""How the processes of one machine find each other: a store that listens on the loopback interface only.

torch's own rendezvous listens on every interface. Its store has neither password nor signature, so anybody
who reaches the port can change what the processes exchange. Here the socket is bound before the store gets
it.
"""

import socket
from datetime import timedelta

from torch import distributed as dist
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

#: The name of this rendezvous among torch's backends.
BACKEND = "loopback"

HOST = "127.0.0.1"

#: The names that systems give the loopback interface.
_INTERFACES = ("lo", "lo0")


class LoopbackRendezvous(RendezvousHandler):
    """The rendezvous of a single launcher: it hosts the store, and every round is complete at once.

    Args:
        run_id: what torch's launcher calls this run.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._closed = False
        self._round = 0
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind((HOST, 0))
        listener.listen(128)
        port = listener.getsockname()[1]
        self._store = dist.TCPStore(
            HOST,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=60),
            master_listen_fd=listener.detach(),
        )

    def get_backend(self) -> str:
        """The name of this rendezvous."""
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """The processes use the launcher's store."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """A new part of the store for this start or restart."""
        self._round += 1
        return RendezvousInfo(
            dist.PrefixStore(f"round {self._round}", self._store),
            0,
            1,
            RendezvousStoreInfo(HOST, self._store.port),
        )

    def is_closed(self) -> bool:
        """Whether no further round is possible."""
        return self._closed

    def set_closed(self) -> None:
        """Allow no further round."""
        self._closed = True

    def num_nodes_waiting(self) -> int:
        """No other launcher waits to join."""
        return 0

    def get_run_id(self) -> str:
        """The launcher's name of this run."""
        return self._run_id

    def shutdown(self) -> bool:
        """Close the rendezvous; always succeeds."""
        self._closed = True
        return True


def register() -> None:
    """Register :data:`BACKEND` with torch's launcher."""
    rendezvous_handler_registry.register(BACKEND, _create)


def loopback_only() -> dict[str, str]:
    """Environment variables that keep gloo and nccl on the loopback interface.

    Empty if the interface has no known name.
    """
    names = {name for _, name in socket.if_nameindex()}
    loopback = next((name for name in _INTERFACES if name in names), None)
    return {} if loopback is None else {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}


def _create(parameters: RendezvousParameters) -> RendezvousHandler:
    return LoopbackRendezvous(parameters.run_id)
