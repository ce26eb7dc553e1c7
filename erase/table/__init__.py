"""Tables: rows x trials x classes x seeds of runs from one YAML, kept cell by cell, and what compares them."""
