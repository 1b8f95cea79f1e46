"""A study in Optuna's storage. Only this package imports optuna."""

from ablations.study.queue import Row, StudyQueue
from ablations.study.search import Score, Tuner
from ablations.study.storage import STORAGE_ERRORS, open_storage, storage_url

__all__ = ["STORAGE_ERRORS", "Row", "Score", "StudyQueue", "Tuner", "open_storage", "storage_url"]
