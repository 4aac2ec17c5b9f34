"""What is fast, measured against a limit in the same run: `make bench`."""
