"""The published training recipes, as data that both sides read.

Numbers are those of the published code and reports; `about` says which of them are unknown.
"""

from __future__ import annotations

import dataclasses

from parity.spec.augmentation import (
    Blur,
    Crop,
    Flip,
    PadCrop,
    RatioCrop,
    Resize,
    Shift,
    ShortSide,
)
from parity.spec.errors import InputError
from parity.spec.training.losses import ClassWeights, Loss
from parity.spec.training.optimizers import Group, Optimizer
from parity.spec.training.parallel import Distributed, Parallel
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.schedules import Schedule

HALF = (512, 1024)  # of Cityscapes' 1024 x 2048

# ERFNet's, over all pixels: 1 / ln(c + p) with c 1.2 for labels at 1/8, 1.1 for whole ones.
# fmt: off
ENCODER_WEIGHTS = ClassWeights("fixed", values=(
    2.3653597831726, 4.4237880706787, 2.9691488742828, 5.3442072868347, 5.2983593940735,
    5.2275490760803, 5.4394111633301, 5.3659925460815, 3.4170460700989, 5.2414722442627,
    4.7376127243042, 5.2286224365234, 5.455126285553, 4.3019247055054, 5.4264230728149,
    5.4331531524658, 5.433765411377, 5.4631009101868, 5.3947434425354,
))
# fmt: on
# fmt: off
DECODER_WEIGHTS = ClassWeights("fixed", values=(
    2.8149201869965, 6.9850029945374, 3.7890393733978, 9.9428062438965, 9.7702074050903,
    9.5110931396484, 10.311357498169, 10.026463508606, 4.6323022842407, 9.5608062744141,
    7.8698215484619, 9.5168733596802, 10.373730659485, 6.6616044044495, 10.260489463806,
    10.287888526917, 10.289801597595, 10.405355453491, 10.138095855713,
))
# fmt: on

ENET = Stage(
    name="whole",
    model="enet",
    epochs=300,
    optimizer=Optimizer("adam", lr=5e-4, weight_decay=2e-4),
    schedule=Schedule("step", every=100, gamma=0.1),
    loss=Loss(class_weights=ClassWeights("log", c=1.02)),
    augmentation=(Resize(HALF),),
    batch=4,
)

ENET_CITYSCAPES = Recipe(
    name="enet-cityscapes",
    about="davidtvs/PyTorch-ENet at e17d404; best of a validation every 10 epochs",
    data="cityscapes",
    labels="void-first",
    stages=(ENET,),
    validate_every=10,
    published=59.5,
)
CAMVID_SIZE = (360, 480)
ENET_CAMVID = dataclasses.replace(
    ENET_CITYSCAPES,
    name="enet-camvid",
    about="davidtvs/PyTorch-ENet at e17d404, its options for CamVid; its test set gave 52.1",
    data="camvid",
    labels="void-last",
    size=CAMVID_SIZE,
    stages=(
        dataclasses.replace(
            ENET, model="enet-camvid", batch=10, augmentation=(Resize(CAMVID_SIZE),)
        ),
    ),
    published=65.2,
)
ENET_BENCH = dataclasses.replace(
    ENET_CITYSCAPES,
    name="enet-bench",
    about="the golden bench's run on a V100; how its rate warmed up is not published, and is taken"
    " to rise by equal parts per epoch",
    stages=(
        dataclasses.replace(
            ENET,
            batch=2,
            optimizer=dataclasses.replace(ENET.optimizer, lr=1.5e-3),
            schedule=dataclasses.replace(ENET.schedule, warmup=10),
        ),
    ),
    published=59.75,
)


def mindspore_stage(name: str, model: str, epochs: int, ratios: tuple[float, float]) -> Stage:
    """Return a stage as in both of MindSpore's ports; `ratios` are those of the crop."""
    encoder = model.endswith("encoder")
    return Stage(
        name=name,
        model=model,
        epochs=epochs,
        optimizer=Optimizer("adam", lr=5e-4, weight_decay=1e-4, decay="not-norms", eps_hat=True),
        schedule=Schedule("poly", length=150),
        loss=Loss(class_weights=ENCODER_WEIGHTS if encoder else DECODER_WEIGHTS),
        augmentation=(Blur(p=1.0), RatioCrop(*ratios), Resize(HALF), Flip()),
        batch=6,
        initial="xavier",
        drop_last=True,
        distributed=Distributed(lr=1e-3, batch_per_device=6, repeat=2),
    )


