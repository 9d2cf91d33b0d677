"""The contender's end of `workers.py`: answers questions, one JSON line each. It imports nothing but Python's own.

def make():                     # imports, builds, compiles
    return lambda steps: {"seconds": ...}

serve(make)
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any


def serve(make: Callable[[], Callable[..., dict[str, Any]]]) -> None:
    """Says that it is ready once `make` has returned, then answers until the other end closes.

    Args:
        make: does what need not be timed; returns what is called with each question's names and values.
    """
    _end_with_parent()
    # Libraries print; the answers' channel is ours alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        answer = make()
        say({"ready": True})
        for line in sys.stdin:
            say(answer(**json.loads(line)))
    except Exception as error:  # whatever a peer raises, it is told and not guessed
        traceback.print_exc()
        say({"error": f"{type(error).__name__}: {error}".splitlines()[0]})


def _end_with_parent() -> None:
    """A contender that stands still would outlive whoever started it; Linux can end it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
