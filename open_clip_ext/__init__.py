"""Hard-negative fine-tuning for the stock open_clip trainer.

Start-up imports this module in every interpreter of the environment: it must import nothing.
"""

__version__ = "0.2.0"
