"""One module per benchmark, which reads the official files from the user's folders into items.

Nothing is downloaded. Third parties register readers of the same form in the entry-point group
`open_clip_ext.benchmarks`.
"""
