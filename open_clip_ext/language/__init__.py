"""What is known of English: tags, phrases, inflections, a lexicon, entailment, differences of words."""

from __future__ import annotations
