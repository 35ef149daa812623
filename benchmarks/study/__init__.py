"""The published study (`docs/study.md`): all heads on two models and the paper's tasks, by one DVC experiment queue.

`study.yaml` says what every experiment is, `experiments` queues and runs them, `results` makes tables of what they
found, `docs/make_study.py` the page.
"""
