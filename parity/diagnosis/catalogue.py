"""The catalogue of faults that occur when convolutional networks are ported, and their rungs.

`parity faults` injects them all.
"""

from __future__ import annotations

import dataclasses
import enum


class Fault(enum.StrEnum):
    """Every fault of the catalogue, by its name."""

    BATCH_NORM_MOMENTUM = "batch-norm-momentum"
    BATCH_NORM_EPS = "batch-norm-eps"
    BIASED_RUNNING_VARIANCE = "biased-running-variance"
    FAST_VARIANCE = "fast-variance"
    BATCH_NORM_MODE = "batch-norm-mode"
    SAME_PADDING = "same-padding"
    KERNEL_NOT_FLIPPED = "kernel-not-flipped"
    OUTPUT_PADDING_SIDE = "output-padding-side"
    KERNEL_AXES = "kernel-axes"
    ALIGN_CORNERS_UP = "align-corners-up"
    ALIGN_CORNERS_DOWN = "align-corners-down"
    ANTIALIASED_RESIZE = "antialiased-resize"
    NEAREST_LABELS = "nearest-labels"
    POOL_COUNTS_PADDING = "pool-counts-padding"
    POOL_CEIL_MODE = "pool-ceil-mode"
    UNPOOL_INDICES = "unpool-indices"
    MAX_POOL_TIES = "max-pool-ties"
    PRELU_SLOPE_COUNT = "prelu-slope-count"
    PRELU_INITIAL_SLOPE = "prelu-initial-slope"
    DROPOUT_CHANNELS = "dropout-channels"
    DROPOUT_KEEP_PROBABILITY = "dropout-keep-probability"
    DROPOUT_SCALE = "dropout-scale"
    LOSS_MEAN = "loss-mean"
    LOSS_CLASS_WEIGHTS = "loss-class-weights"
    IGNORED_LABEL = "ignored-label"
    SOFTMAX = "softmax"
    ADAM_EPS_INSIDE_ROOT = "adam-eps-inside-root"
    ADAM_EPS_HAT = "adam-eps-hat"
    DECOUPLED_DECAY = "decoupled-decay"
    DECAY_MASK = "decay-mask"
    UNUSED_PARAMETERS_DECAY = "unused-parameters-decay"
    RATE_IN_MOMENTUM = "rate-in-momentum"
    SCHEDULE_OFFSET = "schedule-offset"
    NESTEROV = "nesterov"
    GRADIENT_SUM = "gradient-sum"
    DEVICE_LOSS_NORMALIZER = "device-loss-normalizer"
    SYNC_BATCH_NORM = "sync-batch-norm"
    INITIAL_WEIGHTS = "initial-weights"
    CHANNEL_ORDER = "channel-order"
    IMAGE_RESIZE = "image-resize"
    IMAGE_SCALE = "image-scale"
    LABEL_IDS = "label-ids"
    LAST_BATCH = "last-batch"
    MEAN_OF_BATCHES = "mean-of-batches"
    ABSENT_CLASSES = "absent-classes"
    VOID_PREDICTIONS = "void-predictions"
    BACKBONE_CUT_SHORT = "backbone-cut-short"
    ADAPTIVE_POOL_WINDOWS = "adaptive-pool-windows"
    INTERPOLATED_LABELS = "interpolated-labels"
    TF32 = "tf32"
    X64_OFF = "x64-off"
    SHORTCUT_ORDER = "shortcut-order"
    NEAREST_UPSAMPLING = "nearest-upsampling"
    ENCODER_STATISTICS = "encoder-statistics"
    DEVICE_SAMPLES = "device-samples"
    DEVICE_DROPOUT_MASKS = "device-dropout-masks"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One fault.

    Attributes:
        number: Its number in tables and JSON, from 1.
        title: A description of the mistake.
        rung: The lowest rung that must detect it.
    """

    number: int
    title: str
    rung: str


CATALOGUE = {
    Fault.BATCH_NORM_MOMENTUM: Entry(1, "batch norm momentum m against 1 - m", "L1"),
    Fault.BATCH_NORM_EPS: Entry(2, "batch norm eps 1e-3 against 1e-5", "L1"),
    Fault.BIASED_RUNNING_VARIANCE: Entry(3, "biased against unbiased running variance", "L1"),
    Fault.FAST_VARIANCE: Entry(4, "variance as E[x^2] - E[x]^2 in the working precision", "L1"),
    Fault.BATCH_NORM_MODE: Entry(5, "frozen batch norm left in training mode", "L1"),
    Fault.SAME_PADDING: Entry(6, "SAME padding for (1, 1) at stride 2", "L1"),
    Fault.KERNEL_NOT_FLIPPED: Entry(7, "transposed convolution's kernel not flipped", "L1"),
    Fault.OUTPUT_PADDING_SIDE: Entry(8, "output padding on the wrong side", "L1"),
    Fault.KERNEL_AXES: Entry(9, "in and out channels swapped, or a depthwise kernel's axes", "L0"),
    Fault.ALIGN_CORNERS_UP: Entry(10, "align_corners swapped when upsampling", "L1"),
    Fault.ALIGN_CORNERS_DOWN: Entry(11, "align_corners swapped when downsampling", "L1"),
    Fault.ANTIALIASED_RESIZE: Entry(12, "antialiased resize where the reference has none", "L1"),
    Fault.NEAREST_LABELS: Entry(13, "nearest: floor against half-pixel, of labels", "L6"),
    Fault.POOL_COUNTS_PADDING: Entry(14, "average pooling counts its padding", "L1"),
    Fault.POOL_CEIL_MODE: Entry(15, "ceil_mode of a pooling", "L1"),
    Fault.UNPOOL_INDICES: Entry(16, "unpool indices flattened NHWC against NCHW", "L1"),
    Fault.MAX_POOL_TIES: Entry(17, "max-pool ties: gradient split against first wins", "L1"),
    Fault.PRELU_SLOPE_COUNT: Entry(18, "PReLU of one slope against one per channel", "L0"),
    Fault.PRELU_INITIAL_SLOPE: Entry(19, "PReLU initial slope 0.25 against 0.01", "L4"),
    Fault.DROPOUT_CHANNELS: Entry(20, "channel dropout against element dropout", "L1"),
    Fault.DROPOUT_KEEP_PROBABILITY: Entry(21, "keep probability against drop probability", "L1"),
    Fault.DROPOUT_SCALE: Entry(22, "dropout not rescaled by 1 / (1 - p)", "L1"),
    Fault.LOSS_MEAN: Entry(23, "loss averaged over all pixels against valid pixels", "L3"),
    Fault.LOSS_CLASS_WEIGHTS: Entry(
        24, "class-weighted loss divided by N instead of the sum of weights", "L3"
    ),
    Fault.IGNORED_LABEL: Entry(25, "label 255 through int8, or out of range and clamped", "L3"),
    Fault.SOFTMAX: Entry(26, "softmax twice, or over the wrong axis", "L3"),
    Fault.ADAM_EPS_INSIDE_ROOT: Entry(27, "Adam eps inside the square root", "L4"),
    Fault.ADAM_EPS_HAT: Entry(28, "Adam eps where TensorFlow puts it", "L4"),
    Fault.DECOUPLED_DECAY: Entry(29, "decoupled against coupled weight decay", "L4"),
    Fault.DECAY_MASK: Entry(30, "decay skips, or includes, batch norms, biases and slopes", "L4"),
    Fault.UNUSED_PARAMETERS_DECAY: Entry(
        31, "unused parameters decay: gradient 0 instead of absent", "L4"
    ),
    Fault.RATE_IN_MOMENTUM: Entry(32, "learning rate folded into the momentum buffer", "L5"),
    Fault.SCHEDULE_OFFSET: Entry(33, "schedule off by one step or epoch", "L4"),
    Fault.NESTEROV: Entry(34, "Nesterov on or off", "L4"),
    Fault.GRADIENT_SUM: Entry(35, "gradients summed instead of averaged over devices", "L3"),
    Fault.DEVICE_LOSS_NORMALIZER: Entry(
        36, "weighted means of devices averaged instead of one global mean", "L3"
    ),
    Fault.SYNC_BATCH_NORM: Entry(37, "synchronised against local batch norm", "L3"),
    Fault.INITIAL_WEIGHTS: Entry(38, "initial weights of another distribution or fan", "L4"),
    Fault.CHANNEL_ORDER: Entry(39, "RGB against BGR", "L6"),
    Fault.IMAGE_RESIZE: Entry(40, "OpenCV's against Pillow's bilinear resize of images", "L6"),
    Fault.IMAGE_SCALE: Entry(41, "/255 forgotten, or normalised twice", "L6"),
    Fault.LABEL_IDS: Entry(42, "trainId against labelId, void first against void last", "L6"),
    Fault.LAST_BATCH: Entry(43, "last partial batch dropped or counted twice", "L6"),
    Fault.MEAN_OF_BATCHES: Entry(44, "mean of batch IoUs instead of one confusion matrix", "L6"),
    Fault.ABSENT_CLASSES: Entry(45, "absent classes counted as 0 against left out", "L6"),
    Fault.VOID_PREDICTIONS: Entry(46, "void predictions counted as misses or not", "L6"),
    Fault.BACKBONE_CUT_SHORT: Entry(
        47, "backbone pass cut short: statistics updated once instead of twice", "L2"
    ),
    Fault.ADAPTIVE_POOL_WINDOWS: Entry(
        48, "adaptive pooling's windows of stride floor(in / out)", "L1"
    ),
    Fault.INTERPOLATED_LABELS: Entry(
        49, "interpolated labels where nearest is meant, in the loss", "L3"
    ),
    Fault.TF32: Entry(50, "TF32 left on", "L1"),
    Fault.X64_OFF: Entry(51, "x64 off: the float64 run is float32", "L1"),
    Fault.SHORTCUT_ORDER: Entry(
        52, "gate or activation before instead of after the shortcut", "L1"
    ),
    Fault.NEAREST_UPSAMPLING: Entry(53, "nearest upsampling: floor against round", "L1"),
    Fault.ENCODER_STATISTICS: Entry(54, "encoder dropped in with its head's statistics", "L5"),
    Fault.DEVICE_SAMPLES: Entry(
        55, "samples of a batch handed to several devices, or to none", "L3"
    ),
    Fault.DEVICE_DROPOUT_MASKS: Entry(56, "dropout masks that depend on the device", "L3"),
}
