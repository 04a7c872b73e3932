"""The database: engine, tables, and one module of queries per noun, each taking a `Session` first.

A `tenant` of None means any tenant and is for our own processes only; a door always names one. Commits belong to
`engine.open_session`, never to a query.
"""
