"""Makes `python -m wfes` the same as the `wfes` command."""

from __future__ import annotations

from wfes.cli import main

if __name__ == "__main__":
    main()
