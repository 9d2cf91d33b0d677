"""PyTorch's files read without PyTorch: what it writes, what is damaged, and what means harm.

Files are put together here opcode by opcode, so that these tests need no PyTorch and can write what it never would.
"""

import os
import pickle
import struct
import threading
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from fakeface_jax.errors import BundleError
from fakeface_jax.models import torch_files
from fakeface_jax.models.torch_files import read_pth

PROTO, STOP = b"\x80\x02", b"."
MAGIC = 0x1950A86A20F9469CFC6C
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
DICTIONARY = b"ccollections\nOrderedDict\n"


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"\x8a" + bytes([len(data := value.to_bytes(16, "little", signed=True))]) + data


def several(*parts):
    return b"(" + b"".join(parts) + b"t"


def numbers(*values):
    return several(*map(number, values))


def storage(key, count, kind="FloatStorage"):
    return several(text("storage"), b"ctorch\n" + kind.encode() + b"\n", text(key), text("cpu"), number(count)) + b"Q"


def old_storage(key, count, kind="FloatStorage"):
    return storage(key, count, kind).removesuffix(b"tQ") + b"NtQ"


def tensor(where, shape, stride, offset=0):
    return REBUILD + several(where, number(offset), shape, stride, b"\x89", DICTIONARY + b")R") + b"R"


def dictionary(**entries):
    return DICTIONARY + b")R(" + b"".join(text(name) + value for name, value in entries.items()) + b"u"


def new_file(path, pickled, *, compression=zipfile.ZIP_STORED, byteorder=b"little", **storages):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", PROTO + pickled + STOP)
        if byteorder:
            archive.writestr("archive/byteorder", byteorder)
        for key, values in storages.items():
            archive.writestr(f"archive/data/{key}", values if isinstance(values, bytes) else values.tobytes())
    return path


def old_file(path, pickled, keys=(), data=b"", little=True):
    about = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    heads = [pickle.dumps(value, protocol=2) for value in (MAGIC, 1001, about)]
    path.write_bytes(b"".join(heads) + PROTO + pickled + STOP + pickle.dumps(list(keys), protocol=2) + data)
    return path


VALUES = np.arange(24, dtype=np.float32) + 0.5
WHOLE = np.array([7, -8], np.int64)
TWO = {
    "first.weight": tensor(storage("0", 24), numbers(4, 6), numbers(6, 1)),
    "second": tensor(storage("1", 2, "LongStorage"), numbers(2), numbers(1)),
}


def refused(path, *parts):
    with pytest.raises(BundleError) as caught:
        read_pth(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    for part in (str(path), *parts):
        assert part in message


def test_both_layouts_are_read(tmp_path):
    new = read_pth(new_file(tmp_path / "new.pth", dictionary(**TWO), **{"0": VALUES, "1": WHOLE}))
    ending = b"".join(struct.pack("<q", len(v)) + v.tobytes() for v in (WHOLE, VALUES))
    pickled = dictionary(**TWO).replace(b"tQ", b"NtQ")
    old = read_pth(old_file(tmp_path / "old.pth", pickled, ("1", "0"), ending))
    for found in (new, old):
        assert list(found) == ["first.weight", "second"]
        np.testing.assert_array_equal(found["first.weight"], VALUES.reshape(4, 6))
        assert found["first.weight"].dtype == np.float32
        assert found["second"].tolist() == [7, -8]
        found["second"][0] = 1  # a copy of one's own


def test_a_plain_dictionary_with_versions_and_memo_is_read(tmp_path):
    one = tensor(storage("0", 24), numbers(24), numbers(1))
    memo = b"q\x05" + b"0"  # BINPUT, then POP, which weights do not need
    pickled = b"}(" + text("a") + b"q\x01" + one + b"q\x02" + text("b") + b"h\x02u" + b"}" + text("_metadata") + b"}sb"
    assert read_pth(new_file(tmp_path / "a.pth", pickled, **{"0": VALUES})).keys() == {"a", "b"}
    refused(new_file(tmp_path / "b.pth", pickled + memo, **{"0": VALUES}), "opcode POP")


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "wanted"),
    [
        ((2, 3), (3, 1), 0, VALUES[:6].reshape(2, 3)),
        ((3, 2), (1, 3), 0, VALUES[:6].reshape(2, 3).T),
        ((2, 2), (12, 2), 5, VALUES[[[5, 7], [17, 19]]]),
        ((), (), 23, VALUES[23]),
        ((1, 2), (10**9, 1), 22, VALUES[None, 22:]),
        ((3,), (0,), 4, VALUES[[4, 4, 4]]),
        ((0, 5), (5, 1), 0, VALUES[:0].reshape(0, 5)),
    ],
)
def test_views_are_copied_out_of_their_storage(tmp_path, shape, stride, offset, wanted):
    one = tensor(storage("0", 24), numbers(*shape), numbers(*stride), offset)
    found = read_pth(new_file(tmp_path / "a.pth", dictionary(a=one), **{"0": VALUES}))["a"]
    np.testing.assert_array_equal(found, wanted)
    assert found.shape == np.shape(wanted)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", "<f8"),
        ("HalfStorage", "<f2"),
        ("IntStorage", "<i4"),
        ("ShortStorage", "<i2"),
        ("CharStorage", "i1"),
        ("ByteStorage", "u1"),
        ("BoolStorage", "?"),
    ],
)
def test_types_of_numbers(tmp_path, kind, dtype):
    values = np.array([0, 1, 1, 0], dtype)
    one = tensor(storage("0", 4, kind), numbers(4), numbers(1))
    found = read_pth(new_file(tmp_path / "a.pth", dictionary(a=one), **{"0": values}))["a"]
    np.testing.assert_array_equal(found, values)
    assert found.dtype == (np.float32 if "f" in dtype else np.dtype(dtype))


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((25,), (1,), 0),
        ((24,), (1,), 1),
        ((4, 6), (7, 1), 0),
        ((2,), (2**62,), 0),
        ((2,), (-1,), 5),
        ((-2,), (1,), 0),
        ((2,), (1,), -1),
        ((2, 2), (1,), 0),
        ((2**40,), (0,), 0),
        ((20, 20), (1, 0), 0),
        ((2**63,), (0,), 0),
        ((1,) * 33, (1,) * 33, 0),
        ((0, 2**62), (1, 1), 0),
    ],
)
def test_tensors_beyond_their_storage_are_refused(tmp_path, shape, stride, offset):
    one = tensor(storage("0", 24), numbers(*shape), numbers(*stride), offset)
    refused(new_file(tmp_path / "a.pth", dictionary(a=one), **{"0": VALUES}))


