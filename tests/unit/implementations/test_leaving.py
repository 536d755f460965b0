"""A process of several ends its group, and the group's threads, before its interpreter ends."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

# One process is a group, too. It prints the group's threads: while it trains, and after it left.
PROGRAM = """
import sys
from pathlib import Path

import torch
from torch import distributed

import torch_impl.parallel


class Trainer:
    def __init__(self, group):
        self.model = group.wrap(torch.nn.Linear(2, 2))
        self.itself = self  # trainers refer to themselves


def threads():
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return sorted({name for name in names if "gloo" in name})


group = torch_impl.parallel.start(("127.0.0.1", int(sys.argv[1])), 1)
trainer = Trainer(group)
trainer.model(torch.ones(3, 2)).sum().backward()
print(*threads())
del trainer
LEAVE
print(*threads())
"""


def threads(leave: str) -> list[str]:
    """What the program prints: the threads before and after."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    command = [sys.executable, "-c", PROGRAM.replace("LEAVE", leave), port]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of threads in /proc")
def test_no_thread_of_the_group_is_left() -> None:
    """Catches a group that ends after its process: now and then that is aborted (SIGABRT).

    PyTorch's own way to end a group leaves them where a trainer has not been collected.
    """
    within, after = threads("group.leave()")
    assert within
    assert not after
    within, after = threads("distributed.destroy_process_group()")
    assert within
    assert after
