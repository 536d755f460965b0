"""Pairs of networks that others have published: `parity check tests.published.pairs:bert`.

The PyTorch class and the Flax class of transformers 4.55.4, the last release that has both, at tiny
sizes with random weights. Nothing in them is changed: the authors' defaults, their dropout, their
converter of weights. tests/published/environment.py says how to install them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flax.traverse_util import flatten_dict

from parity import Port
from tests.published.environment import transformers

LIBRARY = transformers()
CONVERSION = importlib.import_module("transformers.modeling_flax_pytorch_utils")

# A Flax class has one argument for the mode, PyTorch's are switched by `train()`.
MODES = ({"deterministic": True}, {"deterministic": False})
VOCABULARY, LENGTH = 30, 7
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}


def bert() -> Port:
    """BERT with a padded sentence."""
    config = LIBRARY.BertConfig(
        vocab_size=VOCABULARY, intermediate_size=32, max_position_embeddings=16, **SIZES
    )
    return _port("Bert", config, keywords=_sentences())


def gpt2() -> Port:
    """GPT-2, which wants to be told the positions."""
    config = LIBRARY.GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=4
    )
    return _port("GPT2", config, keywords=_sentences() | _positions())


def llama() -> Port:
    """Llama with fewer heads for keys and values than for queries."""
    config = LIBRARY.LlamaConfig(
        vocab_size=VOCABULARY,
        intermediate_size=32,
        max_position_embeddings=16,
        num_key_value_heads=2,
        **SIZES,
    )
    return _port("Llama", config, keywords=_sentences() | _positions())


def vit() -> Port:
    """A vision transformer on images of 8x8 in patches of 2x2."""
    config = LIBRARY.ViTConfig(image_size=8, patch_size=2, intermediate_size=32, **SIZES)
    return _port("ViT", config, keywords={"pixel_values": (2, 8, 8, 3)})


def resnet() -> Port:
    """ResNet with bottlenecks; its Flax class returns channels first."""
    config = LIBRARY.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="bottleneck"
    )
    same = {"last_hidden_state": None, "pooler_output": None}
    return _port("ResNet", config, keywords={"pixel_values": (4, 32, 32, 3)}, output_layouts=same)


def gpt2_head() -> Port:
    """GPT-2 with its language model's head, which is tied to the embedding."""
    config = LIBRARY.GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=1, n_head=4
    )
    return _port("GPT2", config, "LMHeadModel", keywords=_sentences() | _positions())


def mistral() -> Port:
    """Mistral with a sliding window that is shorter than the sentences."""
    config = LIBRARY.MistralConfig(
        vocab_size=VOCABULARY,
        intermediate_size=32,
        max_position_embeddings=16,
        num_key_value_heads=2,
        sliding_window=4,
        **SIZES | {"num_hidden_layers": 1},
    )
    return _port("Mistral", config, keywords=_sentences() | _positions())


def xglm() -> Port:
    """XGLM, whose PyTorch embedding scales what it gives."""
    config = LIBRARY.XGLMConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        ffn_dim=32,
        num_layers=1,
        attention_heads=4,
        max_position_embeddings=16,
        use_cache=False,
    )
    return _port("XGLM", config, keywords=_sentences() | _positions())


def _port(name: str, config: Any, suffix: str = "Model", **given: Any) -> Port:
    """The pair of a model's classes, whose weights the authors' converter carries over."""
    torch.manual_seed(0)
    reference = getattr(LIBRARY, f"{name}{suffix}")(config)
    shape = _shape(given["keywords"])
    network = getattr(LIBRARY, f"Flax{name}{suffix}")(config, input_shape=shape)

    def weights(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        made = CONVERSION.convert_pytorch_state_dict_to_flax(dict(arrays), network)
        trees = made.values() if "params" in made else [made]
        return {k: np.asarray(v) for tree in trees for k, v in flatten_dict(tree, sep=".").items()}

    return Port(
        reference,
        network.module,
        inputs=(),
        params=network.params,
        weights=weights,
        modes=MODES,
        name=name,
        **given,
    )


def _shape(keywords: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape that a Flax class makes its parameters for."""
    return keywords["pixel_values"] if "pixel_values" in keywords else keywords["input_ids"].shape


def _sentences() -> dict[str, np.ndarray]:
    """Two sentences, the second of which is padded with 0 at its end."""
    words = np.random.default_rng(0).integers(1, VOCABULARY, (2, LENGTH))
    mask = np.ones_like(words)
    words[1, 5:] = mask[1, 5:] = 0
    return {"input_ids": words, "attention_mask": mask}


def _positions() -> dict[str, np.ndarray]:
    return {"position_ids": np.broadcast_to(np.arange(LENGTH), (2, LENGTH))}
