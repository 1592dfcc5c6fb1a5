"""What is measured, on this machine, against a peer in the same run. `make bench` prints all of it."""
