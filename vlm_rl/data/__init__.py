"""What is asked: rows -> problems with their images -> training order -> prompts.

May import: records, errors, ranks, verification, model. A new on-disk form is a reader in `tables`
or a mapping in `rows`; a public data set is a script in `data_prep/`.
"""
