"""verl's `main_ppo` with a Ray that may start slowly: Ray's own limit of half a minute cannot be set."""

import time
from typing import Any

from ray._private import services
from verl.trainer.main_ppo import main

START_SECONDS = 600

_get_node = services.get_node


def get_node(*args: Any, **kwargs: Any) -> Any:
    """What Ray asks for the new node until there is one."""
    limit = time.monotonic() + START_SECONDS
    while True:
        try:
            return _get_node(*args, **kwargs)
        except RuntimeError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.5)


if __name__ == "__main__":
    services.get_node = get_node
    main()
