"""OpenVINO, which computes networks on a CPU: the one place that imports it, and what all networks are compiled with.

Example:
    >>> compiled = openvino_core().compile_model(model, "CPU", {**CPU_SETTINGS, "PERFORMANCE_HINT": "LATENCY"})
"""

from __future__ import annotations

import sys
import threading
from typing import Any

CPU_SETTINGS = {
    # bfloat16 and float16, which newer CPUs would get by default, move a logit by 1e-2.
    "INFERENCE_PRECISION_HINT": "f32",
    # Others (a decoder, a detector, another process) use the same cores.
    "ENABLE_CPU_PINNING": False,
}


def import_openvino() -> Any:
    """The module `openvino`, without its converter. Nothing else here may import it.

    `import openvino` imports its model converter too, and that reports every import to a web analytics service unless
    the user has opted out. This project's users must be able to rely on it that nothing leaves their machine. OpenVINO
    itself does without the converter where it cannot be imported, and so starts in a quarter of the time.
    """
    module = "openvino.tools.ovc"
    if "openvino" in sys.modules or module in sys.modules:
        import openvino

        return openvino
    sys.modules[module] = None  # type: ignore[assignment]  # importing it then raises ImportError
    try:
        import openvino
    finally:
        sys.modules.pop(module, None)  # for those who want it
    return openvino


_core: Any = None
_making = threading.Lock()


def openvino_core() -> Any:
    """The one `openvino.Core` of this process, which lives as long as it does; for any thread.

    Its plug-in gives the thread that makes it a stack of its own for signals (on processors whose registers do not fit
    the usual one), and takes back whichever it found when it goes. Where two of them go in another order than they
    came, that stack has been freed, and the next signal, a Ctrl-C for one, is a segmentation fault.

    Raises:
        ImportError: OpenVINO is not installed, or its library does not load here.
        RuntimeError, OSError: it does not work here.
    """
    global _core
    with _making:
        if _core is None:
            _core = import_openvino().Core()
        return _core
