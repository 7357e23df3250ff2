"""OVO-Bench (arXiv:2501.05510): multiple choice about the past and the present, and queries that are repeated over time."""
