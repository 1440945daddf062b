"""Compare results: paired differences with intervals, a verdict, tables, an HTML page with pictures.

results -> measures        folders read and aligned; scores and paired differences of each benchmark
means                      over benchmarks: families, vl_compo's averages
field -> picture -> paired published models; the picture of many models; the whole comparison
report, page               texts and tables; the page, drawn by figures, scatter and labels
"""

from __future__ import annotations
