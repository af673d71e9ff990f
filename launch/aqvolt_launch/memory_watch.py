"""Peak memory of a process, its children and others named."""

from __future__ import annotations

import threading

import psutil

_SAMPLE_S = 3.0


class MemoryWatch:
    """Samples the memory of this process, its children and the database: proportional set sizes, summed."""

    def __init__(self, extra_pids: list[int]) -> None:
        self.peak_bytes = 0
        self._extra, self._stop = extra_pids, threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, self._sample())
            if self._stop.wait(_SAMPLE_S):
                return

    def _sample(self) -> int:
        total = 0
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        processes.extend(psutil.Process(pid) for pid in self._extra if psutil.pid_exists(pid))
        for process in processes:
            try:
                info = process.memory_full_info()
                total += getattr(info, "pss", info.rss)
            except psutil.Error:
                continue
        return total

    def stop(self) -> float:
        """Stop sampling and return the peak in GB (10⁹ bytes)."""
        self._stop.set()
        self._thread.join()
        return self.peak_bytes / 1e9
