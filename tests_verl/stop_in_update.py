"""verl's second optimizer step is not taken: the process that has computed its gradients stays there, and says so.

Loaded into every process of a run that a test will kill. The file $STOP_MARKER is written; where it is, nothing stops.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

FOREVER = 3600


def install(marker: Path) -> None:
    step, taken = FSDPEngine.optimizer_step, [0]

    def optimizer_step(self):
        taken[0] += 1
        if taken[0] == 2 and not marker.exists():
            marker.touch()
            time.sleep(FOREVER)
        return step(self)

    FSDPEngine.optimizer_step = optimizer_step


install(Path(os.environ["STOP_MARKER"]))
