"""Reads PyTorch's weight files without PyTorch and without running code from them.

A .pth file is a pickle, and unpickling can run any code. So this module does not use an unpickler: it carries out only
the opcodes that weights need, and these create numbers, strings, tuples, lists, dictionaries with string keys, and
tensors. Everything else in the file is refused. Even Python's unpickler with a short list of allowed names would let
a file change the classes that it may name, run for ever (the hash of nested tuples), or crash. Time and memory are
bounded by the file's size. Both layouts are supported: the zip archive of PyTorch 1.6 and later, and the older stream
of pickles, as Python 3 wrote them.

Example:
    >>> read_pth("efficientnet-lite0.pth")["_conv_stem.weight"].shape
    (32, 3, 3, 3)
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fakeface_jax.errors import BundleError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_SHARING = 4
"""Tensors may share storages, as tied weights do, but their total size is at most this many times the file's."""

_OPCODES = 2_000_000
"""Largest number of opcodes: a thousand tensors take about 40,000, and each may create an object of 64 bytes."""

_AXES = 32
"""Largest number of axes of a tensor."""

_DTYPES: dict[str, np.dtype] = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}

_DICTIONARY, _REBUILD = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"


class _Name(str):
    """The name of a class or a function in the file, which is never looked up."""


class _Storage:
    """Numbers of one type, which are filled in once their position in the file is known."""

    def __init__(self, dtype: np.dtype, count: int) -> None:
        self.dtype, self.count = dtype, count
        self.data: np.ndarray | None = None


