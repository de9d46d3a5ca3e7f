"""The command line for a process that another one looks after: it stops when that one is gone.

    python -m stapo.cli.child_process PARENT train ...

PARENT is the process id of the one that looks after it. When it ends without a word (SIGKILL, say), this one gets a
SIGTERM, by which a run saves and stops.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from stapo.cli.main import main

_LOOK = 0.25
_PATIENCE = 120.0


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os._exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_watch, args=(int(sys.argv[1]),), daemon=True).start()
    raise SystemExit(main(sys.argv[2:]))
