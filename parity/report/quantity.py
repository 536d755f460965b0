"""The quantities that checks compare: of a layer, a parameter or a whole network.

Code uses its fields. `str` gives the sentence that tables, messages and JSON show; that text is
written only here, and no code parses it.
"""

from __future__ import annotations

import dataclasses
import enum


class Kind(enum.StrEnum):
    """The kind of a quantity."""

    VALUES = "values"  # of a tensor, bit for bit
    OUTPUT = "output"
    INPUT_GRADIENT = "gradient of an input"
    PARAMETER_GRADIENT = "gradient of a parameter"
    STATISTIC = "statistic"  # a buffer after one forward pass in train mode
    LOSS = "loss"
    LOSSES = "losses"  # of every step
    STEP = "step"  # an optimizer's, of a parameter
    DECAY_STEP = "decay step"  # an optimizer's with a gradient of 0: what weight decay leaves
    STATE = "state"  # a parameter or a buffer after some steps of training
    LEARNING_RATE = "learning rate"
    LOSS_FUNCTION = "loss function"  # of a recipe: its value
    LOGITS_GRADIENT = "gradient of logits"  # of a recipe's loss function
    INITIAL = "initial values"
    BATCH = "batch"  # a part of a batch, as a trainer received it


class Mode(enum.StrEnum):
    """The mode of the network or layer, where a quantity exists in both."""

    NONE = ""
    TRAIN = "train"
    EVAL = "eval"

    @classmethod
    def of(cls, train: bool) -> Mode:
        """Train mode, else eval mode."""
        return cls.TRAIN if train else cls.EVAL


class Scope(enum.StrEnum):
    """What was run: a layer alone or the whole network."""

    NETWORK = "network"  # the whole of it
    LAYER = "layer"  # one layer, fed alone
    ONLY_LAYER = "only layer"  # the whole network in the place of layers: it has none


EVERY = -1  # of `Quantity.index`: not one of several, but all of them

GRADIENTS = (Kind.INPUT_GRADIENT, Kind.PARAMETER_GRADIENT)
OF_PARAMETERS = (Kind.PARAMETER_GRADIENT, Kind.STEP, Kind.DECAY_STEP, Kind.STATE)


@dataclasses.dataclass(frozen=True, order=True, repr=False)
class Quantity:
    """One compared quantity.

    Attributes:
        kind: Its kind.
        path: Dotted name of the parameter or buffer within its layer; for `BATCH` the part of the
            batch; for a recipe's loss function its name.
        index: Which output, input or logits, from 0; `EVERY` where all of them are meant.
        mode: Eval or train mode, for outputs and statistics.
        step: Which step, or after how many, from 1; 0 where there is none.
        scope: What was run.
        detail: Text shown with it, such as the devices; does not affect comparisons.
    """

    kind: Kind
    path: str = ""
    index: int = EVERY
    mode: Mode = Mode.NONE
    step: int = 0
    scope: Scope = Scope.NETWORK
    detail: str = ""

    @property
    def is_gradient(self) -> bool:
        """Return whether it is a gradient of an input or of a parameter."""
        return self.kind in GRADIENTS

    @property
    def parameter(self) -> str:
        """The path, where the quantity is one of a parameter that is trained; else empty."""
        return self.path if self.kind in OF_PARAMETERS else ""

    @property
    def leaf(self) -> str:
        """Return the last part of the path."""
        return self.path.rpartition(".")[2]

    def sibling(self, leaf: str) -> Quantity:
        """Return the same quantity of another tensor of the same layer."""
        return dataclasses.replace(self, path=f"{self.path.removesuffix(self.leaf)}{leaf}")

    def __repr__(self) -> str:
        return repr(str(self))

    def __contains__(self, words: str) -> bool:
        """Return whether the sentence holds these words, as if it were the string."""
        return words in str(self)

    def __str__(self) -> str:
        text = self._text()
        if self.scope is Scope.ONLY_LAYER:
            text += " (whole)"
        if not self.detail:
            return text
        return f"{text}, {self.detail}" if self.kind is Kind.INITIAL else f"{text}; {self.detail}"

    def _text(self) -> str:
        """Return the sentence without the detail."""
        number = "" if self.index == EVERY else f" {self.index}"
        match self.kind:
            case Kind.OUTPUT:
                return f"output{number}{self._mode()}"
            case Kind.INPUT_GRADIENT:
                return f"gradient of input{number}"
            case Kind.PARAMETER_GRADIENT:
                return f"gradient of {self.path or 'parameters'}"
            case Kind.STATISTIC:
                return f"{self.path} after" + " a step" * (self.scope is not Scope.LAYER)
            case Kind.LOSS:
                return f"loss of step {self.step}" if self.step else "loss"
            case Kind.LOSSES:
                return f"losses of {self.step} steps"
            case Kind.STEP:
                return f"step {self.step}" + f" of {self.path}" * bool(self.path)
            case Kind.DECAY_STEP:
                return "step without gradient" + f" of {self.path}" * bool(self.path)
            case Kind.STATE:
                name = self.path or self.kind.value
                return f"{name} after {self.step} step{'s' * (self.step > 1)}"
            case Kind.LEARNING_RATE:
                return f"learning rate of {self.step:,} steps" if self.step else "learning rate"
            case Kind.LOSS_FUNCTION:
                return f"{self.path}: loss"
            case Kind.LOGITS_GRADIENT:
                return f"{self.path}: gradient of logits{number}"
            case Kind.INITIAL:
                return f"initial {self.path}"
            case Kind.BATCH:
                return f"{self.path}, as handed" + f" up to step {self.step}" * bool(self.step)
        return self.kind.value

    def _mode(self) -> str:
        """Return the mode as text; empty for a layer alone in train mode."""
        if self.mode is Mode.NONE or (self.scope is Scope.LAYER and self.mode is Mode.TRAIN):
            return ""
        return f" in {self.mode} mode"
