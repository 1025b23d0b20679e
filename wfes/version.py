"""The version of this release: here, so that every layer may say it without importing the package's public names."""

from __future__ import annotations

__version__ = "0.1.0"
