"""Supervised fine-tuning and GRPO with segments that are really heard. Start reading at `plan.py`, then `grpo.py`."""