def erfnet_mindspore_stage(
    name: str, model: str, epochs: int, ratios: tuple[float, float], dropout: float
) -> Stage:
    """Return a stage of MindSpore's ERFNet; `dropout` is for 128-channel blocks.

    It applies to training on several devices; with one device it is 0.2.
    """
    stage = mindspore_stage(name, model, epochs, ratios)
    several = dataclasses.replace(stage.distributed, dropout=(0.03, dropout))
    return dataclasses.replace(stage, dropout=(0.03, 0.2), distributed=several)


FIXED, FREE = (1.2, 1.2), (1.0, 1.3)
ENET_MINDSPORE = Recipe(
    name="enet-mindspore",
    about="MindSpore's E-NET at eab643f; two stages of the encoder, one of the whole. Every stage"
    " begins with a new optimizer",
    data="cityscapes",
    labels="void-last",
    stages=(
        mindspore_stage("encoder-1", "enet-mindspore-encoder", 65, FIXED),
        dataclasses.replace(
            mindspore_stage("encoder-2", "enet-mindspore-encoder", 85, FREE), first_epoch=65
        ),
        dataclasses.replace(
            mindspore_stage("whole", "enet-mindspore", 100, FREE),
            schedule=Schedule("poly", length=100),
        ),
    ),
    loss_scale="dynamic",
    parallel=Parallel(gradients="sum"),
    validate_every=20,
    keep="last",
    published=62.19,
)
ERFNET_MINDSPORE = Recipe(
    name="erfnet-mindspore",
    about="MindSpore's ERFNet at eab643f: four stages; on several cards another rate, and of each"
    " stage another dropout. 70.9 was reached on several",
    data="cityscapes",
    labels="void-last",
    stages=(
        erfnet_mindspore_stage("encoder-1", "erfnet-mindspore-encoder", 65, FIXED, 0.3),
        dataclasses.replace(
            erfnet_mindspore_stage("encoder-2", "erfnet-mindspore-encoder", 85, FREE, 0.3),
            first_epoch=65,
        ),
        erfnet_mindspore_stage("whole-1", "erfnet-mindspore", 65, FREE, 0.2),
        dataclasses.replace(
            erfnet_mindspore_stage("whole-2", "erfnet-mindspore", 85, FREE, 0.3), first_epoch=65
        ),
    ),
    loss_scale="dynamic",
    validate_every=20,
    keep="last",
    published=70.9,
)

ERFNET = Stage(
    name="whole",
    model="erfnet",
    epochs=150,
    optimizer=Optimizer("adam", lr=5e-4, weight_decay=1e-4),
    schedule=Schedule("poly", length=150),
    loss=Loss(class_weights=DECODER_WEIGHTS),
    augmentation=(Resize(HALF), Flip(), Shift(2)),
    batch=6,
)
ERFNET_CITYSCAPES = Recipe(
    name="erfnet-cityscapes",
    about="Eromera/erfnet_pytorch at d4a46fa, from scratch: the encoder alone on labels at 1/8,"
    " then a new decoder on its last epoch. Its authors reach 72.1 with an ImageNet encoder only",
    data="cityscapes",
    labels="void-last",
    stages=(
        dataclasses.replace(
            ERFNET,
            name="encoder",
            model="erfnet-encoder",
            loss=Loss(class_weights=ENCODER_WEIGHTS),
        ),
        ERFNET,
    ),
    parallel=Parallel(normalizer="global"),  # DataParallel: the loss is that of gathered outputs
    published=70.0,
)
ERFNET_FROM_IMAGENET = dataclasses.replace(
    ERFNET_CITYSCAPES,
    name="erfnet-cityscapes-imagenet",
    about="Eromera/erfnet_pytorch at d4a46fa, --decoder --pretrainedEncoder: a new decoder on an"
    " encoder from ImageNet, whose dropout of 0.1 everywhere stays",
    stages=(dataclasses.replace(ERFNET, dropout=(0.1, 0.1)),),
    start="erfnet-imagenet",
    published=72.1,
)

