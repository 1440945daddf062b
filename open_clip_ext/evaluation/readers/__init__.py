"""A module per benchmark: from its official files, where the user put them, to items.

Nothing is downloaded. A third party registers a reader of the same form in the entry-point group
`open_clip_ext.benchmarks`.
"""
