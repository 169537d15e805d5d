"""The networks. They import only paddle and each other: copy this folder (``zoo.py`` is the kit's) to use them alone.

| file | holds |
|---|---|
| ``mobilenet_v1`` ``mobilenet_v2`` | a family each: the paper's table, blocks, variants, and the family as a value |
| ``network`` ``layers`` ``widths`` | what families have in common |
| ``family`` | ``Family`` and ``register``: how the kit comes to know a family, also one of yours |
| ``zoo`` | ``create_model`` and ``list_models`` |
"""

from .family import FAMILIES, Family, family_of, register

__all__ = ["FAMILIES", "Family", "family_of", "register"]