@pytest.mark.parametrize("length", [0, 1, 30, 0.5, -200, -100, -9, -1])
@pytest.mark.parametrize("layout", ["new", "old"])
def test_truncated_files_are_refused(tmp_path, layout, length):
    if layout == "new":
        path = new_file(tmp_path / "a.pth", dictionary(**TWO), **{"0": VALUES, "1": WHOLE})
    else:
        ending = b"".join(struct.pack("<q", len(v)) + v.tobytes() for v in (VALUES, WHOLE))
        path = old_file(tmp_path / "a.pth", dictionary(**TWO).replace(b"tQ", b"NtQ"), ("0", "1"), ending)
        assert read_pth(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 if length == 0.5 else length])
    refused(path)


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    refused(tmp_path / "none.pth", "No such file", "check the path")
    refused(tmp_path, "not a regular file")
    (tmp_path / "text.pth").write_text("weights\n")
    refused(tmp_path / "text.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"a": 1}))
    refused(tmp_path / "pickle.pth", "does not begin like a PyTorch file")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("picture.png", b"x")
    refused(tmp_path / "zip.pth", "no data.pkl")
    os.mkfifo(tmp_path / "pipe.pth")
    refused(tmp_path / "pipe.pth", "not a regular file")


@pytest.mark.parametrize(
    ("pickled", "why"),
    [
        (b"K\x01", "a int, not a state dictionary"),
        (dictionary(a=b"K\x01"), "entry 'a' is not a tensor"),
        (dictionary(state_dict=dictionary(**TWO)), "entry 'state_dict' is not a tensor"),
        (b"}" + number(1) + TWO["second"] + b"s", "keys are not strings"),
        (dictionary(a=tensor(storage("5", 2), numbers(2), numbers(1))), "a part is missing"),
        (dictionary(a=tensor(storage("0", 25), numbers(2), numbers(1))), "ends too early"),
        (dictionary(a=tensor(storage("0", -1), numbers(2), numbers(1))), "does not make sense"),
        (dictionary(a=tensor(b"N", numbers(2), numbers(1))), "no storage"),
        (dictionary(a=tensor(storage("0", 2, "BFloat16Storage"), numbers(2), numbers(1))), "torch.BFloat16Storage"),
        (dictionary(a=tensor(several(text("storage"), text("f"), text("0"), text("c"), b"K\x02") + b"Q", b")", b")"))
         , "has an unknown type"),
        (dictionary(a=text("x") + b"Q"), "unknown kind of reference"),
        (b"t", ""),
        (b"h\x09", ""),
        (b"", ""),
    ],
)  # fmt: skip
def test_pickles_of_other_things_are_refused(tmp_path, pickled, why):
    refused(new_file(tmp_path / "a.pth", pickled, **{"0": VALUES, "1": WHOLE}), why)


def test_files_of_the_other_byte_order_are_refused(tmp_path):
    refused(new_file(tmp_path / "a.pth", dictionary(), byteorder=b"big"), "byte order")
    refused(old_file(tmp_path / "b.pth", dictionary(), little=False), "byte order")
    assert read_pth(new_file(tmp_path / "c.pth", dictionary(), byteorder=None)) == {}


def acts(canary):
    """Pickles that do something when Python loads them: each would create the file `canary`."""
    command = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": b"cos\nsystem\n" + several(text(command)) + b"R",
        "posix.system": b"cposix\nsystem\n" + several(text(command)) + b"R",
        "builtins.eval": b"cbuiltins\neval\n" + several(text(python)) + b"R",
        "builtins.exec": b"cbuiltins\nexec\n" + several(text(python)) + b"R",
        "subprocess.call": b"csubprocess\ncall\n" + several(b"](" + text("touch") + text(str(canary)) + b"e") + b"R",
        "stack": text("os") + text("system") + b"\x93" + several(text(command)) + b"R",
        "inst": b"(" + text(command) + b"ios\nsystem\n",
        "obj": b"(cos\nsystem\n" + text(command) + b"o",
        "newobj": b"cos\nsystem\n" + several(text(command)) + b"\x81",
        "dotted": b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n",
        "torch.nn": b"ctorch.nn.modules.linear\nLinear\n)R",
        "torch.load": b"ctorch\nload\n" + several(text(str(canary))) + b"R",
        "extension": b"\x82\x01",
    }


