"""Handling of Ctrl-C: the first is acknowledged at once, the second ends the process at once.

Python calls its signal handlers between two of its own instructions, so not while a library
compiles or computes; a thread that the operating system wakes up is not bound by that.

The first interrupt raises KeyboardInterrupt, as in any program of Python, but not where that would
do harm or nothing: an extension module that is being loaded crashes if Python's code that it calls
raises (JAX's do), and what a callback of the garbage collector raises is printed and forgotten. It
comes again a moment later.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 0.5  # seconds for standard output to take what is left for it, and for a thread to run
LATER = 0.05  # seconds until an interrupt comes again
SHOW_CURSOR = "\x1b[?25h"  # progress bars hide it


class Watch:
    """The signals received so far.

    Attributes:
        line: Printed on standard error when the first signal comes; empty for nothing.
        last: Called before the second one ends this process.
        count: Number of signals so far.
        first: Set when the first signal has been heard.
        repeated: Number of signals to come that are those which came before.
        timers: Those that let them come.
    """

    def __init__(self, line: str, last: Callable[[], None]) -> None:
        self.line, self.last, self.count, self.repeated = line, last, 0, 0
        self.timers: list[threading.Timer] = []
        self.first = threading.Event()

    def heard(self, number: int) -> None:
        """Acknowledge one signal."""
        if self.repeated:
            self.repeated -= 1
            return
        self.count += 1
        self.first.set()
        if self.count > 1:
            self.last()
            leave(128 + number)
        if self.line:
            print(self.line, file=sys.stderr, flush=True)

    def again(self, number: int) -> None:
        """Let a signal come again, since this was no moment for it."""
        self.repeated += 1
        main = threading.main_thread().ident
        self.timers.append(threading.Timer(LATER, signal.pthread_kill, (main, number)))
        self.timers[-1].daemon = True
        self.timers[-1].start()

    def came(self) -> bool:
        """Return whether a signal has come; the thread that hears it may be a moment late."""
        return self.first.wait(PATIENCE)


@contextlib.contextmanager
def watched(line: str, last: Callable[[], None] = lambda: None) -> Iterator[Watch]:
    """Acknowledge the signals that this process handles, SIGINT and perhaps SIGTERM.

    The signal handlers decide what the first one means. The second ends the process: what was being
    written has a temporary name then, and the files that it would have replaced are whole.

    Args:
        line: As for `Watch`.
        last: As for `Watch`.
    """
    watch = Watch(line, last)
    if threading.current_thread() is not threading.main_thread():  # only that one handles signals
        yield watch
        return
    ours, systems = socket.socketpair()
    systems.setblocking(False)
    thread = threading.Thread(target=_listen, args=(ours, watch), daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(systems.fileno(), warn_on_full_buffer=False)
    try:
        with _raised_in_time(watch):
            yield watch
    finally:
        signal.set_wakeup_fd(before)
        systems.close()
        thread.join()
        ours.close()


@contextlib.contextmanager
def _raised_in_time(watch: Watch) -> Iterator[None]:
    """Raise KeyboardInterrupt where it is safe and is not forgotten, if Python's handler would."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    forgotten = sys.unraisablehook

    def handle(number: int, frame: FrameType | None) -> None:
        if _loads_extension(frame):
            watch.again(number)
        else:
            raise KeyboardInterrupt

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            watch.again(signal.SIGINT)
        else:
            forgotten(unraisable)

    signal.signal(signal.SIGINT, handle)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        for timer in watch.timers:
            timer.cancel()
        sys.unraisablehook = forgotten
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _loads_extension(frame: FrameType | None) -> bool:
    """Return whether Python runs for an extension module that is being loaded."""
    while frame is not None:
        if frame.f_code.co_name in ("create_module", "exec_module"):
            loader = frame.f_locals.get("self")
            if isinstance(loader, importlib.machinery.ExtensionFileLoader):
                return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Start threads and processes that no Ctrl-C reaches.

    They inherit that SIGINT is blocked. A new Python would otherwise end with a traceback if it
    comes while it starts, before any code of ours can ignore it. This thread gets it afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end() -> None:
    """Handle Ctrl-C when all is done, but libraries clean up, or a thread of the network's runs.

    The first is not worth the traceback of what it met; the second ends the process at once.
    """
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.SIG_DFL))


def leave(status: int) -> None:
    """End this process now: no traceback of what it was doing, no wait for a library's threads."""
    flush = threading.Thread(target=_flush, daemon=True)
    flush.start()
    flush.join(PATIENCE)
    os._exit(status)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    terminal = sys.__stderr__  # a progress bar has its own in its place, which drops such codes
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
        if terminal is not None and terminal.isatty():
            terminal.write(SHOW_CURSOR)
            terminal.flush()


def _listen(ours: socket.socket, watch: Watch) -> None:
    while numbers := ours.recv(64):
        for number in numbers:
            if number in SIGNALS:
                watch.heard(number)


# A child that is forked would write to the same socket: its signals are not this process's.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
