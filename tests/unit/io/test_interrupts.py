"""Ctrl-C, in real processes: the first is answered at once, the second ends the process at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from parity.data import loading
from parity.training.stopping import ANSWER
from tests import small_runs
from tests.small_recipe import PROGRAM
from tests.unit.training import test_devices

ROOT = Path(__file__).resolve().parents[3]
data, small = small_runs.data, small_runs.small  # the same fixtures
PROMPT = 10  # seconds, of a busy machine
# A call that Python's signal handlers wait for: it lasts minutes, and lets other threads run.
BUSY = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2 * 10**9)"
# `parity check FILE:make_port` whose port is never there.
PORT = """
import hashlib, pathlib, {framework}
def make_port():
    pathlib.Path({marker!r}).touch()
    {call}
"""
CALLS = {
    "torch": BUSY,
    # Its result is needed: a compiler may leave out a loop that has none and does not end.
    "jax": "jax.jit(lambda x: jax.lax.fori_loop(0, 2**31 - 2, lambda i, x: jax.numpy.sin(x), x))"
    "(0.5).block_until_ready()",
}
# `parity train` whose first step never ends, on either side.
TRAINING = """
import hashlib, os, pathlib, {framework}_impl.train
def step(*_):
    pathlib.Path({marker!r} + os.environ.get("RANK", "0")).touch()
    {busy}
{framework}_impl.train.Trainer.step = step
"""

# The same with processes that give all that they load through shared memory.
LOADING = (
    """
import os, sys
sys.path.insert(0, os.getcwd())
from parity.cli import main
from parity.data import loading
from tests import small_recipe
small_recipe.recipe()
loading.SMALL = 1
if __name__ == "__main__":
"""
    + TRAINING.strip().replace("\n", "\n    ").join(("    ", "\n"))
    + "    sys.exit(main())\n"
)


def interrupted_twice(command: list[str], markers: list[Path], answer: str) -> None:
    """Interrupt a process once these files are there, and once more when it has answered."""
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr
    try:
        while not all(marker.exists() for marker in markers):
            assert child.poll() is None, child.communicate()
            time.sleep(0.05)
        time.sleep(0.2)
        begun = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.stderr.readline() == f"{answer}\n"
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=PROMPT)
        assert time.monotonic() - begun < PROMPT
        assert (child.returncode, said[1]) == (130, "")
    finally:
        child.kill()
        child.communicate()  # which closes its pipes


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_command_that_is_interrupted_answers_and_ends(framework: str, tmp_path: Path) -> None:
    """Catches Ctrl-C that is heard only when a library comes back, a traceback, a crash."""
    marker, file = tmp_path / "there", tmp_path / "port.py"
    call = CALLS[framework]
    file.write_text(PORT.format(framework=framework, marker=str(marker), call=call))
    command = [sys.executable, "-m", "parity", "check", f"{file}:make_port"]
    interrupted_twice(command, [marker], "parity check: interrupted")


@pytest.mark.parametrize(("framework", "devices"), [("torch", 1), ("torch", 2), ("jax", 2)])
def test_a_training_that_is_interrupted_answers_and_ends(
    framework: str, devices: int, data: Path, tmp_path: Path
) -> None:
    """Catches a first Ctrl-C without a word, a second one that is not obeyed, a process left."""
    head = TRAINING.format(framework=framework, marker=str(tmp_path / "there"), busy=BUSY)
    program = head + PROGRAM
    more = () if devices == 1 else ("--devices", str(devices))
    found = test_devices.arguments(data, tmp_path / "out", framework, *more)
    ranks = range(devices if framework == "torch" else 1)
    command = [sys.executable, "-c", program, *found]
    interrupted_twice(command, [tmp_path / f"there{rank}" for rank in ranks], ANSWER)
    deadline = time.monotonic() + PROMPT
    while any(str(tmp_path).encode() in text for text in command_lines()):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.1)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_processes_that_load_leave_no_words(framework: str, data: Path, tmp_path: Path) -> None:
    """Catches Python's lines about memory that it gives back after a second Ctrl-C."""
    program = tmp_path / "program.py"  # which the processes import, for the network
    program.write_text(
        LOADING.format(framework=framework, marker=str(tmp_path / "there"), busy=BUSY)
    )
    found = test_devices.arguments(data, tmp_path / "out", framework, "--workers", "2")
    command = [sys.executable, str(program), *found]
    interrupted_twice(command, [tmp_path / "there0"], ANSWER)


