"""What keeps a node running: the audit trail, the log, verifying, backup, and what ships to run it."""
