"""What the evaluate stage can measure, one file a suite; `evaluate.py` lists them."""
