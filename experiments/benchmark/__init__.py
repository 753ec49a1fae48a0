"""How fast `sda` trains, beside Keras's `fit`, hand-written loops and the matrix products alone.

Run as `python -m experiments.benchmark`. Keras has one backend a process, so each backend has a
worker process (`worker.py`), and the parent (`team.py`, `rounds.py`) lets one of them work at a
time, contestant after contestant, round after round. `work.py` says what is trained,
`keras_models.py` and `loops/` how, `limits.py` what the products alone cost, `scaling.py` how time
and memory grow.
"""
