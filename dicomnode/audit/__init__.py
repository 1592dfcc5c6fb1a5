"""What happened on the node in, audit messages of PS3.15 A.5 out: who did what with whose images, and when.

A stream of its own: it names patients by design, and nothing of it is ever passed to a logger. Doors tell the
`auditor`, which makes `message`s and hands them to a `trail`; that writes them to files and syslog (`sinks`) in threads
of its own, so that no door ever waits for it.
"""