@pytest.mark.parametrize("name", acts("x"))
@pytest.mark.parametrize("layout", ["new", "old"])
def test_what_acts_is_refused_and_does_not_act(tmp_path, layout, name):
    canary = tmp_path / "canary"
    bad = acts(canary)[name]
    for number_, pickled in enumerate((bad, dictionary(a=bad), dictionary(**TWO) + b"0" + bad)):
        path = tmp_path / f"{number_}.pth"
        refused(new_file(path, pickled) if layout == "new" else old_file(path, pickled))
        assert not canary.exists()
    # And where the old layout expects its number.
    (tmp_path / "bare.pth").write_bytes(PROTO + bad + STOP)
    refused(tmp_path / "bare.pth")
    assert not canary.exists()


def test_the_canary_would_sing(tmp_path):
    """The harm in the test before is real: Python's own unpickler does it."""
    canary = tmp_path / "canary"
    pickle.loads(PROTO + acts(canary)["builtins.eval"] + STOP)
    assert canary.exists()


@pytest.mark.parametrize("target", [REBUILD, DICTIONARY, b"ctorch\nFloatStorage\n"])
def test_a_file_cannot_change_the_reader(tmp_path, target):
    """BUILD sets attributes, also of classes: a file could so spoil the reading of all later ones."""
    before = {name: vars(torch_files._Tensor)[name] for name in ("__init__", "array")}
    for state in (b"}" + text("array") + DICTIONARY + b"s", b"N}" + text("array") + DICTIONARY + b"s\x86"):
        refused(new_file(tmp_path / "a.pth", target + state + b"b"), "not a dictionary")
    assert {name: vars(torch_files._Tensor)[name] for name in before} == before
    pickled = dictionary(**TWO) + b"}" + text("items") + DICTIONARY + b"sb"
    assert len(read_pth(new_file(tmp_path / "b.pth", pickled, **{"0": VALUES, "1": WHOLE}))) == 2
    assert OrderedDict(a=1).items()


def doubled(times):
    """A tuple of two of a tuple of two ...: 2 ** times leaves in a few hundred bytes."""
    return b")q\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(times))


def deep(times):
    return b")" + b"\x85" * times


