"""Arguments in, one command run, an exit code out: 0 done, 1 failed with one clear line, 2 usage."""
