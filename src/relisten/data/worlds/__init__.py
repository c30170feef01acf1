"""Synthetic scenes with exact times, and what nano is taught about them."""