HOSTILE = {
    "hash without end": b"}" + doubled(80) + b"K\x01s",
    "text without end": dictionary(a=doubled(80)),
    "state without end": doubled(80),
    "shape without end": dictionary(a=tensor(storage("0", 24), doubled(80), doubled(80))),
    "offset without end": dictionary(a=REBUILD + several(storage("0", 24), doubled(80), b")", b")") + b"R"),
    "reference without end": dictionary(a=doubled(80) + b"Q"),
    "key without end": dictionary(a=several(text("storage"), b"ctorch\nFloatStorage\n", doubled(80), b"N", b"K\x02")),
    "hash too deep": b"}" + deep(45_000) + b"K\x01s",
    "itself": b"}q\x01" + text("a") + b"h\x01s",
    "many axes": dictionary(
        a=tensor(storage("0", 24), *[b"(" + number(2**62) + b"q\x07" + b"h\x07" * 15_000 + b"t"] * 2)
    ),
    "many opcodes": b"(" + b"}" * 60_000 + b"l",
    "long name": dictionary(**{"x" * 1_000_000: b"K\x01"}),
    "huge text": b"X\xff\xff\xff\x7f",
    "huger text": b"\x8d" + struct.pack("<Q", 2**62),
    "huge number": b"\x8b\xff\xff\xff\x7f",
    "huge storage": dictionary(a=tensor(storage("0", 2**60), numbers(2), numbers(1))),
    "repeated number": dictionary(a=tensor(storage("0", 24), numbers(2**40), numbers(0))),
    "repeated tensor": b"}(" + text("a") + tensor(storage("0", 24), numbers(24), numbers(1)) + b"q\x01"
    + b"".join(text(str(i)) + b"h\x01" for i in range(3000)) + b"u",
}  # fmt: skip


@pytest.mark.parametrize("layout", ["new", "old"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_soon_and_take_no_memory(tmp_path, monkeypatch, name, layout):
    monkeypatch.setattr(torch_files, "_OPCODES", 50_000)
    pickled = HOSTILE[name]
    if layout == "new":
        path = new_file(tmp_path / "a.pth", pickled, **{"0": VALUES})
    else:
        path = old_file(tmp_path / "a.pth", pickled.replace(b"tQ", b"NtQ"), ("0",), struct.pack("<q", 24) + bytes(96))
    messages = []

    def read():
        with pytest.raises(BundleError) as caught:
            read_pth(path)
        messages.append(str(caught.value))

    tracemalloc.start()
    try:
        # In a thread, so that a reader that never ends fails the test; one that crashes ends all tests.
        work = threading.Thread(target=read, daemon=True)
        work.start()
        work.join(60)
        assert messages, "it does not end"
        assert len(messages[0]) < 700
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_old_files_that_promise_more_than_they_hold(tmp_path):
    one = dictionary(a=tensor(old_storage("0", 24), numbers(24), numbers(1)))
    full = struct.pack("<q", 24) + VALUES.tobytes()
    assert read_pth(old_file(tmp_path / "a.pth", one, ("0",), full))["a"].size == 24
    refused(old_file(tmp_path / "b.pth", one, ("0",), struct.pack("<q", 2**60) + VALUES.tobytes()), "ends too early")
    refused(old_file(tmp_path / "c.pth", one, ("1",), full), "nothing refers to")
    refused(old_file(tmp_path / "d.pth", one, (), b""), "not in the file")
    refused(old_file(tmp_path / "e.pth", one, ((),), full), "nothing refers to")
    view = one.replace(b"NtQ", several(text("1"), number(0), number(24)) + b"tQ")
    refused(old_file(tmp_path / "f.pth", view, ("0",), full), "views of storages")


def test_archives_that_grow_are_refused(tmp_path):
    zeros = bytes(4_000_000)
    one = dictionary(a=tensor(storage("0", 1_000_000), numbers(1_000_000), numbers(1)))
    path = new_file(tmp_path / "a.pth", one, compression=zipfile.ZIP_DEFLATED, **{"0": zeros})
    assert path.stat().st_size < 10_000
    refused(path)
    refused(new_file(tmp_path / "b.pth", b")" * 3000, compression=zipfile.ZIP_DEFLATED), "compressed")


def test_a_damaged_storage_is_noticed(tmp_path):
    path = new_file(tmp_path / "a.pth", dictionary(**TWO), **{"0": VALUES, "1": WHOLE})
    data = path.read_bytes()
    path.write_bytes(data.replace(VALUES.tobytes(), VALUES[::-1].tobytes()))
    refused(path, "CRC")


@pytest.mark.parametrize("new", [True, False])
def test_what_pytorch_writes(tmp_path, new):
    torch = pytest.importorskip("torch", reason="needs torch: make test-parity")
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(5, 2).double(), nn.Linear(2, 2).half())
    state = model.state_dict()
    state["transposed"] = state["0.weight"].permute(2, 3, 1, 0)
    state["part"] = state["0.weight"][1:3, :, 1]
    state["scalar"] = torch.tensor(3.5)
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    found = read_pth(tmp_path / "a.pth")
    assert list(found) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value.numpy())
    torch.save(model, tmp_path / "b.pth", _use_new_zipfile_serialization=new)
    refused(tmp_path / "b.pth", "torch.nn.modules.container.Sequential, which is not a tensor")
