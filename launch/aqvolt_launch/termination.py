"""SIGTERM to a worker: its job writes a checkpoint and ends, or is handed back for others to run at once.

Batch systems send SIGTERM some time before SIGKILL (Slurm's KillWait is 30 s by default). A job that looks
(:mod:`aqvolt_flows.stopping`) ends at its next checkpoint and queues what is left of it. One that does not, a VASP
static, is put back into the queue after a grace time, and the process ends; VASP ends with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from aqvolt_flows.stopping import ask_to_stop, forget, stop_wanted

logger = logging.getLogger(__name__)

#: Seconds that a running job has to reach a checkpoint.
GRACE_S = 15.0
#: Exit code of a process that ended by SIGTERM.
EXIT_CODE = 128 + signal.SIGTERM


@contextlib.contextmanager
def handing_back(hand_back: Callable[[], object], grace_s: float = GRACE_S) -> Iterator[None]:
    """Answer SIGTERM while the block runs; outside of the main thread signals stay as they are.

    Parameters
    ----------
    hand_back
        Gives back what this process runs; called in another thread when the grace time is over, then the process ends.
    grace_s
        Seconds between the signal and that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over = threading.Event()

    def wait_and_end() -> None:
        if over.wait(grace_s):
            return
        try:
            hand_back()
        except Exception as error:  # noqa: BLE001 - the process ends in any case
            said = " ".join(str(error).split())[:200]
            logger.warning("The job could not be handed back (%s); the next worker of this machine finds it.", said)
        logging.shutdown()
        os._exit(EXIT_CODE)

    def on_signal(_number: int, _frame: Any) -> None:
        if stop_wanted():
            return
        ask_to_stop()
        logger.warning("SIGTERM: the job has %g s to write a checkpoint, then it is handed back.", grace_s)
        threading.Thread(target=wait_and_end, name="hand-back", daemon=True).start()

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        over.set()
        forget()
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
