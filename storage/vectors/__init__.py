"""Vectors in, ranked region ids out: indexes made from the SQL rows, and the plan that picks one."""
