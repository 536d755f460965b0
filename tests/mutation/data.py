"""Faults of data: classes, ids, colours, normalisation, resizing, class weights from counts."""

from __future__ import annotations

from tests.mutation.fault import Fault


def fault(file: str, title: str, right: str, wrong: str, *judges: str) -> Fault:
    return Fault("data", title, f"parity/{file}", right, wrong, judges or ("data",))


FAULTS: tuple[Fault, ...] = (
    fault(
        "spec/preprocessing.py",
        "ImageNet's means as BGR",
        "(0.485, 0.456, 0.406)",
        "(0.406, 0.456, 0.485)",
    ),
    fault(
        "spec/preprocessing.py",
        "two of ImageNet's deviations exchanged",
        "(0.229, 0.224, 0.225)",
        "(0.229, 0.225, 0.224)",
    ),
    fault(
        "spec/preprocessing.py",
        "CIFAR-10's deviations as other programs have them",
        "(0.2023, 0.1994, 0.2010)",
        "(0.2470, 0.2435, 0.2616)",
    ),
    fault(
        "spec/preprocessing.py",
        "two of CIFAR-10's means exchanged",
        "(0.4914, 0.4822, 0.4465)",
        "(0.4822, 0.4914, 0.4465)",
    ),
    fault(
        "spec/preprocessing.py",
        "ICNet's images not normalised",
        '"icnet": Preprocessing((1024, 2048), *IMAGENET)',
        '"icnet": Preprocessing((1024, 2048))',
    ),
    fault("spec/preprocessing.py", "pixels over 256", "type(255)", "type(256)"),
    fault(
        "spec/datasets.py",
        "the names of two classes exchanged",
        '("rider", 25, (255, 0, 0)),\n    ("car", 26, (0, 0, 142))',
        '("car", 25, (255, 0, 0)),\n    ("rider", 26, (0, 0, 142))',
    ),
    fault(
        "spec/datasets.py",
        "the colours of two classes exchanged",
        '("person", 24, (220, 20, 60)),\n    ("rider", 25, (255, 0, 0))',
        '("person", 24, (255, 0, 0)),\n    ("rider", 25, (220, 20, 60))',
    ),
    fault(
        "spec/datasets.py",
        "the label ids of two classes exchanged",
        '("truck", 27, (0, 0, 70)),\n    ("bus", 28,',
        '("truck", 28, (0, 0, 70)),\n    ("bus", 27,',
    ),
    fault("spec/datasets.py", "caravans taken for trains", '("train", 31', '("train", 29'),
    fault(
        "spec/datasets.py",
        "the names of two of CamVid's classes exchanged",
        '("road", (128, 64, 128)),\n    ("pavement", (60, 40, 222))',
        '("pavement", (128, 64, 128)),\n    ("road", (60, 40, 222))',
    ),
    fault("spec/datasets.py", "a colour of CamVid's", "(64, 0, 128)", "(64, 128, 0)"),
    fault(
        "spec/datasets.py",
        "void in white",
        "BLACK: Colour = (0, 0, 0)",
        "BLACK: Colour = (255, 255, 255)",
    ),
    fault(
        "spec/datasets.py",
        "void written as another id",
        "label_id, _ in CITYSCAPES), 0)",
        "label_id, _ in CITYSCAPES), 255)",
    ),
    fault(
        "spec/preprocessing.py",
        "the size of ImageNet's images",
        "Preprocessing((224, 224)",
        "Preprocessing((256, 256)",
    ),
    fault(
        "spec/preprocessing.py",
        "the size of CamVid's images",
        "CAMVID_SIZE = (360, 480)",
        "CAMVID_SIZE = (352, 480)",
    ),
    fault(
        "spec/labels.py",
        "void first: the classes turned the other way",
        "(last + 1) % (classes + 1)",
        "(last - 1) % (classes + 1)",
    ),
    fault(
        "spec/augmentation.py",
        "images resized by a cubic",
        "resample(image, size, BILINEAR)",
        "resample(image, size, Image.Resampling.BICUBIC)",
        "pillow",
    ),
    fault(
        "spec/augmentation.py",
        "labels interpolated",
        "lambda label: resample(label, size, NEAREST)",
        "lambda label: resample(label, size, BILINEAR)",
        "pillow",
    ),
    fault(
        "spec/augmentation.py",
        "the longer side scaled for the shorter",
        "if height > width:",
        "if height < width:",
        "transforms",
    ),
    fault(
        "spec/augmentation.py",
        "a crop padded at the left and above",
        "(0, below), (0, right), void",
        "(below, 0), (right, 0), void",
        "transforms",
    ),
    fault(
        "spec/augmentation.py",
        "void comes in from the right",
        "moved[:, width + min(right, 0) :] = 0",
        "moved[:, width + min(right, 0) :] = above",
        "transforms",
    ),
    fault(
        "spec/augmentation.py",
        "images turned upside down",
        "example.map(np.fliplr, np.fliplr)",
        "example.map(np.flipud, np.flipud)",
        "transforms",
    ),
    fault(
        "spec/preprocessing.py",
        "a deviation that multiplies",
        ") / np.asarray(self.std, dtype)",
        ") * np.asarray(self.std, dtype)",
        "transforms",
    ),
    fault(
        "data/statistics.py",
        "class weights by a decimal logarithm",
        "1 / np.log(rule.c + counts.shares[kept])",
        "1 / np.log10(rule.c + counts.shares[kept])",
    ),
    fault(
        "data/statistics.py",
        "shares of the classes without void's pixels",
        "self.pixels / self.pixels.sum()",
        "self.pixels / self.pixels[:-1].sum()",
    ),
    fault(
        "data/statistics.py",
        "the mean of the frequencies for their median",
        "np.median(frequency) / frequency",
        "np.mean(frequency) / frequency",
    ),
    fault(
        "spec/icnet_labels.py",
        "ICNet's labels without aligned corners",
        "np.float32(n - 1) / np.float32(m - 1)",
        "np.float32(n) / np.float32(m)",
        "interpolate",
    ),
)
