"""`python -m ibtpo` is the command line; `accelerate launch -m ibtpo train …` starts it on several devices."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
