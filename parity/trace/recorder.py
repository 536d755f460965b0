"""Records what a network computes into one file, a trace, to be compared elsewhere.

This file is complete: copy it alone into another environment. It needs Python 3.7, NumPy 1.17 and
the framework of the network, and nothing of the suite that it comes from.

A network of PyTorch (1.5 or newer) is recorded whole:

    import recorder
    recorder.record_torch("reference.trace", module, [x], loss=loss, targets=[y],
                          optimizer=lambda m: torch.optim.Adam(m.parameters(), 1e-3))

Anything else is recorded by plain calls, with NumPy arrays in the layout that the network has:

    with recorder.Trace("reference.trace", framework="mine 1.0") as trace:
        trace.state("conv.weight", w, trained=True)
        trace.run("eval", "float32")           # what follows belongs to this run
        trace.input("x", x)
        trace.tap("conv", y, inputs=[x])
        trace.output("logits", y)
        trace.run("train", "float32")
        trace.input("x", x)
        trace.tap("conv", y, inputs=[x])       # a layer's output, as often as it is called
        trace.output("logits", y)
        trace.loss(value)
        trace.gradient("conv", dy)             # the loss's gradient for what `tap` was given,
        trace.gradient("conv.weight", dw)      # for a parameter,
        trace.gradient("x", dx)                # or for an input

`docs/traces.md` of the suite describes the file.
"""

# ruff: noqa: B905 - `zip` takes no `strict` before Python 3.10

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import functools
import hashlib
import io
import json
import os
import random
import sys
import tempfile
import threading
import zipfile
from collections.abc import Mapping

import numpy as np

FORMAT, VERSION = "parity-trace", 1
INDEX = "index.npy"  # the member that holds the index: UTF-8 JSON as an array of bytes

# How far what a layer alone is fed is disturbed: half a unit in the last place; and how much more
# the input of a whole network is, at most by the last number.
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
DISTURBANCE, LARGEST_DISTURBANCE = 2.0**9, 2.0**-5
ULP = 2.0**-52  # how far the weights of the second trajectory are disturbed
UPDATES = 4  # steps of the optimizer on gradients that are given
PARTS = ("alone", "numerics", "update", "trajectory")
KINDS = ("update", "decay", "trajectory")  # of steps of training
PLAIN = (bool, int, float, str, type(None))
WAITING = 1 << 28  # bytes that may wait for being written, beside one array of any size


class TraceError(ValueError):
    """What was to be recorded cannot be; the message is one line that says why."""


def generator(seed, purpose, *counters):
    """Return the random numbers that the suite draws for the same purpose."""
    key = np.frombuffer(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:16], np.uint64)
    words = np.array([0, *counters, 0, 0, 0][:4], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=words))


class ArrayName(str):
    """Stands for an array before it is known which are equal; its type tells it from text."""


def renamed(tree, names):
    """Return a nest of the index in which arrays have the names that `names` gives them."""
    if isinstance(tree, dict):
        return {key: renamed(value, names) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [renamed(value, names) for value in tree]
    return names.get(tree, tree) if isinstance(tree, ArrayName) else tree


class Members:
    """A zip file of arrays, hashed and written by a thread: nobody waits for digest and disk.

    Args:
        file: The file, open for writing.

    Attributes:
        names: The name in the file of each array that was added; equal ones share it.
        arrays: What the index says of each array in the file, by its name there.
    """

    def __init__(self, file):
        self.zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True)
        self.changed = threading.Condition()
        self.queue = collections.deque()
        self.written = {}  # names in the file by digest, shape and types
        self.names = {}
        self.arrays = {}
        self.waiting = 0  # bytes in the queue, and of what is being written
        self.ended = False
        self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def add(self, name, array, entry):
        """Have an array hashed, and written unless an equal one was.

        Args:
            name: What stands for it; its name in the file is in `names` in the end.
            array: The array, which must not be changed afterwards.
            entry: What the index says of it, without the digest.

        Raises:
            OSError: One of those before could not be written.
        """
        with self.changed:
            while self.waiting > WAITING and self.error is None:
                self.changed.wait()
            if self.error is not None:
                raise self.error
            self.queue.append((name, array, entry))
            self.waiting += array.nbytes
            self.changed.notify_all()

    def finish(self):
        """Write what waits; afterwards `names` and `arrays` are whole.

        Raises:
            OSError: Something could not be written.
        """
        self._end()
        if self.error is not None:
            raise self.error

    def close(self, name, array):
        """Write a last array as it is, and the zip file's end, after `finish`."""
        self._write(name, array)
        self.zip.close()

    def discard(self):
        """Drop the arrays that wait to be written, and close the file."""
        with self.changed:
            self.queue.clear()
        self._end()
        with contextlib.suppress(Exception):
            self.zip.close()

    def _end(self):
        with self.changed:
            self.ended = True
            self.changed.notify_all()
        self.thread.join()

    def _run(self):
        while True:
            with self.changed:
                while not self.queue and not self.ended:
                    self.changed.wait()
                if not self.queue:
                    return
                name, array, entry = self.queue.popleft()
            try:
                self._store(name, array, entry)
            except BaseException as error:  # told to whoever adds the next one, or closes
                with self.changed:
                    self.error = error
                    self.queue.clear()
                    self.changed.notify_all()
                return
            with self.changed:
                self.waiting -= array.nbytes
                self.changed.notify_all()

    def _store(self, name, array, entry):
        """Hash an array, and write it if it is the first of its digest, shape and types."""
        digest = hashlib.sha256(memoryview(array.reshape(-1).view(np.uint8))).hexdigest()
        key = (digest, array.shape, array.dtype.str, entry["dtype"])
        if key not in self.written:
            self.written[key] = stored = f"a{len(self.written)}"
            self.arrays[stored] = dict(entry, sha256=digest)
            self._write(f"{stored}.npy", array)
        self.names[name] = self.written[key]

    def _write(self, name, array):
        """Write an array as a member of the zip file; of several threads only by one."""
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            buffer, np.lib.format.header_data_from_array_1_0(array)
        )
        info = zipfile.ZipInfo(name)  # of 1980: equal recordings are equal files
        with self.zip.open(info, "w", force_zip64=True) as member:
            member.write(buffer.getvalue())
            member.write(memoryview(array.reshape(-1).view(np.uint8)))


