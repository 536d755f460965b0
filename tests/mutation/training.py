"""Faults of what training shares: losses, optimizers and their rates, the loop, scores."""

from __future__ import annotations

from tests.mutation.fault import Fault

SPEC = "parity/spec/training"
RUN, SCORES = "parity/training/run.py", "parity/training/scores.py"
METRICS = "parity/spec/metrics.py"


def loss(title: str, right: str, wrong: str) -> Fault:
    return Fault("losses", title, f"{SPEC}/losses.py", right, wrong, ("losses",))


def optimizer(title: str, right: str, wrong: str, *judges: str) -> Fault:
    file = f"{SPEC}/optimizers.py"
    return Fault("optimizers", title, file, right, wrong, judges or ("programs",))


def scale(title: str, right: str, wrong: str) -> Fault:
    return Fault("mixed precision", title, f"{SPEC}/scaling.py", right, wrong, ("scaler",))


def schedule(title: str, right: str, wrong: str) -> Fault:
    return Fault("optimizers", title, f"{SPEC}/schedules.py", right, wrong, ("schedulers",))


def loop(title: str, right: str, wrong: str, judge: str = "schedulers", file: str = RUN) -> Fault:
    return Fault("the loop", title, file, right, wrong, (judge,))


def score(title: str, right: str, wrong: str, file: str = SCORES) -> Fault:
    return Fault("scores", title, file, right, wrong, ("scores",))


LOSSES = (
    loss(
        "the weight of ICNet's auxiliary losses", "auxiliary: float = 0.4", "auxiliary: float = 0.5"
    ),
    loss("void weighs as a class", "void: float = 0.0", "void: float = 1.0"),
    loss(
        "ICNet's labels to the nearest pixel",
        'labels: str = "published"',
        'labels: str = "nearest"',
    ),
)

OPTIMIZERS = (
    optimizer("Adam's second beta", "(0.9, 0.999)", "(0.9, 0.99)"),
    optimizer("Adam's eps", "eps: float = 1e-8", "eps: float = 1e-7"),
    optimizer("the momentum of SGD", "momentum: float = 0.9", "momentum: float = 0.95"),
    optimizer("Nesterov's step", "nesterov: bool = False", "nesterov: bool = True"),
    optimizer(
        "MindSpore's eps corrected the wrong way",
        "self.eps / (1 -",
        "self.eps * (1 -",
        "programs",
        "enet-mindspore-encoder",
    ),
    optimizer(
        "MindSpore's eps by the first moment's beta",
        "self.betas[1] ** step",
        "self.betas[0] ** step",
        "programs",
        "enet-mindspore-encoder",
    ),
    optimizer(
        "only batch norms decay",
        'norms if self.decay == "not-norms" else set()',
        'set(map(lambda k: k.rpartition(".")[0], kinds)) - norms if self.decay == "not-norms" else'
        " set()",
        "programs",
        "enet-mindspore-encoder",
    ),
    optimizer(
        "a group's factor for all others",
        "if key.startswith(g.prefixes)",
        "if not key.startswith(g.prefixes)",
    ),
    schedule("a step falls an epoch early", "(epoch // self.every)", "((epoch + 1) // self.every)"),
    schedule("a milestone counts an epoch late", "epoch >= m for", "epoch > m for"),
    schedule("a line for a polynomial", "(1 - passed) ** self.power", "1 - passed"),
    schedule("the power of ERFNet's polynomial", "power: float = 0.9", "power: float = 1.0"),
    schedule("a cosine of half the height", "math.pi * passed)) / 2", "math.pi * passed)) / 4"),
    schedule("a warm-up that begins at 0", "(epoch + 1) / self.warmup", "epoch / self.warmup"),
    schedule(
        "a cosine that begins under the warm-up",
        "self.warmup if self.after_warmup else 0",
        "0",
    ),
    schedule("steps of an epoch counted once", "(epoch - begin) * unit", "(epoch - begin)"),
)

