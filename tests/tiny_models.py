"""Causal language models of a few thousand numbers in folders, as `save_pretrained` leaves them: nothing is fetched."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch

WORDS = ("<pad>", "<bos>", "<eos>", "<unk>", *(f"word{number}" for number in range(40)), *"abcdefgh", "where", "is", "?", ".")


@cache
def _root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="clbench-models-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


@cache
def tiny_model(family: str, *, positions: int = 256, tokenizer: bool = True, size: int = len(WORDS), spread: float = 0.02) -> str:
    """The folder of a `family`'s model with two layers of width 16 over `size` tokens, `WORDS` with a tokenizer, drawn with one seed.

    `spread`: deviation of its weights.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import tokenizers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    small = {
        "vocab_size": size,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": spread,
    }
    heads = {"num_attention_heads": 2, "max_position_embeddings": positions, "intermediate_size": 32}
    config = {
        "gpt2": lambda: transformers.GPT2Config(
            **{name: value for name, value in small.items() if name not in ("hidden_size", "num_hidden_layers")},
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=positions,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        ),
        "llama": lambda: transformers.LlamaConfig(**small, **heads, num_key_value_heads=1, tie_word_embeddings=False),
        "gpt-neox": lambda: transformers.GPTNeoXConfig(**small, **heads),
        "mistral": lambda: transformers.MistralConfig(**small, **heads, num_key_value_heads=1, sliding_window=24),
        "mamba": lambda: transformers.MambaConfig(**small),
        "bloom": lambda: transformers.BloomConfig(vocab_size=size, hidden_size=16, n_layer=2, n_head=2),
        "t5": lambda: transformers.T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2),
    }[family]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind = transformers.AutoModelForSeq2SeqLM if family == "t5" else transformers.AutoModelForCausalLM
        model = kind.from_config(config)
    folder = _root() / f"{family}-{positions}-{size}-{spread}{'' if tokenizer else '-bare'}"
    model.save_pretrained(folder)
    if tokenizer:
        words = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
        words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return str(folder)


@cache
def tiny_reader(family: str = "gpt2") -> str:
    """The folder of a model beside a byte-level tokenizer of a few hundred pieces, fitted to a page of English."""
    import tokenizers
    import transformers

    page = "The cat sat on the mat, and the dog ran in the park. Where is the cat? It is on the mat. " * 20
    pieces = tokenizers.ByteLevelBPETokenizer()
    pieces.train_from_iterator([page], vocab_size=300, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False)
    folder = _root() / f"reader-{family}"
    shutil.copytree(tiny_model(family, tokenizer=False, size=pieces.get_vocab_size(), spread=0.3), folder, dirs_exist_ok=True)
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, **special).save_pretrained(folder)
    return str(folder)
