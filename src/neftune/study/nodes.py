"""The machines that share one run, and how the ranks on them find each other."""

import os
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neftune.errors import ConfigError

STORE = "NEFTUNE_RANKS_STORE"
"""Environment variable: the file through which the ranks of one machine find each other."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The machines that share one run; each of them starts its part of the ranks.

    Attributes:
        count: How many machines.
        index: This machine's number; number 0 claims the run and stores its result.
        address, port: Where machine 0 can be reached by the others, in a network that only they use.
    """

    count: int = 1
    index: int = 0
    address: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count or (self.count > 1 and not 0 < self.port < 1 << 16):
            raise ConfigError(
                "a run on several machines needs index < count and the port of machine 0, got index "
                f"{self.index}, count {self.count}, port {self.port}. Set NEFTUNE_NODES, NEFTUNE_NODE and "
                "NEFTUNE_RENDEZVOUS (HOST:PORT of machine 0)."
            )

    @classmethod
    def from_environment(cls) -> "Nodes":
        """As NEFTUNE_NODES, NEFTUNE_NODE and NEFTUNE_RENDEZVOUS (HOST:PORT) say; one machine where they say nothing.

        Raises:
            ConfigError: They contradict each other, or are no numbers.
        """
        count, index = os.environ.get("NEFTUNE_NODES", "1"), os.environ.get("NEFTUNE_NODE", "0")
        address, _, port = os.environ.get("NEFTUNE_RENDEZVOUS", "127.0.0.1:0").rpartition(":")
        if not (count.isdigit() and index.isdigit() and port.isdigit() and address):
            raise ConfigError(
                "NEFTUNE_NODES and NEFTUNE_NODE must be numbers and NEFTUNE_RENDEZVOUS HOST:PORT, got "
                f"{count!r}, {index!r} and {address}:{port}. Set them alike on every machine, NEFTUNE_NODE apart."
            )
        return cls(int(count), int(index), address, int(port))

    def share(self, world_size: int) -> int:
        """How many of a run's ranks this machine starts.

        Raises:
            ConfigError: They do not divide evenly.
        """
        if world_size % self.count:
            raise ConfigError(
                f"train.world_size must be a multiple of the machines, got {world_size} and {self.count}. "
                "Change one of them."
            )
        return world_size // self.count


@contextmanager
def rendezvous(nodes: Nodes) -> Generator[tuple[list[str], Mapping[str, str]]]:
    """Options of torchrun, and the environment of the ranks.

    On one machine they meet through a file that only this user reads, and talk over the loopback: torchrun's own store
    would listen on every network. Between machines it must listen, and trusts whoever reaches it.
    """
    with tempfile.TemporaryDirectory(prefix="neftune-ranks-") as folder:
        logs = ["--log-dir", folder, "--shutdown-timeout", "5"]
        if nodes.count > 1:
            place = ["--node-rank", str(nodes.index), "--master-addr", nodes.address, "--master-port", str(nodes.port)]
            yield [*logs, "--rdzv-backend", "static", "--nnodes", str(nodes.count), *place], {}
            return
        meeting = ["--rdzv-backend", "c10d", "--rdzv-id", "run", "--rdzv-conf", "store_type=file"]
        place = ["--rdzv-endpoint", str(Path(folder, "agents")), "--local-addr", "127.0.0.1", "--nnodes", "1"]
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        yield (
            [*logs, *meeting, *place],
            {
                STORE: str(Path(folder, "ranks")),
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
                "GLOO_SOCKET_IFNAME": loopback,
                "NCCL_SOCKET_IFNAME": loopback,
            },
        )
