"""Networks that are traced at the same time: both precisions of a check are."""

import threading
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from parity.capture import jax_recording
from parity.capture.jax_recording import recording
from parity.capture.jaxprs import sites_of
from parity.capture.marks import SITES, Marker


class Layer(nnx.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return 2 * x


class Network(nnx.Module):
    def __init__(self) -> None:
        self.a = Layer()

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.a(x)


class Announced:
    """A lock that says when somebody comes to it, before he gets it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.asked = threading.Event()

    def __enter__(self) -> None:
        self.asked.set()
        self.lock.acquire()

    def __exit__(self, *_: Any) -> None:
        self.lock.release()


def layers_of(network: Network, record: bool = True) -> list[str]:
    """Return the calls that stand in the traced network."""

    def run(x: jax.Array) -> jax.Array:
        if not record:
            return network(x)
        with recording(network, Marker()):
            return network(x)

    return [SITES[site].layer for site in sites_of(jax.make_jaxpr(run)(jnp.ones(2)).jaxpr)]


def in_thread(function: Any, *args: Any) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function(*args)))
    thread.start()
    return thread, found


def test_one_waits_for_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a layer that is seen twice, now and ever after, since both recorded at once."""
    lock = Announced()
    monkeypatch.setattr(jax_recording, "PATCHING", lock)
    own = Layer.__call__
    network = Network()
    with recording(network, Marker()):
        lock.asked.clear()
        thread, found = in_thread(layers_of, network)
        assert lock.asked.wait(60)
    thread.join(60)
    assert found == [["a"]]
    assert Layer.__call__ is own
    assert layers_of(network) == ["a"]


def test_calls_of_another_thread_are_not_recorded() -> None:
    """Catches calls of a layer alone that are taken for calls in the network traced meanwhile."""
    network = Network()
    with recording(network, Marker()):
        thread, found = in_thread(layers_of, network, False)
        thread.join(60)
        assert found == [[]]
        assert [SITES[s].layer for s in sites_of(jax.make_jaxpr(network)(jnp.ones(2)).jaxpr)] == [
            "a"
        ]
