"""Stored files in, display pictures out, or the reason why there is none. Runs in worker processes."""
