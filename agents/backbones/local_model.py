"""Causal language models of Hugging Face's formats from a folder on this machine: the body, its rows for tokens, low-rank adapters.

The hub is never asked: a name that is no folder is refused, and no code that lies in a folder is run. Needs the extra `hf`.
Shape letters: V vocabulary of the model, N tokens of a stream, D width.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clbench.errors import UserError

from .backbone import TokenRows

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_MODEL_FILES = (".json", ".safetensors", ".bin", ".model", ".txt")  # config, weights, and the tokenizer in its several forms
_INSTALL = "pip install 'clbench[hf]'"


@dataclass
class LocalModel:
    """The layers of a model, without its embedding of tokens and head.

    `rows(written, size, learned)` gives the rows of a stream's tokens, once; `width` D, `deviation` of the model's own rows.
    """

    body: nn.Module
    rows: Callable[[Sequence[str], int, bool], TokenRows | None]
    width: int
    deviation: float
    folder: Path

    @property
    def config(self) -> Any:
        """The model's own."""
        return self.body.config

    @property
    def cache_keyword(self) -> str:
        """How the body calls its keys and values of earlier tokens, which changed within transformers 5."""
        return "cache" if "cache" in inspect.signature(self.body.forward).parameters else "past_key_values"


def _rows_once(read: Tensor, spoken: Tensor | None, tokenizer: Any | None) -> Callable[[Sequence[str], int, bool], TokenRows | None]:
    """Rows for a stream's tokens, made from the model's own (V, D), which are let go with them.

    Where every token outside angle brackets is one of the model's own by name, its row; else the mean of the rows of the pieces of the
    text, as it stands behind a blank, earlier ones weighing more, so that their order counts. What cannot be read (all, if nothing is known
    of the tokens) is drawn with the mean and deviation of the model's rows. A function and no object, so that copies of the networks do not
    copy it.
    """
    kept = [(read, spoken)]

    def rows(written: Sequence[str], size: int, learned: bool) -> TokenRows | None:
        if not kept:
            return None
        read, spoken = kept.pop()
        pieces = _pieces(tokenizer, written) if written and tokenizer is not None else [[]] * size
        first = [] if tokenizer is None else _known(tokenizer.bos_token_id)
        rows = _pooled(read, [*pieces, first])
        return TokenRows(rows[:-1], rows[-1], None if spoken is None else _pooled(spoken, pieces), learned)

    return rows


def _pieces(tokenizer: Any, written: Sequence[str]) -> list[list[int]]:
    """The model's tokens for each of a stream's; none where there is nothing it knows."""
    own = tokenizer.get_vocab()
    special = {"<bos>": tokenizer.bos_token_id, "<eos>": tokenizer.eos_token_id, "<pad>": tokenizer.pad_token_id}
    if all(_bracketed(name) or name in own for name in written):
        return [_known(own.get(name, special.get(name))) for name in written]
    plain, behind = (tokenizer([before + name for name in written], add_special_tokens=False)["input_ids"] for before in ("", " "))
    unknown = tokenizer.unk_token_id
    found = []
    for name, alone, spaced in zip(written, plain, behind, strict=True):
        # a word mostly stands behind a blank, which some tokenizers add themselves
        ids = alone if _bracketed(name) or len(alone) < len(spaced) else spaced
        found.append(_known(special.get(name)) or ([] if unknown in ids else [*ids]))
    return found


def _bracketed(name: str) -> bool:
    return name.startswith("<") and name.endswith(">")


def _known(token: int | None) -> list[int]:
    return [] if token is None else [token]


def _pooled(rows: Tensor, pieces: Sequence[Sequence[int]]) -> Tensor:
    """One row (len(pieces), D) for each list of rows; of an empty list one that is drawn."""
    drawn = rows.mean(0) + rows.std() * torch.randn(len(pieces), rows.shape[1], dtype=rows.dtype)
    for number, ids in enumerate(pieces):
        if ids:
            weight = 1.0 / torch.arange(1.0, len(ids) + 1, dtype=rows.dtype)
            drawn[number] = weight / weight.sum() @ rows[list(ids)]
    return drawn


