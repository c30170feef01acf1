"""How answers are generated: rows of a batch pause, hear a segment and continue. Start reading at `engine.py`."""
