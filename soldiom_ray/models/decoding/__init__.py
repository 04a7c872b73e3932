"""Decoding of many answers at once, token by token: `scheduler.py` says who is next, `forward.py` computes it."""
