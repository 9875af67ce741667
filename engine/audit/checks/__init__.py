"""What verification looks at, one module a question; `engine.audit.verification` puts them together.

`scan` reads the records, whatever state the file is in; `leaves` holds each against its leaf, and finds what was moved,
inserted or taken out; `tree` holds the stored roots and tiles against the leaves; `chains` the counts and chains that
records of ended activities hold; `erasures` what was erased against what says so; `derived` the derived tables against
the records; `schema` the tables themselves. Each adds what it finds to `findings`, and none raises for what it reads.
"""
