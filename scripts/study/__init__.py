"""The parts of `real_study.py`: documents, units of work, tables."""
