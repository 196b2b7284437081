"""Checkpoints: everything a run needs to go on, in a file that loads without executing anything.

A state holds tensors, numpy arrays, numbers, strings, bytes, None, lists, tuples and dicts; anything else is refused by name when saving.
The new file is written, read back and compared before the old one moves aside; `last.prev.pt` stays as the second chance.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ContractError
from .files import disk_errors, flush_folder

_MARK = "__clbench__"


def encode(value: Any, where: str) -> Any:
    """`value` in the types that load safely; refuses anything else, naming the place."""
    if isinstance(value, list | tuple):
        encoded = [encode(item, f"{where}[{number}]") for number, item in enumerate(value)]
        return {_MARK: "tuple", "value": encoded} if isinstance(value, tuple) else encoded
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (str, int):
                raise ContractError(f"{where}: expected keys that are strings or integers, got {key!r}")
        return {key: encode(item, f"{where}[{key!r}]") for key, item in value.items()}
    return _encode_leaf(value, where)


def _encode_leaf(value: Any, where: str) -> Any:
    import torch

    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise ContractError(f"{where}: expected an array of numbers or booleans, got dtype {value.dtype}")
        return {_MARK: "array", "value": torch.from_numpy(np.array(value, order="C", copy=True))}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return {_MARK: "bytes", "value": torch.from_numpy(np.frombuffer(value, dtype=np.uint8).copy())}
    if isinstance(value, torch.Tensor):
        return value.detach()
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ContractError(
        f"{where}: expected tensors, numpy arrays, numbers, strings, None, lists, tuples or dicts, "
        f"got {type(value).__module__}.{type(value).__name__}"
    )


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, dict):
        kind = value.get(_MARK)
        if kind == "array":
            return value["value"].numpy()
        if kind == "bytes":
            return value["value"].numpy().tobytes()
        if kind == "tuple":
            return tuple(decode(item) for item in value["value"])
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    return value


def fingerprint(value: Any) -> bytes:
    """Sixteen bytes that differ where an encoded state differs: in a key, a type, a shape or a bit."""
    import torch

    hashed = hashlib.blake2b(digest_size=16)

    def visit(item: Any) -> None:
        if isinstance(item, dict):
            hashed.update(f"dict {len(item)};".encode())
            for key, member in item.items():
                hashed.update(f"{key!r}:".encode())
                visit(member)
        elif isinstance(item, list):
            hashed.update(f"list {len(item)};".encode())
            for member in item:
                visit(member)
        elif isinstance(item, torch.Tensor):
            hashed.update(f"{item.dtype} {tuple(item.shape)};".encode())
            flat = item.detach().cpu().reshape(-1)
            if flat.stride() != (1,):  # a single entry may have any
                flat = flat.clone(memory_format=torch.contiguous_format)
            hashed.update(flat.view(torch.uint8).numpy().data)
        else:
            hashed.update(f"{type(item).__name__} {item!r};".encode())

    visit(value)
    return hashed.digest()


def size_in_bytes(value: Any) -> int:
    """Bytes of all arrays and tensors in a state; storage shared by several tensors counts once."""
    storages: dict[int, int] = {}

    def visit(item: Any) -> None:
        if isinstance(item, np.ndarray):
            storages[id(item)] = item.nbytes
        elif hasattr(item, "untyped_storage"):
            storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif isinstance(item, dict):
            for member in item.values():
                visit(member)
        elif isinstance(item, list | tuple):
            for member in item:
                visit(member)

    visit(value)
    return sum(storages.values())


def save(path: Path, state: dict[str, Any]) -> tuple[str, int]:
    """Write `state` (already encoded) as the newest checkpoint; returns its sha256 and size in bytes."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    checksum = hashlib.sha256(data).hexdigest()
    temporary = path.with_name(path.name + ".tmp")
    with disk_errors(path):
        with open(temporary, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        if hashlib.sha256(temporary.read_bytes()).hexdigest() != checksum:
            raise OSError(5, "the checkpoint read back differs from what was written")
        if path.exists():
            os.replace(path, path.with_name(path.stem + ".prev" + path.suffix))
        os.replace(temporary, path)
        flush_folder(path.parent)
    return checksum, len(data)


def load(path: Path) -> dict[str, Any] | None:
    """The state in `path`, or None where the file is missing or damaged; nothing in it is executed."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch compares no checksums
                return None
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile):
        return None
