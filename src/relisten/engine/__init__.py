"""How an answer is made: rows of a batch that pause, hear a segment and go on. Start reading at `engine.py`."""
