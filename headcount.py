"""headcount's public face: `python -m headcount` is the command line."""

from server.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
