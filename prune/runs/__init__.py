"""A recipe at work in one directory: the options, the stages in order, what they need and what they leave behind."""
