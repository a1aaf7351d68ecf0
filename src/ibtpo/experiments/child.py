"""`python -m ibtpo.experiments.child train …`: the command line, ended when the process that started it is gone.

The parent holds the other end of standard input; however it ends, the pipe closes. Without this, a comparison that was
killed would leave a run behind that writes into the folder its successor goes on with.
"""

import os
import sys
import threading

from ..cli import main


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing is ever written
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(main())
