"""Composition benchmarks and retained ability: read, encode once, score, compare.

items -> readers -> scoring/; models -> encode; run stands on top. comparison/ and wiseft
read the result folders that run writes.
"""