LOOP = (
    loop(
        "a stage's first epoch not added",
        "stage.first_epoch + self.progress.epoch",
        "self.progress.epoch",
    ),
    loop(
        "a rate of steps taken per epoch",
        "factor(epoch, self.progress.step, steps)",
        "factor(epoch, 0, steps)",
    ),
    loop(
        "the run's epochs for the stage's",
        "stage.first_epoch + self.progress.epoch",
        "stage.first_epoch + self.epoch",
    ),
    loop(
        "a rate that is counted by another number of steps",
        "factor(epoch, self.progress.step, steps)",
        "factor(epoch, self.progress.step, steps + 1)",
    ),
    loop(
        "a rate that is logged and not used",
        "trainer.step(batch, rate)",
        "trainer.step(batch, stage.optimizer.lr)",
    ),
    loop(
        "the next step's rate",
        "epoch, self.progress.step, steps)",
        "epoch, self.progress.step + 1, steps)",
    ),
    loop(
        "an epoch's loss as a sum", "mean = progress.loss / steps", "mean = progress.loss", "scores"
    ),
    loop(
        "validated an epoch early",
        "done % self.recipe.validate_every == 0",
        "(done + 1) % self.recipe.validate_every == 0",
        "scores",
    ),
    loop(
        "the best checkpoint is one that was not",
        '[f"{prefix}best"] * best',
        '[f"{prefix}best"] * (not best)',
        "scores",
    ),
    loop(
        "the last of equals is the best",
        "score.value > progress.best",
        "score.value >= progress.best",
        "scores",
    ),
    loop(
        "the last one is the best",
        "better = progress.best is None or score.value > progress.best",
        "better = True",
        "scores",
    ),
    loop(
        "the worst is the best",
        "score.value > progress.best",
        "score.value < progress.best",
        "scores",
    ),
    loop(
        "a stage must beat the one before it",
        "self.best, self.best_epoch = None, 0",
        "self.best_epoch = 0",
        "scores",
        "parity/training/progress.py",
    ),
    loop(
        "an epoch's loss goes on into the next",
        "self.epoch, self.step, self.loss = self.epoch + 1, 0, 0.0",
        "self.epoch, self.step = self.epoch + 1, 0",
        "scores",
        "parity/training/progress.py",
    ),
)

SCORE = (
    score(
        "predicted void forgiven",
        "counted[void] = 0\n    hits",
        "counted[void] = 0\n    counted[:, void] = 0\n    hits",
        METRICS,
    ),
    score("true void counted", "counted[void] = 0\n    hits", "hits", METRICS),
    score(
        "truth and prediction exchanged",
        "truth.astype(np.int64).ravel() * outputs + prediction.ravel()",
        "prediction.astype(np.int64).ravel() * outputs + truth.ravel()",
        METRICS,
    ),
    score(
        "the union without what is missed",
        "counted.sum(axis=0) + counted.sum(axis=1) - hits",
        "counted.sum(axis=0)",
        METRICS,
    ),
    score(
        "absent classes as 0",
        "metrics.mean_iou_present(self.iou)",
        "metrics.mean_iou_absent_as_zero(self.iou)",
    ),
    score("accuracy of void's pixels too", "counted[self.task.void] = 0\n", "pass\n"),
    score(
        "a validation's loss as a mean of batches",
        "total = sum(loss * n for _, (loss, n) in sorted(self.losses.items()))",
        "total = images * sum(x for x, _ in self.losses.values()) / max(len(self.losses), 1)",
    ),
    score(
        "a validation's loss as a sum", "self.matrix, total / images if", "self.matrix, total if"
    ),
    score(
        "the best by accuracy",
        "return self.accuracy if self.task.void is None else self.mean_iou",
        "return self.accuracy",
    ),
    score(
        "the best by loss",
        "return self.accuracy if self.task.void is None else self.mean_iou",
        "return -self.mean_loss",
    ),
    score("what another process counted is lost", "self.matrix += other.matrix", "pass"),
    score("void is a class, and a class void", "len(classes))[-1]))", "len(classes))[0]))"),
)

SCALES = (
    scale("the first loss scale", "FIRST = 2.0**16", "FIRST = 2.0**15"),
    scale("a loss scale doubled too soon", "PATIENCE = 2000", "PATIENCE = 1000"),
    scale("a loss scale that falls to a quarter", "self.value / 2, 1.0", "self.value / 4, 1.0"),
    scale(
        "good steps that an overflow does not end",
        "max(self.value / 2, 1.0), 0",
        "max(self.value / 2, 1.0), self.good",
    ),
)

FAULTS: tuple[Fault, ...] = (*LOSSES, *OPTIMIZERS, *LOOP, *SCORE, *SCALES)
