"""`python -m ibtpo` is the command line; `accelerate launch -m ibtpo train …` starts it on several devices."""

import os
import sys
import threading

from .cli import main

END_WITH_PARENT = "--end-with-parent"


def end_with_parent() -> None:
    """Ends this process as soon as the one that started it is gone, however that one ended.

    The parent holds the other end of standard input, and the pipe closes with it. Without this, a comparison that was
    killed would leave a run behind that writes into the folder which the next comparison goes on with.
    """

    def wait() -> None:
        os.read(0, 1)  # nothing is ever written: this returns when the pipe closes
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == [END_WITH_PARENT]:
        del words[0]
        end_with_parent()
    raise SystemExit(main(words))
