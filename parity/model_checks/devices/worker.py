"""Runs a side's jobs of a plan, in separate processes.

    python -m parity.model_checks.devices.worker torch FOLDER STARTER
    python -m parity.model_checks.devices.worker jax FOLDER STARTER

FOLDER holds the plan; each process writes a file of results there. STARTER is the id of the parent
process; this one ends with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from parity.data.makers import Share
from parity.model_checks.devices.plan import ALONE, CASES, EVALUATED, Job, Plan, digests, forget
from parity.spec.training.recipe import Stage
from parity.spec.training.trainer import Batch, Snapshot, Trainer
from parity.training.launch import tie
from parity.training.scores import Count, Task, measure
from parity.training.side import Side
from weights_convert import naming

Found = dict[str, np.ndarray]
HANDED = (":samples", ":masks")  # of each process its own; all else is the same in all


def train(plan: Plan, job: Job, trainer: Trainer, share: Share) -> Found:
    """Train, and return the state after the first step and after the last."""
    found, losses, handed, masks = Found(), [], [], []
    stage = plan.of(job.case)[1]
    for number in range(plan.steps):
        batch = plan.batch(job.case, share, number)
        came = digests(batch)
        handed.append(came[0])
        masks.append(came[1])
        step = trainer.step(batch, plan.rate(job.case, share.parts, number))
        if step.fault:
            raise FloatingPointError(f"{job.key}, step {number + 1}: {step.fault}")
        losses.append(step.loss)
        if number in (0, plan.steps - 1):
            after = Side(job.side).published(stage, trainer.snapshot())
            found |= arrays_of(stage, after, "first" if number == 0 else "last")
    found |= {"losses": np.array(losses), "samples": flat(handed), "masks": flat(masks)}
    return {f"{job.key}:{name}": array for name, array in found.items()}


def evaluate(plan: Plan, job: Job, trainer: Trainer, group: Any, share: Share, when: str) -> Found:
    """Evaluate, and return the confusion matrices and mean losses over all processes.

    After training, also return those of the first process alone, one batch at a time.
    """
    found, task = Found(), Task.of(plan.recipe)
    for images in plan.images if job.case == EVALUATED else ():
        whole = Count(task)
        for part in (group.all_gather if group else lambda own: [own])(
            counted(task, trainer, plan.validation(images, share.rank, share.ranks))
        ):
            whole.join(part)
        found |= scored(f"{job.key}:{when}", images, whole)
        if when == "after" and share.rank == 0:
            alone = Count(task)
            for batch in plan.validation(images, 0, 1):
                alone.add(batch, *trainer.evaluate(batch))
            found |= scored(f"{job.key}:alone", images, alone)
    return found


def counted(task: Task, trainer: Trainer, batches: Iterator[Batch]) -> Count:
    own = Count(task)
    for _ in measure(trainer, batches, own):
        pass
    return own


def scored(name: str, images: int, count: Count) -> Found:
    score = count.score()
    numbers = np.array([score.mean_loss, score.images])
    return {f"{name}/{images}/matrix": score.matrix, f"{name}/{images}/loss": numbers}


def arrays_of(stage: Stage, snapshot: Snapshot, when: str) -> Found:
    """Return a snapshot's arrays; after the first step with the optimizer's arrays."""
    found = {f"{when}/{key}": array for key, array in snapshot.arrays.items()}
    if when == "first" and stage.optimizer.slots:
        slot = stage.optimizer.slots[0]
        found |= {f"kept/{key}": array for key, array in snapshot.slots[slot].items()}
    return found


def flat(handed: list[np.ndarray]) -> np.ndarray:
    """(steps, most samples) uint64; 0 where a step had fewer."""
    made = np.zeros((len(handed), max(len(a) for a in handed)), np.uint64)
    for row, array in zip(made, handed, strict=True):
        row[: len(array)] = array
    return made


def trainer_of(plan: Plan, job: Job, group: Any) -> Trainer:
    """Return the real trainer of a side."""
    side = Side(job.side)
    if job.side == "torch":
        from torch_impl.train import Trainer as Torch

        made: Any = Torch
    else:
        from jax_impl.train import Trainer as Jax

        made = Jax
    stage = plan.recipe.stages[0]
    arrays = naming.to_naming_scheme(stage.config, plan.arrays(), side.framework)
    return made(
        stage.config,
        stage.optimizer,
        stage.loss,
        arrays,
        plan.class_weights(),
        plan.recipe.precision,
        parallel=CASES[job.case].parallel,
        group=group,
    )


def measured_and_trained(plan: Plan, job: Job, group: Any, share: Share) -> Found:
    """Run a job: evaluate, train, evaluate again."""
    trainer = trainer_of(plan, job, group)
    if job.side == "jax":
        from parity.model_checks.recipes.quick_compile import compile_quickly

        compile_quickly(trainer)
    found = evaluate(plan, job, trainer, group, share, "before")
    found |= train(plan, job, trainer, share)
    return found | evaluate(plan, job, trainer, group, share, "after")


@contextlib.contextmanager
def injected(job: Job) -> Any:
    """Context manager that injects the job's fault, if it has one."""
    if not job.fault:
        yield
        return
    forget()
    with pkgutil.resolve_name(job.injector)(job.fault):
        yield
    forget()


