"""Composition benchmarks and retained ability: read, encode once, score, compare.

items -> readers -> scoring, aggregate; models -> encode; run stands on top. Compare, page and wiseft
read the result folders that run writes.
"""
