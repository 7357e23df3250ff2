"""The study of recall: what a bounded stream answers about chunks that were evicted long ago, and what that costs."""
