"""A plugin that adds hard-negative fine-tuning losses to open_clip's trainer.

Every interpreter of the environment imports this module at start-up, so it must not import anything.
"""

__version__ = "0.2.0"
