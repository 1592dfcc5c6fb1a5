"""The schema's history, newest last in `versions/`; `run.upgrade` applies what a database lacks."""
