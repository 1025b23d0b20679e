"""What `wfes demo` runs: an inventory of this machine's Python standard library.

`library` finds modules and reads files, `report` writes Markdown, `inventory` has the two workflows, `worker` is the
process that `--crash` kills. The command itself, all printing and all asking are in `wfes.cli.demo`.
"""

from __future__ import annotations