class Trace:
    """A trace that is being written: a new file takes its place when it is closed.

    Args:
        path: The file to write.
        framework: The name and version of what computes.
        precision: The working precision: `float32`, `bfloat16` or `float16`.

    Attributes:
        index: What the file's index will hold; but arrays are called otherwise until the file is
            closed, since it is not known before which of them are equal.
    """

    def __init__(self, path, framework="", precision="float32"):
        if precision not in ROUNDING:
            raise TraceError(f"precision {precision!r}, expected one of {', '.join(ROUNDING)}")
        self.path = os.path.realpath(os.fspath(path))
        self.index = {
            "format": FORMAT,
            "version": VERSION,
            "framework": framework,
            "precision": precision,
            "layers": {},
            "state": {},
            "unsaved": {},
            "trained": [],
            "aliases": {},
            "runs": [],
            "alone": [],
            "training": [],
            "batches": [],
            "rates": [],
            "notes": {},
            "arrays": {},
        }
        self.current = None
        handle, self.temporary = tempfile.mkstemp(
            prefix=".parity-writing-", dir=os.path.dirname(self.path)
        )
        self.file = os.fdopen(handle, "w+b")
        self.members = Members(self.file)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        else:
            self.discard()

    def discard(self):
        """Leave nothing behind."""
        self.members.discard()
        self.file.close()
        with contextlib.suppress(OSError):
            os.unlink(self.temporary)

    def close(self):
        """Write the index, and put the file in its place."""
        try:
            self.members.finish()
            self.index = dict(renamed(self.index, self.members.names), arrays=self.members.arrays)
            text = json.dumps(self.index, allow_nan=False).encode()
            self.members.close(INDEX, np.frombuffer(text, np.uint8))
            self.file.flush()
            os.fsync(self.file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(self.temporary, 0o666 & ~mask)
            self.file.close()
            os.replace(self.temporary, self.path)
        except BaseException:
            self.discard()
            raise

    def array(self, value, dtype=""):
        """Store an array, once however often it is given.

        Args:
            value: The array.
            dtype: Its type where NumPy has none: `bfloat16`, whose values are stored as float32.

        Returns:
            What stands for it in `index`. It becomes the array's name in the file when that is
            closed, and is none before: what is made of it, such as text, is no array's name.
        """
        given = array = np.asarray(value)
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise TraceError(f"an array of {array.dtype}, expected numbers of up to 64 bits")
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        array = array.reshape(np.shape(value))
        entry = {"dtype": dtype or array.dtype.name, "shape": list(array.shape)}
        owned = array.copy() if np.may_share_memory(array, given) else array
        name = ArrayName(f"not yet named {len(self.index['arrays'])}")
        self.index["arrays"][name] = entry
        self.members.add(name, owned, entry)
        return name

    def scalar(self, value, dtype=""):
        """Store a single number, in whatever shape, as `array` does."""
        if np.size(value) != 1:
            raise TraceError(f"a loss of shape {np.shape(value)}, expected a single number")
        return self.array(np.reshape(value, ()), dtype)

    def tree(self, value, store=None):
        """Return a nest of arrays and plain values as the index holds it."""
        store = store or self.array
        if isinstance(value, Mapping):
            return {"dict": {str(k): self.tree(value[k], store) for k in value}}
        if isinstance(value, (tuple, list)):
            return {"list": [self.tree(item, store) for item in value]}
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            return {"array": store(value)}
        if isinstance(value, float) and not np.isfinite(value):
            return {"number": repr(value)}
        return value if isinstance(value, PLAIN) else {"object": type(value).__name__}

    def state(self, name, array, trained=False, saved=True):
        """Record a parameter or buffer before anything has run; `saved`: a checkpoint holds it."""
        self.index["state" if saved else "unsaved"][name] = self.array(array)
        if trained:
            self.index["trained"].append(name)

    def layer(self, name, kind="", settings=None, **facts):
        """Describe a layer; see `layers` of the index."""
        found = {k: v if json_holds(v) else repr(v) for k, v in (settings or {}).items()}
        self.index["layers"][name] = dict(facts, kind=kind, settings=found)

    def run(self, mode, precision="float64", disturbance=None):
        """Begin a run of the whole network: what is recorded next belongs to it."""
        if mode not in ("eval", "train"):
            raise TraceError(f"mode {mode!r}, expected eval or train")
        self._refuse_precision(precision)
        self.current = {
            "mode": mode,
            "precision": precision,
            "disturbance": disturbance,
            "args": {"list": []},
            "kwargs": {"dict": {}},
            "names": [],
            "targets": [],
            "calls": [],
            "outputs": [],
            "loss": None,
            "input_gradients": [],
            "parameter_gradients": {},
            "statistics": {},
        }
        self.index["runs"].append(self.current)
        return self.current

    def input(self, name, array):
        """Record the network's next positional input."""
        self._in_run()["args"]["list"].append({"array": self.array(array)})
        if np.asarray(array).dtype.kind == "f":  # the others have no gradient
            self.current["names"].append(name)
            self.current["input_gradients"].append(None)

    def target(self, array):
        """Record the loss's next target."""
        self._in_run()["targets"].append(self.array(array))

    def tap(self, name, output, inputs=()):
        """Record a call of a layer: what it gave, and what it was given.

        Args:
            name: The layer's dotted name; the same again for its next call.
            output: The array, or a tuple of arrays.
            inputs: Its arguments, in order.
        """
        run = self._in_run()
        outputs = output if isinstance(output, (tuple, list)) else [output]
        call = {
            "layer": counted(name, {c["layer"] for c in run["calls"]}),
            "args": self.tree(list(inputs)),
            "kwargs": {"dict": {}},
            "outputs": [self.array(o) for o in outputs],
            "cotangents": [None] * len(outputs),
        }
        run["calls"].append(call)

    def output(self, name, array):
        """Record the next thing that the network returned."""
        self._in_run()["outputs"].append({"name": name, "kind": "", "array": self.array(array)})

    def loss(self, value):
        """Record the loss."""
        self._in_run()["loss"] = self.scalar(value)

    def statistic(self, name, array):
        """Record a buffer, such as a running mean, after the run."""
        self._in_run()["statistics"][name] = self.array(array)

    def gradient(self, name, array, output=0):
        """Record the loss's gradient for a call's output, a parameter or an input, by its name.

        Of a layer that was called several times, the later calls are `NAME#2` and so on.
        """
        run = self._in_run()
        calls = [c for c in run["calls"] if c["layer"] == name]
        places = [bool(calls), name in self.index["state"], name in run["names"]]
        if sum(places) > 1:
            raise TraceError(f"gradient of {name!r}: a tap, state and input must not share a name")
        if calls:
            known = calls[0]["cotangents"]
            if output not in range(len(known)):
                raise TraceError(f"gradient of output {output} of {name!r}, which has {len(known)}")
            known[output] = self.array(array)
        elif name in self.index["state"]:
            run["parameter_gradients"][name] = self.array(array)
        elif name in run["names"]:
            run["input_gradients"][run["names"].index(name)] = self.array(array)
        else:
            expected = "no tap, state or input of floating-point numbers has that name"
            raise TraceError(f"gradient of {name!r}: {expected}")

    def training(self, kind, precision="float64", disturbance=None, before=None):
        """Begin steps of training.

        Args:
            kind: `update`: steps of the optimizer on gradients that are given, `decay`: one on
                gradients of 0, `trajectory`: steps of training, each with its own forward pass.
            precision: In which they are computed.
            disturbance: As of `run`.
            before: State by name before the first step; what `state` recorded if not given.
        """
        if kind not in KINDS:
            raise TraceError(f"steps of {kind!r}, expected one of {', '.join(KINDS)}")
        self._refuse_precision(precision)
        stored = {k: self.array(a) for k, a in (before or {}).items()}
        place = {"kind": kind, "precision": precision, "disturbance": disturbance}
        self.current = dict(place, before=stored or dict(self.index["state"]), steps=[])
        self.index["training"].append(self.current)

    def step(self, state, gradients=None, loss=None, rate=None):
        """Record a step: the state after it, the gradients that it was fed, its loss and rate."""
        if self.current is None or "steps" not in self.current:
            raise TraceError("step: no training was begun")
        step = {
            "state": {k: self.array(a) for k, a in state.items()},
            "gradients": {k: self.array(a) for k, a in (gradients or {}).items()},
            "loss": None if loss is None else self.scalar(loss),
            "rate": rate,
        }
        self.current["steps"].append(step)

    def _refuse_precision(self, precision):
        expected = ("float64", self.index["precision"])
        if precision not in expected:
            raise TraceError(f"precision {precision!r}, expected {' or '.join(expected)}")

    def _in_run(self):
        if self.current is None or "calls" not in self.current:
            raise TraceError("no run was begun: call run(mode, precision) first")
        return self.current


def json_holds(value):
    """Return whether JSON can hold a value as it is."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def counted(name, seen):
    """Return the name of a layer's next call: `conv`, `conv#2`, ..."""
    if name not in seen:
        return name
    n = 2
    while f"{name}#{n}" in seen:
        n += 1
    return f"{name}#{n}"


def leaves(tree):
    """Yield the leaves of a nest, mappings by sorted key."""
    if isinstance(tree, Mapping):
        for key in sorted(tree):
            yield from leaves(tree[key])
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from leaves(item)
    elif is_dataclass(tree):
        for field in dataclasses.fields(tree):
            yield from leaves(getattr(tree, field.name))
    elif tree is not None:
        yield tree


def is_dataclass(value):
    """Return whether it is a nest of the class of a dataclass."""
    return dataclasses.is_dataclass(value) and not (
        isinstance(value, type) or hasattr(value, "dtype")
    )


def mapped(tree, function):
    """Return the nest with a function applied to its leaves, mappings by sorted key."""
    if isinstance(tree, Mapping):
        return {key: mapped(tree[key], function) for key in sorted(tree)}
    if isinstance(tree, (tuple, list)):
        items = [mapped(item, function) for item in tree]
        if isinstance(tree, list):
            return items
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree if tree is None else function(tree)


def paths(tree, place=""):
    """Yield the dotted path and the value of each leaf, in the order in which they were made."""
    if isinstance(tree, Mapping):
        inner = tree.items()
    elif isinstance(tree, (tuple, list)):
        inner = zip(getattr(tree, "_fields", range(len(tree))), tree)
    elif is_dataclass(tree):
        inner = ((f.name, getattr(tree, f.name)) for f in dataclasses.fields(tree))
    else:
        if tree is not None:
            yield place, tree
        return
    for key, value in inner:
        yield from paths(value, f"{place}.{key}" if place else str(key))


# PyTorch. It is imported when it is needed: the rest works without.


def record_torch(path, module, inputs, **options):
    """Record a module of PyTorch; see `TorchRecorder` for the options, and `PARTS`."""
    import torch

    precision = options.get("precision", "float32")
    with Trace(path, f"torch {torch.__version__}", precision) as trace:
        TorchRecorder(trace, module, inputs, **options).record()


class TorchRecorder:
    """Runs a module as the checks need it, and records every run.

    Args:
        trace: The trace to write.
        module: The module, on the CPU; not changed.
        inputs: Its positional arguments: tensors, arrays, plain values or nests of them.
        keywords: Its arguments by keyword.
        eval_inputs: The positional arguments in eval mode, where they are others.
        loss: A function of what the module returns and of `targets`. If not given: the sum of all
            outputs, each element times a number drawn by `seed`.
        targets: The loss's other arguments.
        optimizer: Makes an optimizer of a module; without it no steps are recorded.
        schedule: Makes of an optimizer a scheduler, whose `step()` is called after each of its.
        rates: At how many steps the rate is recorded.
        batches: (inputs, targets) of the trajectory's steps, in turn; if none: always the same.
        steps: Number of steps of the trajectory.
        precision: The working precision.
        parts: What is recorded beside runs in float64: `alone`: every innermost layer alone,
            `numerics`: the working precision and disturbed runs, `update`, `trajectory`.
        train: Whether train mode is recorded.
        call: Calls the module: `call(module, *inputs, **keywords)`.
        seed: Of the loss's numbers.
        layout: Number of axes -> the order of axes in which random numbers are drawn.
        disturbed: Mode -> disturbed positional and keyword inputs, instead of drawn ones.
        around: Returns a context to run in, of the layers that are running and of the dtype.
        backward: Runs a backward pass, of outputs, their gradients and the dtype: parts of the
            network may run again in it (`torch.utils.checkpoint`), which `around` does not reach.
        quiet: Dropouts that have been switched off, by name.
    """

    def __init__(
        self,
        trace,
        module,
        inputs,
        keywords=None,
        eval_inputs=None,
        loss=None,
        targets=(),
        optimizer=None,
        schedule=None,
        rates=0,
        batches=(),
        steps=10,
        precision="float32",
        parts=PARTS,
        train=True,
        call=None,
        seed=0,
        layout=None,
        disturbed=None,
        around=None,
        backward=None,
        quiet=(),
    ):
        import torch

        self.torch = torch
        self.trace, self.precision, self.parts = trace, precision, parts
        unknown = sorted(set(parts) - set(PARTS))
        if unknown:
            raise TraceError(f"parts: {unknown[0]!r}, expected some of {', '.join(PARTS)}")
        self.wide, self.narrow = torch.float64, getattr(torch, precision)
        self.inputs = {True: (tuple(inputs), dict(keywords or {}))}
        given = inputs if eval_inputs is None else eval_inputs
        self.inputs[False] = (tuple(given), dict(keywords or {}))
        self.loss, self.targets, self.seed = loss, tuple(targets), seed
        self.optimizer, self.schedule, self.rates = optimizer, schedule, rates
        self.batches, self.steps, self.train = list(batches), steps, train
        self.call = call or (lambda module, *args, **kwargs: module(*args, **kwargs))
        self.layout, self.disturbed = layout or {}, disturbed or {}
        self.around = around or (lambda running, dtype: nothing())
        self.backward = backward or (
            lambda outputs, pull, _: torch.autograd.backward(outputs, pull)
        )
        module = copy.deepcopy(module)
        self.quiet = list(dict.fromkeys([*quiet, *silenced(torch, module)]))
        self.modules = {
            dtype: copy.deepcopy(module).to(dtype) for dtype in (self.wide, self.narrow)
        }
        self.leaf = {
            name: not list(m.children()) and name not in self.quiet
            for name, m in module.named_modules()
        }

    def record(self):
        """Record everything that was asked for."""
        self._describe()
        modes = (False, True) if self.train else (False,)
        numerics = "numerics" in self.parts
        for train in modes:
            if train and self.loss is None:
                self._make_loss()
            calls = self._whole(train, self.wide)
            if numerics:
                self._whole(train, self.narrow)
                self._whole(train, self.wide, 0)
            if "alone" in self.parts:
                self._alone(calls, train)
            del calls
        if self.train and self.optimizer is not None:
            self._steps_of_training()
        self.trace.index["notes"].update(switched_off=self.quiet, seed=self.seed)

    def _describe(self):
        """Record the layers and the state."""
        torch, module = self.torch, self.modules[self.wide]
        last = tuple(getattr(torch.nn, n, ()) for n in ("Linear", "Bilinear", "Embedding"))
        last += tuple(getattr(torch.nn, n, ()) for n in ("LayerNorm", "RMSNorm"))
        for name, layer in module.named_modules():
            kept = {k: v for k, v in vars(layer).items() if k[0] != "_"}
            kept = {k: v for k, v in kept.items() if is_plain(v) and k != "training"}
            kind = type(layer).__name__
            self.trace.layer(
                name,
                kind,
                kept,
                parts=bool(list(layer.children())),
                modes=hasattr(layer, "track_running_stats") or "Dropout" in kind,
                channels_last=isinstance(layer, tuple(c for c in last if c)),
            )
        names = {}
        for name, tensor in aliased(module):
            names.setdefault(id(tensor), []).append(name)
        self.trace.index["aliases"] = {each[0]: each for each in names.values()}
        trained = {name for name, tensor in aliased(module) if tensor.requires_grad}
        stored = module.state_dict()
        for name, tensor in stored.items():
            self.trace.state(name, numpy_of(tensor)[0], name in trained)
        for name, tensor in module.named_buffers():
            if name not in stored:
                self.trace.state(name, numpy_of(tensor)[0], saved=False)

    def _store(self, tensor):
        """Store a tensor as `array` does; of a kept copy it was done."""
        name = getattr(tensor, "_stored", None)
        return self.trace.array(*numpy_of(tensor)) if name is None else name

    def _tree(self, value):
        return self.trace.tree(value, self._store)

    def _tensors(self, tree, dtype, graded=False):
        """Return a nest with arrays and tensors as new tensors, floating-point ones of a dtype."""
        torch = self.torch

        def convert(value):
            if isinstance(value, np.ndarray):
                value = torch.from_numpy(np.ascontiguousarray(value))
            if not isinstance(value, torch.Tensor):
                return value
            value = value.detach().clone()
            if value.is_floating_point():
                value = value.to(dtype).requires_grad_(graded)
            return value

        return mapped(tree, convert)

    def _make_loss(self):
        """Take as the loss the sum of all floating outputs, each element times a drawn number."""
        module = copy.deepcopy(self.modules[self.wide]).train()
        args, kwargs = self._tensors(self.inputs[True], self.wide)
        with self.torch.no_grad(), self.around([], self.wide):
            found = self.tensors_of(self.call(module, *args, **kwargs))
        places = [i for i, o in enumerate(found) if o.is_floating_point()]
        if not places:
            raise TraceError("no output is floating-point, nothing can be differentiated")
        weights = []
        for i, place in enumerate(places):
            rng, shape = generator(self.seed, "probe", i), tuple(found[place].shape)
            drawn = drawn_as(self.layout, shape, rng.standard_normal)
            weights.append(drawn / np.sqrt(drawn.size))
        self.targets, self.loss = tuple(weights), Probe(self, places)
        self.trace.index["notes"]["probe"] = places

    def tensors_of(self, tree):
        return [leaf for leaf in leaves(tree) if isinstance(leaf, self.torch.Tensor)]

    def _whole(self, train, dtype, disturbance=None):
        """Run and record the whole network.

        Returns:
            (call's entry, arguments, cotangents) of each call, the last two as tensors.
        """
        torch = self.torch
        mode, plain = "train" if train else "eval", dtype == self.wide and disturbance is None
        given = self.inputs[train]
        if disturbance is not None:
            given = self._disturbed_inputs(train, disturbance)
        run = self.trace.run(mode, str(dtype).partition(".")[2], disturbance)
        module = copy.deepcopy(self.modules[dtype]).train(train)
        args, kwargs = self._tensors(given, dtype, train)
        run["args"], run["kwargs"] = self._tree(args), self._tree(kwargs)
        hooks = Hooks(self, module, run["calls"], plain)
        cuda = torch.cuda.is_initialized()
        before = generator_states(torch, cuda)
        targets = self._tensors(self.targets, dtype)
        with hooks, torch.set_grad_enabled(train), self.around(hooks.running, dtype):
            outputs = self.call(module, *args, **kwargs)
            value = self.loss(outputs, *targets) if train else None
        if plain and before != generator_states(torch, cuda):
            raise TraceError(f"the network draws random numbers in {mode} mode: switch that off")
        for name, item in paths(outputs):
            tensor = isinstance(item, torch.Tensor)
            kind, array = ("", self._store(item)) if tensor else (type(item).__name__, None)
            run["outputs"].append({"name": name, "kind": kind, "array": array})
        first = {k: v.clone() for k, v in module.named_buffers()}
        if train:
            run["targets"] = [self._store(t) for t in targets]
            run["loss"] = self.trace.scalar(*numpy_of(value))
            self.backward([value], None, dtype)
            hooks.finish()
        # What is computed again in the backward pass has updated them once more.
        for name, tensor in module.named_buffers():
            run["statistics"][name] = self._store(tensor)
            if not np.array_equal(numpy_of(first[name])[0], numpy_of(tensor)[0]):
                run.setdefault("first_statistics", {})[name] = self._store(first[name])
        if not train:
            return hooks.calls
        floats = [t for t in self.tensors_of((args, kwargs)) if t.is_floating_point()]
        run["input_gradients"] = [self._store(gradient_of(torch, t)) for t in floats]
        run["parameter_gradients"] = {k: self._store(g) for k, g in gradients(module).items()}
        if plain:
            self.first = {k: numpy_of(g)[0].copy() for k, g in gradients(module).items()}
        return hooks.calls

    def _disturbed_inputs(self, train, disturbance):
        if train in self.disturbed:
            return self.disturbed[train]
        rng = generator(0, "stir", disturbance)
        scale = min(DISTURBANCE * ROUNDING[self.precision], LARGEST_DISTURBANCE)
        given = self.inputs[train]
        return self._noisy(self._tensors(given, self.wide), scale, rng)

    def _noisy(self, tree, scale, rng):
        """Return a nest whose float tensors are multiplied by 1 + scale * U(-1, 1), in float64."""
        torch = self.torch

        def disturb(value):
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                return value
            noise = drawn_as(self.layout, tuple(value.shape), lambda s: rng.uniform(-1, 1, s))
            return value.detach().double() * (
                1 + torch.from_numpy(np.ascontiguousarray(scale * noise))
            )

        return mapped(tree, disturb)

    def _noisy_module(self, scale, rng):
        """Return a copy in float64 with every parameter and float buffer disturbed."""
        module = copy.deepcopy(self.modules[self.wide])
        with self.torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                if tensor.is_floating_point():
                    noise = self.torch.tensor(rng.uniform(-scale, scale, tuple(tensor.shape)))
                    tensor.mul_(1 + noise.to(tensor.dtype))
        return module

    # Layers alone.

    def _alone(self, calls, train):
        """Run every innermost layer alone, on what it was fed, rounded to the working precision."""
        unit = ROUNDING[self.precision]
        runs = [(self.wide, None, self.modules[self.wide])]
        if "numerics" in self.parts:
            runs.append((self.narrow, None, self.modules[self.narrow]))
            runs.append((self.wide, 0, self._noisy_module(unit, generator(0, "rounding"))))
        for dtype, disturbance, module in runs:
            found = {
                "mode": "train" if train else "eval",
                "precision": str(dtype).partition(".")[2],
                "disturbance": disturbance,
                "layers": {},
            }
            self.trace.index["alone"].append(found)
            layers = dict(module.named_modules())
            for name, arguments, cotangents in calls:
                if not self.leaf[name.partition("#")[0]]:
                    continue
                fed = mapped((arguments, cotangents if train else None), self._rounded)
                if disturbance is not None:
                    fed = self._noisy(fed, unit, generator(0, f"rounding/{name}"))
                layer = layers[name.partition("#")[0]]
                found["layers"][name] = self._layer(name, layer, fed, dtype, train)

    def _rounded(self, value):
        if not isinstance(value, self.torch.Tensor) or not value.is_floating_point():
            return value
        rounded = value.to(self.narrow).to(self.wide)
        finite = self.torch.isfinite(rounded)  # what is too large for the precision stays as it is
        return self.torch.where(finite, rounded, value.to(self.wide))

    def _layer(self, name, layer, fed, dtype, train):
        torch, (arguments, pull) = self.torch, fed
        layer = copy.deepcopy(layer).train(train)
        graded = any(c is not None for c in pull or ())
        args, kwargs = self._tensors(arguments, dtype, graded)
        with torch.set_grad_enabled(graded), self.around([name], dtype):
            found = self.tensors_of(layer(*args, **kwargs))
        entry = {
            "outputs": [self._store(o) for o in found],
            "input_gradients": [],
            "parameter_gradients": {},
        }
        if graded and len(found) == len(pull):
            pairs = [(o, c.to(o.dtype)) for o, c in zip(found, pull) if c is not None]
            self.backward([o for o, _ in pairs], [c for _, c in pairs], dtype)
            floats = [t for t in self.tensors_of((args, kwargs)) if t.is_floating_point()]
            entry["input_gradients"] = [self._store(gradient_of(torch, t)) for t in floats]
            entry["parameter_gradients"] = {k: self._store(g) for k, g in gradients(layer).items()}
        entry["statistics"] = {k: self._store(v) for k, v in layer.named_buffers()}
        return entry

    # Training.

    def _steps_of_training(self):
        if "update" in self.parts:
            self._updates()
        if self.rates:
            training = Training(self, self.modules[self.wide], self.wide)
            for _ in range(self.rates):
                self.trace.index["rates"].append(training.rate)
                training.update({})
        if "trajectory" in self.parts:
            for inputs, targets in self.batches:
                nest = self._tensors(
                    (tuple(inputs), self.inputs[True][1], tuple(targets)), self.wide
                )
                stored = {"args": self._tree(nest[0]), "kwargs": self._tree(nest[1])}
                stored["targets"] = [self._store(t) for t in self.tensors_of(nest[2])]
                self.trace.index["batches"].append(stored)
            self._trajectory(self.modules[self.wide], None)
            if "numerics" in self.parts:
                self._trajectory(self._noisy_module(ULP, generator(0, "ulp")), 0)

    def _updates(self):
        """Record steps on gradients that are given: the first, and the same times drawn numbers."""
        unit, fed = ROUNDING[self.precision], []
        for step in range(UPDATES):
            rng = generator(0, "update", step)
            fed.append(
                {n: g * rng.standard_normal(g.shape) if step else g for n, g in self.first.items()}
            )
        fed = [
            {n: self._rounded(self.torch.from_numpy(np.array(g))) for n, g in f.items()}
            for f in fed
        ]
        runs = [(self.modules[self.wide], self.wide, None, fed)]
        if "numerics" in self.parts:
            module = self._noisy_module(unit, generator(0, "rounding/update"))
            rng, layout = generator(0, "rounding/gradients"), self.layout
            self.layout = {}  # parameters have the same axes everywhere
            noisy = [{n: self._noisy(g, unit, rng) for n, g in f.items()} for f in fed]
            self.layout = layout
            runs.append((self.modules[self.narrow], self.narrow, None, fed))
            runs.append((module, self.wide, 0, noisy))
        for module, dtype, disturbance, each in runs:
            zeros = [{n: self.torch.zeros_like(g) for n, g in each[0].items()}]
            for kind, grads in (("update", each), ("decay", zeros)):
                training = Training(self, module, dtype, disturbance is not None)
                training.begin(kind, disturbance)
                for step in grads:
                    rate = training.rate
                    training.update(step)
                    training.record(step, None, rate)

    def _trajectory(self, module, disturbance):
        training = Training(self, module, self.wide)
        training.begin("trajectory", disturbance)
        for step in range(self.steps):
            inputs, targets = self.inputs[True], self.targets
            if self.batches:
                args, targets = self.batches[step % len(self.batches)]
                inputs = (tuple(args), inputs[1])
            rate = training.rate
            training.record({}, training.step(inputs, targets), rate)


class Probe:
    """A loss: the sum of a network's outputs, each element times a number."""

    def __init__(self, recorder, places):
        self.recorder, self.places = recorder, places

    def __call__(self, outputs, *weights):
        found = self.recorder.tensors_of(outputs)
        return sum((found[p] * w).sum() for p, w in zip(self.places, weights))


class Training:
    """A copy of a module, with its optimizer and its schedule."""

    def __init__(self, recorder, module, dtype, disturb=False):
        self.recorder, self.dtype = recorder, dtype
        self.module = copy.deepcopy(module).train()
        self.optimizer = recorder.optimizer(self.module)
        if disturb:
            for group in self.optimizer.param_groups:
                group.update({k: disturbed(v) for k, v in group.items() if k != "params"})
        self.scheduler = recorder.schedule(self.optimizer) if recorder.schedule else None

    @property
    def rate(self):
        return float(self.optimizer.param_groups[0]["lr"])

    def begin(self, kind, disturbance):
        precision = str(self.dtype).partition(".")[2]
        self.recorder.trace.training(kind, precision, disturbance)
        self.recorder.trace.current["before"] = self._state()

    def _state(self):
        return {k: self.recorder._store(v) for k, v in self.module.state_dict().items()}

    def record(self, fed, loss, rate):
        self.recorder.trace.step({}, {}, loss, rate)
        step = self.recorder.trace.current["steps"][-1]
        step["state"] = self._state()
        step["gradients"] = {k: self.recorder._store(g) for k, g in fed.items()}

    def update(self, fed):
        """Make one step of the optimizer, and of the schedule, on these gradients."""
        for name, parameter in self.module.named_parameters():
            parameter.grad = None
            if name in fed:
                parameter.grad = fed[name].to(parameter.dtype).reshape(parameter.shape).clone()
        self._advance()

    def step(self, inputs, targets):
        """Make one step of training, and return its loss."""
        recorder = self.recorder
        for parameter in self.module.parameters():
            parameter.grad = None
        args, kwargs = recorder._tensors(inputs, self.dtype)
        with recorder.around([], self.dtype):
            outputs = recorder.call(self.module, *args, **kwargs)
            value = recorder.loss(outputs, *recorder._tensors(tuple(targets), self.dtype))
        recorder.backward([value], None, self.dtype)
        for parameter in self.module.parameters():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()
        self._advance()
        return numpy_of(value)[0]

    def _advance(self):
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()


class Hooks:
    """Context that records every call of every layer.

    Args:
        recorder: Whose network it is.
        module: The network.
        entries: The index's calls, to which they are added.
        whole: Whether arguments and the outputs' gradients are recorded too, and kept.

    Attributes:
        running: The layers that have begun and not returned, innermost last.
        calls: (name, arguments, the outputs' gradients) of each call, as tensors.
    """

    def __init__(self, recorder, module, entries, whole):
        self.recorder, self.module, self.entries, self.whole = recorder, module, entries, whole
        self.running, self.calls, self.pending, self.handles = [], [], [], []
        self.seen = set()

    def __enter__(self):
        layers = [(name, layer) for name, layer in self.module.named_modules() if name]
        for name, layer in layers:
            before, after = self._hooks(name)
            try:  # from PyTorch 2.0 on, arguments by keyword are seen
                self.handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
                self.handles.append(layer.register_forward_hook(after, with_kwargs=True))
            except TypeError:
                self.handles.append(layer.register_forward_pre_hook(before))
                self.handles.append(layer.register_forward_hook(after))
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()

    def _hooks(self, name):
        def before(_, args, kwargs=None):
            # Kept before the layer runs: it may work in place.
            self.pending.append(mapped((args, kwargs or {}), self._keep) if self.whole else None)
            self.running.append(name)

        def after(_, args, *rest):
            self.running.pop()
            self._returned(name, self.pending.pop(), rest[-1])

        return before, after

    def _returned(self, name, arguments, outputs):
        recorder, found = self.recorder, self.recorder.tensors_of(outputs)
        kept = [self._keep(t) for t in found] if self.whole else found
        entry = {"layer": counted(name, self.seen), "outputs": [recorder._store(t) for t in kept]}
        self.seen.add(entry["layer"])
        self.entries.append(entry)
        if not self.whole:
            return
        entry["args"], entry["kwargs"] = map(recorder._tree, arguments)
        cotangents = [None] * len(found)
        entry["cotangents"] = [None] * len(found)
        self.calls.append((entry["layer"], arguments, cotangents))
        for i, tensor in enumerate(found):
            if tensor.requires_grad:
                tensor.register_hook(lambda g, i=i: cotangents.__setitem__(i, g.detach().clone()))

    def finish(self):
        """Record the outputs' gradients, which are there after the backward pass."""
        if not self.whole:
            return
        entries = {entry["layer"]: entry for entry in self.entries}
        for name, _, cotangents in self.calls:
            stored = [None if c is None else self.recorder._store(c) for c in cotangents]
            entries[name]["cotangents"] = stored

    def _keep(self, value):
        """Return a copy; a tensor passed from one layer to the next is copied once."""
        if not isinstance(value, self.recorder.torch.Tensor):
            return value if is_plain(value) else copied(value)
        version, kept = getattr(value, "_recorded", (None, None))
        if version != value._version:
            kept = value.detach().clone()
            kept._stored = self.recorder._store(kept)
            value._recorded = (value._version, kept)
        return kept


# MindSpore. Its convolutions and norms compute in float32 and narrower types alone, so nothing is
# recorded in float64, and every disturbed run is made in float32 too: what is to be disturbed by
# its rounding is moved to a neighbouring number, since less would be rounded away.


def record_mindspore(path, cell, inputs, **options):
    """Record a cell of MindSpore; see `MindSporeRecorder` for the options, and `PARTS`."""
    import mindspore

    mode = mindspore.get_context("mode")
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)  # a compiled graph calls no hooks
    try:
        with Trace(path, f"mindspore {mindspore.__version__}") as trace:
            MindSporeRecorder(trace, cell, inputs, **options).record()
    finally:
        mindspore.set_context(mode=mode)