ICNET = Stage(
    name="whole",
    model="icnet",
    epochs=200,
    optimizer=Optimizer(
        "sgd",
        lr=0.01,
        weight_decay=1e-4,
        groups=(Group(("conv_sub1.", "head."), 10.0),),
    ),
    schedule=Schedule("poly", length=200, per_step=True, first=1),
    loss=Loss("icnet", ignore_index=-1, labels="published"),
    augmentation=(Flip(), ShortSide(512, 2048), Crop((960, 960)), Blur()),
    batch=7,
    drop_last=True,
)
ICNET_CITYSCAPES = Recipe(
    name="icnet-cityscapes",
    about="liminn/ICNet-pytorch at da394fc, labels resized as it does; 71.0 is the mean of"
    " running values, 71.24 the true one. Its backbone began from ImageNet weights that are not"
    " public any more",
    data="cityscapes",
    stages=(ICNET,),
    size=(1024, 2048),
    published=71.0,
)
ICNET_CORRECTED = dataclasses.replace(
    ICNET_CITYSCAPES,
    name="icnet-cityscapes-corrected",
    about="the same with labels resized to the nearest pixel, which makes up no classes",
    stages=(dataclasses.replace(ICNET, loss=dataclasses.replace(ICNET.loss, labels="nearest")),),
    published=None,
)
ICNET_ASCEND = dataclasses.replace(
    ICNET_CITYSCAPES,
    name="icnet-ascend",
    about="Ascend's ICNet on 8 GPUs: batch 16 on each, one rate for all parameters, cosine after 3"
    " epochs of warm-up, amp O1",
    stages=(
        dataclasses.replace(
            ICNET,
            optimizer=Optimizer("sgd", lr=0.08, weight_decay=1e-4),
            schedule=Schedule("cosine", length=200, warmup=3, after_warmup=True),
            batch=128,
        ),
    ),
    precision="fp16",
    level="O1",
    loss_scale=128.0,
    devices=8,
    published=68.3,
)

GENET = Stage(
    name="whole",
    model="genet",
    epochs=300,
    optimizer=Optimizer("sgd", lr=0.1, weight_decay=5e-4),
    schedule=Schedule("multistep", milestones=(60, 120, 160, 200), gamma=0.2),
    augmentation=(PadCrop(4), Flip()),
    batch=128,
    initial="he-fan-out",
    distributed=Distributed(drop_last=True),
)
GENET_CIFAR10 = Recipe(
    name="genet-cifar10",
    about="Ascend's GENet_for_Pytorch at 6a2804a on one GPU: Apex O2, loss scale 32, last epoch",
    data="cifar10",
    stages=(GENET,),
    size=(32, 32),
    val_split="test",
    precision="fp16",
    level="O2",
    loss_scale=32.0,
    seed=49,
    keep="last",
    published=94.76,
)
GENET_8P = dataclasses.replace(
    GENET_CIFAR10,
    name="genet-cifar10-8p",
    about="the same on 8 GPUs: a batch of 1,024 at the rate of 128",
    stages=(dataclasses.replace(GENET, batch=1024),),
    devices=8,
    published=94.81,
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        ENET_CITYSCAPES,
        ENET_CAMVID,
        ENET_BENCH,
        ENET_MINDSPORE,
        ERFNET_CITYSCAPES,
        ERFNET_FROM_IMAGENET,
        ERFNET_MINDSPORE,
        ICNET_CITYSCAPES,
        ICNET_CORRECTED,
        ICNET_ASCEND,
        GENET_CIFAR10,
        GENET_8P,
    )
}


def recipe(name: str) -> Recipe:
    """Return the recipe of this name.

    Raises:
        InputError: There is none; lists them.
    """
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}, expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
