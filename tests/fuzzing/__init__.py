"""A fuzzer for what strangers give to this project, and a catalogue of what can be wrong with it.

One file a subject: ``pth`` (checkpoints), ``directory`` (converted models), ``results`` (files of LAMBADA results) and
``requests`` (what clients send to the server). Each has a table of kinds; kind and seed make a case, always the same.
``judge`` runs the project's commands as a user would, and says what is wrong with how they ended::

    python -m tests.fuzzing pth --cases 20000       # progress, and a table of outcomes by kind
    python -m tests.fuzzing pth:duplicate_member:17 # one case again, with what the commands printed

A case is *refused* in one sentence, or *accepted*; then the result must be what an independent reader makes of the same
bytes. Anything else is a fault: a traceback, a crash, a hang, too much memory, a bad message, leftovers, a success that
is wrong.
"""
