"""Companions chosen by models: `negatives select` and `negatives mine`.

Above `negatives` (stores, captions) and `evaluation` (models, features), which do not know each other.
"""
