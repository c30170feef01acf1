"""`python -m relisten` is the `relisten` script."""

from relisten.cli import main

main()
