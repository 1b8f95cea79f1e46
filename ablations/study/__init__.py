"""A study: its file, its trials, its queue and its workers. Only this room imports optuna."""
