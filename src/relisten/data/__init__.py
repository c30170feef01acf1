"""From recordings with times to training sets. Start reading at `build.py`."""