class _Tensor:
    """The arguments of `torch._utils._rebuild_tensor_v2`."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
        if not (isinstance(storage, _Storage) and isinstance(size, tuple) and isinstance(stride, tuple)):
            raise pickle.UnpicklingError("a tensor has no storage or no shape")
        numbers = (offset, *size, *stride)
        sensible = all(type(number) is int and 0 <= number < 2**63 for number in numbers)
        if len(size) != len(stride) or len(size) > _AXES or not sensible:
            raise pickle.UnpicklingError("a tensor's shape does not make sense")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    @property
    def nbytes(self) -> int:
        """Returns the size of the copy that `array` makes."""
        return math.prod(self.size) * self.storage.dtype.itemsize

    def array(self) -> np.ndarray:
        """Returns a copy of the values."""
        data = self.storage.data
        if data is None:
            raise pickle.UnpicklingError("a tensor's storage is not in the file")
        if math.prod(self.size) == 0:
            return np.empty(self.size, data.dtype)
        # as_strided trusts its arguments: they must not reach beyond the storage or repeat it without limit.
        last = self.offset + sum((size - 1) * step for size, step in zip(self.size, self.stride, strict=True))
        if last >= len(data) or math.prod(self.size) > len(data):
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        # The step of an axis of length one is never used, and may be any number.
        steps = [step * data.itemsize if size > 1 else 0 for size, step in zip(self.size, self.stride, strict=True)]
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.size, steps, writeable=False).copy()


def read_pth(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dictionary by name, as float32 or integers.

    Raises:
        BundleError: the file is missing, damaged, not a state dictionary, or contains anything but tensors.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise pickle.UnpicklingError("it is not a regular file")
        state = _read_zip(path, size) if zipfile.is_zipfile(path) else _read_legacy(path, size)
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"it contains a {type(state).__name__.lstrip('_')}, not a state dictionary")
        for name, value in state.items():
            if not isinstance(value, _Tensor):
                raise pickle.UnpicklingError(f"its entry {name[:80]!r} is not a tensor")
        if sum(value.nbytes for value in state.values()) > _SHARING * size:
            raise pickle.UnpicklingError("its tensors are many times larger than the file")
        arrays = {name: value.array() for name, value in state.items()}
        return {name: value.astype(np.float32) if value.dtype.kind == "f" else value for name, value in arrays.items()}
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
    except Exception as error:  # a damaged file raises nearly anything
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise BundleError(
            f"{path}: cannot be read as PyTorch weights: {why}; save a plain state dictionary or safetensors"
        ) from error


def _read_legacy(path: Path, size: int) -> Any:
    storages = _Storages(size, lambda key, storage: None)
    # Read into memory, so that no later read asks for more bytes than there are.
    file = io.BytesIO(path.read_bytes())
    if _run(file, storages.load) != _LEGACY_MAGIC:
        raise pickle.UnpicklingError("it does not begin like a PyTorch file")
    _run(file, storages.load)  # protocol version
    _check_byte_order(_run(file, storages.load)["little_endian"] is True)
    state = _run(file, storages.load)
    for key in _run(file, storages.load):
        storage = storages.named(key)
        count = int.from_bytes(file.read(8), "little", signed=True)
        data = file.read(storage.count * storage.dtype.itemsize)
        if count != storage.count or len(data) != count * storage.dtype.itemsize:
            raise pickle.UnpicklingError("it ends too early")
        storage.data = np.frombuffer(data, storage.dtype)
    return state


def _read_zip(path: Path, size: int) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        name = next((name for name in members if name.endswith("data.pkl")), None)
        if name is None:
            raise pickle.UnpicklingError("the archive contains no data.pkl")
        folder = name.removesuffix("data.pkl")

        def read(name: str) -> bytes:
            info = members.get(name)
            if info is None:
                raise pickle.UnpicklingError("a part is missing")
            # PyTorch never compresses, and an uncompressed part cannot expand.
            if info.compress_type != zipfile.ZIP_STORED or max(info.file_size, info.compress_size) > size:
                raise pickle.UnpicklingError("the archive is compressed")
            return archive.read(info)

        def fill(key: str, storage: _Storage) -> None:
            data = read(f"{folder}data/{key}")
            if len(data) < storage.count * storage.dtype.itemsize:
                raise pickle.UnpicklingError("it ends too early")
            storage.data = np.frombuffer(data, storage.dtype, storage.count)

        if f"{folder}byteorder" in members:
            _check_byte_order(read(f"{folder}byteorder") == b"little")
        return _run(io.BytesIO(read(name)), _Storages(size, fill).load)


def _check_byte_order(little: bool) -> None:
    if not little:
        raise pickle.UnpicklingError("it was written on a machine with the other byte order")


class _Storages:
    """The storages that a file's pickle refers to, by key; their total size is at most the file's."""

    def __init__(self, size: int, fill: Callable[[str, _Storage], None]) -> None:
        self._known: dict[str, _Storage] = {}
        self._left, self._fill = size, fill

    def load(self, reference: Any) -> _Storage:
        if not (isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == "storage"):
            raise pickle.UnpicklingError("it contains an unknown kind of reference")
        if any(entry is not None for entry in reference[5:]):
            raise pickle.UnpicklingError("it contains views of storages, which PyTorch stopped writing in 2017")
        _, kind, key, _, count = reference[:5]
        if not isinstance(kind, _Name) or kind not in _DTYPES:
            raise pickle.UnpicklingError("a storage has an unknown type")
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise pickle.UnpicklingError("a storage's description does not make sense")
        if key not in self._known:
            storage = _Storage(_DTYPES[kind], count)
            self._left -= count * storage.dtype.itemsize
            if self._left < 0:
                raise pickle.UnpicklingError("it ends too early")
            self._fill(key, storage)
            self._known[key] = storage
        return self._known[key]

    def named(self, key: Any) -> _Storage:
        """Returns the storage whose numbers follow in the file."""
        if not isinstance(key, str) or key not in self._known:
            raise pickle.UnpicklingError("it contains numbers that nothing refers to")
        return self._known[key]


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_ARGUMENTS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _run(stream: io.BytesIO, load: Callable[[Any], _Storage]) -> Any:
    """Carries out one pickle and leaves the stream after it. Python's `pickletools` describes the opcodes."""
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}
    argument: Any
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if number >= _OPCODES:
            raise pickle.UnpicklingError("it is far longer than weights need")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _ARGUMENTS:
                stack.append(argument)
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                marks.append(stack)
                stack = []
            case "TUPLE":
                stack, whole = marks.pop(), tuple(stack)
                stack.append(whole)
            case name if name in _TUPLES:
                parts = [stack.pop() for _ in range(_TUPLES[name])]
                stack.append(tuple(reversed(parts)))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "APPEND":
                value = stack.pop()
                _add_to(stack[-1], [value])
            case "APPENDS":
                stack, values = marks.pop(), stack
                _add_to(stack[-1], values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_in(stack[-1], [key, value])
            case "SETITEMS":
                stack, values = marks.pop(), stack
                _set_in(stack[-1], values)
            case "GLOBAL":
                stack.append(_named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_named(module, attribute))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_called(function, arguments))
            case "BUILD":
                # The versions of the modules, which PyTorch attaches to its dictionary and nothing uses.
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise pickle.UnpicklingError("it sets attributes of something that is not a dictionary")
            case "BINPERSID":
                stack.append(load(stack.pop()))
            case "STOP":
                return stack.pop()
            case name:
                raise pickle.UnpicklingError(f"it contains the opcode {name}, which weights do not need")
    raise pickle.UnpicklingError("it ends too early")


def _named(module: Any, attribute: Any) -> _Name:
    name = (
        f"{module}.{attribute}"
        if isinstance(module, str) and isinstance(attribute, str)
        else "an object without a name"
    )
    if name not in (_DICTIONARY, _REBUILD, *_DTYPES):
        raise pickle.UnpicklingError(f"it contains {name[:80]}, which is not a tensor")
    return _Name(name)


def _called(function: Any, arguments: Any) -> Any:
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise pickle.UnpicklingError("it calls something that is not a function")
    if function == _REBUILD and len(arguments) >= 4:
        return _Tensor(*arguments)
    if function == _DICTIONARY and not arguments:
        return {}
    raise pickle.UnpicklingError(f"it calls {function[:80]}, which does not make a tensor")


def _add_to(target: Any, values: list[Any]) -> None:
    if not isinstance(target, list):
        raise pickle.UnpicklingError("it appends to something that is not a list")
    target.extend(values)


def _set_in(target: Any, values: list[Any]) -> None:
    keys = values[::2]
    # Strings only: computing the hash of a nested tuple may take for ever.
    if not isinstance(target, dict) or len(values) % 2 or not all(isinstance(key, str) for key in keys):
        raise pickle.UnpicklingError("it contains a dictionary whose keys are not strings")
    target.update(zip(keys, values[1::2], strict=True))
