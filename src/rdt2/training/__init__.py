"""Training: one loop for all models (loop.py), one file for what is particular to each."""
