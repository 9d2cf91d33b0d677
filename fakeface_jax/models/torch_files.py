"""Reads PyTorch's weight files without PyTorch, and without running what is in them.

A .pth file is a pickle, and unpickling runs code. Here the unpickler knows nothing but ordered dictionaries, tensors
and their storages; any other name in the file is refused. Both layouts are read: the zip archive of PyTorch 1.6 and
later, and the stream of pickles before it. Views are copied out of their storages by size, stride and offset.

Example:
    >>> read_pth("efficientnet-lite0.pth")["_conv_stem.weight"].shape
    (32, 3, 3, 3)
"""

from __future__ import annotations

import collections
import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fakeface_jax.errors import BundleError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class _Storage:
    """Numbers of one type, filled in once their place in the file is known."""

    def __init__(self, dtype: np.dtype, count: int) -> None:
        self.dtype, self.count = dtype, count
        self.data: np.ndarray | None = None


class _Tensor:
    """What `torch._utils._rebuild_tensor_v2` was called with."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self) -> np.ndarray:
        """A copy of the values."""
        if not isinstance(self.storage, _Storage) or self.storage.data is None:
            raise pickle.UnpicklingError("a tensor has no storage")
        shape, stride = tuple(map(int, self.size)), tuple(map(int, self.stride))
        if len(shape) != len(stride) or min((self.offset, *shape, *stride), default=0) < 0:
            raise pickle.UnpicklingError("a tensor's shape does not make sense")
        last = self.offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if math.prod(shape) == 0:
            return np.empty(shape, self.storage.dtype)
        # as_strided trusts what it is told, so nothing may reach beyond the storage.
        if last >= len(self.storage.data):
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        flat = self.storage.data[self.offset :]
        steps = [step * flat.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False).copy()


class _Unpickler(pickle.Unpickler):
    """Knows tensors and nothing that acts."""

    def __init__(self, stream: io.BufferedIOBase, load: Callable[[Any], Any]) -> None:
        super().__init__(stream, encoding="utf-8")
        self._load = load

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        }
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no tensor")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        return self._load(pid)


def read_pth(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary by name, as float32 or whole numbers.

    Raises:
        BundleError: missing, damaged, no state dictionary, or anything in it that is no tensor.
    """
    path = Path(path)
    try:
        state = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"it holds a {type(state).__name__}, not a state dictionary")
        arrays = {}
        for name, value in state.items():
            if not isinstance(name, str) or not isinstance(value, _Tensor):
                raise pickle.UnpicklingError(f"its entry {name!r} is no tensor")
            array = value.array()
            arrays[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        return arrays
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        why = " ".join(str(error).split()) or type(error).__name__
        raise BundleError(
            f"{path}: cannot be read as PyTorch weights: {why}; only plain state dictionaries are"
        ) from error


def _storage_of(pid: Any) -> tuple[_Storage, str]:
    if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], np.dtype)):
        raise pickle.UnpicklingError("it holds an unknown kind of reference")
    return _Storage(pid[1], int(pid[4])), str(pid[2])


def _read_legacy(path: Path) -> Any:
    storages: dict[str, _Storage] = {}

    def load(pid: Any) -> _Storage:
        storage, key = _storage_of(pid)
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("it holds views of storages, which PyTorch stopped writing in 2017")
        return storages.setdefault(key, storage)

    with path.open("rb") as file:
        if _Unpickler(file, load).load() != _LEGACY_MAGIC:
            raise pickle.UnpicklingError("it does not begin as one")
        for _ in range(2):
            _Unpickler(file, load).load()  # protocol version and byte order
        state = _Unpickler(file, load).load()
        for key in _Unpickler(file, load).load():
            storage = storages[str(key)]
            count = int.from_bytes(file.read(8), "little", signed=True)
            data = file.read(count * storage.dtype.itemsize) if 0 <= count <= storage.count else b""
            if count != storage.count or len(data) != count * storage.dtype.itemsize:
                raise pickle.UnpicklingError("it ends too early")
            storage.data = np.frombuffer(data, storage.dtype)
    return state


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if name is None:
            raise pickle.UnpicklingError("the archive holds no data.pkl")
        folder = name.removesuffix("data.pkl")
        storages: dict[str, _Storage] = {}

        def load(pid: Any) -> _Storage:
            storage, key = _storage_of(pid)
            if key not in storages:
                data = archive.read(f"{folder}data/{key}")
                if len(data) < storage.count * storage.dtype.itemsize:
                    raise pickle.UnpicklingError("it ends too early")
                storage.data = np.frombuffer(data, storage.dtype, storage.count)
                storages[key] = storage
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(name)), load).load()
