"""The only module that imports OpenVINO, which runs networks on a CPU, and the settings that all networks share.

Example:
    >>> compiled = openvino_core().compile_model(model, "CPU", {**CPU_SETTINGS, "PERFORMANCE_HINT": "LATENCY"})
"""

from __future__ import annotations

import sys
import threading
from typing import Any

CPU_SETTINGS = {
    # Newer CPUs would compute in bfloat16 or float16 by default, which moves a logit by 1e-2.
    "INFERENCE_PRECISION_HINT": "f32",
    # Other threads and processes (a decoder, a detector) use the same cores.
    "ENABLE_CPU_PINNING": False,
}


def import_openvino() -> Any:
    """Imports `openvino` without its model converter. No other code in this project may import it.

    `import openvino` also imports its model converter, which reports every import to a web analytics service unless the
    user has opted out. Users of this project rely on nothing leaving their machine. OpenVINO works without the
    converter if it cannot be imported, and then starts in a quarter of the time.
    """
    module = "openvino.tools.ovc"
    if "openvino" in sys.modules or module in sys.modules:
        import openvino

        return openvino
    sys.modules[module] = None  # type: ignore[assignment]  # importing it then raises ImportError
    try:
        import openvino
    finally:
        sys.modules.pop(module, None)  # so that others can import it
    return openvino


_core: Any = None
_making = threading.Lock()


def openvino_core() -> Any:
    """Returns the only `openvino.Core` of this process, which lives as long as the process; safe in any thread.

    On processors whose registers exceed the usual signal stack, the CPU plug-in gives the creating thread a signal
    stack of its own, and restores the previous one when it is destroyed. If two cores are destroyed in another order
    than they were created, the restored stack has already been freed, and the next signal, such as Ctrl-C, is a
    segmentation fault.

    Raises:
        ImportError: OpenVINO is not installed, or its library cannot be loaded on this machine.
        RuntimeError, OSError: OpenVINO does not work on this machine.
    """
    global _core
    with _making:
        if _core is None:
            _core = import_openvino().Core()
        return _core
