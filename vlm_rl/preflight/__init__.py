"""What can be wrong with a run, found before its first hour: `python -m vlm_rl.preflight`.

May import everything; what `fit` uses of it (`inspections.CHEAP`, `remarks`, `start`) does not import
`fit`. A new inspection is a function of a `Start` in the file of its subject, and one line in
`inspections.py`.
"""