def torch_process(plan: Plan, folder: Path, rank: int, ports: dict[int, int], starter: int) -> None:
    """Run one process's jobs: its rank for each number of devices that includes it."""
    from torch_impl import parallel

    tie(starter)
    found: Found = {}
    for devices in plan.counts("torch"):
        if rank >= max(devices, 1):
            continue
        group = None
        if devices != ALONE:
            group = parallel.start(("127.0.0.1", ports[devices]), devices, devices, rank)
        for job in (j for j in plan.jobs if (j.side, j.devices) == ("torch", devices)):
            share = Share(rank, max(devices, 1), max(devices, 1))
            with injected(job):
                made = measured_and_trained(plan, job, group, share)
            found |= made if rank == 0 else {k: made[k] for k in made if k.endswith(HANDED)}
        if group:
            group.leave()
    np.savez(folder / f"torch-{rank}.npz", **found)  # type: ignore[arg-type]  # its stub is narrower


def torch_side(plan: Plan, folder: Path, ports: dict[int, int]) -> int:
    """Start a process for each device; they share what is imported here."""
    import torch_impl.train  # noqa: F401  # before the processes are forked

    if plan.images:
        import grain  # noqa: F401  # before they are forked, too

    forked = multiprocessing.get_context("fork")
    ranks = range(max(1, *plan.counts("torch")))
    own = os.getpid()
    made = [forked.Process(target=torch_process, args=(plan, folder, r, ports, own)) for r in ranks]
    for process in made:
        process.start()
    left = set(made)
    while left:
        ready = multiprocessing.connection.wait([p.sentinel for p in left])
        ended = {p for p in left if p.sentinel in ready}
        for process in ended:
            process.join()  # the sentinel is ready a moment before the exit status is there
        left -= ended
        if any(process.exitcode for process in ended):
            for process in left:
                process.kill()
            return 1
    return 0


def jax_side(plan: Plan, folder: Path) -> int:
    """Run all JAX jobs in one process, on virtual devices."""
    from jax_impl import parallel

    parallel.start(None, max(1, *plan.counts("jax")))
    found: Found = {}
    for job in (j for j in plan.jobs if j.side == "jax"):
        group = None if job.devices == ALONE else parallel.Group(job.devices, job.way)
        with injected(job):
            found |= measured_and_trained(plan, job, group, Share(0, 1, max(job.devices, 1)))
    np.savez(folder / "jax-0.npz", **found)  # type: ignore[arg-type]  # its stub is narrower
    return 0


def main(side: str, folder: Path, starter: int) -> int:
    tie(starter)
    plan, ports = pickle.loads((folder / "plan.pickle").read_bytes())
    return torch_side(plan, folder, ports) if side == "torch" else jax_side(plan, folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
