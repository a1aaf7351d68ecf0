"""Makes `python -m ibtpo` the command line; `accelerate launch -m ibtpo train …` starts it on several devices."""

import os
import sys
import threading

from .cli import main

END_WITH_PARENT = "--end-with-parent"


def end_with_parent() -> None:
    """Makes this process end as soon as the process that started it ends, whatever ended that one.

    Standard input must be a pipe that the parent holds open: it closes when the parent ends. Without this, a comparison
    that was killed would leave a run behind, still writing into the folder that the resumed comparison goes on with.
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
