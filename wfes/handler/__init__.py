"""Running user code: the private event loop, one handler on one instance, and what user code calls."""
