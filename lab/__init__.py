"""The bench: models as black boxes, tasks, sampling, organisms, post-training, statistics.

The front door is `elicitation`; module paths work as well, and nothing heavy is imported by accident.
"""
