"""One file a command: plain typed functions, imported by cli.py only when their command runs."""
