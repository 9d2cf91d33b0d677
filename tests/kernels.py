"""Programs that run as on a kernel that lacks something, whatever this one has."""

WITHOUT_LANDLOCK = """
import ctypes, struct
# landlock_create_ruleset, _add_rule and _restrict_self, 444 to 446 on every processor, answer: no such call.
_lines = [(0x20, 0, 0, 0), (0x35, 0, 2, 444), (0x35, 1, 0, 447), (0x06, 0, 0, 0x50026), (0x06, 0, 0, 0x7FFF0000)]
_filter = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in _lines), 8 * len(_lines))
class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))
_libc = ctypes.CDLL(None, use_errno=True)
assert _libc.prctl(38, 1, 0, 0, 0) == 0
assert _libc.prctl(22, 2, ctypes.byref(_Program(len(_lines), ctypes.addressof(_filter))), 0, 0) == 0
assert _libc.syscall(ctypes.c_long(444), None, ctypes.c_size_t(0), ctypes.c_uint32(1)) == -1
"""
"""Put before a program; what it starts lacks Landlock, too."""
