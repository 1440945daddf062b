"""A language model that rewrites captions: its endpoint, what servers reply, and the rewriting itself."""
