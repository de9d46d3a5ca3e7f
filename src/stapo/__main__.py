"""`python -m stapo` is the command line.

    python -m stapo --parent=PID train ...

stops when the process PID, which has started it, is gone: a parent that ends without a word (SIGKILL, say) leaves a run
that gets a SIGTERM, by which it saves and stops.
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
    flag, _, parent = "".join(sys.argv[1:2]).partition("=")
    if flag == "--parent" and parent.isdecimal():
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()
        del sys.argv[1]
    raise SystemExit(main())
