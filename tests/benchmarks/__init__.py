"""Measurements against peers, run by hand: `python -m tests.benchmarks durable`, or `actors`, from the checkout.

Nothing here is a test: no figure decides whether a change may land. `docs/explanation/benchmarks.md` says what is
compared and how to read it. `durable` is a benchmark and says what it measures; `workload` is Playbill's side of it,
`raw` and `peers` are the others'; `actors` is another, with `actors_workload` and `actors_peers`. `measuring` runs each
measurement in a process of its own, and `spread` says what several rounds mean together.
"""
