"""The node's own page: studies, films with their regions, hits, and what an administrator watches."""
