"""Plug-ins for other training programs: each is one file that the other program imports."""
