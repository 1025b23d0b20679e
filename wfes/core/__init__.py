"""The pure core: values, events, state, and the functions between them.

Nothing in here reads a clock, draws a random number, or does any I/O: what these modules compute depends on their
arguments alone. Running, replay, audit, simulation and tests can therefore share one and the same code.
"""
