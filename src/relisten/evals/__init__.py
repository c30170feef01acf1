"""Answer questions whose answers are known, score them, and analyse how the model listened."""
