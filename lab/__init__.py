"""The bench: models as black boxes, tasks, sampling, organisms, post-training, statistics, report.

The API is the module paths, such as `from lab.models.load import load`, so nothing heavy is imported by accident.
"""
