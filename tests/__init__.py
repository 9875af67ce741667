"""The tests, by the rooms of `engine`; `benchmarks` holds measurements, which are no tests."""