class MindSporeRecorder:
    """Runs a cell as the checks need it, and records every run.

    Args:
        trace: The trace to write.
        cell: The cell, with parameters in float32; afterwards they have the same values again.
        inputs: Its arguments: tensors, arrays, plain values.
        eval_inputs: Those in eval mode, where they are others.
        loss: A function of what the cell returns and of `targets`. If not given: the sum of all
            outputs, each element times a number drawn by `seed`.
        targets: The loss's other arguments.
        optimizer: Makes an optimizer of a cell; without it no steps are recorded.
        rates: At how many steps the rate is recorded.
        batches: (inputs, targets) of the trajectory's steps, in turn; if none: always the same.
        steps: Number of steps of the trajectory.
        parts: As of `TorchRecorder`.
        train: Whether train mode is recorded.
        seed: Of the loss's numbers.
        layout: Number of axes -> the order of axes in which random numbers are drawn.
    """

    def __init__(
        self,
        trace,
        cell,
        inputs,
        eval_inputs=None,
        loss=None,
        targets=(),
        optimizer=None,
        rates=0,
        batches=(),
        steps=10,
        parts=PARTS,
        train=True,
        seed=0,
        layout=None,
    ):
        import mindspore

        self.mindspore = mindspore
        unknown = sorted(set(parts) - set(PARTS))
        if unknown:
            raise TraceError(f"parts: {unknown[0]!r}, expected some of {', '.join(PARTS)}")
        self.trace, self.cell, self.parts = trace, cell, parts
        self.inputs = {True: inputs, False: inputs if eval_inputs is None else eval_inputs}
        self.loss, self.targets, self.seed = loss, targets, seed
        self.optimizer, self.rates = optimizer, rates
        self.batches, self.steps, self.train = list(batches), steps, train
        self.layout = layout or {}
        self.cells = dict(cell.cells_and_names())
        self.dropouts = [n for n, c in self.cells.items() if "Dropout" in type(c).__name__]
        self.state = {p.name: p.asnumpy().copy() for p in cell.get_parameters()}
        self.trained = [p.name for p in cell.trainable_params()]
        wide = [n for n, a in self.state.items() if a.dtype.kind == "f" and a.dtype != np.float32]
        if wide:
            raise TraceError(f"{wide[0]} is of {self.state[wide[0]].dtype}, expected float32")

    def record(self):
        """Record everything that was asked for."""
        training = self.cell.training
        try:
            self._record()
        finally:
            self._load(self.state)
            self.cell.set_train(training)

    def _record(self):
        self._describe()
        for train in (False, True) if self.train else (False,):
            self._refuse_draws(train)
            if train and self.loss is None:
                self._make_loss()
            calls = self._whole(train)
            if "numerics" in self.parts:
                self._whole(train, 0)
            if "alone" in self.parts:
                self._alone(calls, train)
        if self.train and self.optimizer is not None:
            self._steps_of_training()
        self.trace.index["notes"].update(switched_off=self.dropouts, seed=self.seed)

    def _describe(self):
        """Record the layers and the state."""
        last = tuple(getattr(self.mindspore.nn, n) for n in ("Dense", "Embedding", "LayerNorm"))
        common = set(vars(self.mindspore.nn.Cell()))
        for name, cell in self.cells.items():
            kept = {k: v for k, v in vars(cell).items() if k[0] != "_" and k not in common}
            kept = {k: v for k, v in kept.items() if is_plain(v)}
            kind = type(cell).__name__
            modes = hasattr(cell, "moving_mean") or "Dropout" in kind
            facts = {"parts": bool(list(cell.cells())), "modes": modes}
            self.trace.layer(name, kind, kept, channels_last=isinstance(cell, last), **facts)
        for name, array in self.state.items():
            self.trace.state(name, array, name in self.trained)

    def _load(self, state):
        for parameter in self.cell.get_parameters():
            parameter.set_data(self.mindspore.Tensor(state[parameter.name]))

    def _values(self, names=None):
        """Return the state as it is now, by name."""
        found = {p.name: p for p in self.cell.get_parameters()}
        return {n: found[n].asnumpy().copy() for n in (found if names is None else names)}

    def _set_train(self, train):
        self.cell.set_train(train)
        for name in self.dropouts:
            self.cells[name].set_train(False)

    def _tensors(self, tree):
        """Return a nest with arrays as tensors, floating-point ones of float32."""

        def convert(value):
            if isinstance(value, self.mindspore.Tensor):
                value = value.asnumpy()
            if not isinstance(value, (np.ndarray, np.generic)):
                return value
            value = np.ascontiguousarray(value)
            return self.mindspore.Tensor(value.astype("f4") if value.dtype.kind == "f" else value)

        return mapped(tuple(tree), convert)

    def tensors_of(self, tree):
        return [leaf for leaf in leaves(tree) if isinstance(leaf, self.mindspore.Tensor)]

    def is_float(self, value):
        return isinstance(value, self.mindspore.Tensor) and "Float" in str(value.dtype)

    def _store(self, value):
        if "BFloat16" in str(value.dtype):
            return self.trace.array(value.astype(self.mindspore.float32).asnumpy(), "bfloat16")
        return self.trace.array(value.asnumpy())

    def _refuse_draws(self, train):
        """Refuse a network that gives two answers to one input; note what a run changes."""
        answers = []
        for _ in range(2):
            self._load(self.state)
            self._set_train(train)
            outputs = self.tensors_of(self.cell(*self._tensors(self.inputs[train])))
            answers.append([o.asnumpy() for o in outputs])
        if not all(np.allclose(a, b, 1e-3, 1e-5, equal_nan=True) for a, b in zip(*answers)):
            mode = "train" if train else "eval"
            raise TraceError(f"the network draws random numbers in {mode} mode: switch that off")
        after, known = self._values(), ("moving_mean", "moving_variance")
        self.statistics = [
            name
            for name, array in self.state.items()
            if name not in self.trained
            and (name.endswith(known) or not np.array_equal(array, after[name]))
        ]

    def _make_loss(self):
        """Take as the loss the sum of all floating outputs, each element times a drawn number."""
        self._load(self.state)
        found = self.tensors_of(self.cell(*self._tensors(self.inputs[True])))
        places = [i for i, o in enumerate(found) if self.is_float(o)]
        if not places:
            raise TraceError("no output is floating-point, nothing can be differentiated")
        self.targets = []
        for i, place in enumerate(places):
            rng = generator(self.seed, "probe", i)
            drawn = drawn_as(self.layout, tuple(found[place].shape), rng.standard_normal)
            self.targets.append((drawn / np.sqrt(drawn.size)).astype("f4"))
        self.loss = Probe(self, places)
        self.trace.index["notes"]["probe"] = places

    def _gradients(self, function, arguments, weights):
        """Return a function's value, and its gradients for its floating arguments and weights."""
        floats = tuple(i for i, a in enumerate(arguments) if self.is_float(a))
        if not floats and not weights:
            return function(*arguments), (), ()
        chosen = self.mindspore.ParameterTuple(weights) if weights else None
        made = self.mindspore.value_and_grad(function, floats or None, chosen)
        value, found = made(*arguments)
        of_inputs, of_weights = found if floats and weights else (found, found)
        if isinstance(of_inputs, self.mindspore.Tensor):  # it is not in a tuple if there is one
            of_inputs = (of_inputs,)
        return value, of_inputs if floats else (), of_weights if weights else ()

    def _whole(self, train, disturbance=None):
        """Run and record the whole network; return (name, arguments, cotangents) of each call."""
        self._load(self.state)
        self._set_train(train)
        arguments = self._tensors(self.inputs[train])
        if disturbance is not None:
            arguments = self._noisy(arguments, generator(0, "stir", disturbance))
        run = self.trace.run("train" if train else "eval", "float32", disturbance)
        run["args"] = self.trace.tree(arguments, self._store)
        hooks = CellHooks(self, run["calls"], train, disturbance is None)
        targets, seen, first = self._tensors(self.targets), [], {}

        def forward(*given):
            seen.append(self.cell(*given))
            value = self.loss(seen[-1], *targets)
            first.update(self._values(self.statistics))
            hooks.ended = True
            return value

        with hooks:
            if train:
                weights = self.cell.trainable_params()
                value, of_inputs, of_weights = self._gradients(forward, arguments, weights)
            else:
                seen.append(self.cell(*arguments))
        hooks.finish()
        for name, item in paths(seen[-1]):
            tensor = isinstance(item, self.mindspore.Tensor)
            kind, array = ("", self._store(item)) if tensor else (type(item).__name__, None)
            run["outputs"].append({"name": name, "kind": kind, "array": array})
        # What `recompute` ran again in the backward pass has updated them once more.
        for name, array in self._values(self.statistics).items():
            run["statistics"][name] = self.trace.array(array)
            if not np.array_equal(first.get(name, array), array):
                run.setdefault("first_statistics", {})[name] = self.trace.array(first[name])
        if train:
            run["targets"] = [self._store(t) for t in targets]
            run["loss"] = self.trace.scalar(value.asnumpy())
            run["input_gradients"] = [self._store(g) for g in of_inputs]
            found = {n: g.asnumpy() for n, g in zip(self.trained, of_weights)}
            run["parameter_gradients"] = {n: self.trace.array(g) for n, g in found.items()}
            if disturbance is None:
                self.first = found
        return hooks.calls

    def _noisy(self, tree, rng):
        """Return a nest whose float tensors are disturbed as the inputs of a whole network are."""
        scale = DISTURBANCE * ROUNDING["float32"]

        def disturb(value):
            if not self.is_float(value):
                return value
            noise = drawn_as(self.layout, tuple(value.shape), lambda s: rng.uniform(-1, 1, s))
            return (value.asnumpy() * (1 + scale * noise)).astype("f4")

        return self._tensors(mapped(tree, disturb))

    def _rounded(self, tree, rng):
        """Return a nest whose float tensors are moved as rounding would."""

        def move(value):
            return neighbours(value.asnumpy(), rng) if self.is_float(value) else value

        return self._tensors(mapped(tree, move))

    # Layers alone.

    def _alone(self, calls, train):
        """Run every innermost layer alone, on what it was fed; in eval mode those with modes."""
        runs = [(None, self.state)]
        if "numerics" in self.parts:
            runs.append((0, mapped(self.state, rounding(generator(0, "rounding")))))
        for disturbance, state in runs:
            mode = "train" if train else "eval"
            found = {"mode": mode, "precision": "float32", "disturbance": disturbance, "layers": {}}
            self.trace.index["alone"].append(found)
            for name, arguments, cotangents in calls:
                layer = name.partition("#")[0]
                facts = self.trace.index["layers"][layer]
                if facts["parts"] or layer in self.dropouts:
                    continue
                if self.train and not train and not facts["modes"]:
                    continue
                fed = (arguments, tuple(cotangents))
                if disturbance is not None:
                    fed = self._rounded(fed, generator(0, f"rounding/{name}"))
                self._load(state)
                self._set_train(train)
                found["layers"][name] = self._layer(layer, *fed)

    def _layer(self, name, arguments, pull):
        cell, seen = self.cells[name], []
        prefix, own = f"{name}.", {p.name: p for p in cell.get_parameters()}
        graded = any(c is not None for c in pull)
        weights = cell.trainable_params() if graded else []

        def forward(*given):
            seen[:] = self.tensors_of(cell(*given))
            return sum((o * c).sum() for o, c in zip(seen, pull) if c is not None)

        def local(names):
            return {n: n[len(prefix) :] if n.startswith(prefix) else n for n in names}

        of_inputs, of_weights = (), ()
        if graded:
            _, of_inputs, of_weights = self._gradients(forward, arguments, weights)
        else:
            seen[:] = self.tensors_of(cell(*arguments))
        kept = local(n for n in own if n in self.statistics)
        after = self._values(kept)
        named = local(p.name for p in weights)
        return {
            "outputs": [self._store(o) for o in seen],
            "statistics": {short: self.trace.array(after[n]) for n, short in kept.items()},
            "input_gradients": [self._store(g) for g in of_inputs],
            "parameter_gradients": {
                short: self._store(g) for short, g in zip(named.values(), of_weights)
            },
        }

    # Training.

    def _steps_of_training(self):
        if "update" in self.parts:
            self._updates()
        if self.rates:
            self._load(self.state)
            optimizer = self.optimizer(self.cell)
            zeros = {n: np.zeros_like(self.state[n]) for n in self.trained}
            for _ in range(self.rates):
                self.trace.index["rates"].append(self._rate(optimizer))
                self._update(optimizer, zeros)
        if "trajectory" in self.parts:
            for inputs, targets in self.batches:
                given = {"args": self.trace.tree(self._tensors(inputs), self._store)}
                given["targets"] = [self._store(t) for t in self._tensors(targets)]
                self.trace.index["batches"].append(dict(given, kwargs={"dict": {}}))
            self._trajectory(self.state)
            if "numerics" in self.parts:
                self._trajectory(mapped(self.state, rounding(generator(0, "ulp"))), 0)

    def _updates(self):
        """Record steps on gradients that are given: the first, and the same times drawn numbers."""
        fed = []
        for step in range(UPDATES):
            rng = generator(0, "update", step)
            made = {}
            for name, gradient in self.first.items():
                drawn = rng.standard_normal(gradient.shape) if step else 1.0
                made[name] = (gradient * drawn).astype(gradient.dtype)
            fed.append(made)
        runs = [(self.state, None, fed)]
        if "numerics" in self.parts:
            noisy = mapped(self.state, rounding(generator(0, "rounding/update")))
            move = rounding(generator(0, "rounding/gradients"))
            runs.append((noisy, 0, [mapped(f, move) for f in fed]))
        for state, disturbance, each in runs:
            zeros = [{n: np.zeros_like(g) for n, g in each[0].items()}]
            for kind, gradients in (("update", each), ("decay", zeros)):
                optimizer = self._begin(kind, state, disturbance)
                for step in gradients:
                    rate = self._rate(optimizer)
                    self._update(optimizer, step)
                    self.trace.step(self._values(), step, None, rate)

    def _begin(self, kind, state, disturbance):
        self._load(state)
        self._set_train(True)
        self.trace.training(kind, "float32", disturbance, state)
        return self.optimizer(self.cell)

    def _rate(self, optimizer):
        rate = optimizer.get_lr()
        return float((rate[0] if isinstance(rate, (tuple, list)) else rate).asnumpy())

    def _update(self, optimizer, gradients):
        Tensor = self.mindspore.Tensor  # noqa: N806 - it is a class
        optimizer(tuple(Tensor(gradients[p.name]) for p in optimizer.parameters))

    def _trajectory(self, state, disturbance=None):
        optimizer = self._begin("trajectory", state, disturbance)
        for step in range(self.steps):
            batch = (self.inputs[True], self.targets)
            if self.batches:
                batch = self.batches[step % len(self.batches)]
            arguments, targets = map(self._tensors, batch)

            def forward(*given, targets=targets):
                return self.loss(self.cell(*given), *targets)

            weights = self.cell.trainable_params()
            value, _, found = self._gradients(forward, arguments, weights)
            rate = self._rate(optimizer)
            self._update(optimizer, {n: g.asnumpy() for n, g in zip(self.trained, found)})
            self.trace.step(self._values(), None, value.asnumpy(), rate)


