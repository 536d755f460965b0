"""The catalogue of faults that occur when networks are ported, and their rungs.

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
    GELU_TANH = "gelu-tanh"
    ACTIVATION = "activation"
    NORM_EPS = "norm-eps"
    NORM_EPS_PLACE = "norm-eps-place"
    NORM_KIND = "norm-kind"
    NORM_UNBIASED = "norm-unbiased"
    NORM_WEIGHT_OFFSET = "norm-weight-offset"
    NORM_LEFT_OUT = "norm-left-out"
    ATTENTION_SCALE = "attention-scale"
    ATTENTION_SOFTMAX = "attention-softmax"
    CAUSAL_MASK = "causal-mask"
    MASK_SIGN = "mask-sign"
    CACHED_MASK = "cached-mask"
    HEADS_MERGED = "heads-merged"
    HEADS_SPLIT = "heads-split"
    GROUPED_HEADS = "grouped-heads"
    QKV_ORDER = "qkv-order"
    QKV_PER_HEAD = "qkv-per-head"
    ROTARY_PAIRS = "rotary-pairs"
    ROTARY_BASE = "rotary-base"
    ROTARY_OFFSET = "rotary-offset"
    ROTARY_DIRECTION = "rotary-direction"
    CACHED_POSITIONS = "cached-positions"
    ROTARY_TARGET = "rotary-target"
    GATE = "gate"
    POST_NORM = "post-norm"
    RESIDUAL = "residual"
    CLASS_TOKEN_PLACE = "class-token-place"
    CLASS_TOKEN_POSITION = "class-token-position"
    PATCH_ORDER = "patch-order"
    EMBEDDING_SCALE = "embedding-scale"
    LINEAR_TRANSPOSED = "linear-transposed"
    TIED_HEAD = "tied-head"


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
    Fault.GELU_TANH: Entry(57, "GELU approximated by a tanh where it is exact", "L1"),
    Fault.ACTIVATION: Entry(58, "SiLU for GELU, or GELU for SiLU", "L1"),
    Fault.NORM_EPS: Entry(59, "layer norm's or RMS norm's eps 1e-6 against 1e-5", "L1"),
    Fault.NORM_EPS_PLACE: Entry(60, "eps of a norm outside the root, or left out", "L1"),
    Fault.NORM_KIND: Entry(61, "layer norm for RMS norm: the mean subtracted, or not", "L1"),
    Fault.NORM_UNBIASED: Entry(62, "layer norm by the unbiased variance", "L1"),
    Fault.NORM_WEIGHT_OFFSET: Entry(63, "norm times 1 + weight instead of the weight", "L1"),
    Fault.NORM_LEFT_OUT: Entry(64, "a norm left out, such as the last", "L1"),
    Fault.ATTENTION_SCALE: Entry(65, "attention scaled by 1 / d, by the whole width, or not", "L1"),
    Fault.ATTENTION_SOFTMAX: Entry(66, "attention's softmax over the queries", "L1"),
    Fault.CAUSAL_MASK: Entry(67, "causal mask missing, or shifted by one", "L1"),
    Fault.MASK_SIGN: Entry(68, "mask of the wrong sign: what should be seen is hidden", "L1"),
    Fault.CACHED_MASK: Entry(
        69, "causal mask counted from the first key, behind a cache too", "L2"
    ),
    Fault.HEADS_MERGED: Entry(70, "heads merged without a transpose", "L1"),
    Fault.HEADS_SPLIT: Entry(71, "channels of heads interleaved", "L1"),
    Fault.GROUPED_HEADS: Entry(72, "grouped queries: key heads tiled instead of repeated", "L1"),
    Fault.QKV_ORDER: Entry(73, "order of q, k and v in a fused matrix", "L0"),
    Fault.QKV_PER_HEAD: Entry(74, "fused matrix read head by head instead of q, k, v", "L1"),
    Fault.ROTARY_PAIRS: Entry(75, "rotary embedding of neighbours instead of halves", "L1"),
    Fault.ROTARY_BASE: Entry(76, "rotary embedding's base 1e4 against 5e5", "L1"),
    Fault.ROTARY_OFFSET: Entry(77, "rotary embedding's places counted from 1", "L1"),
    Fault.ROTARY_DIRECTION: Entry(78, "rotary embedding turned the other way", "L1"),
    Fault.CACHED_POSITIONS: Entry(79, "places counted from 0 again behind a cache", "L2"),
    Fault.ROTARY_TARGET: Entry(80, "rotary embedding of values, or missing for keys", "L1"),
    Fault.GATE: Entry(81, "SwiGLU's gate and other half swapped, or added", "L1"),
    Fault.POST_NORM: Entry(82, "norms after the shortcut instead of before the branch", "L1"),
    Fault.RESIDUAL: Entry(83, "shortcut from another place", "L1"),
    Fault.CLASS_TOKEN_PLACE: Entry(84, "class token appended instead of prepended", "L1"),
    Fault.CLASS_TOKEN_POSITION: Entry(85, "position embedding not added to the class token", "L1"),
    Fault.PATCH_ORDER: Entry(86, "patches numbered column by column", "L1"),
    Fault.EMBEDDING_SCALE: Entry(87, "embedding multiplied by the root of its width", "L1"),
    Fault.LINEAR_TRANSPOSED: Entry(
        88, "square kernel of a fully connected layer not transposed", "L0"
    ),
    Fault.TIED_HEAD: Entry(89, "head tied to the embedding where it has its own weights", "L0"),
}

# Changes of `parity.diagnosis.experiments` that say what a fault of another name is.
PROVED_AS: dict[Fault, frozenset[str]] = {
    Fault.GELU_TANH: frozenset({"gelu-approximation"}),
    # Left out, it is an eps of 0.
    Fault.NORM_EPS_PLACE: frozenset({"eps-inside-root", "eps-outside-root", Fault.NORM_EPS}),
    Fault.NORM_KIND: frozenset({"mean-subtracted", "mean-not-subtracted"}),
    Fault.NORM_UNBIASED: frozenset({"unbiased-variance"}),
    Fault.NORM_WEIGHT_OFFSET: frozenset({"norm-scale"}),
    Fault.NORM_LEFT_OUT: frozenset({"left-out"}),
    Fault.ATTENTION_SCALE: frozenset({"scale-factor"}),
    Fault.ATTENTION_SOFTMAX: frozenset({Fault.SOFTMAX}),
    # Of a mask that is written out, `tril` is left out.
    Fault.CAUSAL_MASK: frozenset({"attention-mask", "causal-offset", "left-out"}),
    Fault.CACHED_MASK: frozenset({"causal-offset"}),
    Fault.HEADS_MERGED: frozenset({"flatten-order", "heads-order"}),
    Fault.HEADS_SPLIT: frozenset({"heads-order"}),
    Fault.GROUPED_HEADS: frozenset({"gqa-order"}),
    Fault.ROTARY_PAIRS: frozenset({"rope-pairs"}),
    Fault.ROTARY_BASE: frozenset({"rope-base"}),
    Fault.ROTARY_OFFSET: frozenset({"position-offset"}),
    Fault.ROTARY_DIRECTION: frozenset({"rope-pairs"}),
    Fault.CACHED_POSITIONS: frozenset({"position-offset"}),
    Fault.ROTARY_TARGET: frozenset({"rope-pairs", "rope-values"}),
    Fault.GATE: frozenset({"gate-order", "operation"}),
    Fault.TIED_HEAD: frozenset({"weights-swapped"}),
    Fault.POST_NORM: frozenset({"norm-place"}),
    Fault.CLASS_TOKEN_PLACE: frozenset({"parts-order"}),
    Fault.CLASS_TOKEN_POSITION: frozenset({"part-not-added"}),
    Fault.PATCH_ORDER: frozenset({"flatten-order"}),
    Fault.LINEAR_TRANSPOSED: frozenset({Fault.KERNEL_AXES}),
}
