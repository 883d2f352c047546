"""Samples the utilization of the CUDA devices with ``nvidia-smi``."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time

#: The utilization is the share of about the last 0.17 s in which a kernel ran.
COMMAND = ["nvidia-smi", "--query-gpu=index,utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]


class DeviceUse:
    """Samples the utilization during a ``with`` block; takes no samples without ``nvidia-smi``."""

    def __init__(self) -> None:
        #: Time of the sample (`time.monotonic`), device, utilization from 0 to 1.
        self._samples: list[tuple[float, int, float]] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> DeviceUse:
        if shutil.which(COMMAND[0]):
            self._process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True)
            threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ratio(self, from_s: float, to_s: float, devices: int) -> float | None:
        """Mean utilization of the first ``devices`` in the middle 80 % of the interval, or None without samples."""
        edge_s = 0.1 * (to_s - from_s)
        begin_s, end_s = from_s + edge_s, to_s - edge_s
        shares = [share for at_s, device, share in self._samples if begin_s < at_s < end_s and device < devices]
        return sum(shares) / len(shares) if shares else None

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            device, _, percent = line.partition(",")
            if percent.strip().isdecimal():
                self._samples.append((time.monotonic(), int(device), int(percent) / 100))