def blocked(_: int) -> int:
    """The signals that are blocked in the main thread of this process, as a mask."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("SigBlk:")[2].split()[0], 16)


def test_no_interrupt_reaches_a_process_that_starts() -> None:
    """Catches Ctrl-C that meets a process which loads data while its Python starts: a traceback."""
    (found,) = loading.stream(blocked, lambda value: value, 0, 1, workers=1)
    assert found >> (signal.SIGINT - 1) & 1
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def command_lines() -> list[bytes]:
    """Return the command lines of all processes of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:  # it has ended
            continue
    return found


# In a background job of a shell, programs begin with SIGINT ignored.
HEARD = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
# Ctrl-C while an extension module's start calls Python, and while the garbage collector does.
UNSAFE = {
    "extension": """
class Loader(importlib.machinery.ExtensionFileLoader):
    def create_module(self, spec):
        os.kill(os.getpid(), signal.SIGINT)
        [time.sleep(0.01) for _ in range(50)]
        print("whole")
Loader("native", "native.so").create_module(None)
""",
    "callback": """
class Collected:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        [time.sleep(0.01) for _ in range(50)]
del Collected().__dict__
""",
}


@pytest.mark.parametrize("place", UNSAFE)
def test_an_interrupt_waits_for_its_moment(place: str) -> None:
    """Catches Ctrl-C that crashes JAX while it is loaded, or is forgotten, with a traceback."""
    program = (
        f"{HEARD}import importlib.machinery, os, signal, sys, time; from parity import cli\n"
        "from parity.cli.commands import recipes\n"
        f"def run(args):{textwrap.indent(UNSAFE[place], '    ')}    time.sleep(PROMPT)\n"
        f"PROMPT = {PROMPT}; recipes.run = run; sys.exit(cli.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "recipes"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * PROMPT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "parity recipes: interrupted\n")
    assert done.stdout == ("whole\n" if place == "extension" else "")


def test_an_interrupt_behind_the_end_is_no_error() -> None:
    """Catches a traceback of a library that cleans up when the command has printed its result."""
    program = (
        "import atexit, os, signal, sys, time; from parity import cli\n"
        "def clean_up():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.1)\n"
        "atexit.register(clean_up); sys.exit(cli.main())"
    )
    command = [sys.executable, "-c", program, "recipes"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "enet-camvid" in done.stdout


def test_a_thread_that_never_ends_is_stopped_by_the_second_interrupt() -> None:
    """Catches a command that no Ctrl-C ends, since a network's own thread still runs."""
    program = (
        f"{HEARD}import sys, threading, time; from parity import cli\n"
        "threading.Thread(target=time.sleep, args=(60,)).start(); sys.exit(cli.main())"
    )
    command = [sys.executable, "-uc", program, "recipes"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        while b"genet" not in run.stdout.readline():
            pass
        time.sleep(PROMPT / 4)
        try:
            for _ in range(2):
                run.send_signal(signal.SIGINT)
                time.sleep(PROMPT / 8)
            assert run.wait(PROMPT) == -signal.SIGINT
            assert run.stderr.read() == b""
        finally:
            run.kill()


def test_the_command_line_runs_in_any_thread() -> None:
    """Catches handlers of signals, which only the main thread may set, set in another one."""
    program = (
        "import threading; from parity import cli\n"
        "found = []; t = threading.Thread(target=lambda: found.append(cli.main()))\n"
        "t.start(); t.join(); assert found == [0]"
    )
    command = [sys.executable, "-c", program, "recipes"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_that_python_can_stop_needs_one_interrupt(tmp_path: Path) -> None:
    """Catches a first Ctrl-C that is only answered: temporary files are to be removed."""
    program = (
        "import pathlib, sys, tempfile, time; from parity import cli\n"
        "from parity.cli.commands import recipes\n"
        "def run(args):\n"
        f"    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):\n"
        "        print('ready', flush=True); time.sleep(100)\n"
        "recipes.run = run; sys.exit(cli.main())"
    )
    command = [sys.executable, "-c", program, "recipes"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=PROMPT)[1]
    assert (child.returncode, said) == (130, "parity recipes: interrupted\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["recipes"], ["table", "{run}"], ["train", "--help"]])
def test_a_reader_that_has_enough_is_no_error(arguments: list[str], tmp_path: Path) -> None:
    """Catches `parity ... | head` that ends with BrokenPipeError, or a word about it."""
    line = '{"kind": "validation", "batches": 1, "score": 0.5, "mean_loss": 1}\n'
    (tmp_path / "log.jsonl").write_text(line)
    given = [argument.format(run=tmp_path) for argument in arguments]
    command = [sys.executable, "-m", "parity", *given]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe) as child:
        assert child.stdout
        assert child.stderr
        child.stdout.close()
        said = child.stderr.read()
    assert said == b""
    # argparse itself passes over what it cannot write.
    assert child.returncode in ((0, 141) if "--help" in arguments else (141,))
