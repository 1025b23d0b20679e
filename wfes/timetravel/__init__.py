"""Looking at, stepping through and forking any moment of an instance's history.

Everything here works on recorded histories. Nothing of it runs a step's function or writes to the log, except a fork
and a step that somebody asks to be run under the debugger; those say so. It knows neither the engine nor the command
line: handles and commands hand it what it reads from.
"""
