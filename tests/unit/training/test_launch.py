"""What watches several processes: with ones that cost nothing."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parity.spec.errors import InputError
from parity.spec.training.parallel import LOST
from parity.training import dist_env, launch
from parity.training.dist_env import DistEnv
from parity.training.launch import Words

TWO = DistEnv(devices=2, processes=2)
# What a worker is, before it does something.
HEAD = """
import os, signal, sys, time
from parity.spec.errors import InputError
from parity.training import launch
rank = int(os.environ.get("RANK", "0"))
def lost(error): return isinstance(error, ConnectionError)
def work():
    {body}
    return 0
try:
    sys.exit(launch.work(work, lost))
except InputError as error:
    print(f"parity train: error: {{error}}", file=sys.stderr)
    sys.exit(2)
"""
STARTER = """
import sys
from parity.training import launch
from parity.training.dist_env import DistEnv
command = [sys.executable, "-c", sys.argv[1]]
sys.exit(launch.run(command, "torch", DistEnv(devices=2, processes=2), launch.Words("train")))
"""


def run(body: str, capfd: pytest.CaptureFixture) -> tuple[int, str]:
    """Two processes that do this: the exit status, and what was said on standard error."""
    command = [sys.executable, "-c", HEAD.format(body=body)]
    begun = time.monotonic()
    status = launch.run(command, "torch", TWO, Words("train", "--resume goes on"))
    assert time.monotonic() - begun < 30
    return status, capfd.readouterr().err


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_others(rank: int, capfd: pytest.CaptureFixture) -> None:
    """Catches processes that wait for one that is gone, and an exit status of 0."""
    body = f"os.kill(os.getpid(), signal.SIGKILL) if rank == {rank} else time.sleep(100)"
    line = f"process {rank} was killed by SIGKILL, the others were ended; --resume goes on"
    assert run(body, capfd) == (1, f"parity train: error: {line}\n")


def test_the_command_that_ran_is_named(capfd: pytest.CaptureFixture) -> None:
    """Catches `parity eval` that speaks of `parity train`, and of a run that could go on."""
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    assert launch.run(command, "torch", TWO, Words("eval")) == 1
    line = "process 0 was killed by SIGKILL, the others were ended"
    assert capfd.readouterr().err == f"parity eval: error: {line}\n"


def test_the_reason_is_told_and_not_what_follows_from_it(capfd: pytest.CaptureFixture) -> None:
    """Catches a line that says that a process is gone, where another one says why."""
    body = "if rank == 0: raise ConnectionError('peer')\n    raise InputError('a file is damaged')"
    assert run(body, capfd) == (2, "parity train: error: a file is damaged\n")


def test_a_process_that_misses_another_machine_says_so(capfd: pytest.CaptureFixture) -> None:
    """Catches a traceback of a library's, and an exit status that is not passed on."""
    status, said = run("raise ConnectionError('gloo')", capfd)
    assert status == 1
    assert said.startswith("parity train: error: a process of another machine is gone")
    assert said.count("\n") == 1
    assert LOST not in (0, 1, 2)


def test_what_nobody_foresaw_is_shown_whole(capfd: pytest.CaptureFixture) -> None:
    """Catches an error of our own whose traceback is lost with the process."""
    status, said = run("if rank == 1: raise KeyError('unforeseen')\n    time.sleep(100)", capfd)
    assert status == 1
    assert "KeyError: 'unforeseen'" in said
    assert said.endswith("parity train: error: process 1 failed\n")


def test_what_libraries_print_is_not_shown(capfd: pytest.CaptureFixture) -> None:
    """Catches C++ logs between our lines, of either output."""
    body = "os.write(1, b'[Gloo]'); os.write(2, b'E1121'); print('ours', file=sys.stderr)"
    assert run(f"{body} if rank == 0 else 0", capfd) == (0, "ours\n")


def started(body: str, **options: object) -> subprocess.Popen:
    """Run a body in a process of its own, which can be killed."""
    command = [sys.executable, "-c", STARTER, HEAD.format(body=body)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def test_a_signal_goes_to_all_once(tmp_path: Path) -> None:
    """Catches a second signal that cuts off what the first one began, and one that is lost."""
    body = (
        f"path = {str(tmp_path)!r} + f'/{{rank}}'; asked = []\n"
        "    signal.signal(signal.SIGINT, lambda *_: asked.append(1)); open(path, 'w').close()\n"
        "    while not asked: time.sleep(0.02)\n"
        "    time.sleep(0.5); open(path, 'w').write(str(len(asked))); sys.exit(130)"
    )
    process = started(body)
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 130
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["1", "1"]


@pytest.mark.skipif(sys.platform != "linux", reason="ties by prctl")
def test_no_process_outlives_its_starter(tmp_path: Path) -> None:
    """Catches orphans that train on, or hold a card, after the launcher was killed."""
    body = f"open({str(tmp_path)!r} + f'/{{os.getpid()}}', 'w').close(); time.sleep(100)"
    process = started(body)
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    numbers = [int(path.name) for path in tmp_path.iterdir()]
    deadline = time.monotonic() + 30
    while any(lives(number) for number in numbers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lives(process: int) -> bool:
    path = Path(f"/proc/{process}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_port_in_use_is_refused_at_once() -> None:
    """Catches a wait for processes that can never meet."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        here = DistEnv(nodes=2, processes=2, coordinator=("127.0.0.1", port))
        with pytest.raises(InputError, match=f"127.0.0.1:{port}: Address already in use"):
            launch.run(["true"], "torch", here, Words("train"))


def test_a_coordinator_that_is_not_there_is_told() -> None:
    """Catches a process that waits for ever, or ends with a library's traceback."""
    port = dist_env.free_port()
    with pytest.raises(InputError, match=f"127.0.0.1:{port}: nobody answers within 1 s"):
        dist_env.check_coordinator("127.0.0.1", port, seconds=1)
    with pytest.raises(InputError, match=r"no\.such\.host:1: nobody answers within 0 s"):
        dist_env.check_coordinator("no.such.host", 1, seconds=0)


def test_torchrun_and_the_command_line_must_agree() -> None:
    """Catches a run on fewer devices than were asked for."""
    environment = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "1"}
    environment["MASTER_ADDR"] = "there"
    found = dist_env.by_torchrun(DistEnv(), environment)
    assert found == DistEnv(2, 2, 1, ("there", 1), 4, 3)
    assert (found.parts, found.leads) == (4, False)
    with pytest.raises(InputError, match="--devices 4 --nodes 1, but torchrun started 2 processes"):
        dist_env.by_torchrun(DistEnv(devices=4), environment)
    del environment["RANK"]
    with pytest.raises(InputError, match="the environment of torchrun is not whole: 'RANK'"):
        dist_env.by_torchrun(DistEnv(), environment)
