"""Comparing any two language models: tasks, paired statistics, a gate, speed and cost. See README.md."""

from evals.homes import settle

settle()  # before any library looks for a home