def neighbours(array, rng):
    """Return an array of which every number but 0 is moved to one of its neighbours."""
    ways = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf)
    return np.where(array == 0, array, np.nextafter(array, ways.astype(array.dtype)))


def rounding(rng):
    """Return a function that disturbs an array of floats by rounding, and no other."""
    return lambda array: neighbours(array, rng) if array.dtype.kind == "f" else array


class CellHooks:
    """Context that records every call of every cell.

    Args:
        recorder: Whose network it is.
        entries: The index's calls, to which they are added.
        train: Whether there is a backward pass.
        whole: Whether arguments and the outputs' gradients are recorded too, and kept.

    Attributes:
        calls: (name, arguments, the outputs' gradients) of each call, as tensors.
        ended: Whether the forward pass has: what `recompute` computes again is not recorded.
    """

    def __init__(self, recorder, entries, train, whole):
        self.recorder, self.entries, self.train, self.whole = recorder, entries, train, whole
        self.calls, self.handles, self.seen = [], [], set()
        self.ended = False

    def __enter__(self):
        for name, cell in self.recorder.cells.items():
            if name:
                hook = functools.partial(self._returned, name)
                self.handles.append(cell.register_forward_hook(hook))
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()

    def _returned(self, name, _, arguments, outputs):
        if self.ended:
            return None
        recorder = self.recorder
        called = counted(name, self.seen)
        self.seen.add(called)
        arguments = arguments if isinstance(arguments, tuple) else (arguments,)
        found = recorder.tensors_of(outputs)
        entry = {"layer": called, "outputs": [recorder._store(o) for o in found]}
        self.entries.append(entry)
        if not self.whole:
            return None
        entry["args"] = recorder.trace.tree(arguments, recorder._store)
        cotangents = [None] * len(found)
        self.calls.append((called, recorder._tensors(arguments), cotangents))
        if not self.train:
            return None
        places = iter(range(len(found)))

        def watched(value):
            if not isinstance(value, recorder.mindspore.Tensor):
                return value
            place = next(places)
            if not recorder.is_float(value):
                return value

            def keep(gradient):
                gradient = gradient[0] if isinstance(gradient, tuple) else gradient
                cotangents[place] = recorder.mindspore.Tensor(gradient.asnumpy())

            return recorder.mindspore.ops.HookBackward(keep)(value)

        return mapped(outputs, watched)

    def finish(self):
        """Record the outputs' gradients, which are there after the backward pass."""
        store = self.recorder._store
        for entry, (_, _, cotangents) in zip(self.entries, self.calls):
            entry["cotangents"] = [None if c is None else store(c) for c in cotangents]


