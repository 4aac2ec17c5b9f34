"""`python -m durafetch`."""

from durafetch.cli import main

main()
