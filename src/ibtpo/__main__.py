"""`python -m ibtpo` is the command line; `accelerate launch -m ibtpo train …` starts it on several devices."""

import os
import sys
import threading

from .cli import main

END_WITH_PARENT = "--end-with-parent"


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however it ended.

    The parent holds the other end of standard input, and that pipe closes with it. Without this, a comparison that was
    killed would leave a run behind that goes on writing into the folder the next comparison goes on with.
    """
    os.read(0, 1)  # nothing is ever written: this returns when the pipe closes
    os._exit(1)


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == [END_WITH_PARENT]:
        del words[0]
        threading.Thread(target=_end_with_parent, daemon=True).start()
    raise SystemExit(main(words))
