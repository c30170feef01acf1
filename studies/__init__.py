"""Studies that were made with relisten. They are run from a checkout."""
