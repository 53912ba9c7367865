"""What can be wrong with a run, found before its first hour: `python -m vlm_rl.preflight`.

May import everything; only `building` and `__main__` import `fit`, which imports the others for its
own start. A new inspection is a function of a `Start` in the file of its subject, and one line in
`inspections.py`.
"""
