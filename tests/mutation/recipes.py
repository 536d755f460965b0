"""Faults of recipes: a number of a training program, copied wrongly."""

from __future__ import annotations

from tests.mutation.fault import Fault

FILE = "parity/spec/recipes.py"


def fault(title: str, right: str, wrong: str, *judges: str) -> Fault:
    return Fault("recipes", title, FILE, right, wrong, judges or ("programs",))


FAULTS: tuple[Fault, ...] = (
    fault(
        "ENet's rate",
        'Optimizer("adam", lr=5e-4, weight_decay=2e-4)',
        'Optimizer("adam", lr=1e-3, weight_decay=2e-4)',
    ),
    fault(
        "ENet's weight decay",
        'Optimizer("adam", lr=5e-4, weight_decay=2e-4)',
        'Optimizer("adam", lr=5e-4, weight_decay=1e-4)',
    ),
    fault("ENet's rate falls an epoch early", "every=100, gamma", "every=99, gamma"),
    fault("ENet's rate halves", "every=100, gamma=0.1", "every=100, gamma=0.5"),
    fault("ENet's c of class weights", '"log", c=1.02', '"log", c=1.2', "losses"),
    fault(
        "ENet's batch for CamVid", 'model="enet-camvid", batch=10', 'model="enet-camvid", batch=4'
    ),
    fault(
        "two digits of an encoder's class weight exchanged",
        "4.4237880706787",
        "4.4273880706787",
        "data",
    ),
    fault("two digits of a class weight exchanged", "9.5608062744141", "9.5068062744141", "data"),
    fault(
        "two classes' weights exchanged",
        "5.455126285553, 4.3019247055054",
        "4.3019247055054, 5.455126285553",
        "data",
    ),
    fault(
        "the whole network's class weights for an encoder",
        "ENCODER_WEIGHTS if encoder else DECODER_WEIGHTS",
        "DECODER_WEIGHTS",
        "data",
    ),
    fault(
        "ERFNet's weight decay",
        'Optimizer("adam", lr=5e-4, weight_decay=1e-4),',
        'Optimizer("adam", lr=5e-4, weight_decay=2e-4),',
    ),
    fault(
        "ERFNet's rate ends late",
        'Schedule("poly", length=150),\n    loss=Loss(class_weights=DECODER_WEIGHTS)',
        'Schedule("poly", length=200),\n    loss=Loss(class_weights=DECODER_WEIGHTS)',
    ),
    fault(
        "ERFNet from ImageNet drops as from scratch",
        "dataclasses.replace(ERFNET, dropout=(0.1, 0.1))",
        "ERFNET",
        "dropout",
    ),
    fault("ICNet's head at the backbone's rate", '"head."), 10.0)', '"head."), 1.0)'),
    fault("ICNet's head left out of its group", '("conv_sub1.", "head.")', '("conv_sub1.",)'),
    fault("ICNet's steps counted from 0", "per_step=True, first=1", "per_step=True, first=0"),
    fault("ICNet's rate per epoch", "length=200, per_step=True", "length=200, per_step=False"),
    fault("ICNet's crop", "Crop((960, 960))", "Crop((720, 720))"),
    fault("ICNet's scales", "ShortSide(512, 2048)", "ShortSide(512, 1024)"),
    fault("ICNet's void is a class", "ignore_index=-1, ", "ignore_index=0, "),
    fault("ICNet's rate on 8 devices", "lr=0.08", "lr=0.01", "facts"),
    fault("ICNet's warm-up on 8 devices", "length=200, warmup=3", "length=200, warmup=5", "facts"),
    fault("the golden bench's rate", "lr=1.5e-3", "lr=5e-4", "facts"),
    fault("ICNet's batch", "    batch=7,", "    batch=8,"),
    fault("GENet's third milestone", "(60, 120, 160, 200)", "(60, 120, 180, 200)"),
    fault("GENet's factor of the rate", "gamma=0.2", "gamma=0.1"),
    fault("GENet's weight decay", "lr=0.1, weight_decay=5e-4", "lr=0.1, weight_decay=1e-4"),
    fault("GENet's loss scale", "loss_scale=32.0", "loss_scale=128.0"),
    fault("GENet's level of mixed precision", 'level="O2"', 'level="O1"'),
    fault("GENet's seed", "seed=49", "seed=1"),
    fault("GENet's batch on 8 devices", "batch=1024", "batch=128"),
    fault(
        "GENet keeps its last batch on 8 devices",
        "Distributed(drop_last=True)",
        "Distributed(drop_last=False)",
    ),
    fault("GENet's initial weights", 'initial="he-fan-out"', 'initial="torch"', "layers"),
    fault("MindSpore's Adam adds eps as PyTorch's", "eps_hat=True", "eps_hat=False"),
    fault("MindSpore's batch norms decay", 'decay="not-norms"', 'decay="all"'),
    fault(
        "E-NET's second stage begins at the top",
        '"enet-mindspore-encoder", 85, FREE), first_epoch=65',
        '"enet-mindspore-encoder", 85, FREE), first_epoch=0',
    ),
    fault(
        "E-NET's last stage falls as the others",
        'schedule=Schedule("poly", length=100)',
        'schedule=Schedule("poly", length=150)',
    ),
    fault("E-NET's gradients averaged", 'Parallel(gradients="sum")', 'Parallel(gradients="mean")'),
    fault("MindSpore's rate of one device on several", "Distributed(lr=1e-3, ", "Distributed("),
    fault("one pass through the data set on several devices", "repeat=2", "repeat=1"),
    fault("MindSpore's widest crop", "(1.2, 1.2), (1.0, 1.3)", "(1.2, 1.2), (1.0, 1.5)"),
    fault("MindSpore's initial weights", 'initial="xavier"', 'initial="torch"', "layers"),
    fault(
        "a stage of MindSpore's ERFNet drops as the others",
        '"erfnet-mindspore", 65, FREE, 0.2)',
        '"erfnet-mindspore", 65, FREE, 0.3)',
        "dropout",
    ),
)
