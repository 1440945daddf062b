"""Composition benchmarks and retained ability: read, encode once, score, compare.

readers/ -> items          what is asked; catalogue finds readers by name
models -> encode           any open_clip model; each image and caption once
scorer, scorers/           from pictures and captions to similarities
evaluate -> scoring/       rows, averages by name, intervals
result_folder              what `run` writes, and comparison/ and wiseft read
"""