def load(folder: str | None, precision: str) -> LocalModel:
    """The model in `folder`, in `precision`; refused in one line where there is none that can be used."""
    if folder is None:
        raise UserError("pretrained: expected the folder of a causal language model; give agent.text.backbone.folder=PATH")
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise UserError(f"pretrained: expected the folder of a model (config.json, weights, tokenizer), got '{folder}', where none lies")
    if precision not in PRECISIONS:
        raise UserError(f"pretrained: precision must be one of {', '.join(PRECISIONS)}, got '{precision}'")
    for name in _OFFLINE:
        os.environ.setdefault(name, "1")
    transformers = imported("transformers")
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        model = _opened(transformers, path, {**options, "dtype": PRECISIONS[precision]})
    except Exception as error:  # whatever a foreign file makes its reader raise
        raise UserError(f"pretrained: the model in '{folder}' cannot be read as a causal language model: {_first_line(error)}") from None
    tokenizer = _tokenizer(transformers, path, options) if any(path.glob("tokenizer*")) else None
    body, embedding, head = model.base_model, model.get_input_embeddings(), model.get_output_embeddings()
    with torch.no_grad():
        read = embedding(torch.arange(embedding.weight.shape[0])).detach().clone()  # with the scale that some models give them
    if head is None or head.weight.shape[1] != read.shape[1]:
        raise UserError(f"pretrained: expected a causal language model with rows of one width for its tokens, got {_kind(model)}")
    spoken = None if head.weight is embedding.weight else head.weight.detach().clone()
    body.set_input_embeddings(nn.Identity())  # its rows live with the learner
    return LocalModel(body, _rows_once(read, spoken, tokenizer), read.shape[1], float(read.std()), path)


def fingerprint(folder: str) -> str:
    """Its kind and a digest of its files (sha256, the first 16 digits) for the model in `folder`; `folder` itself where none lies there."""
    path = Path(folder).expanduser()
    try:
        kind = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type", "model")
        files = sorted(file for file in path.iterdir() if file.is_file() and file.suffix in _MODEL_FILES)
        lines = [f"{file.name} {_digest(file, file.stat().st_size, file.stat().st_mtime_ns)}\n" for file in files]
    except (OSError, ValueError, AttributeError):  # what is wrong is said where the model is opened
        return folder
    return f"{kind}@{hashlib.sha256(''.join(lines).encode()).hexdigest()[:16]}"


@lru_cache(maxsize=256)
def _digest(file: Path, _size: int, _modified: int) -> str:
    """Of the content of `file`, read once as long as it does not change."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _opened(transformers: Any, path: Path, options: dict[str, Any]) -> Any:
    """The model, with PyTorch's attention where it has that."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="sdpa", **options)
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        return transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", **options)


def _tokenizer(transformers: Any, path: Path, options: dict[str, Any]) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(path, **options)
    except Exception as error:  # as above
        raise UserError(f"pretrained: the tokenizer in '{path}' cannot be read: {_first_line(error)}") from None


def imported(name: str) -> Any:
    """A library of the extra `hf`."""
    try:
        return __import__(name)
    except ImportError:
        raise UserError(f"pretrained models need {name}, which is not installed; type: {_INSTALL}") from None


def adapted(model: LocalModel, *, rank: int, alpha: float, dropout: float, targets: Sequence[str]) -> None:
    """Put adapters of `rank` beside the maps named in `targets` (none: the model's usual ones) and hold everything else.

    LoRA (Hu et al. 2022, arXiv:2106.09685) with the factor alpha / rank, as peft makes it.
    """
    peft = imported("peft")
    turned = any(type(module).__name__ == "Conv1D" for module in model.body.modules())  # GPT-2 keeps its maps the other way round
    options = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "fan_in_fan_out": turned}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the model's own tied weights, which are not among its layers any more
            peft.inject_adapter_in_model(peft.LoraConfig(**options, target_modules=list(targets) or None), model.body)
    except ValueError as error:
        raise UserError(f"pretrained: no adapters for {_kind(model.body)}: {_first_line(error)}; name maps in lora_targets") from None


def _kind(model: nn.Module) -> str:
    return str(getattr(model.config, "model_type", type(model).__name__))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
