"""The two-minute tour, `parity demo`: everything the project does, without any external data.

    from parity.demo import demo
    demo("parity-demo")

The network is an ENet trained by `tests/benchmarks/fit_demo_network.py`. Frameworks are loaded when
the tour begins.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from parity.io.files import check_folder, make_folder, write_atomically
from parity.spec.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from weights_convert import Conversion

WEIGHTS = Path(__file__).with_name("enet.safetensors")
SEED, SCENES, SIZE = 0, 8, (128, 256)  # of the scenes
LEVELS = ("L0", "L1", "L2", "L3")
LADDER_SIZE = (72, 136)  # of the images that the ladder runs on

MARK = "parity-demo.txt"  # says whose folder it is
MARK_TEXT = "`parity demo` wrote this folder, and writes over it when it runs again.\n"

Pair = tuple[int, int]
Progress = Callable[[str], None]


def demo(
    out: str | Path = "parity-demo",
    scenes: int = SCENES,
    size: Pair = SIZE,
    levels: Sequence[str] = LEVELS,
    console: Console | None = None,
) -> bool:
    """Draw streets, carry a checkpoint round, climb the ladder, evaluate both sides, write a page.

    Args:
        out: The folder for all of it; made if it is not there.
        scenes: Number of scenes to draw.
        size: Their height and width.
        levels: Rungs to climb.
        console: The console to print to; the terminal if not given.

    Returns:
        Whether the round trip, the ladder and the metric all agree.

    Raises:
        InputError: The folder cannot be written, or holds other things. Then nothing is written.
    """
    from rich.console import Console

    start, out = time.perf_counter(), Path(out)
    prepare(out)
    tour = Tour(out, console or Console(highlight=False))
    passed = [
        tour.draw(scenes, size),
        tour.convert(),
        tour.climb(levels),
        tour.evaluate(scenes, size),
    ]
    page = "" if tour.page is None else f"; the page is {tour.page}"
    tour.say("")
    tour.verdict(all(passed), f"in {time.perf_counter() - start:.0f} s{page}")
    return all(passed)


def prepare(out: Path) -> None:
    """Make the folder and mark it as the demo's.

    Raises:
        InputError: A file is in the way, it must not be written, or it holds other things.
    """
    check_folder(out)
    try:
        found = os.listdir(out) if out.is_dir() else []
    except OSError as error:
        raise InputError(f"{out}: cannot be read: {error.strerror}") from error
    if found and MARK not in found:
        raise InputError(
            f"{out}: holds {min(found)}, expected an empty folder or that of an earlier demo"
        )
    make_folder(out)
    write_atomically(out / MARK, MARK_TEXT.encode())


class Tour:
    """The steps of the tour; each prints what it does and returns whether it passed.

    Args:
        out: The folder to write to.
        console: The console to print to.
    """

    STATIONS = 4

    def __init__(self, out: Path, console: Console) -> None:
        self.out = out
        self.console = console
        self.page: Path | None = None
        self._station = 0

    def draw(self, scenes: int, size: Pair) -> bool:
        """Draw street scenes and labels, as a data set in Cityscapes' layout."""
        from parity.data.scenes import write

        with self._begin("Draw street scenes with labels"):
            write(self.out / "scenes", SEED, scenes, *size)
        self.say(f"{self.out / 'scenes'}: {scenes} pairs of {size[0]}x{size[1]} pixels")
        return True

    def convert(self) -> bool:
        """Write the shipped network as a torch checkpoint, and convert it to JAX and back."""
        import weights_convert

        source, back = self.out / "enet.pth", self.out / "enet-back.pth"
        route = [source, self.out / "enet.safetensors", self.out / "enet.orbax", back]
        with self._begin("Carry a checkpoint from PyTorch to JAX and back") as progress:
            progress("loading the frameworks")
            save_torch(source)
            labels: str | None = weights_convert.load(WEIGHTS).labels
            self.say(f"{source}: torch, torch names, {source.stat().st_size:,} bytes")
            for here, there in itertools.pairwise(route):
                progress(f"{here.name} to {there.name}")
                self.say(describe(weights_convert.convert(here, there, labels=labels)))
            before, after = (weights_convert.load(path).arrays for path in (source, back))
        differing = differences(before, after)
        numbers = sum(array.size for array in before.values())
        if differing:
            return self.verdict(False, f"the round trip changed {', '.join(differing)}")
        count = f"{len(before)} tensors, {numbers:,} numbers"
        return self.verdict(True, f"the round trip is bitwise: {count}")

    def climb(self, levels: Sequence[str]) -> bool:
        """Run the ladder with this checkpoint's weights."""
        with self._begin("Climb the ladder: is the port the same network?") as progress:
            import weights_convert
            from parity.diagnosis.check import check
            from parity.model_checks.networks import port

            checkpoint = weights_convert.load(self.out / "enet.pth")
            progress("building both networks")
            pair = port("enet", checkpoint.config, LADDER_SIZE, arrays=checkpoint.arrays)
            report = check(pair, levels, progress=progress)
        report.print(self.console)
        return report.ok

    def evaluate(self, scenes: int, size: Pair) -> bool:
        """Evaluate both sides on the scenes and write the page.

        PyTorch runs in one thread: at this size 27 images a second instead of 31, but 33 instead of
        0.4 where another process keeps a core busy.
        """
        from parity.capture.torch_threads import one_thread
        from parity.evaluation.miou import miou

        with self._begin("Evaluate both sides on the scenes") as progress, one_thread():
            try:
                result = miou(
                    self.out / "enet.safetensors",
                    self.out / "scenes",
                    size,
                    limit=scenes,
                    pictures=scenes,
                    progress=lambda done, total, what: progress(f"{done} of {total}: {what}"),
                )
            except FloatingPointError as error:
                return self.verdict(False, str(error))
        self.console.print(result.table())
        self.say(result.verdict)
        self.page = result.to_html(self.out / "page")
        return result.passed

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def verdict(self, passed: bool, text: str) -> bool:
        from rich.text import Text

        word = Text("PASSED", "green") if passed else Text("FAILED", "red")
        self.console.print(word, text, markup=False, soft_wrap=True)
        return passed

    @contextlib.contextmanager
    def _begin(self, title: str) -> Iterator[Progress]:
        """Announce a step; yield a function that shows progress, as a spinner or as lines."""
        from rich.text import Text

        self._station += 1
        self.console.print(f"\n[bold]{self._station} of {self.STATIONS}  {title}[/bold]")
        if not self.console.is_terminal:
            yield lambda text: self.say(f"... {text}")
            return
        with self.console.status("") as status:
            yield lambda text: status.update(Text(text))


def save_torch(path: Path) -> None:
    """Write the shipped network as training code would leave it: float32, a bare state dict."""
    import torch

    import torch_impl.state
    import weights_convert

    shipped, buffer = weights_convert.load(WEIGHTS), io.BytesIO()
    torch.save(torch_impl.state.build(shipped.config, shipped.arrays).state_dict(), buffer)
    write_atomically(path, buffer.getvalue())


def describe(done: Conversion) -> str:
    return f"{done.path}: {done.format}, {done.naming_scheme} names, {done.bytes:,} bytes"


def differences(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> list[str]:
    """Return names of the tensors that are not the same bit for bit, or only in one of the two."""
    return [
        name
        for name in {**before, **after}
        if name not in before
        or name not in after
        or before[name].dtype != after[name].dtype
        or before[name].shape != after[name].shape
        or before[name].tobytes() != after[name].tobytes()
    ]