@contextlib.contextmanager
def nothing():
    """Return a context that does nothing."""
    yield


def generator_states(torch, cuda):
    """Return the states of the generators that a network may draw from, those of GPUs if asked."""
    torchs = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if cuda else ())]
    # The whole state, of whatever bit generator: a normal number may wait there to be returned.
    numpys = np.random.get_state(legacy=False)  # noqa: NPY002 - networks do draw from it
    return [state.numpy().tobytes() for state in torchs], frozen(numpys), random.getstate()


def frozen(state):
    """Return a nested state with bytes instead of arrays, so that two can be compared."""
    if isinstance(state, dict):
        return {key: frozen(value) for key, value in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state


def silenced(torch, module):
    """Set the rates of dropouts to 0, and return the names of those that are layers."""
    found = []
    for name, layer in module.named_modules():
        # Not by name: a dropout of one's own may take its mask as an input, and draws nothing.
        if isinstance(layer, torch.nn.modules.dropout._DropoutNd):
            layer.p = 0.0
            found.append(name)
        elif isinstance(layer, (torch.nn.MultiheadAttention, torch.nn.RNNBase)):
            layer.dropout = 0.0
    return found


def is_plain(value):
    """Return whether it is a plain value, or a tuple or list of them."""
    if isinstance(value, (tuple, list)):
        return all(map(is_plain, value))
    return isinstance(value, PLAIN)


def copied(value):
    """Return a copy of an object that a call may change; itself where it cannot be copied."""
    try:
        return copy.deepcopy(value)
    except Exception:  # such as what holds a file
        return value


def aliased(module):
    """Return every parameter with each of the names that it has."""
    found = []
    for prefix, layer in module.named_modules():
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                found.append((f"{prefix}.{name}" if prefix else name, parameter))
    return found


def gradients(module):
    """Return the gradient of each parameter that has one, by name."""
    found = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return {n: g.to_dense() if g.is_sparse else g for n, g in found.items()}


def gradient_of(torch, tensor):
    """Return an input's gradient; zero where nothing depends on it."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def numpy_of(tensor):
    """Return a tensor as an array, and the name of its type where NumPy has none."""
    tensor = tensor.detach()
    if str(tensor.dtype) == "torch.bfloat16":
        return tensor.float().numpy(), "bfloat16"
    return tensor.numpy(), ""


def drawn_as(layout, shape, draw):
    """Draw an array of a shape, its axes in the order of a layout."""
    axes = layout.get(len(shape))
    if axes is None:
        return np.asarray(draw(shape))
    return draw(tuple(shape[i] for i in axes)).transpose(np.argsort(axes))


def disturbed(value):
    """Return an optimizer's setting, moved by float32's rounding."""
    if isinstance(value, float):
        return value * (1 + ROUNDING["float32"])
    if isinstance(value, tuple):
        return tuple(disturbed(v) for v in value)
    return value


if __name__ == "__main__":
    sys.exit("copy this file and import it: its head says how")
