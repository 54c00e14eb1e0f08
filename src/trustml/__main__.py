"""``python -m trustml``: the same as the command ``trustml``."""

from trustml.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
